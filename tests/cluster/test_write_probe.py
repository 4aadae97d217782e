"""Readiness is that real work gets done."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from heliograph.cluster import write_probe
from heliograph.cluster.write_probe import WriteProbe
from heliograph.ports import Fault, ProbeFailure
from tests.support.manual_clock import ManualClock
from tests.support.waiting import eventually

INTERVAL_S = 0.001


class Server:
    """Answers as the test says."""

    def __init__(self, answer: ProbeFailure | None = None) -> None:
        self.answer: ProbeFailure | Exception | None = answer
        self.hangs = False
        self.answers_now = asyncio.Event()
        self.answers_now.set()
        self.asked = 0

    async def probe(self) -> ProbeFailure | None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        await self.answers_now.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_probe, "RETRY_S", INTERVAL_S)


def probe_of(server: Server, clock: ManualClock, **options: Any) -> WriteProbe:
    return WriteProbe(server, is_vital=True, interval_s=INTERVAL_S, timeout_s=3, clock=clock, **options)


async def asked_again(server: Server) -> None:
    """Two more looks: the first may have begun before now."""
    before = server.asked
    await eventually(lambda: server.asked > before + 1)


class TestFault:
    async def test_unready_until_the_first_answer(self) -> None:
        """Fails if a replica is ready before it has ever written anything."""
        server, clock = Server(), ManualClock()
        probe = probe_of(server, clock)
        assert probe.fault is Fault.UNREACHABLE
        probe.start()
        await eventually(lambda: probe.fault is None)
        await probe.stop()
        assert probe.fault is Fault.UNREACHABLE, "what was true before says nothing about later"

    async def test_a_refusal_counts_at_once_and_silence_after_a_while(self) -> None:
        """Fails if a full Redis is ready for another 3 s, or if one slow answer makes a replica unready."""
        server, clock = Server(), ManualClock()
        probe = probe_of(server, clock)
        probe.start()
        await eventually(lambda: probe.fault is None)

        def fault() -> Fault | None:
            return probe.fault

        server.answer = ProbeFailure(Fault.MEMORY_FULL, "OOM")
        await asked_again(server)
        assert fault() is Fault.MEMORY_FULL
        server.answer = None
        await asked_again(server)
        assert fault() is None
        server.answer = ProbeFailure(Fault.UNREACHABLE, "no answer within 1 s")
        await asked_again(server)
        assert fault() is None
        clock.advance(3.1)
        assert fault() is Fault.UNREACHABLE
        server.answer = None
        await asked_again(server)
        assert fault() is None
        await probe.stop()

    async def test_a_slow_answer_is_not_said_to_be_a_fault(self, caplog: pytest.LogCaptureFixture) -> None:
        """Fails if the log says that a replica is unready when it is not."""
        server, clock = Server(), ManualClock()
        probe = probe_of(server, clock)
        probe.start()
        await eventually(lambda: probe.fault is None)
        server.answer = ProbeFailure(Fault.UNREACHABLE, "no answer within 1 s")
        await asked_again(server)
        assert not [each for each in caplog.records if each.levelname == "ERROR"]
        clock.advance(3.1)
        await asked_again(server)
        await probe.stop()
        [record] = [each for each in caplog.records if each.levelname == "ERROR"]
        assert record.getMessage().startswith("unready")

    async def test_is_said_once_with_what_to_do(self, caplog: pytest.LogCaptureFixture) -> None:
        """Fails if an operator is not told why, or is told every second."""
        server, clock = Server(ProbeFailure(Fault.DENIED, "Redis: NOPERM (XADD)")), ManualClock()
        probe = probe_of(server, clock)
        probe.start()
        await asked_again(server)
        await asked_again(server)
        await probe.stop()
        [record] = [each for each in caplog.records if each.levelname == "ERROR"]
        assert "XADD" in record.getMessage()
        assert "docs/operations.md" in record.getMessage()


class TestGivingUp:
    @pytest.fixture
    def reasons(self) -> list[str]:
        return []

    async def gives_up(self, server: Server, reasons: list[str], until: Callable[[], object]) -> None:
        clock = ManualClock()
        probe = probe_of(server, clock, give_up=reasons.append, give_up_s=0.02)
        probe.start()
        await asked_again(server) if not server.hangs else await eventually(lambda: server.asked)
        clock.advance(10)
        await eventually(until)
        await probe.stop()

    async def test_what_is_never_answered(self, reasons: list[str]) -> None:
        """Fails if a replica whose calls wait for ever stays in service: no time-out, no error, no publish."""
        server = Server()
        server.hangs = True
        await self.gives_up(server, reasons, lambda: reasons)

    async def test_a_fault_of_its_own_that_does_not_pass(self, reasons: list[str]) -> None:
        """Fails if an error that is not Redis' is waited out for ever."""
        await self.gives_up(Server(OSError(24, "Too many open files")), reasons, lambda: reasons)  # type: ignore[arg-type]

    async def test_not_for_what_redis_does(self, reasons: list[str]) -> None:
        """Fails if replicas restart, and cut all their clients, because Redis is away or full."""
        server = Server(ProbeFailure(Fault.UNREACHABLE, "gone"))
        before = server.asked
        await self.gives_up(server, reasons, lambda: server.asked > before + 5)
        assert reasons == []

    async def test_not_for_having_stood_still(self, reasons: list[str]) -> None:
        """Fails if a process that was paused (a container, a debugger, a laptop) ends itself when it goes on."""
        server, clock = Server(), ManualClock()
        probe = probe_of(server, clock, give_up=reasons.append, give_up_s=0.1)
        server.answers_now.clear()
        probe.start()
        await eventually(lambda: server.asked)
        time.sleep(0.2)  # noqa: ASYNC251 - the event loop is to stand still
        clock.advance(60)
        asyncio.get_running_loop().call_soon(server.answers_now.set)  # as what has been read, beside all time-outs
        await eventually(lambda: probe.fault is None)
        await probe.stop()
        assert reasons == []
