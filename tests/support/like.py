"""An object that does one thing differently, where the object itself does not let that be replaced."""

from typing import Any


class Like:
    """Like `original`, but for what is named."""

    def __init__(self, original: object, **instead: Any) -> None:
        self._original = original
        self.__dict__.update(instead)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)
