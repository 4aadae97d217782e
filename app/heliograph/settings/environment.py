"""How variables of the environment become settings, and what is said of those that cannot."""

from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsError

from heliograph.errors import BadSetting
from heliograph.shared_settings import PREFIX

_SettingsT = TypeVar("_SettingsT", bound=BaseSettings)


def read_environment(kind: type[_SettingsT], **given: Any) -> _SettingsT:
    """Read settings of this kind; values that are `given` replace the variables of the same name.

    Raises:
        BadSetting: names each invalid variable, and why. Values are not repeated: some are secret.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        lines = [_named(_location(problem), _text(problem)) for problem in error.errors()]
        raise BadSetting("; ".join(lines)) from None
    except SettingsError as error:
        # The error's text names the field without its value, which may be secret; the cause has the value.
        field = str(error).partition('"')[2].partition('"')[0]
        raise BadSetting(f"{variable_of((field,))}: must be JSON") from None


def _named(location: tuple[int | str, ...], text: str) -> str:
    """Return the text with the variable before it; a text about several variables names them itself."""
    return f"{variable_of(location)}: {text}" if location else text


def _location(problem: ErrorDetails) -> tuple[int | str, ...]:
    option = problem.get("ctx", {}).get("option")
    return (*problem["loc"], option) if option else problem["loc"]


def _text(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such setting (see `heliograph settings`)"
    return problem["msg"].removeprefix("Value error, ")


def variable_of(location: tuple[int | str, ...]) -> str:
    """Return the name of the variable for a setting."""
    return PREFIX + "__".join(str(part) for part in location).upper()
