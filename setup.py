"""Compiles the modules on the way of a message if HELIOGRAPH_COMPILE is set. All else is in pyproject.toml.

They are compiled as one: a call from one of them into another costs no more than a call in C. What is not in here
is off that way, or is a class that msgspec or pydantic makes, whose machinery is compiled already, or would gain next
to nothing.
"""

import os
import re
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent

MODULES = [
    "app/server/frame_splitter.py",
    "app/server/websocket.py",
    "app/transports/websocket.py",
    "app/transports/driver.py",
    "app/protocol/budget.py",
    "app/protocol/identity.py",
    "app/protocol/namespace.py",
    "app/protocol/policy.py",
    "app/protocol/sequence.py",
    "app/protocol/session.py",
    "app/protocol/token_bucket.py",
    "app/cluster/channels.py",
    "app/cluster/client_writes.py",
    "app/cluster/connection_manager.py",
    "app/cluster/remote_delivery.py",
    "app/backends/call_batch.py",
    "app/backends/keys.py",
    "app/backends/link.py",
    "app/backends/redis_log.py",
    "app/backends/scripts.py",
    "app/hub/batch.py",
    "app/hub/connection.py",
    "app/hub/frames.py",
    "app/hub/hub.py",
    "app/hub/outbox.py",
]


# An attribute is tested for None where the compiler has no doubt that it is None: as it does not know that what has
# been called or awaited since then may have changed it, what it makes of the test is an error instead of an answer.
NEEDLESS = re.compile(r'CPy_TypeError\("None".*?CPy_AddTraceback\("([^"]+)", "[^"]+", (\d+)', re.DOTALL)


def compiled() -> list[Extension]:
    if not os.environ.get("HELIOGRAPH_COMPILE"):
        return []
    sys.path.insert(0, str(ROOT))
    from mypyc.build import mypycify

    from app.compiled import group

    extensions = mypycify(MODULES, opt_level="2", debug_level="0", target_dir="build/c", group_name=f"app.{group()}")
    for source in {source for extension in extensions for source in extension.sources}:
        for path, number in NEEDLESS.findall(Path(source).read_text()):
            line = (ROOT / path).read_text().splitlines()[int(number) - 1]
            if re.search(r"\bis (not )?None\b", line):
                sys.exit(f"{path}:{number}: mypy takes it for granted that this is None: {line.strip()}")
    return extensions


setup(ext_modules=compiled())
