"""Programs as a person starts them, in processes of their own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "contrib" / "fixtures"
HELIOGRAPH = (sys.executable, "-m", "heliograph")
PLAYBOOK = (str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(FIXTURES / "hosts.ini"))


def environment(redis_url: str, namespace: str, **more: str) -> dict[str, str]:
    """What a program needs in its environment to publish into this test's cluster."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("HELIOGRAPH_", "ANSIBLE_"))
    }
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "HELIOGRAPH_REDIS__URL": redis_url,
        "HELIOGRAPH_REDIS__PREFIX": f"{namespace}:",
        "HELIOGRAPH_BUS__CHANNEL": f"{namespace}:events",
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "app" / "heliograph" / "contrib" / "ansible"),
        "ANSIBLE_CALLBACKS_ENABLED": "heliograph",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        **more,
    }


class Program:
    """A process whose output can be waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._news = asyncio.Condition()
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.out), name="program-out"),
            asyncio.create_task(self._read(process.stderr, self.err), name="program-err"),
        ]

    @property
    def running(self) -> bool:
        return self.process.returncode is None

    async def says(self, text: str, *, within_s: float = 30.0) -> None:
        """Wait until this has been printed."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(lambda: any(text in line for line in (*self.out, *self.err)))

    async def ends(self, *, within_s: float = 20.0) -> int:
        """Wait for its end and for all that it prints; the exit code."""
        async with asyncio.timeout(within_s):
            await asyncio.gather(*self._readers)
            return await self.process.wait()

    async def stop(self) -> None:
        if self.running:
            self.process.kill()
        await asyncio.gather(*self._readers)
        await self.process.wait()

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await stream.readline():
            async with self._news:
                lines.append(line.decode(errors="replace").removesuffix("\n"))
                self._news.notify_all()


@asynccontextmanager
async def program(*command: str, env: dict[str, str], stdin: int | None = None) -> AsyncIterator[Program]:
    """Run a command; it does not outlive the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=env,
        stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Program(process)
    try:
        yield running
    finally:
        await running.stop()
