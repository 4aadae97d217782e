"""The compiled form of the modules on the way of a message: when it runs, and what it must not hold."""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from heliograph import compiled
from tests.support.cluster import ROOT
from tests.support.sources import tree_of

only_compiled = pytest.mark.skipif(not compiled.in_use(), reason="nothing is compiled; scripts/test does that")


def modules() -> list[str]:
    """What setup.py compiles."""
    [names] = [
        ast.literal_eval(node.value)
        for node in ast.parse((ROOT / "setup.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MODULES"
    ]
    return [name.removesuffix(".py").replace("/", ".") for name in names]


class TestWhatRuns:
    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        """A copy of the package, with all that is compiled of it."""
        shutil.copytree(
            ROOT / "app" / "heliograph" / "heliograph", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__")
        )
        return tmp_path

    def loaded(self, checkout: Path) -> set[str]:
        """From what kind of file each of the modules comes there."""
        names = ", ".join(modules())
        code = f"import sys, {names}\nfor name in '{names}'.split(', '): print(sys.modules[name].__file__)"
        command = [sys.executable, "-c", code]
        output = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True).stdout.split()
        assert len(output) == len(modules())
        assert all(path.startswith(str(checkout)) for path in output)
        return {".py" if path.endswith(".py") else EXTENSION_SUFFIXES[0] for path in output}

    @only_compiled
    def test_what_was_compiled_of_these_sources(self, checkout: Path) -> None:
        """Fails if it is compiled for nothing."""
        assert self.loaded(checkout) == {EXTENSION_SUFFIXES[0]}

    @only_compiled
    @pytest.mark.parametrize("path", ["app/heliograph/hub/hub.py", "app/heliograph/settings.py"])
    def test_sources_that_were_changed_since(self, checkout: Path, path: str) -> None:
        """Fails if somebody changes a file, compiled or not, and what runs is what it was before."""
        with (checkout / path).open("a") as source:
            source.write("# changed\n")
        assert self.loaded(checkout) == {".py"}

    @only_compiled
    def test_sources_of_which_one_is_new(self, checkout: Path) -> None:
        """Fails if only the files that were there are looked at."""
        (checkout / "app" / "new.py").touch()
        assert self.loaded(checkout) == {".py"}

    @only_compiled
    def test_what_was_not_put_in_its_place_whole(self, checkout: Path) -> None:
        """Fails if a build that was interrupted leaves a package behind that cannot be imported."""
        [last] = (checkout / "app").glob(f"{compiled.PREFIX}*")
        last.unlink()
        assert self.loaded(checkout) == {".py"}

    def test_sources_of_which_nothing_is_compiled(self, checkout: Path) -> None:
        """Fails if the program needs a compiler."""
        for path in checkout.rglob("*.so"):
            path.unlink()
        assert self.loaded(checkout) == {".py"}


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
