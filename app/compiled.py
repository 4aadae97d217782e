"""Whether the compiled form of this package is used: if it was made of just these sources, and else they are.

`setup.py` makes C of the modules on the way of a message (mypyc). The sources stay the program: one that was changed
runs as it is written, only slower, until it has been compiled again.
"""

import sys
from functools import cache
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

PACKAGE = Path(__file__).parent
PREFIX = "compiled_"


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
    return _is_any() and any((PACKAGE / f"{group()}__mypyc{suffix}").exists() for suffix in EXTENSION_SUFFIXES)


def choose() -> None:
    """Have the modules of this package that are imported from now on loaded from their sources, unless `in_use`."""
    if in_use() or not _is_any():
        return
    sys.path_hooks.insert(0, _sources_of)
    for path in list(sys.path_importer_cache):
        if Path(path).is_relative_to(PACKAGE):
            del sys.path_importer_cache[path]


def _is_any() -> bool:
    """Whether something is compiled, of whatever sources."""
    return any(PACKAGE.glob(f"{PREFIX}*"))


def _sources_of(path: str) -> FileFinder:
    """A finder (see `sys.path_hooks`) that knows no extension modules."""
    if not Path(path).is_relative_to(PACKAGE):
        raise ImportError("not a directory of this package", path=path)
    return FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES))
