"""The files that settings name."""

from pathlib import Path


def read_file(name: str, path: Path) -> bytes:
    """Return the content of the file that the setting `name` names. Raises ValueError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}") from None
