"""What the claims of tokens say beside the user: infos, channels at once, ends, and the right to one channel."""

import base64
import time
from typing import Any

import pytest
from pydantic import SecretStr

from heliograph.auth.tokens import TokenReader
from heliograph.errors import InvalidToken, TokenNotCurrent
from heliograph.protocol.grants import Permit, Right
from heliograph.settings import AuthSettings
from tests.support.tokens import SECRET, token

LEEWAY_S = 5


def reader(**options: Any) -> TokenReader:
    return TokenReader(AuthSettings(mode="jwt", secret=SecretStr(SECRET), leeway_s=LEEWAY_S, **options))


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("claims", "info"),
    [
        ({}, None),
        ({"info": None}, None),
        ({"info": {"name": "Ädä", "n": [1, 2.5]}}, '{"name":"Ädä","n":[1,2.5]}'.encode()),
        ({"info": "text"}, b'"text"'),
        ({"info": 0}, b"0"),
        ({"b64info": encoded(b'{"a": 1}')}, b'{"a": 1}'),
        ({"info": 1, "b64info": encoded(b"2")}, b"2"),
    ],
)
async def test_the_info_is_kept_as_json(claims: dict[str, Any], info: bytes | None) -> None:
    """Fails if what presence should say of a client is lost or changed, of a connection or of one channel."""
    assert (await reader().read(token(**claims))).info == info
    assert (await reader().read_permit(token(channel="vip", **claims))).info == info


@pytest.mark.parametrize(
    "claims",
    [
        {"b64info": "not base64!"},
        {"b64info": 5},
        {"b64info": encoded(b"\xff\xfe")},
        {"b64info": encoded(b"not JSON")},
        {"info": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]},
        {"info": "\ud800"},
        {"expire_at": "soon"},
        {"expire_at": [1]},
        {"expire_at": 10**12},
    ],
)
async def test_claims_that_some_client_could_not_read(claims: dict[str, Any]) -> None:
    """Fails if the info of one client breaks the frames of others, or an end that is none counts as "never"."""
    for each in (claims, {"channel": "vip", **claims}):
        with pytest.raises(InvalidToken):
            await (reader().read_permit if "channel" in each else reader().read)(token(**each))


async def test_meta_is_an_object() -> None:
    """Fails if what is for the backend alone is lost, or is no object."""
    assert (await reader().read(token(meta={"plan": "pro"}))).meta == b'{"plan":"pro"}'
    with pytest.raises(InvalidToken, match="meta"):
        await reader().read(token(meta=["pro"]))


async def test_when_it_ends() -> None:
    """Fails if `expire_at` does not count before `exp`, or 0 is an end and not "never"."""
    now = int(time.time())
    assert (await reader().read(token(expires_in=None, exp=now + 60))).expires_at == now + 60 + LEEWAY_S
    assert (await reader().read(token(expire_at=now + 3600))).expires_at == now + 3600 + LEEWAY_S
    assert (await reader().read(token(expire_at=0))).expires_at is None
    with pytest.raises(InvalidToken, match="expire_at"):
        await reader(require_exp=True).read(token(expire_at=0))
    with pytest.raises(TokenNotCurrent):
        await reader().read(token(expires_in=-60, expire_at=now + 3600))
    permit = await reader().read_permit(token(channel="vip", expires_in=None, exp=now + 60))
    assert permit == Permit("alice", "vip", None, now + 60)


async def test_subs_are_subscribed_at_once() -> None:
    """Fails if a channel of `subs` is not subscribed, not allowed, or loses its info; or `channels` loses its own."""
    subs = {"vip": {"info": {"seat": 7}}, "news": {}, "mail": {"b64info": encoded(b"1")}}
    grants = (await reader().read(token(channels=["news"], subs=subs))).channels
    assert grants.at_once == ("news", "vip", "mail")
    assert all(grants.allow(Right.SUBSCRIBE, channel) for channel in grants.at_once)
    assert not grants.allow(Right.SUBSCRIBE, "other")
    assert [grants.info_on(channel) for channel in ("vip", "news", "mail")] == [b'{"seat":7}', None, b"1"]


@pytest.mark.parametrize(
    "subs",
    [
        ["vip"],
        {"vip": None},
        {"run:*": {}},
        {"#bob": {}},
        {"": {}},
        {"vip": {"override": {"presence": {"value": False}}}},
        {"vip": {"b64info": "?"}},
    ],
)
async def test_subs_that_cannot_be_kept(subs: object) -> None:
    """Fails if a token whose maker wanted something else subscribes somebody all the same."""
    with pytest.raises(InvalidToken):
        await reader().read(token(subs=subs))


@pytest.mark.parametrize("channel", [None, "", 5, ["vip"], "a\nb", "x" * 600])
async def test_a_permit_is_for_one_channel(channel: object) -> None:
    """Fails if a token that names no channel opens one."""
    with pytest.raises(InvalidToken):
        await reader().read_permit(token(channel=channel))


async def test_each_token_for_its_own_purpose() -> None:
    """Fails if a subscription token connects a client, or one to connect with opens a channel."""
    with pytest.raises(InvalidToken, match="subscribe"):
        await reader().read(token(channel="vip"))
    with pytest.raises(InvalidToken, match="channel"):
        await reader().read_permit(token())
    with pytest.raises(InvalidToken, match="override"):
        await reader().read_permit(token(channel="vip", override={"presence": {"value": False}}))


@pytest.mark.parametrize(
    "claims", [{"aud": "other"}, {"iss": "other"}, {"key": "a secret of others of 32 bytes, too"}]
)
async def test_a_permit_is_checked_like_any_token(claims: dict[str, Any]) -> None:
    """Fails if a subscription token of another audience, issuer or key opens a channel."""
    strict = reader(audience="us", issuer="me")
    good: dict[str, Any] = {"channel": "vip", "aud": "us", "iss": "me"}
    assert (await strict.read_permit(token(**good))).channel == "vip"
    with pytest.raises(InvalidToken):
        await strict.read_permit(token(**{**good, **claims}))
