"""Skipping the seconds after a start or a loss of data, in which "nobody else holds this user" is not believed."""

from redis.asyncio import Redis

from heliograph.backends.redis.keys import Keys
from tests.support.redis_answers import text
from tests.support.redis_server import RedisServer


async def believe_at_once(client: Redis, keys: Keys) -> None:
    """Have the directory believed from now on. A script must have been called before."""
    name = text(await client.hget(keys.server, "name"))
    await client.set(keys.settled_at, f"{name}.0")


def believe_the_directory(redis: RedisServer, namespace: str) -> None:
    """The same, for a test without a client of its own."""
    keys = Keys(f"{namespace}:", f"{namespace}:events")
    redis.command("SET", keys.settled_at, f"{redis.command('HGET', keys.server, 'name')}.0")
