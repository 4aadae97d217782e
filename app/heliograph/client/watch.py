"""`heliograph watch`: show a channel live in the terminal, over a WebSocket, without a loss or a repeat.

A `View` holds the rules and does no input or output: it takes frames and returns lines to print. `Watch` keeps a
socket open, reconnects with its cursor, and prints.
"""

import asyncio
import contextlib
import errno
import ipaddress
import json
import os
import random
import secrets
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import click
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidProxy, InvalidStatus, InvalidURI

from heliograph.client.lines import only_colours
from heliograph.client.output import STDERR, STDOUT, say, write_all
from heliograph.errors import BadCursor
from heliograph.protocol.identity import user_of
from heliograph.protocol.position import Position, format_cursor, parse_cursor
from heliograph.protocol.run import END_STATES

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 5.0
CONNECTED_WITHIN_S: Final = 10.0
GOOD_FRAMES: Final = ("message", "progress", "initial_state", "subscribed")
REFUSED, INTERRUPTED = 2, 130
UNREAD: Final = 128 + signal.SIGPIPE  # the exit code of other programs whose reader has left
_PAGE: Final = 1000
_BAR_WIDTH: Final = 30


class WatchFailed(Exception):
    """A retry would not help; the text says why."""


class _NobodyReads(Exception):
    """Our standard output is a pipe whose reader has left."""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """`as_json`: print frames as they are. `raw`: print control sequences too."""

    channel: str
    url: str
    user: str | None = None
    token: str | None = None
    replay: bool = False
    as_json: bool = False
    raw: bool = False


class Kind(Enum):
    """Where a line is printed, and how."""

    OUT = "out"
    ERR = "err"
    NOTE = "note"


class Print(NamedTuple):
    """One line for the terminal."""

    text: str
    kind: Kind = Kind.OUT
    newline: bool = True


class View:
    """The state of the watched channel. `receive` takes a frame and returns the lines to print."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self.is_run = channel.startswith("run:")
        self.position: Position | None = None  # of the last publication that was printed
        self.state: str | None = None
        self.progress = 0.0
        self.missing_until: Position | None = None  # a run: read updates that came while we were away up to here
        self._opened_at: Position | None = None  # a run: the position of its `initial_state`
        self.must_open_anew = False  # a run: an update was lost, perhaps its end; a new connection brings the state
        self._held: list[dict[str, Any]] = []  # a run: frames that wait for updates that must be read first
        self._tail: list[str] = []

    @property
    def cursor(self) -> str | None:
        return None if self.position is None else format_cursor({self._channel: self.position})

    @property
    def ended(self) -> bool:
        return self.state in END_STATES and self.missing_until is None and not self.must_open_anew

    def reconnected(self) -> None:
        """Start on a new connection: request again what was being read on the old one."""
        self.missing_until = None
        self._opened_at = None
        self.must_open_anew = False
        self._held.clear()

    def receive(self, frame: dict[str, Any]) -> list[Print]:
        match frame:
            case {"type": "subscribed", "channel": self._channel, "cursor": str(cursor)}:
                return self._subscribed(cursor, recovered=bool(frame.get("recovered")))
            case {"type": "message", "channel": self._channel}:
                return self._message(frame)
            case {"type": "initial_state"}:
                return self._initial_state(frame)
            case {"type": "progress"}:
                if self.missing_until is not None:
                    self._held.append(frame)
                    return []
                return self._progress(frame)
            case {"type": "history", "channel": self._channel}:
                return self._history(frame)
        return []

    # -- logs and all other channels

    def _subscribed(self, cursor: str, *, recovered: bool) -> list[Print]:
        begins = parse_cursor(cursor).get(self._channel)
        if self.is_run and self._opened_at is None:
            self._opened_at = begins
            return []
        self.must_open_anew = self.is_run
        lost = self.position is not None and not recovered
        self.position = begins
        return [Print("some of what came meanwhile is not kept any more", Kind.NOTE)] if lost else []

    def _message(self, frame: Mapping[str, Any]) -> list[Print]:
        if (position := _position(frame, self._channel)) is not None:
            self.position = position
        return list(_printed(frame["data"]))

    # -- runs

    def _initial_state(self, frame: Mapping[str, Any]) -> list[Print]:
        """Print all of the first one; a later one only says that the history may hold more."""
        self.state, self.progress = frame["state"], frame["progress"]
        was, now = self.position, self._opened_at
        if was is None or now is None:
            self.position = now
            return [Print(line) for line in frame["logs"]]
        if was == now:
            return []
        self.missing_until = now
        self._tail = frame["logs"]
        return []

    def _progress(self, frame: Mapping[str, Any]) -> list[Print]:
        self.state, self.progress = frame["state"], frame["progress"]
        if self.position is not None:
            self.position = self.position.next
        return [] if frame["message"] is None else [Print(frame["message"])]

    def _history(self, frame: Mapping[str, Any]) -> list[Print]:
        """Take a page of updates that came while we were away. It must follow the printed ones without a gap."""
        until, was = self.missing_until, self.position
        if until is None or was is None:
            return []
        printed = []
        for publication in frame["publications"]:
            at = _position(publication, self._channel)
            if at is None or was.epoch != until.epoch or at != was.next:
                break
            was = at
            if publication["data"].get("message") is not None:
                printed.append(Print(publication["data"]["message"]))
            if was == until:
                break
        if was == self.position:
            printed.append(Print("some of what came meanwhile is not kept any more; the last lines:", Kind.NOTE))
            printed += [Print(line) for line in self._tail]
            was = until
        self.position = was
        if was == until:
            self.missing_until = None
            held, self._held = self._held, []
            for late in held:
                printed += self._progress(late)
        return printed


def _position(frame: Mapping[str, Any], channel: str) -> Position | None:
    try:
        return parse_cursor(frame.get("cursor", "")).get(channel)
    except BadCursor:
        return None


def _printed(data: object) -> Iterator[Print]:
    """Print lines of `heliograph pipe` and of log publishers as the job printed them, everything else as it is."""
    match data:
        case {"line": str(line), **rest}:
            kind = Kind.ERR if rest.get("stream") == "stderr" else Kind.OUT
            yield Print(line, kind, newline=not rest.get("more"))
        case {"stream": "exit", "exit_code": int(code)}:
            yield Print(f"ended with exit code {code}", Kind.NOTE)
        case {"stream": "dropped", "dropped": int(lines)}:
            yield Print(f"{lines} lines are missing here: they were dropped where they were printed", Kind.NOTE)
        case str():
            yield Print(data)
        case _:
            yield Print(json.dumps(data, ensure_ascii=False))


class Watch:
    """One run of `heliograph watch`."""

    def __init__(self, options: WatchOptions) -> None:
        self._options = options
        self._own = user_of(options.channel)
        # In open mode a name is enough. A name of its own keeps it out of another user's connection limit.
        self._user = options.user or self._own or f"watch-{secrets.token_hex(4)}"
        self._view = View(options.channel)
        self._screen = _Screen(raw=options.raw)
        self._delay_s = FIRST_DELAY_S
        self._ever_connected = False
        self._said: deque[str] = deque(maxlen=1)

    async def run(self) -> int:
        """Watch until the run ends; returns the exit code.

        Raises:
            WatchFailed: the server refused, and would again.
        """
        give_up_at = asyncio.get_running_loop().time() + CONNECTED_WITHIN_S
        proxy: Literal[True] | None = None if _is_loopback(self._options.url) else True  # as the environment says
        try:
            while not self._view.ended:
                try:
                    async with asyncio.timeout(CONNECTED_WITHIN_S):
                        socket = await connect(self._options.url, compression=None, max_size=None, proxy=proxy)
                    async with socket:
                        await self._follow(socket)
                except (InvalidURI, InvalidProxy, ImportError) as error:  # SOCKS needs another package
                    raise WatchFailed(str(error)) from None
                except InvalidStatus as error:
                    if (status := error.response.status_code) < 500 and status != 429:
                        raise WatchFailed(f"{self._options.url} answers {status}") from None
                    await self._back_off(f"HTTP status {status}")
                except ConnectionClosed as error:
                    await self._closed(error)
                except (OSError, TimeoutError, InvalidHandshake) as error:
                    if not self._ever_connected and asyncio.get_running_loop().time() > give_up_at:
                        raise WatchFailed(f"cannot reach {self._options.url}: {error}") from None
                    await self._back_off(str(error) or "no answer")
        except _NobodyReads:
            return UNREAD
        finally:
            self._screen.finish()
        return 1 if self._view.state == "FAILED" else 0

    # -- one connection

    async def _follow(self, socket: ClientConnection) -> None:
        """Connect, subscribe, and print what comes, until the run ends or the server sends us elsewhere."""
        self._view.reconnected()
        await self._say(socket, self._connect_frame())
        if not self._is_own:
            await self._say(socket, self._subscribe_frame())
        leave_at: float | None = None
        loop = asyncio.get_running_loop()
        while not self._view.ended:
            try:
                async with asyncio.timeout_at(leave_at):
                    frame = json.loads(await socket.recv())
            except TimeoutError:
                return  # the replica drains: reconnect to another one, from the present position
            match frame["type"]:
                case "connected":
                    self._ever_connected = True
                    if self._is_own:
                        own = {"type": "subscribed", "channel": self._options.channel, "recovered": True}
                        self._show({**own, "cursor": self._view.cursor or frame["cursor"]})
                case "reconnect":
                    leave_at = loop.time() + frame["in_ms"] / 1000
                case "error":
                    self._refused(frame)
                    await self._back_off(frame["message"])
                    return
                case kind if kind in GOOD_FRAMES or kind == "history":
                    self._delay_s = FIRST_DELAY_S
                    self._said.clear()
                    self._show(frame)
                    if self._view.must_open_anew:
                        await asyncio.sleep(FIRST_DELAY_S)
                        return
                    if self._view.missing_until is not None and kind in ("initial_state", "history"):
                        await self._say(socket, self._history_frame())

    @property
    def _is_own(self) -> bool:
        """Return whether it is the user's own channel, which every connection is subscribed to."""
        return self._own is not None and (self._own == self._user or self._options.token is not None)

    def _connect_frame(self) -> dict[str, Any]:
        frame: dict[str, Any] = {"type": "connect", "user": self._user}
        if self._options.token is not None:
            frame["token"] = self._options.token
        return {**frame, **self._since()} if self._is_own else frame

    def _subscribe_frame(self) -> dict[str, Any]:
        return {"type": "subscribe", "channel": self._options.channel, "id": 1, **self._since()}

    def _history_frame(self) -> dict[str, Any]:
        return {"type": "history", "channel": self._options.channel, "limit": _PAGE, "cursor": self._view.cursor}

    def _since(self) -> dict[str, Any]:
        if self._view.cursor is not None:
            return {"cursor": self._view.cursor}
        return {"replay": True} if self._options.replay else {}

    async def _say(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        await socket.send(json.dumps(frame, ensure_ascii=False))

    def _show(self, frame: dict[str, Any]) -> None:
        lines = self._view.receive(frame)
        if self._options.as_json:
            self._screen.print(Print(json.dumps(frame, ensure_ascii=False)))
        else:
            for line in lines:
                self._screen.print(line)
            if self._view.is_run and self._view.state is not None:
                self._screen.show_progress(self._view.state, self._view.progress)

    # -- when it breaks

    def _refused(self, frame: Mapping[str, Any]) -> None:
        if frame["code"] not in ("unavailable", "internal", "rate_limited"):
            raise WatchFailed(frame["message"])

    async def _closed(self, error: ConnectionClosed) -> None:
        code = 1006 if error.rcvd is None else error.rcvd.code
        reason = "" if error.rcvd is None else error.rcvd.reason
        if 3500 <= code <= 3999:
            raise WatchFailed(reason or f"the server closed with {code}")
        await self._back_off(reason or f"closed with {code}")

    async def _back_off(self, reason: str) -> None:
        if reason not in self._said:
            self._said.append(reason)
            self._screen.print(Print(f"{reason}; trying again", Kind.NOTE))
        await asyncio.sleep(self._delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret
        self._delay_s = min(self._delay_s * 2, LONGEST_DELAY_S)


def _is_loopback(url: str) -> bool:
    """Return whether the URL leads to this machine, for which no proxy is used."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Screen:
    """The terminal: the job's output as it was, and below it the progress of a run."""

    def __init__(self, *, raw: bool) -> None:
        self._raw = raw
        self._live = os.isatty(STDERR)  # redraw one line; otherwise print a line for each change
        self._drawn = ""

    def print(self, line: Print) -> None:
        """Print a line. Raises _NobodyReads, and WatchFailed if standard output cannot be written to."""
        self._erase()
        end = "\n" if line.newline else ""
        text = (line.text if self._raw else only_colours(line.text)) + end
        match line.kind:
            case Kind.OUT:
                self._write(text)
            case Kind.ERR:
                self._write_error(text)
            case Kind.NOTE:
                say(text.removesuffix("\n"))

    def show_progress(self, state: str, progress: float) -> None:
        full = round(_BAR_WIDTH * min(max(progress, 0), 100) / 100)
        text = f"[{'#' * full}{'-' * (_BAR_WIDTH - full)}] {progress:3.0f} %  {only_colours(state)}"
        if not self._live:
            if text != self._drawn:
                self._write_error(f"{text}\n")
            self._drawn = text
            return
        colour = {"END": "green", "FAILED": "red"}.get(state, "cyan")
        self._write_error(f"\r\x1b[2K{click.style(text, fg=colour)}")
        self._drawn = text

    def finish(self) -> None:
        """Leave the last state on the screen, and the cursor below it."""
        if self._live and self._drawn:
            self._write_error("\n")
            self._drawn = ""

    def _erase(self) -> None:
        if self._live and self._drawn:
            self._write_error("\r\x1b[2K")

    def _write(self, text: str) -> None:
        try:
            write_all(STDOUT, self._encoded(text, STDOUT))
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise _NobodyReads from None
            raise WatchFailed(f"cannot write to standard output: {error.strerror}") from None

    def _write_error(self, text: str) -> None:
        with contextlib.suppress(OSError):  # what is on standard output counts
            write_all(STDERR, self._encoded(text, STDERR))

    def _encoded(self, text: str, fd: int) -> bytes:
        if not self._raw and not os.isatty(fd):
            text = click.unstyle(text)
        return text.encode((sys.__stdout__ and sys.__stdout__.encoding) or "utf-8", "backslashreplace")
