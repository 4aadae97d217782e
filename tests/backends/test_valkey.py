"""The contract on another server than the one that the tests run on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = (
    *(str(path.relative_to(ROOT)) for path in sorted(Path(__file__).parent.glob("test_*_contract.py"))),
    "tests/backends/redis/test_acknowledgement.py::TestSeamless::test_reading_goes_on_without_a_word",
    "tests/backends/redis/test_acknowledgement.py::TestConfirmation::test_a_repetition_that_cannot_be_confirmed",
)


@pytest.mark.slow
def test_the_contract_holds_on_valkey(tmp_path: Path) -> None:
    """Fails if a backend relies on what only Redis does, or names."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not memory", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "tests"), *TESTS],
        cwd=ROOT,
        env={**os.environ, "HELIOGRAPH_TEST_SERVER": "valkey"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-10_000:]
    assert " passed" in done.stdout
