"""The sources of the program, as what is compiled of them does not tell what they say."""

import ast

from tests.support.cluster import ROOT


def tree_of(module: str) -> ast.Module:
    """The source of a module of `heliograph`, parsed."""
    return ast.parse((ROOT / "app" / (module.replace(".", "/") + ".py")).read_text())
