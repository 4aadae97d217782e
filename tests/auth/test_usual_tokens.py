"""The quick way to check a token, beside the library's: it accepts nothing that the library does not."""

import json
import time
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from heliograph.auth import tokens as tokens_module
from heliograph.auth.keys import hmac_key, public_key
from heliograph.auth.tokens import TokenReader
from heliograph.auth.usual_tokens import UsualTokens
from heliograph.errors import InvalidToken, TokenNotCurrent
from heliograph.settings import AuthSettings
from tests.support.key_pairs import P256, private_pem, public_pem
from tests.support.tokens import SECRET, soon, token
from tests.support.waiting import eventually

KEY = hmac_key(SECRET.encode())
OPTIONS: dict[str, Any] = {"require": ["sub"], "verify_iat": False}
NOW = int(time.time())
TIMES = st.one_of(
    st.integers(NOW - 100, NOW + 100),
    st.sampled_from([None, True, "1", 1e12, NOW + 0.5, NOW + 29.9, float("inf"), 10**30, -1, NOW + 1000, NOW - 1000]),
)
NAMES = st.sampled_from(["alice", "", "here", None, 5, ["here"], ["there", "here"]])
CLAIMS = st.fixed_dictionaries(
    {}, optional={"sub": NAMES, "exp": TIMES, "nbf": TIMES, "aud": NAMES, "iss": NAMES, "jti": NAMES}
)


def signed(claims: dict[str, Any]) -> str:
    return jwt.api_jws.encode(json.dumps(claims).encode(), SECRET, algorithm="HS256")


def by_the_library(text: str, audience: str | None, issuer: str | None) -> dict[str, Any] | None:
    try:
        claims: dict[str, Any] = jwt.decode(
            text,
            SECRET,
            algorithms=["HS256"],
            audience=audience,
            issuer=None if issuer is None else [issuer],
            leeway=30,
            options={**OPTIONS, "verify_aud": audience is not None},  # type: ignore[arg-type]
        )
    except jwt.PyJWTError:
        return None
    return claims


@given(
    CLAIMS, st.sampled_from([None, "here"]), st.sampled_from([None, "here"]), st.integers(0, 400), st.integers(0, 6)
)
def test_it_accepts_nothing_that_the_library_does_not(
    claims: dict[str, Any], audience: str | None, issuer: str | None, place: int, change: int
) -> None:
    """Fails if a token that is wrong in any way is taken for a good one because that is quicker."""
    text = signed(claims)
    usual = UsualTokens(audience, issuer, 30, ["sub"])
    usual.header(text)
    if change == 0:  # one character is another one
        place %= len(text)
        text = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
    elif change == 1:
        text = text[: place % len(text)]
    quick, slow = usual.claims(text, KEY, "HS256"), by_the_library(text, audience, issuer)
    assert quick is None or quick == slow


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_a_usual_one_needs_no_library(algorithm: str) -> None:
    """Fails if the quick way is never taken: for every key that can be set."""
    key = KEY if algorithm == "HS256" else public_key(public_pem(P256))
    private: Any = SECRET if algorithm == "HS256" else private_pem(P256)
    text = jwt.encode({"sub": "alice", "exp": NOW + 500, "channels": ["news"]}, private, algorithm=algorithm)
    usual = UsualTokens(None, None, 0, ["sub", "exp"])
    assert usual.claims(text, key, algorithm) is None, "its header has not been read"
    assert usual.header(text)["alg"] == algorithm
    assert usual.claims(text, key, algorithm) == {"sub": "alice", "exp": NOW + 500, "channels": ["news"]}


def test_any_other_character_is_another_token() -> None:
    """Fails if one that was not signed is good, or one token can be written in two ways."""
    usual = UsualTokens(None, None, 0, ["sub"])
    text = signed({"sub": "alice"})
    usual.header(text)
    assert usual.claims(text, KEY, "HS256") is not None
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = letters.index(text[-1])
    assert usual.claims(text[:-1] + letters[last ^ 1], KEY, "HS256") is None, "bits that no byte takes"
    for place in range(text.index(".") + 1, len(text) - 1):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        assert usual.claims(changed, KEY, "HS256") is None, changed
    for other in (text + "=", text + "\n", " " + text, text.replace(".", "..", 1)):
        assert usual.claims(other, KEY, "HS256") is None, other


def test_headers_with_more_in_them_are_not_remembered() -> None:
    """Fails if a header whose meaning only the library knows is taken for a usual one."""
    usual = UsualTokens(None, None, 0, ["sub"])
    unknown = urlsafe_b64encode(b'{"alg":"HS256","crit":["b64"],"b64":true}').rstrip(b"=").decode()
    text = f"{unknown}.{signed({'sub': 'alice'}).split('.', 1)[1]}"
    usual.header(text)
    assert not usual._headers
    for number in range(200):
        usual.header(jwt.encode({"sub": "alice"}, SECRET, headers={"kid": str(number)}))
    assert len(usual._headers) == 64


class TestRemembered:
    def reader(self) -> TokenReader:
        return TokenReader(AuthSettings(mode="jwt", secret=SecretStr(SECRET), leeway_s=0))

    async def test_a_token_that_comes_again_is_not_checked_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if each poll of a client costs a signature, or a token is remembered beyond its time."""
        reader, text, now = self.reader(), token("alice", expires_in=100), time.time()
        first = await reader.read(text)
        with monkeypatch.context() as patch:
            patch.setattr(reader, "_claims", None)
            assert await reader.read(text) == first
            patch.setattr(time, "time", lambda: now + 98)
            assert await reader.read(text) == first
            patch.setattr(time, "time", lambda: now + 101)
            with pytest.raises(TypeError):
                await reader.read(text)

    async def test_an_expired_one_is_refused(self) -> None:
        """Fails if a remembered token outlives its `exp`."""
        reader, text = self.reader(), token("alice", expires_in=soon())
        await reader.read(text)

        async def is_refused() -> bool:
            try:
                await reader.read(text)
            except TokenNotCurrent:
                return True
            return False

        await eventually(is_refused)

    async def test_it_does_not_outlive_its_key(self) -> None:
        """Fails if a token of a key that was withdrawn is still good because it was once."""
        reader, text = self.reader(), token("alice")
        await reader.read(text)
        reader._keys._keys = (hmac_key(b"another secret of thirty-two bytes"),)  # type: ignore[attr-defined]
        with pytest.raises(InvalidToken):
            await reader.read(text)

    async def test_so_many_are_remembered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if clients can fill the memory with tokens."""
        monkeypatch.setattr(tokens_module, "MOST_REMEMBERED", 3)
        reader = self.reader()
        for number in range(10):
            await reader.read(token(f"user-{number}"))
        await reader.read(token("large", channels=["x" * 200 + str(number) for number in range(10)]))
        assert [each.claims["sub"] for each in reader._known.values()] == ["user-7", "user-8", "user-9"]
