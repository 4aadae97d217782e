"""Objects that hold locks, threads or connections are renewed in a forked process.

A fork copies each lock in its present state. A lock that another thread holds at that moment stays held in the child
for ever, because the thread that would release it does not exist there. That holds for our own locks and for those of
the Redis client. So the child uses nothing that existed before. The lock of a module that is being imported is one of
them, so modules that the first publication needs are imported here.
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
    """Renew this object in each child that is forked from now on, as long as it exists."""
    _known.add(owner)


def leave_alone(inherited: object) -> None:
    """Keep an object of the parent from being collected in the child.

    To close a connection of an event loop would also change what the parent's loop waits for (they share one epoll).
    """
    _inherited.append(inherited)


def _renew_all() -> None:
    for owner in list(_known):
        owner.renew_in_child()


files("heliograph")  # imports the modules that read the scripts
os.register_at_fork(after_in_child=_renew_all)
