"""How fast one program publishes through the server API, over one open connection.

    python -m loadtest.api_bulk --url http://localhost:8080 --key KEY [--seconds 5]

One publication in each request, then a hundred in each (`batch`, sequential and in parallel). Requests that do
nothing (`GET /health`) over the same kind of connection show the cost of HTTP alone. Each part takes `--seconds`.
"""

import http.client
import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import click

BATCH = 100
DATA = {"text": "x" * 100}


@click.command()
@click.option("--url", default="http://localhost:8080", show_default=True)
@click.option("--key", required=True, envvar="HELIOGRAPH_API__KEY")
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1, 60))
def main(url: str, key: str, seconds: float) -> None:
    """Publish for some seconds in each way, and print the rates."""
    address = urlsplit(url)
    assert address.hostname is not None  # noqa: S101 - the URL is the caller's own
    connection = http.client.HTTPConnection(address.hostname, address.port or 80, timeout=10)
    publish = {"channel": "bulk", "data": DATA}
    commands = [{"publish": publish}] * BATCH
    headers = {"X-API-Key": key, "Content-Type": "application/json"}

    def post(method: str, body: object) -> Callable[[], None]:
        text = json.dumps(body)

        def once() -> None:
            connection.request("POST", f"/api/{method}", text, headers)
            answer = connection.getresponse()
            read = json.loads(answer.read())
            if answer.status != 200 or "error" in read or any("error" in each for each in read.get("replies", ())):
                raise click.ClickException(f"{answer.status}: {read}")

        return once

    def get() -> None:
        connection.request("GET", "/health")
        connection.getresponse().read()

    click.echo(f"{'':32}{'requests/s':>12}{'messages/s':>12}")
    for name, messages, once in (
        ("GET /health", 0, get),
        ("publish", 1, post("publish", publish)),
        (f"batch of {BATCH}", BATCH, post("batch", {"commands": commands})),
        (f"batch of {BATCH}, parallel", BATCH, post("batch", {"commands": commands, "parallel": True})),
    ):
        rate = _rate(once, seconds)
        click.echo(f"{name:32}{rate:12,.0f}{rate * messages:12,.0f}")
    connection.close()


def _rate(once: Callable[[], None], seconds: float) -> float:
    """Return the calls a second; a short warm-up does not count."""
    until = time.perf_counter() + min(0.5, seconds / 4)
    while time.perf_counter() < until:
        once()
    count, begun_at = 0, time.perf_counter()
    while time.perf_counter() < begun_at + seconds:
        once()
        count += 1
    return count / (time.perf_counter() - begun_at)


if __name__ == "__main__":
    main()
