"""Who a client is: the Authenticator alone, and both modes over real sockets."""

import base64
import json
import logging
import time
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from heliograph.auth.authenticator import Authenticator, Credentials, Identity
from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.clock import SystemClock
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import BadUserId, InvalidToken
from heliograph.settings import AuthSettings
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.replicas import OPEN
from tests.support.tokens import JWT, OPENED, SECRET, soon, token

tickets = MemoryTickets(SystemClock())
jwt_mode = Authenticator(
    AuthSettings(mode="jwt", secret=SecretStr(SECRET), leeway_s=0), tickets, BlockedUsers(SystemClock())
)
open_mode = Authenticator(AuthSettings(mode="open"), tickets, BlockedUsers(SystemClock()))


def forged(header: dict[str, Any], payload: object, signature: bytes = b"") -> str:
    """A token that no library would make."""
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def too_deep() -> str:
    """A token whose header is nested deeper than a JSON reader goes."""
    header = b'{"alg":"HS256","x":' + b"[" * 5000 + b"]" * 5000 + b"}"
    parts = [header, b"{}", b"x"]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


BAD_TOKENS = {
    "empty": "",
    "no token at all": "hello",
    "three dots": "...",
    "not ASCII": "안.녕.하",
    "wrong key": token(key="another secret of thirty-two bytes"),
    "expired": token(expires_in=-1),
    "not yet": token(nbf=time.time() + 100),
    "no sub": token(None),
    "empty sub": token(""),
    "sub with a line break": token("a\nb"),
    "sub of 300 bytes": token("x" * 300),
    "alg none": forged({"alg": "none", "typ": "JWT"}, {"sub": "alice"}),
    "alg NONE": forged({"alg": "NONE"}, {"sub": "alice"}),
    "another alg": jwt.encode({"sub": "alice"}, SECRET * 3, algorithm="HS512"),
    "no alg": forged({"typ": "JWT"}, {"sub": "alice"}),
    "sub is a number": forged({"alg": "HS256"}, {"sub": 5}),
    "cut off": token()[:-1],
    "exp is a word": jwt.encode({"sub": "alice", "exp": 1}, SECRET)[:-3] + "abc",
    "too deep": too_deep(),
}


class TestAuthenticator:
    @pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS.keys())
    async def test_a_bad_token_proves_nothing(self, bad: str) -> None:
        """Fails if a token that was not made with our secret (or names nobody) passes, or raises something else."""
        with pytest.raises(InvalidToken) as raised:
            await jwt_mode.identify(Credentials(bad, "alice"))
        assert SECRET not in str(raised.value)

    @pytest.mark.parametrize("sub", [5, None, ["alice"], {"a": 1}, True])
    async def test_a_sub_that_is_no_text_is_refused(self, sub: object) -> None:
        """Fails if a signed token with a sub of another kind gets through, or breaks the server."""
        signed = jwt.api_jws.encode(json.dumps({"sub": sub}).encode(), SECRET, "HS256")
        with pytest.raises(InvalidToken):
            await jwt_mode.identify(Credentials(signed))

    @pytest.mark.parametrize("exp", ["soon", "NaN", [], None])
    async def test_an_exp_that_is_no_number_is_refused(self, exp: object) -> None:
        """Fails if a token of our own maker with a broken expiry lives for ever, or breaks the server."""
        signed = jwt.api_jws.encode(json.dumps({"sub": "alice", "exp": exp}).encode(), SECRET, "HS256")
        with pytest.raises(InvalidToken):
            await jwt_mode.identify(Credentials(signed))

    async def test_an_exp_in_text_is_a_number_all_the_same(self) -> None:
        """Fails if what the library accepts (digits in text) is not what the expiry timer can count with."""
        signed = jwt.api_jws.encode(json.dumps({"sub": "a", "exp": "99999999999"}).encode(), SECRET, "HS256")
        try:
            identity = await jwt_mode.identify(Credentials(signed))
        except InvalidToken:
            return
        assert isinstance(identity.expires_at, int | float)

    async def test_a_good_token_names_the_user_and_the_time(self) -> None:
        """Fails if the user is not the token's, or the expiry is lost."""
        expires_at = int(time.time()) + 60
        made = token("우주", expires_in=None, exp=expires_at)
        assert await jwt_mode.identify(Credentials(made, "mallory")) == Identity("우주", expires_at)
        assert await jwt_mode.identify(Credentials(token("bob", expires_in=None))) == Identity("bob", None)

    async def test_jwt_mode_needs_a_token(self) -> None:
        """Fails if a user without a token is believed."""
        with pytest.raises(InvalidToken, match="say who you are: with a 'token'"):
            await jwt_mode.identify(Credentials(None, "alice"))

    async def test_open_mode_believes_everybody_who_could_be_a_user(self) -> None:
        """Fails if open mode wants a token, or takes an impossible id."""
        assert await open_mode.identify(Credentials("whatever", "안")) == Identity("안")
        for user in (None, "", "a\x00"):
            with pytest.raises(BadUserId):
                await open_mode.identify(Credentials(None, user))


class TestJwtMode:
    """Over real sockets."""

    async def test_the_first_frame_carries_the_token(self, start_replica: StartReplica) -> None:
        """Fails if a good token is refused, or `user` (in the frame or the URL) counts beside it."""
        one = await start_replica(auth=JWT, redis_url=None, namespaces=OPENED)
        async with Client(one.url, path="/ws?user=mallory") as client:
            await client.say({"type": "connect", "token": token("alice"), "user": "mallory", "id": 1})
            connected = await client.next("connected", id=1)
            assert connected["user"] == "alice"
            await client.send("alice", "to myself")
            assert (await client.next("message"))["from"] == "alice"

    async def test_a_bad_token_is_an_error_and_3500(self, start_replica: StartReplica) -> None:
        """Fails if a client with a bad token is served, or closed without a reason or with an inviting code."""
        one = await start_replica(auth=JWT, redis_url=None)
        for name in ("wrong key", "no sub", "alg none", "too deep"):
            async with Client(one.url) as client:
                await client.say({"type": "connect", "token": BAD_TOKENS[name]})
                assert (await client.next("error"))["code"] == "invalid_token", name
                assert await client.close_code() == 3500, name
        assert one.replica.hub.connections == 0

    async def test_without_a_token_nobody_gets_in(self, start_replica: StartReplica) -> None:
        """Fails if ?user=, or nothing at all, stands for a token in the first frame."""
        one = await start_replica(auth=JWT, redis_url=None, limits={"connect_timeout_s": 0.2})
        async with Client(one.url, path="/ws?user=alice") as client:
            await client.say({"type": "connect", "user": "alice"})
            assert "token" in (await client.next("error"))["message"]
            assert await client.close_code() == 3500
        async with Client(one.url, path="/ws") as client:
            assert await client.close_code() == 3501

    async def test_the_handshake_may_carry_the_token(self, start_replica: StartReplica) -> None:
        """Fails if a program that can set headers has to send a first frame, or its URL counts beside the token."""
        one = await start_replica(auth=JWT, redis_url=None)
        for header in (f"Bearer {token('alice')}", f"bearer  {token('alice')}"):
            async with connect(
                _ws(one.url, "?user=mallory"), additional_headers={"Authorization": header}, proxy=None
            ) as socket:
                assert json.loads(await socket.recv())["user"] == "alice"
                await socket.send('{"type":"connect","token":"x","id":1}')
                assert json.loads(await socket.recv())["id"] == 1  # an error: it has connected

    @pytest.mark.parametrize(
        ("headers", "says"),
        [
            ([("Authorization", "Bearer nonsense")], "not valid"),
            ([("Authorization", f"Bearer {token(expires_in=-1)}")], "expired"),
            ([("Authorization", f"Bearer {token('a')}"), ("Authorization", f"Bearer {token('b')}")], "say once"),
        ],
    )
    async def test_a_handshake_with_a_bad_token(
        self, start_replica: StartReplica, headers: list[tuple[str, str]], says: str
    ) -> None:
        """Fails if a bad header is overlooked, or one of two is chosen: 401, and why."""
        one = await start_replica(auth=JWT, redis_url=None)
        with pytest.raises(InvalidStatus) as refused:
            async with connect(_ws(one.url), additional_headers=headers, proxy=None):
                pass
        assert refused.value.response.status_code == 401
        assert says in refused.value.response.body.decode()

    async def test_another_scheme_is_for_somebody_else(self, start_replica: StartReplica) -> None:
        """Fails if a proxy's own `Authorization: Basic` keeps clients from giving a token in the first frame."""
        one = await start_replica(auth=JWT, redis_url=None)
        async with connect(_ws(one.url), additional_headers={"Authorization": "Basic YTpi"}, proxy=None) as socket:
            await socket.send(json.dumps({"type": "connect", "token": token("alice")}))
            assert json.loads(await socket.recv())["user"] == "alice"

    @pytest.mark.parametrize("name", ["token", "access_token"])
    @pytest.mark.parametrize("auth", [JWT, OPEN], ids=["jwt", "open"])
    async def test_a_token_in_the_url_is_refused(
        self, start_replica: StartReplica, caplog: pytest.LogCaptureFixture, name: str, auth: dict[str, str]
    ) -> None:
        """Fails if a good token counts in a URL, where logs keep it, or the client is not told what to do instead."""
        one = await start_replica(auth=auth, redis_url=None)
        secret = token("alice")
        url = _ws(one.url, f"?{name}={secret}&user=alice")
        with caplog.at_level(logging.DEBUG, "heliograph"):
            with pytest.raises(InvalidStatus) as refused:
                async with connect(url, proxy=None):
                    pass
            assert refused.value.response.status_code == 401
            async with connect(url, origin=Origin(one.url), proxy=None) as page:
                error = json.loads(await page.recv())
                assert error["code"] == "invalid_token"
                for said in (error["message"], refused.value.response.body.decode()):
                    for way in ("first frame", "Authorization", "/api/ticket"):
                        assert way in said
                    assert secret not in said
                await page.wait_closed()
                assert page.close_code == 3500
        assert secret not in "".join(record.getMessage() for record in caplog.records if "heliograph" in record.name)
        assert one.replica.hub.connections == 0

    async def test_the_url_must_name_the_same_user(self, start_replica: StartReplica) -> None:
        """Fails if a token for alice opens /ws/users/bob (3507), or does not open /ws/users/alice."""
        one = await start_replica(auth=JWT, redis_url=None)
        async with Client(one.url, path="/ws/users/bob") as client:
            await client.say({"type": "connect", "token": token("alice")})
            assert await client.close_code() == 3507
        async with Client(one.url, path="/ws/users/alice") as client:
            await client.say({"type": "connect", "token": token("alice")})
            assert (await client.next("connected"))["user"] == "alice"
        assert one.replica.hub.count("bob") == 0

    async def test_a_token_that_expires_ends_the_connection_with_3005(self, start_replica: StartReplica) -> None:
        """Fails if a connection outlives its token, ends before it does, or may not come back with a new one."""
        one = await start_replica(auth=JWT, redis_url=None, namespaces=OPENED)
        async with Client(one.url) as client, Client(one.url) as patient:
            ends_in_s = soon()
            ends_at = time.time() + ends_in_s
            await client.say({"type": "connect", "token": token("alice", expires_in=ends_in_s)})
            await client.next("connected")
            await patient.say({"type": "connect", "token": token("alice")})
            await patient.next("connected")
            assert await client.close_code() == 3005
            assert time.time() >= ends_at - 0.1
            await patient.nothing_more()
            assert (await patient.send("alice", "still here"))["delivery"] == "local"
        assert one.replica.hub.connections == 0


def _ws(url: str, query: str = "") -> str:
    return f"{url.replace('http', 'ws', 1)}/ws{query}"


class TestOpenMode:
    """Over real sockets."""

    async def test_three_ways_to_say_who_one_is(self, start_replica: StartReplica) -> None:
        """Fails if one of ?user=, /ws/users/{id} and the connect frame does not work, for any script."""
        one = await start_replica(redis_url=None)
        for user in ("alice", "안녕", "👩‍👩‍👧", "مرحبا", "a b+c&d=e%41"):
            async with Client(one.url, user=user) as by_query, Client(one.url) as by_frame:
                assert by_query.connected["user"] == user
                await by_frame.say({"type": "connect", "user": user, "id": "x"})
                assert (await by_frame.next("connected", id="x"))["user"] == user

    async def test_the_path_names_a_user(self, start_replica: StartReplica) -> None:
        """Fails if a user cannot be named in /ws/users/{id} although it is written as URLs want it."""
        one = await start_replica(redis_url=None)
        for user in ("alice", "안녕", "a b", "100%", "a?b#c", "a/b"):
            async with Client(one.url, path=f"/ws/users/{quote(user, safe='')}") as client:
                assert (await client.next("connected"))["user"] == user
