"""The cluster's settings as other programs read them: the same variables and defaults for all of them, in this place.

An argument takes the place of the one variable that it stands for. What is left out is read from the environment.
"""

from collections.abc import Mapping

from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from heliograph.errors import BadSetting
from heliograph.settings import PREFIX, BusSettings, LimitSettings, Namespace, RedisSettings, read_environment

_CONFIG = SettingsConfigDict(
    env_prefix=PREFIX,
    env_nested_delimiter="__",
    frozen=True,
    extra="ignore",
    nested_model_default_partial_update=True,
)


class ClusterSettings(BaseSettings):
    """As much of the cluster's settings as a program beside it has to share."""

    model_config = _CONFIG

    redis: RedisSettings = RedisSettings()
    bus: BusSettings = BusSettings()
    namespaces: dict[str, Namespace] = {}
    limits: LimitSettings = LimitSettings()

    @property
    def live_url(self) -> str:
        """Of the server with the bus."""
        assert self.redis.url is not None  # noqa: S101 - `cluster_settings` has seen to it
        return self.redis.url

    @property
    def kept_url(self) -> str:
        """Of the server that keeps what is kept."""
        return self.redis.durable_url or self.live_url


class _LoggingSettings(BaseSettings):
    model_config = _CONFIG

    logging: bool = True


def cluster_settings(
    url: str | None = None,
    *,
    durable_url: str | None = None,
    prefix: str | None = None,
    bus_channel: str | None = None,
    namespaces: Mapping[str, Namespace] | None = None,
) -> ClusterSettings:
    """Read the environment, and put what is given in its place.

    Args:
        url: `HELIOGRAPH_REDIS__URL`.
        durable_url: `HELIOGRAPH_REDIS__DURABLE_URL`; "" for a cluster that has no second Redis.
        prefix: `HELIOGRAPH_REDIS__PREFIX`.
        bus_channel: `HELIOGRAPH_BUS__CHANNEL`.
        namespaces: `HELIOGRAPH_NAMESPACES`.

    Raises:
        BadSetting: there is no URL, or a value that cannot be used.
    """
    redis: dict[str, str | None] = {}
    if url is not None:
        redis["url"] = url
    if durable_url is not None:
        redis["durable_url"] = durable_url or None
    if prefix is not None:
        redis["prefix"] = prefix
    bus = {} if bus_channel is None else {"channel": bus_channel}
    settings = read_environment(ClusterSettings, redis=redis, bus=bus)
    if settings.redis.url is None:
        raise BadSetting(f"the URL of Redis is missing: set {PREFIX}REDIS__URL, or give it as an argument")
    if durable_url is None and settings.redis.durable_url is not None:
        _check_same_cluster(settings.redis.url)
    return settings if namespaces is None else settings.model_copy(update={"namespaces": dict(namespaces)})


def logging_is_on() -> bool:
    """Whether `HELIOGRAPH_LOGGING` lets log handlers publish: unless it is "off" (or 0, false, no).

    Raises:
        BadSetting: it is something else.
    """
    return read_environment(_LoggingSettings).logging


def _check_same_cluster(url: str) -> None:
    """What is published on one cluster's bus and kept on another's server reaches nobody."""
    of_environment = EnvSettingsSource(ClusterSettings)().get("redis", {}).get("url")
    if of_environment is not None and of_environment != url:
        raise BadSetting(
            f"the URL given is not {PREFIX}REDIS__URL, while {PREFIX}REDIS__DURABLE_URL is set: they would be of two "
            'clusters. Set both variables, or give both URLs ("" as the durable one of a cluster with one Redis)'
        )
