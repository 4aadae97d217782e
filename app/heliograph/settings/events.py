"""Lifecycle events for the user's backend, and the webhooks that bring them."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from heliograph.errors import BadSetting
from heliograph.protocol.lifecycle import SELECTABLE, Kind
from heliograph.protocol.signature import read_secrets
from heliograph.settings.files import read_file
from heliograph.settings.group import Group
from heliograph.settings.http import check_header_names, check_http_url


class EventSettings(Group):
    kinds: tuple[Kind, ...] = Field(
        default=(),
        description=f"lifecycle events that are told, as a JSON list of {', '.join(SELECTABLE)}; unset: none",
    )
    grace_s: float = Field(
        default=2.0,
        ge=0,
        description="a user who is back, or a channel that has a subscriber again, within this time never left",
    )
    maxlen: int = Field(default=250_000, ge=1000, description="events kept, roughly; the oldest are dropped")

    @field_validator("kinds")
    @classmethod
    def _selectable(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if Kind.GAP in kinds:
            raise ValueError("gap is always told, and is not to be named")
        return kinds


class WebhookSettings(Group):
    """With a URL the replicas push lifecycle events to it."""

    url: str | None = Field(default=None, description="lifecycle events are pushed to this URL; unset: nowhere")
    secret: SecretStr | None = Field(
        default=None,
        description="the key that signs, 24 bytes or more in base64; several (to change it): with spaces",
    )
    secret_file: Path | None = Field(default=None, description="a file that holds the secret")
    headers: dict[str, SecretStr] = Field(default={}, description="further headers of every request, as JSON")
    ca_file: Path | None = Field(
        default=None, description="a PEM file with the authority that signed the receiver's certificate"
    )
    batch: int = Field(default=100, ge=1, le=1000, description="events in one request, at most")
    timeout_s: float = Field(default=10.0, gt=0, le=60, description="how long an answer may take")
    retry_for_s: float = Field(
        default=21_600, ge=0, description="an event that is older and still not taken goes to the dead letters"
    )

    @field_validator("url")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        return None if url is None else check_http_url(url)

    @field_validator("ca_file")
    @classmethod
    def _certificate(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_file("CA_FILE", path)
        return path

    @field_validator("headers")
    @classmethod
    def _names(cls, headers: Any) -> Any:
        check_header_names(headers)
        return headers

    @field_validator("secret")
    @classmethod
    def _usable(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _keys(secret.get_secret_value())
        return secret

    @field_validator("secret_file")
    @classmethod
    def _usable_file(cls, path: Path | None) -> Path | None:
        if path is not None:
            _keys_of_file(path)
        return path

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("set one of SECRET and SECRET_FILE, not both")
        if self.url is not None and not self.keys():
            raise ValueError("URL needs SECRET or SECRET_FILE, which signs: openssl rand -base64 32")
        return self

    def keys(self) -> list[bytes]:
        """Return the keys that sign; none if there is no secret."""
        if self.secret_file is not None:
            return _keys_of_file(self.secret_file)
        return [] if self.secret is None else _keys(self.secret.get_secret_value())


def _keys_of_file(path: Path) -> list[bytes]:
    return _keys(read_file("SECRET_FILE", path).decode(errors="replace"))


def _keys(text: str) -> list[bytes]:
    """Return the keys of a secret. Raises ValueError."""
    try:
        return read_secrets(text)
    except BadSetting as error:
        raise ValueError(str(error)) from None
