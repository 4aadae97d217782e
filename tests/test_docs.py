"""What the handbook tells a reader to write exists."""

import ast
import importlib
import inspect
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def defined(module: str) -> set[str]:
    """The names at the top of a module, which is not imported: that of an application reads its settings."""
    place = ROOT / "app" / module.replace(".", "/")
    source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    names = set()
    for node in ast.parse(source.read_text()).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.Assign() | ast.AnnAssign() | ast.If():
                names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                names |= {each.asname or each.name for each in ast.walk(node) if isinstance(each, ast.alias)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_samples_import_what_there_is(page: Path) -> None:
    """Fails if a module or a class is renamed or moved, and a sample goes on to import it as it was."""
    missing = [
        f"{node.module}.{alias.name}"
        for sample in PYTHON.findall(page.read_text())
        for node in ast.walk(ast.parse(sample))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "heliograph"
        for alias in node.names
        if alias.name not in defined(node.module or "")
    ]
    assert not missing


def callables_of(sample: ast.Module) -> dict[str, Any]:
    """What a sample imports from the package, by the name that it has there."""
    return {
        alias.asname or alias.name: getattr(importlib.import_module(node.module), alias.name)
        for node in ast.walk(sample)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "heliograph"
        if node.module is not None and node.module != "heliograph.main"  # an application, which reads its settings
        for alias in node.names
    }


def signature_of(called: Any) -> inspect.Signature:
    if not is_dataclass(called):
        return inspect.signature(called)
    signature = inspect.signature(vars(called)["__init__"])  # which tells it of a compiled one, too
    return signature.replace(parameters=[*signature.parameters.values()][1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_samples_give_the_arguments_that_there_are(page: Path) -> None:
    """Fails if a function gets, loses or renames an argument, and a sample goes on to call it as it was."""
    wrong = []
    for text in PYTHON.findall(page.read_text()):
        sample = ast.parse(text)
        known = callables_of(sample)
        for node in ast.walk(sample):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in known:
                named = {keyword.arg: None for keyword in node.keywords if keyword.arg is not None}
                try:
                    signature_of(known[node.func.id]).bind(*node.args, **named)
                except TypeError as error:
                    wrong.append(f"{ast.unparse(node)}: {error}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Fails if a page names a file, or a heading of a page, that has been moved or renamed."""
    broken = []
    for place, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]*))?\)", page.read_text()):
        target = page.parent / place if place else page
        if not target.exists():
            broken.append(place)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            if anchor not in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}:
                broken.append(f"{place}#{anchor}")
    assert not broken
