"""The compiled form of the modules on the way of a message: when it runs, and what it must not hold."""

import ast
import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliograph.api.metrics import IS_COMPILED
from tests.support.cluster import ROOT
from tests.support.sources import tree_of


def modules() -> list[str]:
    """What setup.py compiles."""
    [names] = [
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    ]
    return [name.removeprefix("app/").removesuffix(".py").replace("/", ".") for name in names]


class TestWhatRuns:
    def test_either_all_of_it_is_compiled_or_nothing(self) -> None:
        """Fails if a module that setup.py names is left out of what is compiled."""
        files = {name: importlib.import_module(name).__file__ or "" for name in modules()}
        kinds = {name: file.endswith(".py") for name, file in files.items()}
        assert set(kinds.values()) == {not IS_COMPILED}, kinds

    def test_the_checkout_holds_nothing_compiled(self) -> None:
        """Fails if an edited file of the checkout could run as it was before the edit."""
        assert not [*(ROOT / "app").rglob("*.so")]

    def test_importing_the_package_decides_nothing(self) -> None:
        """Fails if `import heliograph` reads sources, hooks the import, or pulls in what only a server needs."""
        code = (
            "import sys; hooks = list(sys.path_hooks), list(sys.meta_path); import heliograph;"
            "assert (list(sys.path_hooks), list(sys.meta_path)) == hooks; print(*sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loaded = set(done.stdout.split())
        assert not loaded & {"starlette", "uvicorn", "pydantic", "redis", "msgspec", "asyncio"}

    def test_it_can_be_imported_from_anywhere(self, tmp_path: Path) -> None:
        """Fails if a module finds what it needs only where the checkout is the working directory."""
        code = (
            "import importlib, pkgutil, heliograph;"
            "found = [each.name for each in pkgutil.walk_packages(heliograph.__path__, 'heliograph.')];"
            # The application reads its settings when it is imported, and Ansible its plugins by itself.
            "names = [each for each in found if not each.endswith(('main', '__main__', 'ansible.heliograph'))];"
            "[importlib.import_module(each) for each in names]; print(len(names))"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) > 50


def test_no_class_of_msgspec_is_compiled() -> None:
    """Fails if a compiled module defines a `Struct`: the compiler drops the tag and other arguments of its class."""
    found = [
        f"{name}.{node.name}"
        for name in modules()
        for node in ast.walk(ast.parse((ROOT / "app" / f"{name.replace('.', '/')}.py").read_text()))
        if isinstance(node, ast.ClassDef) and any("Struct" in ast.unparse(base) for base in node.bases)
    ]
    assert not found


# Stands for the compiler: it says that it has run, and ends when there is a file `go`.
SLOW_SETUP = """
import pathlib, sys, time
while not pathlib.Path("go").exists():
    time.sleep(0.01)
with open("runs", "a") as runs:
    runs.write("run\\n")
pathlib.Path(sys.argv[sys.argv.index("--build-lib") + 1], "heliograph").mkdir(parents=True)
"""


class TestTheScripts:
    """`compile_package` of scripts/lib.sh, in a copy of the checkout."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        for name in ("app", "scripts", "clients/js/src"):
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        for name in ("setup.py", "constraints.txt"):
            shutil.copy(ROOT / name, tmp_path / name)
        (tmp_path / ".venv").symlink_to(ROOT / ".venv")
        return tmp_path

    def digest(self, checkout: Path) -> str:
        command = ["bash", "-c", ". scripts/lib.sh; source_digest"]
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()

    def pythonpath(self, checkout: Path) -> str:
        """Where a program that the script starts finds the package, as long as that is compiled already."""
        command = ["bash", "-c", '. scripts/lib.sh; PYTHONPATH=; compile_package >&2; printf %s "$PYTHONPATH"']
        return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout

    @pytest.mark.parametrize("path", ["app/heliograph/hub/hub.py", "app/heliograph/settings/settings.py", "setup.py"])
    def test_sources_that_were_changed_are_compiled_again(self, checkout: Path, path: str) -> None:
        """Fails if somebody changes a file, compiled or not, and what runs is what it was before."""
        before = self.digest(checkout)
        with (checkout / path).open("a") as source:
            source.write("# changed\n")
        assert self.digest(checkout) != before

    def test_a_new_source_counts(self, checkout: Path) -> None:
        """Fails if only the files that were there are looked at."""
        before = self.digest(checkout)
        (checkout / "app/heliograph/new.py").touch()
        assert self.digest(checkout) != before

    def test_a_file_that_is_not_compiled_is_the_one_of_now(self, checkout: Path) -> None:
        """Fails if the console's files, or a script's, are those of the day on which the modules were compiled."""
        tree = checkout / "build/compiled" / self.digest(checkout)
        (tree / "heliograph").mkdir(parents=True)
        (checkout / "app/heliograph/console/static/style.css").write_text("new")
        (checkout / "clients/js/src/heliograph.js").write_text("new")
        assert self.pythonpath(checkout) == str(tree)
        assert (tree / "heliograph/console/static/style.css").read_text() == "new"
        assert (tree / "heliograph/console/static/heliograph.js").read_text() == "new"

    def test_other_scripts_do_not_wait_for_a_build_in_the_background(self, checkout: Path) -> None:
        """Fails if `scripts/check` stands still for as long as `scripts/run` compiles, or nothing is."""
        (checkout / "setup.py").write_text(SLOW_SETUP)
        script = """
            . scripts/lib.sh; lock; compile_package --later >/dev/null; unlock
            flock --timeout 30 scripts/lib.sh echo free; touch go; wait; ls build/compiled
        """
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.split() == ["free", self.digest(checkout)]

    def test_of_two_builds_at_once_the_second_takes_what_the_first_has_made(self, checkout: Path) -> None:
        """Fails if two scripts in one checkout compile the same twice, or one of them says that it could not."""
        (checkout / "setup.py").write_text(SLOW_SETUP)
        script = """
            . scripts/lib.sh; touch go
            build_tree build/compiled/x & first=$!
            build_tree build/compiled/x & second=$!
            wait $first; echo $?; wait $second; echo $?; cat runs
        """
        done = subprocess.run(
            ["bash", "-c", script], cwd=checkout, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.split() == ["0", "0", "run"]

    def test_what_cannot_be_compiled_ends_the_script(self, checkout: Path) -> None:
        """Fails if a build that failed leaves a package behind, or goes unnoticed."""
        (checkout / "setup.py").write_text("raise SystemExit('no compiler')")
        command = ["bash", "-c", ". scripts/lib.sh; compile_package"]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "build/log" in done.stderr
        assert not [*(checkout / "build/compiled").iterdir()]


def handlers(tree: ast.Module) -> Iterator[ast.stmt | ast.ExceptHandler]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Try | ast.TryStar):
            yield from node.handlers
            yield from node.finalbody


@pytest.mark.parametrize("module", modules())
def test_nothing_is_awaited_while_an_exception_is_handled(module: str) -> None:
    """Fails if a compiled coroutine waits in an `except` or a `finally`.

    Until it goes on, everybody else in the loop would find that exception being handled: as the context of their own,
    in what they log, and in a bare `raise`. What `async with` awaits at its end must not wait for the same reason.
    """
    tree = tree_of(module)
    waits = [node for handler in handlers(tree) for node in ast.walk(handler)]
    assert not [ast.unparse(node) for node in waits if isinstance(node, ast.Await | ast.AsyncFor | ast.AsyncWith)]
    entered = [item.context_expr for node in ast.walk(tree) if isinstance(node, ast.AsyncWith) for item in node.items]
    assert {ast.unparse(each.func) for each in entered if isinstance(each, ast.Call)} <= {"asyncio.timeout"}
    assert all(isinstance(each, ast.Call) for each in entered)
