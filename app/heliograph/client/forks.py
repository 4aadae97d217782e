"""What holds locks, threads or connections is made anew in a process that was forked.

A fork copies each lock as it stands. One that another thread holds at that moment stays held in the child for good,
as the thread that would release it is not there: not only our own locks, but those of Redis' client too. So nothing
that was there before is used in the child. The lock of a module that is being imported is one of these: what would
be imported with the first publication is imported here.
"""

import email.parser  # noqa: F401 - by importlib.metadata, which redis-py asks for its own version
import encodings.idna  # noqa: F401 - by socket.getaddrinfo
import os
import weakref
from importlib.resources import files
from typing import Protocol


class Renewable(Protocol):
    """`renew_in_child` is called in the child before anything else runs there: no other thread, no half-done call."""

    def renew_in_child(self) -> None: ...


_known: weakref.WeakSet[Renewable] = weakref.WeakSet()
_inherited: list[object] = []


def renew_in_children(owner: Renewable) -> None:
    """Have this object renewed in each child that is forked from now on, for as long as it exists."""
    _known.add(owner)


def leave_alone(inherited: object) -> None:
    """Keep something of the parent's from being collected in the child.

    Closing a connection of an event loop also changes what the parent's loop waits for (they share one epoll).
    """
    _inherited.append(inherited)


def _renew_all() -> None:
    for owner in list(_known):
        owner.renew_in_child()


files("heliograph")  # imports what the scripts are read with
os.register_at_fork(after_in_child=_renew_all)
