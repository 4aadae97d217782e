"""The list of all variables."""

import json
import os

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from heliograph.settings.environment import variable_of
from heliograph.settings.settings import Settings
from heliograph.shared_settings import PREFIX


def settings_table() -> str:
    """Return all variables with their defaults and meanings, as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            rows += [_row((name, inner), value) for inner, value in group.model_fields.items()]
        else:
            rows.append(_row((name,), field))
    return "\n".join(rows)


def _row(location: tuple[str, ...], field: FieldInfo) -> str:
    shown = json.dumps(field.default) if isinstance(field.default, tuple) else field.default
    default = "" if field.default is None or field.default == () else f"`{shown}`"
    return f"| `{variable_of(location)}` | {default} | {field.description} |"


def unknown_variables() -> list[str]:
    """Return variables of the environment that look like settings but are not: probably typing errors."""
    # The commands of `heliograph`, the Ansible plugin and the log handler read the others.
    known = {*Settings.model_fields, "port", "url", "token", "log_id", "wait", "logging", "nginx_trusted_proxies"}
    names = (name for name in os.environ if name.upper().startswith(PREFIX))
    return sorted(name for name in names if name[len(PREFIX) :].lower().split("__")[0] not in known)
