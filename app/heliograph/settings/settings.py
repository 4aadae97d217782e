"""All settings of a replica."""

from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import Field, PlainSerializer, PlainValidator, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from heliograph.protocol.channel_options import BadOption, Namespace
from heliograph.protocol.lifecycle import Kind
from heliograph.protocol.namespace import Namespaces
from heliograph.settings.access import ApiSettings, AuthSettings
from heliograph.settings.clients import CompressionSettings, EmitSettings, LimitSettings, PingSettings, PollSettings
from heliograph.settings.cluster import (
    BusSettings,
    ChannelSettings,
    DirectorySettings,
    PresenceSettings,
    ReceiptSettings,
    RedisSettings,
)
from heliograph.settings.environment import read_environment
from heliograph.settings.events import EventSettings, WebhookSettings
from heliograph.settings.hooks import HookSettings
from heliograph.settings.process import (
    ConsoleSettings,
    DrainSettings,
    InternalSettings,
    LogSettings,
    OtelSettings,
    TraceSettings,
)
from heliograph.shared_settings import PREFIX


def _namespace(given: object) -> Namespace:
    try:
        return given if isinstance(given, Namespace) else Namespace.read(given)
    except BadOption as error:
        # `variable_of` names the option, which pydantic does not know.
        raise PydanticCustomError("bad_option", "{why}", {"why": error.why, "option": error.option}) from None


_NamespaceField = Annotated[Namespace, PlainValidator(_namespace), PlainSerializer(Namespace.given)]


UNDELIVERED_MARGIN_S = 10.0  # a message must still be kept when it is told that nobody has taken it

# What would open personal channels to others, or cannot hold for them.
_NOT_PERSONAL = (
    "client_subscribe",
    "client_publish",
    "allow_publish_for_subscriber",
    "allow_history_for_client",
    "allow_history_for_subscriber",
    "allow_presence_for_client",
    "allow_presence_for_subscriber",
    "allow_user_limited_channels",
    "allowed_delta_types",
    "subscription_events",
)


class Settings(BaseSettings):
    """One frozen object. `Settings.load()` reads the environment and explains what is wrong in it."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        frozen=True,
        extra="ignore",
        nested_model_default_partial_update=True,
        hide_input_in_errors=True,
    )

    redis: RedisSettings = RedisSettings()
    bus: BusSettings = BusSettings()
    directory: DirectorySettings = DirectorySettings()
    channels: ChannelSettings = ChannelSettings()
    presence: PresenceSettings = PresenceSettings()
    receipts: ReceiptSettings = ReceiptSettings()
    namespaces: dict[str, _NamespaceField] = Field(
        default={}, description="options of namespaces by name, as JSON; each option replaces the built-in one"
    )
    strict_namespaces: bool = Field(
        default=False, description="refuse channels of a namespace that is neither built in nor set by `NAMESPACES`"
    )
    poll: PollSettings = PollSettings()
    auth: Annotated[AuthSettings, Field(validate_default=True)] = AuthSettings.model_construct()
    api: ApiSettings = ApiSettings()
    emit: EmitSettings = EmitSettings()
    hooks: HookSettings = HookSettings()
    events: EventSettings = EventSettings()
    webhooks: WebhookSettings = WebhookSettings()
    limits: LimitSettings = LimitSettings()
    compression: CompressionSettings = CompressionSettings()
    ping: PingSettings = PingSettings()
    drain: DrainSettings = DrainSettings()
    internal: InternalSettings = InternalSettings()
    log: LogSettings = LogSettings()
    console: ConsoleSettings = ConsoleSettings()
    trace: TraceSettings = TraceSettings()
    otel: OtelSettings = OtelSettings()
    watchdog_s: float = Field(
        default=8.0, ge=0, description="`serve` kills a replica that stands still for this long (0: never)"
    )
    trusted_proxies: str = Field(
        default="127.0.0.1",
        description="addresses or networks whose X-Forwarded-For is trusted, comma-separated; *: every peer, "
        "and only the last address in the header",
    )
    allowed_origins: tuple[str, ...] = Field(
        default=(),
        description="origins whose pages may connect, as a JSON list; pages of the server's own host always may",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, proxies: str) -> str:
        if proxies.strip() != "*":
            for each in filter(None, map(str.strip, proxies.split(","))):
                ip_network(each)  # its errors say what is wrong
        return proxies

    @field_validator("namespaces")
    @classmethod
    def _rights_where_they_mean_something(cls, namespaces: dict[str, Namespace]) -> dict[str, Namespace]:
        for name, options in namespaces.items():
            if name == "#":
                for option in _NOT_PERSONAL:
                    if getattr(options, option):
                        raise ValueError(
                            f"{option} cannot be given for '#': each personal channel is its user's alone"
                        )
            elif options.undelivered_after_s:
                raise ValueError(f"undelivered_after_s is an option of '#' (users' own channels), not of {name!r}")
            elif options.client_send is not None:
                raise ValueError(f"client_send is an option of '#' (users' own channels), not of {name!r}")
        return namespaces

    @model_validator(mode="after")
    def _hooks_exist(self) -> Self:
        if self.auth.mode == "hook" and self.hooks.connect is None:
            raise ValueError(f"{PREFIX}AUTH__MODE hook needs {PREFIX}HOOKS__CONNECT: it says who a client is")
        for name, options in self.namespaces.items():
            if name == "#" and options.subscribe_hook is not None:
                raise ValueError(
                    f"{PREFIX}NAMESPACES: subscribe_hook cannot be given for '#': only its user reads one"
                )
            for option, url in (("subscribe", self.hooks.subscribe), ("publish", self.hooks.publish)):
                if getattr(options, f"{option}_hook") and url is None:
                    raise ValueError(
                        f"{PREFIX}NAMESPACES: {name!r} has {option}_hook, which needs {PREFIX}HOOKS__{option.upper()}"
                    )
        return self

    @model_validator(mode="after")
    def _events_come_from_somewhere(self) -> Self:
        kinds, told = self.events.kinds, {Kind.SUBSCRIBED, Kind.UNSUBSCRIBED}
        if self.webhooks.url is not None and not kinds:
            raise ValueError(f"{PREFIX}WEBHOOKS__URL needs {PREFIX}EVENTS__KINDS: the events that are pushed")
        namespaces = [name for name, options in self.namespaces.items() if options.subscription_events]
        if namespaces and not told.intersection(kinds):
            raise ValueError(
                f"{PREFIX}NAMESPACES: {namespaces[0]!r} has subscription_events, which needs subscribed or "
                f"unsubscribed in {PREFIX}EVENTS__KINDS"
            )
        if told.intersection(kinds) and not namespaces:
            raise ValueError(
                f"{PREFIX}EVENTS__KINDS has subscribed or unsubscribed: no namespace has subscription_events"
            )
        for name in namespaces:
            if not Namespaces(self.namespaces).of("#" if name == "#" else f"{name}:" if name else "x").presence:
                raise ValueError(f"{PREFIX}NAMESPACES: subscription_events of {name!r} needs presence")
        return self

    @model_validator(mode="after")
    def _undelivered_messages_are_kept(self) -> Self:
        personal = Namespaces(self.namespaces).personal
        after_s, is_told = personal.undelivered_after_s, Kind.MESSAGE_UNDELIVERED in self.events.kinds
        option = f"{PREFIX}NAMESPACES: undelivered_after_s of '#'"
        if is_told and not after_s:
            raise ValueError(f"{PREFIX}EVENTS__KINDS has message_undelivered, which needs {option[len(PREFIX) :]}")
        if not after_s:
            return self
        if not is_told:
            raise ValueError(f"{option} needs message_undelivered in {PREFIX}EVENTS__KINDS")
        if personal.ephemeral:
            raise ValueError(f"{option} cannot be given with ephemeral: nothing is kept")
        if personal.force_recovery_mode == "cache":
            raise ValueError(f"{option} cannot be given with force_recovery_mode cache: it skips messages")
        if personal.history_ttl_s < after_s + UNDELIVERED_MARGIN_S:
            raise ValueError(
                f"{option} is {after_s:g}: history_ttl_s must be {UNDELIVERED_MARGIN_S:g} s more, and is "
                f"{personal.history_ttl_s:g}"
            )
        if self.redis.durable_url is not None:
            raise ValueError(
                f"{option} needs one Redis for events and kept messages: unset {PREFIX}REDIS__DURABLE_URL"
            )
        return self

    @property
    def console_enabled(self) -> bool:
        return self.auth.mode == "open" if self.console.enabled is None else self.console.enabled

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises BadSetting, like `read_environment`."""
        return read_environment(cls)
