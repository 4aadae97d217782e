"""Where the addresses lead is asked, and a load that would miss a replica is refused."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from loadtest.sources import CannotSpread, Sources, Target, find_sources


class Nginx(ThreadingHTTPServer):
    """Answers as nginx with `ip_hash` does: the first three octets decide."""

    replicas = ("replica-1", "replica-2", "replica-3")
    listed: tuple[str, ...] | None = replicas
    lead_everywhere_to: str | None = None
    status = 200


class Answers(BaseHTTPRequestHandler):
    server: Nginx

    def do_GET(self) -> None:
        if self.path == "/api/cluster":
            listed = self.server.listed
            names = None if listed is None else {"replicas": [{"name": name} for name in listed]}
            self._answer(404 if listed is None else 200, names)
        else:
            octet = int(self.client_address[0].split(".")[2])
            replica = self.server.lead_everywhere_to or self.server.replicas[octet % 3]
            self._answer(self.server.status, {"replica": replica})

    def _answer(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def nginx() -> Iterator[Nginx]:
    with Nginx(("127.0.0.1", 0), Answers) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def target_of(server: Nginx) -> Target:
    return Target.of(f"http://localhost:{server.server_address[1]}")


def find(server: Nginx, *named: str, replicas: int | None = None) -> Sources:
    return find_sources(target_of(server), named=list(named), replicas=replicas)


def test_networks_of_loopback_reach_every_replica(nginx: Nginx) -> None:
    sources = find(nginx)
    assert sources.replicas == ["replica-1", "replica-2", "replica-3"]
    assert sources.networks["replica-2"][:2] == ["127.0.1", "127.0.4"]


def test_addresses_take_turns_and_stay_in_their_networks(nginx: Nginx) -> None:
    sources = find(nginx)
    taken = [sources.towards("replica-2") for _ in range(100)]
    assert len(set(taken)) == 100
    assert {address.rpartition(".")[0] for address in taken} == set(sources.networks["replica-2"])


def test_named_addresses_are_used_as_they_are(nginx: Nginx) -> None:
    sources = find(nginx, "127.0.0.7", "127.0.1.7", "127.0.2.7")
    assert [sources.towards("replica-3") for _ in range(2)] == ["127.0.2.7", "127.0.2.7"]


def test_a_replica_that_nobody_would_reach_is_named(nginx: Nginx) -> None:
    with pytest.raises(CannotSpread, match="would get nobody: replica-2, replica-3"):
        find(nginx, "127.0.0.1", "127.0.0.2")


def test_all_of_loopback_is_tried_before_it_gives_up(nginx: Nginx) -> None:
    nginx.lead_everywhere_to = "replica-3"
    with pytest.raises(CannotSpread, match="would get nobody: replica-1, replica-2"):
        find(nginx)


def test_a_cluster_that_does_not_say_how_many_it_has(nginx: Nginx) -> None:
    nginx.listed = None
    with pytest.raises(CannotSpread, match="--replicas"):
        find(nginx)
    assert len(find(nginx, replicas=3).replicas) == 3
    with pytest.raises(CannotSpread, match="would get nobody: 1 of 4"):
        find(nginx, replicas=4)


def test_something_else_than_a_cluster(nginx: Nginx) -> None:
    nginx.status = 503
    with pytest.raises(CannotSpread, match="answered with 503"):
        find(nginx)


def test_nobody_there() -> None:
    with pytest.raises(CannotSpread, match="cannot be reached"):
        find_sources(Target.of("http://127.0.0.1:9"), named=[], replicas=None)


@pytest.mark.parametrize(
    "url", ["", "localhost:8080", "https://localhost", "ws://localhost", "http://", "http://a:x"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(CannotSpread, match="must be like"):
        Target.of(url)


def test_another_machine_needs_addresses_of_this_one() -> None:
    with pytest.raises(CannotSpread, match="--sources"):
        find_sources(Target("there", "192.0.2.1", 80), named=[], replicas=None)
