"""What `heliograph why` says of random messages of an audit, beside what the audit's subscribers have written down.

A verdict may be "not known": a replica that was killed has taken its notes with it. It may not be wrong.
"""

# ruff: noqa: S311 - dice, not secrets

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import msgspec

from heliograph.backends.redis.log import RedisLog
from heliograph.ports import ReadRequest
from heliograph.protocol.publication import Publication

AT_ONCE: Final = 4
NOBODY: Final = "nobody"  # a user who never connects: no message reaches them

Number = tuple[str, int]  # what is published: its sender, and which of theirs it is
Got = Mapping[tuple[str, str], set[Number]]  # what each user's subscribers got, by user and channel


@dataclass
class Verdicts:
    """How the verdicts compare. `wrong`: those that say what is not so."""

    agreeing: int = 0
    not_known: int = 0
    wrong: list[str] = field(default_factory=list)

    def take(self, who: str, answer: Mapping[str, Any], got: bool) -> None:
        """Compare one answer of `/api/trace` with what the user's subscribers have got."""
        if "error" in answer:
            if answer["error"]["code"] == 404:
                self.not_known += 1
            else:
                self.wrong.append(f"{who}: {answer['error']['message']}")
            return
        result = answer["result"]
        if (is_reached := result.get("reached")) is None:
            self.not_known += 1
        elif is_reached == got:
            self.agreeing += 1
        else:
            said = "got it" if got else "did not get it"
            self.wrong.append(f"{who} {said}, and the verdict is: {result['verdict']}")


async def check_verdicts(
    urls: Sequence[str], key: str, log: RedisLog, users: Sequence[str], channels: Sequence[str], got: Got, count: int
) -> Verdicts:
    """Ask a random replica for the verdicts on `count` random messages of the channels, each for a random user."""
    messages = [each for channel in channels for each in await _kept(log, channel)]
    verdicts = Verdicts()
    free = asyncio.Semaphore(AT_ONCE)

    async def ask(http: httpx.AsyncClient, message: Publication) -> None:
        user = random.choice([*users, NOBODY])
        asked = {"user": user, "message_id": message.message_id, "channel": message.channel}
        async with free:
            answer = await http.post(f"{random.choice(urls)}/api/trace", json=asked)
        # Not by position: what was got in one epoch may stand in the log in the next.
        number = msgspec.json.decode(message.data, type=Number)
        has = number in got.get((user, message.channel), ())
        verdicts.take(f"{message.message_id} on {message.channel}: {user}", answer.json(), has)

    async with httpx.AsyncClient(headers={"X-API-Key": key}, timeout=30, trust_env=False) as http:
        await asyncio.gather(*(ask(http, each) for each in random.sample(messages, min(count, len(messages)))))
    return verdicts


async def _kept(log: RedisLog, channel: str) -> list[Publication]:
    [page] = await log.read([ReadRequest(channel, replay=True)])
    found = list(page.publications)
    while page.publications and (last := page.publications[-1].position) != page.position:
        [page] = await log.read([ReadRequest(channel, after=last)])
        found += page.publications
    return found
