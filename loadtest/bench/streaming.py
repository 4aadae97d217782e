"""How responses that take long are asked for: streams of server-sent events, and long polls (see `streams.c`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadtest.bench.systems import API_KEY, BODY

if TYPE_CHECKING:
    from loadtest.bench.measure import Work
    from loadtest.bench.processes import Server
    from loadtest.bench.systems import System

_HELIOGRAPH_POSTS: Final = [
    "post /api/publish",
    f"post_header X-API-Key: {API_KEY}",
    f'publish {{"channel":"all","data":{BODY}}}',
]
# By the part and the system.
_ORDERS: Final = {
    ("streams", "heliograph"): ["get /sse?user=u{n}&channels=all", 'expect "subscribed"', *_HELIOGRAPH_POSTS],
    ("streams", "nchan"): [
        "get /events/{n}",
        "header Accept: text/event-stream",
        "expect event-stream",
        "post /post",
        f"publish {BODY}",
    ],
    ("polls", "heliograph"): [
        "polls 1",
        "get /api/poll?user=u{n}&channels=all&wait=50&cursor={1}",
        'carry "cursor":"|"',
        'expect "cursor":"',
        *_HELIOGRAPH_POSTS,
    ],
    ("polls", "nchan"): [
        "polls 1",
        "get /poll/{n}",
        "header If-Modified-Since: {1}",
        "header If-None-Match: {2}",
        "carry Last-Modified: |line",
        "carry Etag: |line",
        "post /post-kept",
        f"publish {BODY}",
    ],
}
SYSTEMS_WITH_STREAMS: Final = ("heliograph", "nchan")


def orders_for(system: System, work: Work, servers: list[Server]) -> list[str]:
    """What the load client is told, but the numbers that every measurement has."""
    how = [f"window {work.window}" if work.window else f"rate {work.rate}"]
    how += [f"warmup {work.warmup}", f"seconds {work.seconds}"]
    return [f"port {servers[0].port}", f"subscribers {work.subscribers}", *how, *_ORDERS[work.name, system.name]]
