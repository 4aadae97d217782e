"""The user's backend, and what it is asked."""

from pathlib import Path
from typing import Any, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from heliograph.protocol.decision import Hook
from heliograph.settings.files import read_file
from heliograph.settings.group import Group
from heliograph.settings.http import check_header_names, check_http_url


class HookSettings(Group):
    """The user's backend: each URL switches its hook on."""

    connect: str | None = Field(default=None, description="asked who a client without a token is")
    refresh: str | None = Field(default=None, description="asked whether a client that `connect` let in may stay")
    subscribe: str | None = Field(default=None, description="asked whether a client may read a channel")
    publish: str | None = Field(default=None, description="asked whether a client may publish on a channel")
    rpc: str | None = Field(default=None, description="answers the `rpc` calls of clients")
    sub_refresh: str | None = Field(default=None, description="asked whether a client may stay on a channel")
    headers: tuple[str, ...] = Field(
        default=("Cookie", "Origin", "User-Agent", "X-Forwarded-For", "X-Request-Id"),
        description="headers of the client's own request that hooks get, as a JSON list",
    )
    static_headers: dict[str, SecretStr] = Field(
        default={}, description="headers of every call, as JSON: a secret that the backend knows the cluster by"
    )
    ca_file: Path | None = Field(
        default=None, description="a PEM file with the authority that signed the backend's certificate"
    )
    timeout_s: float = Field(default=1.0, gt=0, le=60, description="how long an answer may take, with any wait")
    concurrency: int = Field(default=100, ge=1, description="calls of one hook under way at once")
    queue: int = Field(default=1000, ge=0, description="calls of one hook that may wait; more are refused at once")
    answer_bytes: int = Field(default=262_144, ge=1024, description="the largest answer")

    @field_validator("connect", "refresh", "subscribe", "publish", "rpc", "sub_refresh")
    @classmethod
    def _url(cls, url: str | None) -> str | None:
        return None if url is None else check_http_url(url)

    @field_validator("headers", "static_headers")
    @classmethod
    def _names(cls, names: Any) -> Any:
        check_header_names(names)
        return names

    @field_validator("ca_file")
    @classmethod
    def _certificate(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_file("CA_FILE", path)
        return path

    @model_validator(mode="after")
    def _refresh_whom(self) -> Self:
        if self.refresh is not None and self.connect is None:
            raise ValueError("REFRESH needs CONNECT: it is asked about the clients that CONNECT let in")
        if self.sub_refresh is not None and self.subscribe is None:
            raise ValueError("SUB_REFRESH needs SUBSCRIBE: it is asked about subscriptions that SUBSCRIBE allowed")
        return self

    def urls(self) -> dict[Hook, str]:
        """Return the URL of each hook that is switched on."""
        given = {hook: getattr(self, hook.value) for hook in Hook}
        return {hook: url for hook, url in given.items() if url is not None}

    def secret_headers(self) -> dict[str, str]:
        """Return the headers of every call."""
        return {name: value.get_secret_value() for name, value in self.static_headers.items()}
