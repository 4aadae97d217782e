"""The keys that tokens are checked with, and every way to get past them that is known."""

import base64
import hashlib
import hmac
import json
import re
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from heliograph.auth.authenticator import Authenticator, Credentials
from heliograph.auth.keys import hmac_key, jwk_key, public_key
from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.clock import SystemClock
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import BadSetting, InvalidToken
from heliograph.settings import AuthSettings
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.key_pairs import (
    ED25519,
    OTHER_RSA,
    P256,
    P384,
    P521,
    RSA,
    jwk,
    private_pem,
    public_pem,
)
from tests.support.tokens import SECRET, token

LONG_SECRET = SECRET * 2  # 68 bytes: for all three hashes


def authenticator(**settings: Any) -> Authenticator:
    return Authenticator(
        AuthSettings(mode="jwt", **settings), MemoryTickets(SystemClock()), BlockedUsers(SystemClock())
    )


@pytest.fixture
def pem_file(tmp_path: Path) -> Any:
    def write(pem: bytes) -> Path:
        path = tmp_path / "key.pem"
        path.write_bytes(pem)
        return path

    return write


async def user_of(one: Authenticator, text: str) -> str:
    return (await one.identify(Credentials(text))).user


def signed(header: dict[str, Any], payload: dict[str, Any], key: bytes, digest: Any = hashlib.sha256) -> str:
    """A token with an HMAC signature, by hand: libraries refuse what attackers do."""
    text = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload)
    )
    signature = base64.urlsafe_b64encode(hmac.new(key, text.encode(), digest).digest()).rstrip(b"=").decode()
    return f"{text}.{signature}"


class TestKinds:
    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
    async def test_hmac(self, algorithm: str) -> None:
        """Fails if one of the hashes is not accepted with a secret that is long enough for it."""
        one = authenticator(secret=LONG_SECRET)
        assert await user_of(one, token("안녕", key=LONG_SECRET, algorithm=algorithm)) == "안녕"

    def test_a_secret_is_for_hashes_no_longer_than_it(self) -> None:
        """Fails if a short secret is used with a long hash (RFC 7518 section 3.2)."""
        assert hmac_key(b"x" * 32).algorithms == {"HS256"}
        assert hmac_key(b"x" * 48).algorithms == {"HS256", "HS384"}
        assert hmac_key(b"x" * 64).algorithms == {"HS256", "HS384", "HS512"}

    @pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
    async def test_rsa(self, pem_file: Any, algorithm: str) -> None:
        """Fails if a token of our RSA key is refused, or another's accepted."""
        one = authenticator(public_key_file=pem_file(public_pem(RSA)))
        assert await user_of(one, token("alice", key=RSA, algorithm=algorithm, kid="whatever")) == "alice"
        with pytest.raises(InvalidToken, match="Signature verification failed"):
            await user_of(one, token("alice", key=OTHER_RSA, algorithm=algorithm))

    @pytest.mark.parametrize(("key", "algorithm"), [(P256, "ES256"), (P384, "ES384"), (P521, "ES512")])
    async def test_ec(self, pem_file: Any, key: Any, algorithm: str) -> None:
        """Fails if a token of our EC key is refused."""
        one = authenticator(public_key_file=pem_file(public_pem(key)))
        assert await user_of(one, token("alice", key=key, algorithm=algorithm)) == "alice"

    @pytest.mark.parametrize(
        ("pem", "says"),
        [
            (b"", "no public key in PEM"),
            (b"hello", "no public key in PEM"),
            (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key in PEM"),
            (private_pem(RSA), "a private key"),
            (private_pem(P256), "a private key"),
            (public_pem(ED25519), "another kind"),
        ],
        ids=["empty", "text", "broken", "private RSA", "private EC", "Ed25519"],
    )
    def test_a_file_that_holds_no_such_key(self, pem_file: Any, pem: bytes, says: str) -> None:
        """Fails if a replica starts with a key that no token can be checked with, or does not name the variable."""
        with pytest.raises(BadSetting, match=f"HELIOGRAPH_AUTH__PUBLIC_KEY_FILE: .*{says}"):
            authenticator(public_key_file=pem_file(pem))

    def test_a_key_that_is_too_small(self) -> None:
        """Fails if an RSA key that can be broken, or a curve that JWTs do not know, is accepted."""
        from cryptography.hazmat.primitives.asymmetric import ec, rsa

        with pytest.raises(ValueError, match="1024 bits; at least 2048"):
            public_key(public_pem(rsa.generate_private_key(65537, 1024)))  # noqa: S505 - that is the point
        with pytest.raises(ValueError, match="the curve secp256k1"):
            public_key(public_pem(ec.generate_private_key(ec.SECP256K1())))

    def test_a_public_key_is_no_secret(self, pem_file: Any) -> None:
        """Fails if a team that mixes the two variables up gets replicas for which everybody can make tokens."""
        with pytest.raises(BadSetting, match="HELIOGRAPH_AUTH__SECRET_FILE: holds a PEM key"):
            authenticator(secret_file=pem_file(public_pem(RSA)))
        with pytest.raises(BadSetting, match="HELIOGRAPH_AUTH__SECRET: holds a PEM key"):
            authenticator(secret=public_pem(RSA).decode())


class TestConfusion:
    """A token names its algorithm itself; it must not be able to choose."""

    @pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "hs256", "none", "None", "", "RS256"])
    async def test_the_public_key_as_a_secret(self, pem_file: Any, algorithm: str) -> None:
        """Fails if an HMAC made with the public key, which everybody has, passes as its signature."""
        for pair in (RSA, P256):
            pem = public_pem(pair)
            one = authenticator(public_key_file=pem_file(pem))
            for key in (pem, pem.strip(), pem.replace(b"\n", b"\r\n"), b""):
                with pytest.raises(InvalidToken):
                    await user_of(one, signed({"alg": algorithm, "typ": "JWT"}, {"sub": "alice"}, key))

    @pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "NONE"}, {"alg": None}, {"alg": ["HS256"]}, {}])
    async def test_no_algorithm(self, header: dict[str, Any]) -> None:
        """Fails if a token without a signature, or with a strange algorithm, passes."""
        one = authenticator(secret=LONG_SECRET)
        for text in (signed(header, {"sub": "alice"}, LONG_SECRET.encode()), signed(header, {"sub": "a"}, b"")):
            for each in (text, text.rpartition(".")[0] + "."):
                with pytest.raises(InvalidToken):
                    await user_of(one, each)

    async def test_an_algorithm_of_another_kind(self, pem_file: Any) -> None:
        """Fails if a key is used with another kind's algorithm, or nobody is told which it can be."""
        with pytest.raises(InvalidToken, match="'RS256'; with the key that is set it can be HS256, HS384, HS512"):
            await user_of(authenticator(secret=LONG_SECRET), token(key=RSA, algorithm="RS256"))
        rsa_only = authenticator(public_key_file=pem_file(public_pem(RSA)))
        with pytest.raises(InvalidToken, match="'ES256'; with the key that is set it can be PS256"):
            await user_of(rsa_only, token(key=P256, algorithm="ES256"))
        ec_only = authenticator(public_key_file=pem_file(public_pem(P256)))
        with pytest.raises(InvalidToken, match=r"can be ES256$"):
            await user_of(ec_only, token(key=P384, algorithm="ES384"))

    async def test_a_key_that_the_token_brings(self, pem_file: Any) -> None:
        """Fails if a key in the token's own header, or at an address there, is used."""
        one = authenticator(public_key_file=pem_file(public_pem(RSA)))
        for header in ({"jwk": jwk(OTHER_RSA)}, {"jku": "http://127.0.0.1:1/"}, {"x5u": "http://127.0.0.1:1/"}):
            text = jwt.encode({"sub": "alice"}, OTHER_RSA, algorithm="RS256", headers=header)
            with pytest.raises(InvalidToken):
                await user_of(one, text)

    async def test_a_name_that_is_no_name(self) -> None:
        """Fails if a key id that is no string breaks something."""
        one = authenticator(secret=LONG_SECRET)
        for kid in (5, ["a"], {"a": 1}, True):
            with pytest.raises(InvalidToken):
                await user_of(one, signed({"alg": "HS256", "kid": kid}, {"sub": "alice"}, LONG_SECRET.encode()))


class TestClaims:
    async def test_audience(self) -> None:
        """Fails if a token for another service is good here, or one that names several is not."""
        one = authenticator(secret=SECRET, audience="heliograph")
        for good in ("heliograph", ["other", "heliograph"]):
            assert await user_of(one, token("alice", aud=good)) == "alice"
        for bad in ("helio", "heliograph2", ["other"], [], "", 5, {"heliograph": 1}, None):
            with pytest.raises(InvalidToken):
                await user_of(one, token("alice", aud=bad))
        with pytest.raises(InvalidToken, match="aud"):
            await user_of(one, token("alice"))
        assert await user_of(authenticator(secret=SECRET), token("alice", aud="whoever")) == "alice"

    async def test_issuer(self) -> None:
        """Fails if a token of another issuer, or of one whose name is a part of ours, is good."""
        one = authenticator(secret=SECRET, issuer="https://id.example")
        assert await user_of(one, token("alice", iss="https://id.example")) == "alice"
        for bad in ("https://id", "https://id.example/", "", 5, ["https://id.example"], None):
            payload = json.dumps({"sub": "alice", "iss": bad}).encode()
            with pytest.raises(InvalidToken):
                await user_of(one, jwt.api_jws.encode(payload, SECRET, "HS256"))
        with pytest.raises(InvalidToken, match="iss"):
            await user_of(one, token("alice"))

    async def test_times_and_leeway(self) -> None:
        """Fails if a token counts before or after its time, or by more than clocks are allowed to differ."""
        strict, lenient = authenticator(secret=SECRET), authenticator(secret=SECRET, leeway_s=30)
        now = time.time()
        early, late = token("alice", nbf=now + 20), token("alice", expires_in=-20)
        for text, says in ((early, "not yet valid"), (late, "expired")):
            with pytest.raises(InvalidToken, match=says):
                await user_of(strict, text)
            assert await user_of(lenient, text) == "alice"
        for text in (token("alice", nbf=now + 40), token("alice", expires_in=-40)):
            with pytest.raises(InvalidToken):
                await user_of(lenient, text)
        identity = await lenient.identify(Credentials(late))
        assert identity.expires_at == pytest.approx(now - 20 + 30, abs=1)

    @pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "1e30", '"x"', "[]", "{}", "true"])
    @pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
    async def test_times_that_are_none(self, claim: str, number: str) -> None:
        """Fails if a time that cannot be read raises anything but a refusal, or ends in an impossible expiry."""
        payload = f'{{"sub":"alice","{claim}":{number}}}'.encode()
        text = jwt.api_jws.encode(payload, SECRET, "HS256")
        try:
            identity = await authenticator(secret=SECRET).identify(Credentials(text))
        except InvalidToken:
            return
        assert identity.expires_at is None or time.time() < identity.expires_at < float("inf")

    @pytest.mark.parametrize(
        "channels", ["news", 5, True, [5], ["#bob"], ["a*b"], [""], {"a": "subscribe"}, {"a": ["admin"]}, {"#b": []}]
    )
    async def test_channels_that_are_none(self, channels: Any) -> None:
        """Fails if a claim that cannot be meant is overlooked, and its bearer wonders what is wrong."""
        with pytest.raises(InvalidToken, match="'channels'"):
            await user_of(authenticator(secret=SECRET), token("alice", channels=channels))


class TestJwk:
    def test_what_it_may_be_used_with(self) -> None:
        """Fails if a key's own `alg` is overlooked, or chosen from another kind."""
        rs256 = jwk_key(jwk(RSA, "a", alg="RS256", use="sig"))
        assert rs256 is not None
        assert (rs256.kid, rs256.algorithms) == ("a", frozenset({"RS256"}))
        any_rsa, p384 = jwk_key(jwk(RSA)), jwk_key(jwk(P384, "b"))
        assert any_rsa is not None
        assert "PS512" in any_rsa.algorithms
        assert p384 is not None
        assert p384.algorithms == {"ES384"}

    @pytest.mark.parametrize(
        "bad",
        [
            None,
            "key",
            {},
            {"kty": "RSA"},
            {"kty": "EC", "crv": "P-256"},
            {"kty": "RSA", "n": 5, "e": "AQAB"},
            {"kty": "RSA", "n": "!!", "e": ""},
            {"kty": "EC", "crv": ["P-256"], "x": "AA", "y": "AA"},
            {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "oct", "k": base64.urlsafe_b64encode(SECRET.encode()).decode()},
            {"kty": "OKP", "crv": "Ed25519", "x": "AA"},
            {"kty": ["RSA"]},
            jwk(RSA, use="enc"),
            jwk(RSA, alg="HS256"),
            jwk(RSA, alg="RSA-OAEP"),
            jwk(P256, alg="ES384"),
            {**jwk(RSA), "kid": 5},
            json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA)),
        ],
        ids=lambda bad: re.sub(r"[\w-]{30,}", "…", str(bad)),  # keys are made anew in each run
    )
    def test_what_is_no_key_for_us(self, bad: Any) -> None:
        """Fails if one strange key in a set breaks it, a shared secret is taken from it, or a private key is used."""
        assert jwk_key(bad) is None


async def test_over_a_socket(start_replica: StartReplica, pem_file: Any) -> None:
    """Fails if a replica with a public key does not let in its bearers, or lets in others."""
    auth = {"mode": "jwt", "public_key_file": pem_file(public_pem(P256)), "audience": "heliograph"}
    one = await start_replica(auth=auth, redis_url=None)
    async with Client(one.url) as client:
        await client.say({"type": "connect", "token": token("bob", key=P256, algorithm="ES256", aud="heliograph")})
        assert (await client.next("connected"))["user"] == "bob"
    async with Client(one.url) as client:
        await client.say({"type": "connect", "token": token("bob", aud="heliograph")})
        assert "can be ES256" in (await client.next("error"))["message"]
        assert await client.close_code() == 3500
