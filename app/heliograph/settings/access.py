"""Who may connect, and who may call the server API."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from heliograph.settings.files import read_file
from heliograph.settings.group import Group


class AuthSettings(Group):
    """In jwt mode exactly one of SECRET, SECRET_FILE, PUBLIC_KEY_FILE and JWKS_URL checks tokens."""

    mode: Literal["jwt", "hook", "open"] = Field(
        default="jwt",
        description="hook: the connect hook says who a client is, no tokens; open: anyone may be anyone, to develop",
    )
    open_to_network: bool = Field(
        default=False, description="allow MODE open where other machines can connect: anyone there may be any user"
    )
    secret: SecretStr | None = Field(default=None, description="the HMAC key that signs tokens, 32 bytes or more")
    secret_file: Path | None = Field(default=None, description="a file that holds the secret")
    public_key_file: Path | None = Field(
        default=None, description="a PEM file with the RSA or EC key that checks tokens"
    )
    jwks_url: str | None = Field(default=None, description="the URL of the RSA and EC keys (JSON Web Key Set)")
    jwks_max_age_s: float = Field(
        default=600, gt=0, description="how old those keys may be before they are read again"
    )
    jwks_timeout_s: float = Field(default=3.0, gt=0, description="how long reading them may take")
    audience: str | None = Field(
        default=None, min_length=1, description="what a token's aud must contain; unset: any"
    )
    issuer: str | None = Field(default=None, min_length=1, description="what a token's iss must be; unset: any")
    leeway_s: float = Field(default=5, ge=0, le=300, description="how much clocks may differ, for exp and nbf")
    require_exp: bool = Field(default=False, description="refuse tokens without exp, which never expire")
    subscription_grace_s: float = Field(
        default=25, ge=0, description="how long a client stays on a channel after its subscription token has expired"
    )
    ticket_ttl_s: float = Field(default=30, gt=0, le=300, description="how long a ticket is valid")
    stream_return_s: float = Field(
        default=86_400, ge=0, description="how long a stream that was opened with a ticket may be resumed, at most"
    )

    @field_validator("jwks_url")
    @classmethod
    def _safe_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError("cannot be read") from None  # the error's own text repeats a part of the URL
        if parts.username is not None or parts.password is not None:
            raise ValueError("must not hold a password")
        if parts.scheme == "https" and parts.hostname:
            return url
        if parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"):
            return url
        raise ValueError("must begin with https:// (http:// only for this machine): its keys decide who is a user")

    @model_validator(mode="after")
    def _need_a_key(self) -> Self:
        names = ("SECRET", "SECRET_FILE", "PUBLIC_KEY_FILE", "JWKS_URL")
        given = [name for name in names if getattr(self, name.lower()) is not None]
        if len(given) > 1:
            raise ValueError(f"set one of {' and '.join(given)}, not {'both' if len(given) == 2 else 'all'}")
        if self.mode == "open":
            return self
        if self.mode == "hook":
            if given:
                raise ValueError(f"MODE hook takes no tokens: unset {given[0]}, or set MODE to jwt to take both")
            return self
        if not given:
            raise ValueError(
                "MODE jwt needs SECRET or SECRET_FILE with at least 32 bytes, or PUBLIC_KEY_FILE, or JWKS_URL "
                "(or set MODE to open, for development)"
            )
        if given[0].startswith("SECRET") and len(self.key()) < 32:
            raise ValueError(f"{given[0]} needs at least 32 bytes in MODE jwt; it has {len(self.key())}")
        _refuse_example(given[0], self.key())
        self.public_key()
        return self

    def key(self) -> bytes:
        """Return the secret from its variable or file; empty if neither is set."""
        if self.secret_file is not None:
            return read_file("SECRET_FILE", self.secret_file).strip()
        return self.secret.get_secret_value().encode() if self.secret else b""

    def public_key(self) -> bytes | None:
        """Return the content of the file of the public key."""
        return None if self.public_key_file is None else read_file("PUBLIC_KEY_FILE", self.public_key_file)


class ApiSettings(Group):
    key: SecretStr | None = Field(
        default=None, description="the key of the server API, 16 bytes or more; unset: no API"
    )
    key_file: Path | None = Field(default=None, description="a file that holds the key")
    body_bytes: int = Field(default=1_048_576, ge=1024, description="the largest body of a request")
    batch: int = Field(default=1000, ge=1, description="commands in a batch, and channels in a broadcast")

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if self.key is not None and self.key_file is not None:
            raise ValueError("set one of KEY and KEY_FILE, not both")
        given = self.key is not None or self.key_file is not None
        if given and len(self.secret()) < 16:
            raise ValueError("KEY needs 16 bytes or more")
        if given:
            _refuse_example("KEY" if self.key is not None else "KEY_FILE", self.secret())
        return self

    def secret(self) -> bytes:
        """Return the key from its variable or file; empty if neither is set."""
        if self.key_file is not None:
            return read_file("KEY_FILE", self.key_file).strip()
        return self.key.get_secret_value().encode() if self.key else b""


_EXAMPLES = ("0123456789abcdef", "changeme", "change-me", "change_me", "secret", "password", "example")


def _refuse_example(name: str, key: bytes) -> None:
    """Refuse a key from documentation, ours or another's: everybody has it."""
    text = key.decode(errors="replace").lower()
    if any(not text.replace(example, "").strip(" -_.!0123456789") for example in _EXAMPLES if example in text):
        raise ValueError(f"{name} is an example that everybody knows; make one of your own: openssl rand -hex 32")
