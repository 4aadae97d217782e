"""The keys that check tokens. Each key knows its algorithms, so that a token cannot choose another key's.

A token names its algorithm itself. If that alone decided, an attacker could use a public key as an HMAC secret. So a
key is used only with the algorithms of its own kind (RFC 7518 section 3).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm

HMAC_BITS: Final = (256, 384, 512)
RSA_ALGORITHMS: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
RSA_LEAST_BITS: Final = 2048
EC_ALGORITHMS: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}  # one for each curve


@dataclass(frozen=True)
class Key:
    """One key, and the algorithms that it may be used with. `kid`: its name in a key set."""

    material: Any
    algorithms: frozenset[str]
    kid: str | None = None
    _prepared: dict[str, tuple[Algorithm, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def has_signed(self, message: bytes, signature: bytes, algorithm: str) -> bool:
        """Return whether this is the key's signature of the message. `algorithm`: one of the key's own."""
        if (prepared := self._prepared.get(algorithm)) is None:
            library = jwt.get_algorithm_by_name(algorithm)
            prepared = self._prepared[algorithm] = library, library.prepare_key(self.material)
        library, material = prepared
        return library.verify(message, material, signature)


class KeySource(Protocol):
    """A source of keys."""

    async def find(self, kid: str | None) -> Sequence[Key]:
        """Return the keys that may have signed a token that names `kid`.

        Raises:
            KeysUnavailable: the keys cannot be read at the moment.
        """
        ...

    def at_hand(self, kid: str | None) -> Sequence[Key] | None:
        """Return what `find` would, if nothing has to be looked up for it; None: ask `find`."""
        ...

    async def stop(self) -> None:
        """Stop background work."""
        ...


class OneKey:
    """`KeySource` with one key; it ignores a token's `kid`."""

    def __init__(self, key: Key) -> None:
        self._keys = (key,)

    async def find(self, kid: str | None) -> Sequence[Key]:
        return self._keys

    def at_hand(self, kid: str | None) -> Sequence[Key] | None:
        return self._keys

    async def stop(self) -> None:
        pass


def hmac_key(secret: bytes) -> Key:
    """Return a shared secret, for the hashes that are no longer than it (RFC 7518 section 3.2).

    Raises:
        ValueError: it is a key of another kind; the text says so.
    """
    if secret.startswith(b"-----BEGIN"):
        raise ValueError("holds a PEM key, which is no shared secret (PUBLIC_KEY_FILE is for public keys)")
    return Key(secret, frozenset(f"HS{bits}" for bits in HMAC_BITS if len(secret) * 8 >= bits))


def public_key(pem: bytes) -> Key:
    """Read a public key in PEM.

    Raises:
        ValueError: it cannot check tokens; the text says why.
    """
    if b"PRIVATE KEY-----" in pem:
        raise ValueError("holds a private key: give replicas the public one alone")
    try:
        material = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("holds no public key in PEM (-----BEGIN PUBLIC KEY-----)") from None
    return Key(material, _algorithms(material))


def jwk_key(jwk: object) -> Key | None:
    """Return a key of a JSON Web Key Set (RFC 7517); None if it cannot check tokens."""
    if not isinstance(jwk, Mapping) or jwk.get("kty") not in ("RSA", "EC") or jwk.get("use", "sig") != "sig":
        return None
    kid, named = jwk.get("kid"), jwk.get("alg")
    try:
        # The library's class only reads the key; this module decides its algorithms.
        reader = jwt.algorithms.RSAAlgorithm if jwk["kty"] == "RSA" else jwt.algorithms.ECAlgorithm
        material = reader.from_jwk(dict(jwk))
        algorithms = _algorithms(material)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None  # ignore a key that cannot be read, for any reason
    if named is not None:
        algorithms &= {named}
    if not algorithms or not isinstance(kid, str | None):
        return None
    return Key(material, algorithms, kid)


def _algorithms(material: object) -> frozenset[str]:
    if isinstance(material, RSAPublicKey):
        if material.key_size < RSA_LEAST_BITS:
            raise ValueError(f"holds an RSA key of {material.key_size} bits; at least {RSA_LEAST_BITS} are needed")
        return RSA_ALGORITHMS
    if isinstance(material, EllipticCurvePublicKey):
        if (algorithm := EC_ALGORITHMS.get(material.curve.name)) is None:
            raise ValueError(f"holds a key on the curve {material.curve.name}; P-256, P-384 and P-521 will do")
        return frozenset({algorithm})
    raise ValueError("holds a key of another kind; RSA and EC will do")
