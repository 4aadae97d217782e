"""`heliograph why` and `heliograph receipts`: what became of messages, for a person at a terminal."""

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

import click

from heliograph.errors import BadSetting, HeliographError, RequestRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from heliograph.client.server_api import ServerApi

PORT: Final = click.IntRange(1, 65535)
FOLLOW_S: Final = 0.5  # between two looks
NOT_REACHED, UNKNOWN = 1, 3  # exit codes
NOT_KNOWN: Final = "404"  # the error of a message that nobody knows (any more)

_url = click.option("--url", envvar="HELIOGRAPH_URL", help="URL of the cluster; default: the one on this machine.")
_port = click.option(
    "--port", default=8080, show_default=True, type=PORT, envvar="HELIOGRAPH_PORT", help="Port of that cluster."
)


class _NotAsked(click.ClickException):
    """The cluster cannot be asked, or does not say it."""

    exit_code = UNKNOWN


@click.command(short_help="Say what became of a message for a user.")
@click.argument("user", required=False)
@click.argument("message_id", required=False)
@click.option("--channel", help="Where it was published, if not to the user; or the channel to follow.")
@click.option("--connection", help="The connection to follow, by its id.")
@click.option("--follow", is_flag=True, help="Tell what happens from now on, until Ctrl-C.")
@_url
@_port
def why(
    user: str | None,
    message_id: str | None,
    channel: str | None,
    connection: str | None,
    follow: bool,
    url: str | None,
    port: int,
) -> None:
    """Say what became of MESSAGE_ID for USER: who has it, who has not, and why. Needs HELIOGRAPH_API__KEY.

    \b
    heliograph why bob 5f3a09c1d2e4b687-1c
    heliograph why bob                   # what is known of bob's messages
    heliograph why --follow bob          # what happens from now on
    heliograph why --follow --channel news

    The exit code is 1 if no connection of the user got the message or nobody knows the message, and 3 if that is not
    known, as when the cluster cannot be reached.
    """
    asked = {"user": user, "message_id": message_id, "channel": channel, "connection": connection}
    params = {name: value for name, value in asked.items() if value}
    if not params:
        raise click.UsageError("expected USER, --channel or --connection")
    with _api(url, port) as api:
        if user and message_id and not follow:
            click.get_current_context().exit(_tell(api.call("trace", params)))
        answer = api.call("trace", params if follow else {**params, "since": ""})
        _list(answer)
        with contextlib.suppress(KeyboardInterrupt):
            while follow:
                time.sleep(FOLLOW_S)
                answer = api.call("trace", {**params, "since": answer.get("cursor", "")})
                _list(answer)


@click.command(short_help="Show what a user's devices have received.")
@click.argument("user")
@click.option("--channel", default="", help="Only in this channel.")
@_url
@_port
def receipts(user: str, channel: str, url: str | None, port: int) -> None:
    """Show up to where each device of USER has received each channel. Needs HELIOGRAPH_API__KEY."""
    with _api(url, port) as api:
        found = api.call("receipts", {"user": user, "channel": channel})["receipts"]
    if not found:
        click.echo(f"no device of {_plain(user)} has said that it received anything")
    for each in found:
        device = each.get("device") or "(no name)"
        click.echo(f"{_plain(device)}  {_plain(each['channel'])}  offset {each['offset']}  at {each['at']}")


@contextlib.contextmanager
def _api(url: str | None, port: int) -> "Iterator[ServerApi]":
    """The server API; what it refuses is told in one line."""
    from heliograph.client.server_api import ServerApi  # after the arguments were checked: httpx is slow to import

    api = None
    try:
        api = ServerApi(url or f"http://localhost:{port}")
        yield api
    except BadSetting as error:
        raise click.UsageError(str(error)) from None
    except HeliographError as error:
        is_message_unknown = isinstance(error, RequestRefused) and error.code == NOT_KNOWN
        raise (click.ClickException if is_message_unknown else _NotAsked)(str(error)) from None
    finally:
        if api is not None:
            api.close()


def _tell(answer: dict[str, Any]) -> int:
    """Print the verdict, and what it is drawn from. Return the exit code."""
    click.echo(_plain(answer["verdict"]))
    message = answer["message"]
    click.echo()
    if "epoch" in message:
        kept = "still kept" if message["is_kept"] else "not kept any more"
        click.echo(
            _plain(f"  {message['channel']} at offset {message['offset']} of epoch {message['epoch']}, {kept}")
        )
    else:
        click.echo(_plain(f"  {message['channel']}, not kept"))
    _list(answer, indent="  ")
    is_reached = answer.get("reached")
    return UNKNOWN if is_reached is None else 0 if is_reached else NOT_REACHED


def _list(answer: dict[str, Any], indent: str = "") -> None:
    for entry in answer["entries"]:
        click.echo(_plain(f"{indent}{_line(entry)}"))
    for replica in answer["replicas"]:
        if error := replica.get("error"):
            click.echo(_plain(f"{indent}{replica['replica']}: {error}"), err=True)
        elif left_out := replica.get("left_out"):
            click.echo(_plain(f"{indent}{replica['replica']}: {left_out} more are not shown"), err=True)


def _line(entry: dict[str, Any]) -> str:
    words = [entry["at"][11:23], entry["replica"], entry["event"].replace("_", " ")]
    words += [entry[name] for name in ("channel", "message_id") if name in entry]
    if "connection" in entry:
        words.append(f"connection {entry['connection']}")
    if "user" in entry:
        words.append(f"of {entry['user']}")
    if "offset" in entry and "epoch" in entry:
        words.append(f"offset {entry['offset']}" + (f" to {entry['up_to']}" if entry.get("up_to", 0) > 0 else ""))
    if entry.get("text"):
        words.append(f"({entry['text']})".replace("\n", " "))
    return "  ".join(words)


def _plain(text: str) -> str:
    """Return the text without what a terminal would carry out."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
