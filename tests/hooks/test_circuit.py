"""When a backend that does not answer is left alone, and when it is tried again."""

from heliograph.hooks.circuit import FAILURES, PAUSE_S, Circuit


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(time: Time) -> Circuit:
    circuit = Circuit(time)
    for _ in range(FAILURES):
        assert circuit.admits()
        circuit.failed()
    return circuit


def test_so_many_failures_in_a_row_open_it_once() -> None:
    """Fails if single failures stop calls, or the person who reads the log is told of each further one."""
    circuit = Circuit(Time())
    for _ in range(FAILURES - 1):
        assert not circuit.failed()
    assert not circuit.succeeded()
    assert [circuit.failed() for _ in range(FAILURES + 2)].count(True) == 1
    assert circuit.is_open
    assert not circuit.admits()


def test_one_call_at_a_time_finds_out() -> None:
    """Fails if a dead backend gets every call after the pause, or no call ever again."""
    time = Time()
    circuit = opened(time)
    for _ in range(3):
        time.now += PAUSE_S
        assert [circuit.admits() for _ in range(5)] == [True, False, False, False, False]
        circuit.failed()
    time.now += PAUSE_S
    assert circuit.admits()
    assert circuit.succeeded()
    assert all(circuit.admits() for _ in range(5))
