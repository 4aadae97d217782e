# One replica. A first stage installs everything; the image gets only the result.
FROM python:3.13-slim-bookworm AS packages

# Further packages of constraints.txt, e.g. watchfiles for `serve --reload`.
ARG EXTRA_PACKAGES=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN apt-get -qq update \
    && apt-get -qq install --yes --no-install-recommends gcc libc6-dev \
    && python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
# The dependencies first and alone, so that a change of the code does not install them anew; apart from them what
# compiles the modules on the way of a message.
RUN python -c 'import tomllib; said = tomllib.load(open("pyproject.toml", "rb")); project = said["project"]; \
        extras = project["optional-dependencies"]; \
        run = project["dependencies"] + extras["server"] + extras["otel"]; \
        print(*run, sep="\n", file=open("run.txt", "w")); \
        print(*said["dependency-groups"]["compile"], sep="\n", file=open("compile.txt", "w"))' \
    && /opt/venv/bin/pip install --quiet -c constraints.txt -r run.txt ${EXTRA_PACKAGES} \
    && /opt/venv/bin/pip install --quiet -c constraints.txt -r compile.txt --target compiler
COPY README.md LICENSE setup.py ./
COPY LICENSES LICENSES
COPY app app
COPY clients/js/src clients/js/src
RUN HELIOGRAPH_COMPILE=1 PYTHONPATH=compiler \
        /opt/venv/bin/pip install --quiet --no-deps --no-build-isolation . \
    && /opt/venv/bin/pip uninstall --quiet --yes pip


FROM python:3.13-slim-bookworm

ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin heliograph
COPY --from=packages /opt/venv /opt/venv
# Empty. Development mounts the checkout's app here; the working directory has precedence over installed packages.
WORKDIR /srv/heliograph

USER 10001:10001
EXPOSE 8080
# Drains first: asks its clients to reconnect elsewhere, which takes up to 20 s.
STOPSIGNAL SIGTERM
# Alive, not ready: a replica that waits for Redis must not be restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=2)"]
ENTRYPOINT ["python", "-m", "heliograph"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
