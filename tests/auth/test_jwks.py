"""KeySource from a URL, over a real HTTP server on loopback."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from heliograph.auth.jwks import AGAIN_S, MOST_BYTES, KeySet, is_loopback
from heliograph.auth.tokens import TokenReader
from heliograph.errors import InvalidToken, KeysUnavailable
from heliograph.settings import AuthSettings
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.key_pairs import OTHER_RSA, P256, RSA, jwk
from tests.support.key_server import KeyServer
from tests.support.manual_clock import ManualClock
from tests.support.ports import free_port
from tests.support.tokens import token
from tests.support.waiting import eventually

RSA_TOKEN = token("alice", key=RSA, algorithm="RS256", kid="rsa-1", expires_in=None)
EC_TOKEN = token("bob", key=P256, algorithm="ES256", kid="ec-1", expires_in=None)
MAX_AGE_S = 600


class Reader:
    """A TokenReader whose keys come from `server`, with a clock of its own."""

    def __init__(self, server: KeyServer, timeout_s: float = 3.0) -> None:
        self.clock = ManualClock()
        settings = AuthSettings(mode="jwt", jwks_url=server.url)
        self._reader = TokenReader(settings)
        self.keys = KeySet(server.url, max_age_s=MAX_AGE_S, timeout_s=timeout_s, clock=self.clock)
        self._reader._keys = self.keys

    async def user(self, text: str) -> str:
        return (await self._reader.read(text)).user

    def later(self, seconds: float = AGAIN_S) -> None:
        self.clock.advance(seconds)


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    async with KeyServer({"keys": [jwk(RSA, "rsa-1"), jwk(P256, "ec-1"), {"kty": "oct", "k": "AA"}]}) as server:
        yield server


@pytest.fixture
async def reader(server: KeyServer) -> AsyncIterator[Reader]:
    reader = Reader(server)
    yield reader
    await reader.keys.stop()


class TestReading:
    async def test_keys_are_found_by_name(self, server: KeyServer, reader: Reader) -> None:
        """Fails if one of several keys is not found, or the set is read more often than once."""
        assert await reader.user(RSA_TOKEN) == "alice"
        assert await reader.user(EC_TOKEN) == "bob"
        assert server.requests == 1

    async def test_a_token_that_names_no_key(self, reader: Reader) -> None:
        """Fails if the right key of the set is not tried, or a wrong one's token passes."""
        assert await reader.user(token("alice", key=RSA, algorithm="RS256")) == "alice"
        with pytest.raises(InvalidToken, match="Signature"):
            await reader.user(token("alice", key=OTHER_RSA, algorithm="RS256"))

    async def test_another_keys_name(self, server: KeyServer, reader: Reader) -> None:
        """Fails if a token is checked with another key than the one it names."""
        server.publish(jwk(RSA, "a"), jwk(OTHER_RSA, "b"))
        with pytest.raises(InvalidToken, match="Signature"):
            await reader.user(token("alice", key=RSA, algorithm="RS256", kid="b"))

    async def test_many_at_once_read_once(self, server: KeyServer, reader: Reader) -> None:
        """Fails if a thousand clients that come after a start make a thousand requests."""
        server.may_answer.clear()
        coming = [asyncio.create_task(reader.user(RSA_TOKEN)) for _ in range(50)]
        await eventually(lambda: server.requests)
        server.may_answer.set()
        assert set(await asyncio.gather(*coming)) == {"alice"}
        assert server.requests == 1

    async def test_who_gives_up_does_not_end_it_for_the_others(self, server: KeyServer, reader: Reader) -> None:
        """Fails if a client that leaves while keys are read takes the request with it."""
        server.may_answer.clear()
        leaving = asyncio.create_task(reader.user(RSA_TOKEN))
        staying = asyncio.create_task(reader.user(RSA_TOKEN))
        await eventually(lambda: server.requests)
        leaving.cancel()
        await asyncio.wait([leaving])
        server.may_answer.set()
        assert await staying == "alice"
        assert server.requests == 1


class TestRotation:
    async def test_a_new_key_is_found(self, server: KeyServer, reader: Reader) -> None:
        """Fails if a key that was published after the set was read is unknown for ever, or an old one goes on."""
        assert await reader.user(RSA_TOKEN) == "alice"
        server.publish(jwk(OTHER_RSA, "rsa-2"))
        reader.later()
        assert await reader.user(token("carol", key=OTHER_RSA, algorithm="RS256", kid="rsa-2")) == "carol"
        assert server.requests == 2
        reader.later()
        with pytest.raises(InvalidToken, match="not known here"):
            await reader.user(RSA_TOKEN)

    async def test_made_up_names_are_asked_for_once_in_a_while(self, server: KeyServer, reader: Reader) -> None:
        """Fails if anybody can have the key server flooded, or such a client is not refused in the end."""
        assert await reader.user(RSA_TOKEN) == "alice"
        reader.later()
        with pytest.raises(InvalidToken, match="'made-up'"):
            await reader.user(token(key=RSA, algorithm="RS256", kid="made-up"))
        assert server.requests == 2
        for number in range(20):
            reader.later(0.1)
            with pytest.raises(KeysUnavailable):  # it may have been published just now
                await reader.user(token(key=RSA, algorithm="RS256", kid=f"made-up-{number}"))
        assert await reader.user(RSA_TOKEN) == "alice"
        assert server.requests == 2

    async def test_a_name_that_is_not_there_is_refused_for_good(self, server: KeyServer, reader: Reader) -> None:
        """Fails if a client with a key nobody has published is told to come back for ever, or a later one is lost."""
        assert await reader.user(RSA_TOKEN) == "alice"
        lost = token("carol", key=OTHER_RSA, algorithm="RS256", kid="rsa-2")
        reader.later(AGAIN_S - 1)
        with pytest.raises(KeysUnavailable):
            await reader.user(lost)
        for _ in range(20):
            reader.later(1)
            try:
                await reader.user(lost)
            except KeysUnavailable:
                continue
            except InvalidToken:
                break
        for _ in range(20):  # the set has been read since: come back with the same token would be no use
            reader.later(0.1)
            with pytest.raises(InvalidToken, match="not known here"):
                await reader.user(lost)
        server.publish(jwk(OTHER_RSA, "rsa-2"))
        reader.later()
        assert await reader.user(lost) == "carol"

    async def test_old_keys_are_read_anew_while_they_go_on(self, server: KeyServer, reader: Reader) -> None:
        """Fails if a key that was taken back is good for ever, or clients wait for the refresh."""
        assert await reader.user(RSA_TOKEN) == "alice"
        server.publish(jwk(P256, "ec-1"))
        server.may_answer.clear()
        reader.later(MAX_AGE_S + 1)
        assert await reader.user(RSA_TOKEN) == "alice"
        await eventually(lambda: server.requests == 2)
        server.may_answer.set()
        await eventually(lambda: len(reader.keys._keys) == 1)
        reader.later()
        with pytest.raises(InvalidToken):
            await reader.user(RSA_TOKEN)


FAILURES: dict[str, Any] = {
    "500": {"status": 500},
    "404": {"status": 404},
    "redirect": {"status": 302, "headers": "Location: http://127.0.0.1:1/\r\n"},
    "no JSON": {"body": b"<html>"},
    "no set": {"body": b"[]"},
    "keys are no list": {"body": b'{"keys":{}}'},
    "no keys": {"body": b'{"keys":[]}'},
    "no key for us": {"body": b'{"keys":[{"kty":"oct","k":"AA"}]}'},
    "too large": {"body": b" " * (MOST_BYTES + 1)},
    "too deep": {"body": b"[" * 100_000},
    "not UTF-8": {"body": b'{"keys":"\xff"}'},
}


class TestFailure:
    @pytest.mark.parametrize("how", FAILURES.values(), ids=FAILURES.keys())
    async def test_a_set_that_cannot_be_read(
        self, server: KeyServer, reader: Reader, caplog: pytest.LogCaptureFixture, how: dict[str, Any]
    ) -> None:
        """Fails if clients are told that their token is bad, nobody sees why, or it is not tried again."""
        good = server.body
        for name, value in how.items():
            setattr(server, name, value)
        for _ in range(3):
            with pytest.raises(KeysUnavailable, match="cannot be read"):
                await reader.user(RSA_TOKEN)
        assert server.requests == 1
        assert server.url in caplog.text
        server.body, server.status = good, 200
        reader.later()
        assert await reader.user(RSA_TOKEN) == "alice"

    @pytest.mark.parametrize("how", FAILURES.values(), ids=FAILURES.keys())
    async def test_old_keys_go_on(self, server: KeyServer, reader: Reader, how: dict[str, Any]) -> None:
        """Fails if a key server that breaks locks out everybody."""
        assert await reader.user(RSA_TOKEN) == "alice"
        for name, value in how.items():
            setattr(server, name, value)
        reader.later(MAX_AGE_S + 1)
        assert await reader.user(RSA_TOKEN) == "alice"
        await eventually(lambda: reader.keys._failure)
        assert await reader.user(RSA_TOKEN) == "alice"
        assert await reader.user(EC_TOKEN) == "bob"

    async def test_what_is_compressed_is_not_unpacked(
        self, server: KeyServer, reader: Reader, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a few bytes of a key server can become any number of them in memory; or clients are told why."""
        good = server.body
        server.headers, server.body = "Content-Encoding: gzip\r\n", gzip.compress(good)
        with pytest.raises(KeysUnavailable) as refused:
            await reader.user(RSA_TOKEN)
        assert "compressed" in caplog.text
        assert "compressed" not in str(refused.value)
        server.headers, server.body = "", good
        reader.later()
        assert await reader.user(RSA_TOKEN) == "alice"

    async def test_a_server_that_does_not_answer(self, server: KeyServer) -> None:
        """Fails if a client waits for ever."""
        server.may_answer.clear()
        reader = Reader(server, timeout_s=0.2)
        try:
            async with asyncio.timeout(5):
                with pytest.raises(KeysUnavailable):
                    await reader.user(RSA_TOKEN)
        finally:
            await reader.keys.stop()

    async def test_stopping_while_it_is_read(self, server: KeyServer) -> None:
        """Fails if a replica cannot stop while the key server keeps it waiting."""
        server.may_answer.clear()
        reader = Reader(server)
        coming = asyncio.create_task(reader.user(RSA_TOKEN))
        await eventually(lambda: server.requests)
        async with asyncio.timeout(2):
            await reader.keys.stop()
            with pytest.raises(KeysUnavailable):
                await coming


class TestReplica:
    async def test_it_starts_without_the_server_and_asks_clients_to_come_back(
        self, start_replica: StartReplica, server: KeyServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Fails if a replica needs the key server to start, or tells clients to stay away while that is gone."""
        monkeypatch.setattr("heliograph.auth.jwks.AGAIN_S", 0.0)
        keys = json.loads(server.body)
        down = KeyServer(keys)
        down.port = free_port()
        one = await start_replica(auth={"mode": "jwt", "jwks_url": down.url}, redis_url=None)
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": RSA_TOKEN})
            assert (await client.next("error"))["code"] == "unavailable"
            assert await client.close_code() == 1013
        async with down, Client(one.url) as client:
            await client.say({"type": "connect", "token": RSA_TOKEN})
            assert (await client.next("connected"))["user"] == "alice"
        async with Client(one.url) as client:
            await client.say({"type": "connect", "token": token("alice", key=OTHER_RSA, algorithm="RS256")})
            assert await client.close_code() == 3500


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost/x", True),
        ("http://127.0.0.9/x", True),
        ("http://[::1]:1/x", True),
        ("https://id.example", False),
        ("https://10.0.0.1", False),
    ],
)
def test_what_is_this_machine(url: str, here: bool) -> None:
    """Fails if a proxy is asked for what is on this machine, or not for what is outside."""
    assert is_loopback(url) is here
