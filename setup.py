"""Compiles the modules on the way of a message if HELIOGRAPH_COMPILE is set; all else is in pyproject.toml.

A wheel that is built so holds an extension module beside each of their sources, and Python imports that. Nothing is
decided when the package is imported. HELIOGRAPH_COMPILE_DIR is where the C sources go.

They are compiled as one: a call from one of them into another costs no more than a call in C. What is not in here
is off that way, or is a class that msgspec or pydantic makes, whose machinery is compiled already, or would gain next
to nothing.
"""

import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CLIENT = ROOT / "clients" / "js" / "src"

MODULES = [
    "app/heliograph/api/broadcast.py",
    "app/heliograph/api/direct_batch.py",
    "app/heliograph/api/direct_broadcast.py",
    "app/heliograph/api/direct_method.py",
    "app/heliograph/api/direct_publish.py",
    "app/heliograph/api/publishing.py",
    "app/heliograph/deadlines.py",
    "app/heliograph/server/frame_splitter.py",
    "app/heliograph/server/stream.py",
    "app/heliograph/server/handshake.py",
    "app/heliograph/server/websocket.py",
    "app/heliograph/server/compressed_websocket.py",
    "app/heliograph/transports/event_stream.py",
    "app/heliograph/transports/websocket.py",
    "app/heliograph/transports/centrifuge.py",
    "app/heliograph/transports/direct_poll.py",
    "app/heliograph/transports/poll_connection.py",
    "app/heliograph/transports/socket_connection.py",
    "app/heliograph/transports/handshake.py",
    "app/heliograph/transports/addresses.py",
    "app/heliograph/transports/expiry.py",
    "app/heliograph/transports/newcomers.py",
    "app/heliograph/transports/origins.py",
    "app/heliograph/transports/peers.py",
    "app/heliograph/transports/subscription_expiries.py",
    "app/heliograph/transports/driver.py",
    "app/heliograph/transports/authentication.py",
    "app/heliograph/transports/client_hooks.py",
    "app/heliograph/transports/client_subscriptions.py",
    "app/heliograph/transports/dispatch.py",
    "app/heliograph/transports/greeting.py",
    "app/heliograph/transports/registration.py",
    "app/heliograph/transports/remote_client.py",
    "app/heliograph/transports/token_refresh.py",
    "app/heliograph/transports/answers.py",
    "app/heliograph/codecs/centrifuge/decoding.py",
    "app/heliograph/codecs/centrifuge/encoding.py",
    "app/heliograph/codecs/centrifuge/json_codec.py",
    "app/heliograph/codecs/centrifuge/protobuf_codec.py",
    "app/heliograph/codecs/centrifuge/wire.py",
    "app/heliograph/codecs/varint.py",
    "app/heliograph/codecs/plain/bookmark.py",
    "app/heliograph/codecs/plain/codec.py",
    "app/heliograph/codecs/plain/encoding.py",
    "app/heliograph/protocol/budget.py",
    "app/heliograph/protocol/fossil.py",
    "app/heliograph/protocol/identity.py",
    "app/heliograph/protocol/namespace.py",
    "app/heliograph/protocol/kinds/kind.py",
    "app/heliograph/protocol/kinds/plain.py",
    "app/heliograph/protocol/kinds/registry.py",
    "app/heliograph/protocol/kinds/run.py",
    "app/heliograph/protocol/policy.py",
    "app/heliograph/protocol/sequence.py",
    "app/heliograph/protocol/session.py",
    "app/heliograph/protocol/shard_map.py",
    "app/heliograph/protocol/token_bucket.py",
    "app/heliograph/protocol/verdicts.py",
    "app/heliograph/cluster/deltas.py",
    "app/heliograph/cluster/followed.py",
    "app/heliograph/cluster/following.py",
    "app/heliograph/cluster/gap_watch.py",
    "app/heliograph/cluster/gaps.py",
    "app/heliograph/cluster/joining.py",
    "app/heliograph/cluster/per_shard.py",
    "app/heliograph/cluster/read_batcher.py",
    "app/heliograph/cluster/reading.py",
    "app/heliograph/cluster/repair.py",
    "app/heliograph/cluster/tally.py",
    "app/heliograph/cluster/client_writes.py",
    "app/heliograph/cluster/connection_manager.py",
    "app/heliograph/cluster/remote_delivery.py",
    "app/heliograph/cluster/sharded_manager.py",
    "app/heliograph/cluster/stamp.py",
    "app/heliograph/backends/redis/call_batch.py",
    "app/heliograph/backends/redis/cluster/trunk.py",
    "app/heliograph/backends/redis/cluster/bus_trunk.py",
    "app/heliograph/backends/redis/cluster/link.py",
    "app/heliograph/backends/redis/cluster/scripts.py",
    "app/heliograph/backends/redis/confirming.py",
    "app/heliograph/backends/redis/keys.py",
    "app/heliograph/backends/redis/link.py",
    "app/heliograph/backends/redis/log.py",
    "app/heliograph/backends/redis/packing.py",
    "app/heliograph/backends/redis/scripts.py",
    "app/heliograph/hub/batch.py",
    "app/heliograph/hub/connection.py",
    "app/heliograph/hub/frames.py",
    "app/heliograph/hub/hub.py",
    "app/heliograph/hub/outbox.py",
    "app/heliograph/hub/span_trace.py",
    "app/heliograph/hub/trace.py",
    "app/heliograph/hub/written.py",
]


# An attribute is tested for None where the compiler has no doubt that it is None: as it does not know that what has
# been called or awaited since then may have changed it, what it makes of the test is an error instead of an answer.
NEEDLESS = re.compile(r'CPy_TypeError\("None".*?CPy_AddTraceback\("([^"]+)", "[^"]+", (\d+)', re.DOTALL)


def compiled() -> list[Extension]:
    if not os.environ.get("HELIOGRAPH_COMPILE"):
        return []
    from mypyc.build import mypycify

    target = os.environ.get("HELIOGRAPH_COMPILE_DIR", "build/c")
    extensions = mypycify(
        MODULES,
        opt_level="2",
        debug_level="0",
        multi_file=True,  # one C source of all takes more than twice as long
        target_dir=target,
        group_name="heliograph.compiled",
    )
    for extension in extensions:
        # mypyc puts the headers of a group with a dot in its name there, and names them without it.
        extension.include_dirs.append(f"{target}/heliograph")
        # Or else every call from one source into another looks its target up in the dynamic linker's table.
        extension.extra_compile_args.append("-fvisibility=hidden")
    for source in {source for extension in extensions for source in extension.sources}:
        for path, number in NEEDLESS.findall(Path(source).read_text()):
            line = (ROOT / path).read_text().splitlines()[int(number) - 1]
            if re.search(r"\bis (not )?None\b", line):
                sys.exit(f"{path}:{number}: mypy takes it for granted that this is None: {line.strip()}")
    return extensions


class BuildSideBySide(build_ext):
    """Compiles as many C sources at once as there are cores."""

    def build_extensions(self) -> None:
        compile_one_after_other = self.compiler.compile

        def compile_side_by_side(sources: list[str], *args: Any, **kwargs: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_one_after_other([source], *args, **kwargs), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = compile_side_by_side
        super().build_extensions()


class BuildFromSources(build_py):
    """Copies the package as it is now, and the JavaScript client to the console's files, for replicas to serve.

    What an earlier build left, of files that are gone, is not part of a wheel.
    """

    def run(self) -> None:
        package = Path(self.build_lib) / "heliograph"
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        if self.editable_mode:
            return  # replicas serve the client from its source
        modules = sorted(CLIENT.rglob("*.js"))
        if not modules:
            sys.exit(f"{CLIENT} has no JavaScript modules: build from a whole checkout or source distribution")
        for module in modules:
            copy = package / "console" / "static" / module.relative_to(CLIENT)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(module, copy)


setup(ext_modules=compiled(), cmdclass={"build_py": BuildFromSources, "build_ext": BuildSideBySide})
