"""Tokens that a program makes, as replicas read them."""

import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from heliograph.auth.tokens import TokenReader
from heliograph.client.tokens import TokenMaker
from heliograph.errors import BadChannel, BadSetting, BadUserId, InvalidToken
from heliograph.protocol.grants import Right
from heliograph.settings import AuthSettings
from tests.support.tokens import SECRET


async def test_a_replica_accepts_what_was_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails if a program and the replicas read the same variables and do not agree on a token."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    monkeypatch.setenv("HELIOGRAPH_AUTH__SECRET_FILE", str(secret))
    monkeypatch.setenv("HELIOGRAPH_AUTH__AUDIENCE", "the site")
    monkeypatch.setenv("HELIOGRAPH_AUTH__ISSUER", "the shop")
    settings = AuthSettings(
        mode="jwt", secret=SecretStr(SECRET), audience="the site", issuer="the shop", require_exp=True
    )
    reader = TokenReader(settings)
    for maker in (TokenMaker(life_s=60), TokenMaker(SECRET, audience="the site", issuer="the shop", life_s=60)):
        identity = await reader.read(maker.make("우주", ["news", "run:*"]))
        assert identity.user == "우주"
        assert identity.expires_at is not None
        assert 50 < identity.expires_at - time.time() <= 60 + settings.leeway_s
        assert identity.channels.allow(Right.SUBSCRIBE, "run:7")


async def test_what_presence_says_and_a_token_for_one_channel() -> None:
    """Fails if an info is lost, or a subscription token opens nothing, another channel, or a connection."""
    reader = TokenReader(AuthSettings(mode="jwt", secret=SecretStr(SECRET), require_exp=True))
    maker = TokenMaker(SECRET)
    assert (await reader.read(maker.make("bob", info={"name": "Bob"}))).info == b'{"name":"Bob"}'
    permit = await reader.read_permit(maker.make_for_channel("bob", "vip:1", info=7))
    assert (permit.user, permit.channel, permit.info) == ("bob", "vip:1", b"7")
    with pytest.raises(InvalidToken):
        await reader.read(maker.make_for_channel("bob", "vip:1"))
    with pytest.raises(BadChannel):
        maker.make_for_channel("bob", "")


def test_what_no_replica_would_accept_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a mistake is found by the users of a site, one by one, and not by its programmer."""
    monkeypatch.delenv("HELIOGRAPH_AUTH__SECRET", raising=False)
    with pytest.raises(BadSetting, match="AUTH__SECRET"):
        TokenMaker()
    with pytest.raises(BadSetting, match="32 or more"):
        TokenMaker("short")
    maker = TokenMaker(SECRET)
    for user in ("", "a\nb", "x" * 256):
        with pytest.raises(BadUserId):
            maker.make(user)
    with pytest.raises(InvalidToken):
        maker.make("bob", "news")
