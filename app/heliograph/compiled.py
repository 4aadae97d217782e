"""Whether the compiled form of this package is used: if it was made of just these sources, and else they are.

`setup.py` makes C of the modules on the way of a message (mypyc). The sources stay the program: one that was changed
runs as it is written, only slower, until it has been compiled again.
"""

import sys
from functools import cache
from hashlib import sha256
from importlib.abc import PathEntryFinder
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

PACKAGE = Path(__file__).parent
PREFIX = "compiled_"

_find_sources = FileFinder.path_hook((SourceFileLoader, SOURCE_SUFFIXES))


@cache
def group() -> str:
    """The name of what is compiled of these sources: a digest of all, as what is compiled relies on what is not."""
    digest = sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(b"%s %d\n" % (path.relative_to(PACKAGE).as_posix().encode(), path.stat().st_size))
        digest.update(path.read_bytes())
    return PREFIX + digest.hexdigest()[:16]


@cache
def in_use() -> bool:
    """Whether the compiled form of these sources is there, for this Python."""
    is_any = any(PACKAGE.glob(f"{PREFIX}*"))  # of whatever sources
    return is_any and any((PACKAGE / f"{group()}__mypyc{suffix}").exists() for suffix in EXTENSION_SUFFIXES)


def choose() -> None:
    """Have the modules of this package that are imported from now on loaded from their sources, unless `in_use`."""
    if in_use():
        return
    sys.path_hooks.insert(0, _sources_of)
    for path in list(sys.path_importer_cache):
        if Path(path).is_relative_to(PACKAGE):
            del sys.path_importer_cache[path]


def _sources_of(path: str) -> PathEntryFinder:
    """A finder (see `sys.path_hooks`) that knows no extension modules."""
    if not Path(path).is_relative_to(PACKAGE):
        raise ImportError("not a directory of this package", path=path)
    return _find_sources(path)
