"""The link and the bus to a Redis that speaks TLS: redis-py makes the connection, the rest is as without."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from heliograph.backends.redis.client import connect
from heliograph.cluster.pubsub_manager import PubSubManager
from heliograph.settings import RedisSettings
from tests.support.certificates import make_certificate
from tests.support.envelopes import envelope
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from heliograph.protocol.envelope import Envelope

PASSWORD = "s3cret"


class Secure(NamedTuple):
    """A Redis with a port for TLS, where a password is asked for."""

    server: RedisServer
    url: str  # without the authority that is to be trusted
    authority: Path

    @property
    def trusted_url(self) -> str:
        return f"{self.url}?ssl_ca_certs={self.authority}"


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[Secure]:
    made, port = make_certificate(tmp_path), free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file", str(made.certificate)]
    options += ["--tls-key-file", str(made.key), "--tls-ca-cert-file", str(made.authority)]
    server = RedisServer(tmp_path, options=options).start()
    server.command("ACL", "SETUSER", "helio", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    yield Secure(server, f"rediss://helio:{PASSWORD}@127.0.0.1:{port}/2", made.authority)
    server.stop()


async def test_commands_of_any_size_go_through_in_order(secure: Secure) -> None:
    """Fails if what TLS cuts into records is put together wrongly, or if the link works as somebody else."""
    client = connect(secure.trusted_url)
    answers: list[Any] = []
    assert await client.link.ask("ACL", "WHOAMI") == b"helio"
    assert "db=2" in (await client.link.ask("CLIENT", "INFO")).decode()
    huge = bytes(range(256)) * 16_384  # 4 MiB
    client.link.call(("SET", "huge", huge), answers.append)
    client.link.call(("GET", "huge"), answers.append)
    for number in range(5_000):
        client.link.call(("ECHO", number), answers.append)
    await eventually(lambda: len(answers) == 5_002)
    assert answers == [b"OK", huge, *(b"%d" % number for number in range(5_000))]
    assert client.link.connections == 1
    await client.aclose()


async def test_a_certificate_that_nobody_vouches_for_is_an_error_that_says_so(secure: Secure) -> None:
    """Fails if anybody may play Redis, or if the reason is lost on the way to the caller."""
    client = connect(secure.url)
    with pytest.raises(RedisConnectionError, match="certificate verify failed"):
        await client.link.ping()
    await client.aclose()


async def test_a_server_without_tls_is_an_error(secure: Secure) -> None:
    """Fails if a password is sent in the clear when the other side does not speak TLS, or if the caller hangs."""
    client = connect(f"rediss://helio:{PASSWORD}@127.0.0.1:{secure.server.port}/0")
    with pytest.raises(RedisError):
        await asyncio.wait_for(client.link.ping(), 5)
    await client.aclose()


async def test_the_bus_hears_itself_and_comes_back_after_a_restart(secure: Secure) -> None:
    """Fails if publishing or listening does not go through TLS, or if a lost connection is not made anew."""
    heard: list[Envelope] = []
    bus = PubSubManager(redis=RedisSettings(url=secure.trusted_url))
    await bus.initialize()
    bus.start_listening(heard.append)
    await eventually(lambda: bus.ready)
    sent = envelope("bob", "x" * 500_000, node_id="another")
    await bus.publish(sent, lease="a")
    await eventually(lambda: heard == [sent])
    secure.server.restart()
    secure.server.command("ACL", "SETUSER", "helio", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    await eventually(lambda: bus.stats.resubscriptions == 1, within_s=15)
    await bus.publish(sent, lease="a")
    await eventually(lambda: heard == [sent, sent])
    await bus.close()
