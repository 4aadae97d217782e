"""Appending to a log, and waiting for the answer."""

from heliograph.callbacks import await_callback
from heliograph.ports import AppendResult, Draft, Log
from heliograph.protocol.channel_options import Namespace


async def append(log: Log, draft: Draft, options: Namespace, lease: str = "") -> AppendResult:
    """What `Log.submit` calls back with; raises it, if it is an error."""
    return await await_callback(lambda done: log.submit(draft, options, lease, done))
