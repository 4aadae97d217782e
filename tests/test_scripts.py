"""The scripts that set a checkout up, as far as that can be asked without setting one up."""

import os
import subprocess

from tests.support.cluster import ROOT


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
