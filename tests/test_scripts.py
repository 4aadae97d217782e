"""The scripts that set a checkout up, as far as that can be asked without setting one up."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import ROOT

OLD, BARE, GOOD = (
    "exit 1",
    'case "$2" in *venv*) exit 1;; esac',
    "exit 0",
)  # too old; without its venv module; has it all


def test_an_active_environment_is_not_the_python_that_makes_it_anew() -> None:
    """Fails if `python3` in the scripts is the one in .venv, which they may throw away."""
    own = str(ROOT / ".venv" / "bin")
    rest = os.environ["PATH"].split(os.pathsep)
    for path in ([own, *rest], [*rest, own], [own, own, *rest]):
        done = subprocess.run(
            ["/bin/bash", "-c", '. scripts/lib.sh && printf %s "$PATH"'],
            cwd=ROOT,
            env={**os.environ, "PATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split(os.pathsep) == [entry for entry in rest if entry != own]


@pytest.mark.parametrize(
    ("there", "named", "found"),
    [
        ({"python3": GOOD}, "", "python3"),
        ({"python3": OLD, "python3.13": GOOD, "python3.11": GOOD}, "", "python3.13"),
        ({"python3": BARE, "python3.12": GOOD}, "", "python3.12"),
        ({"python3": BARE, "python3.12": OLD}, "", "python3"),
        ({"python3": GOOD, "mine": BARE}, "mine", "mine"),
        ({"python3": OLD}, "", ""),
    ],
)
def test_which_python_is_taken(there: dict[str, str], named: str, found: str, tmp_path: Path) -> None:
    """Fails if one is taken that is too old, or one that needs a package while another needs none."""
    for name, does in there.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{does}\n")
        program.chmod(0o755)
    script = '. scripts/lib.sh; PATH=$1; distribution_python=; find_python; printf %s "$python"'
    done = subprocess.run(
        ["/bin/bash", "-c", script, "-", f"{tmp_path}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HELIOGRAPH_PYTHON": named},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == found


@pytest.mark.parametrize("program", [OLD, None])
def test_a_python_that_was_named_and_will_not_do_is_an_error(program: str | None, tmp_path: Path) -> None:
    """Fails if another is taken silently."""
    mine = tmp_path / "mine"
    if program is not None:
        mine.write_text(f"#!/bin/sh\n{program}\n")
        mine.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", "-c", ". scripts/lib.sh; find_python"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HELIOGRAPH_PYTHON": str(mine)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"error: HELIOGRAPH_PYTHON={mine} is no Python 3.11 or newer.\n"


def test_the_python_of_the_distribution_comes_first() -> None:
    """Fails if another on the PATH, built without optimisations, is taken although the faster one is there."""
    ask = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run(["/usr/bin/python3", "-c", ask], capture_output=True, check=False).returncode != 0:
        pytest.skip("the distribution's Python is too old, or lacks its venv module")
    done = subprocess.run(
        ["/bin/bash", "-c", '. scripts/lib.sh; find_python; printf %s "$python"'],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "/usr/bin/python3"


@pytest.mark.parametrize(
    ("python", "headers"), [("python3", ["python3-dev"]), ("python3.13", ["python3.13-dev"]), ("", ["python3-dev"])]
)
def test_what_a_machine_without_a_compiler_lacks(python: str, headers: list[str], tmp_path: Path) -> None:
    """Fails if a fresh machine is not given what compiles the modules, or the headers of another Python."""
    if python:
        (tmp_path / python).write_text("#!/bin/sh\nexit 1\n")  # asked for its headers: it has none
        (tmp_path / python).chmod(0o755)
    script = (
        ". scripts/lib.sh; PATH=$1; distribution_python=$1/python3; python=$2; "
        'need_compiler >&2; printf "%s\\n" "${missing[@]}"'
    )
    done = subprocess.run(
        ["/bin/bash", "-c", script, "-", f"{tmp_path}", python],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [name for name in done.stdout.split() if name != "libc6-dev"] == ["gcc", *headers]


def test_a_python_that_the_distribution_has_not_made_has_no_package_with_its_headers(tmp_path: Path) -> None:
    """Fails if apt-get is asked for a package that is not there, or for the headers of another Python."""
    mine = tmp_path / "python3.13"
    mine.write_text("#!/bin/sh\nexit 1\n")
    mine.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", "-c", ". scripts/lib.sh; python=$1; need_compiler", "-", f"{mine}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {mine} lacks the content of the package python3-dev")
