"""The kind of a channel."""

from typing import Final

from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.kinds.kind import ChannelKind
from heliograph.protocol.kinds.plain import PlainKind
from heliograph.protocol.kinds.run import RunKind

PLAIN: Final[ChannelKind] = PlainKind()
RUN: Final[ChannelKind] = RunKind()


def kind_of(options: Namespace) -> ChannelKind:
    """Return the kind of channels with these options."""
    return RUN if options.run else PLAIN
