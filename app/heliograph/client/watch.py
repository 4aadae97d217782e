"""`heliograph watch`: show a channel live in the terminal, without a loss or a repeat.

A `View` holds the rules and does no input or output: it takes events and returns lines to print. `Watch` prints
what a client hears (`heliograph.connect`), and reads the updates that came to a run while there was no connection.
"""

import contextlib
import errno
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, NamedTuple

import click

from heliograph.client.connection.client import Client, connect
from heliograph.client.connection.events import (
    ChannelEvent,
    ClientState,
    Lost,
    Message,
    RunProgress,
    RunState,
    Subscribed,
)
from heliograph.client.lines import only_colours
from heliograph.client.output import STDERR, STDOUT, say, write_all
from heliograph.codecs.plain.cursor import format_cursor, parse_cursor
from heliograph.errors import HeliographError, NoSocket, NotAnswered, RequestRefused
from heliograph.protocol.identity import user_of
from heliograph.protocol.position import Position
from heliograph.protocol.run import END_STATES

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
    """The state of the watched channel. `receive` takes an event and returns the lines to print."""

    def __init__(self, channel: str) -> None:
        self._channel = channel
        self.is_run = channel.startswith("run:")
        self.state: str | None = None
        self.progress = 0.0
        self.position: Position | None = None  # a run: of the last update that was printed
        self.missing_until: Position | None = None  # a run: read updates that came while we were away up to here
        self._opened_at: Position | None = None  # a run: the position of the state that follows
        self._tail: tuple[str, ...] = ()

    @property
    def cursor(self) -> str:
        """Return the cursor from which to read what is missing."""
        return "" if self.position is None else format_cursor({self._channel: self.position})

    @property
    def ended(self) -> bool:
        return self.state in END_STATES and self.missing_until is None

    def receive(self, event: ChannelEvent) -> list[Print]:
        match event:
            case Message():
                return list(_printed(event.data))
            case Lost():
                return [Print("some of what came meanwhile is not kept any more", Kind.NOTE)]
            case Subscribed() if self.is_run:
                self._opened_at = _position(event.cursor, self._channel)
                return []
            case RunState():
                return self._run_state(event)
            case RunProgress():
                self.state, self.progress = event.state, event.progress
                if self.position is not None:
                    self.position = self.position.next
                return [] if event.message is None else [Print(event.message)]
        return []

    def _run_state(self, event: RunState) -> list[Print]:
        """Print all of the first one; a later one only says that the history may hold more."""
        self.state, self.progress = event.state, event.progress
        was, now = self.position, self._opened_at
        if was is None or now is None:
            self.position = now
            return [Print(line) for line in event.logs]
        if was != now:
            self.missing_until = now
            self._tail = event.logs
        return []

    def read(self, publications: Iterable[Message]) -> list[Print]:
        """Take a page of updates that came while we were away. It must follow the printed ones without a gap."""
        until, was = self.missing_until, self.position
        if until is None or was is None:
            return []
        printed = []
        for publication in publications:
            at = _position(publication.cursor or "", self._channel)
            if at is None or was.epoch != until.epoch or at != was.next:
                break
            was = at
            if publication.data.get("message") is not None:
                printed.append(Print(publication.data["message"]))
            if was == until:
                break
        if was == self.position:
            printed.append(Print("some of what came meanwhile is not kept any more; the last lines:", Kind.NOTE))
            printed += [Print(line) for line in self._tail]
            was = until
        self.position = was
        if was == until:
            self.missing_until = None
        return printed


def _position(cursor: str, channel: str) -> Position | None:
    return parse_cursor(cursor).position_in(channel)


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
        self._in_trouble = False  # and it was said

    async def run(self) -> int:
        """Watch until the run ends; returns the exit code.

        Raises:
            WatchFailed: the server cannot be reached, or has refused and would again.
        """
        options = self._options
        try:
            client = connect(options.url, user=self._user, token=options.token, replay=options.replay)
            client.on("state", self._on_state)
            async with client:
                await self._follow(client)
        except _NobodyReads:
            return UNREAD
        except HeliographError as error:
            raise WatchFailed(str(error)) from None
        finally:
            self._screen.finish()
        return 1 if self._view.state == "FAILED" else 0

    async def _follow(self, client: Client) -> None:
        """Print what comes, until the run ends."""
        if self._own is None:
            events = client.subscribe(self._options.channel, replay=self._options.replay).events()
        elif client.state.user == self._own:
            events = client.events()
        else:
            raise WatchFailed(f"{self._options.channel} is another user's: {client.state.user} may not listen to it")
        async for event in events:
            self._show(self._view.receive(event), getattr(event, "frame", None))
            while self._view.missing_until is not None:
                await self._read_on(client)
            if self._view.ended:
                return

    async def _read_on(self, client: Client) -> None:
        """Print one page of the updates that came to a run while we were away."""
        try:
            page = await client.history(self._options.channel, limit=_PAGE, cursor=self._view.cursor)
        except (NoSocket, NotAnswered, RequestRefused):
            self._show(self._view.read([]), None)
        else:
            self._show(self._view.read(page.publications), page.frame)

    def _show(self, lines: Iterable[Print], frame: Mapping[str, Any] | None) -> None:
        if self._options.as_json:
            if frame is not None:
                self._screen.print(Print(json.dumps(frame, ensure_ascii=False)))
            return
        for line in lines:
            self._screen.print(line)
        if self._view.is_run and self._view.state is not None:
            self._screen.show_progress(self._view.state, self._view.progress)

    def _on_state(self, state: ClientState) -> None:
        if state.state == "connected":
            self._in_trouble = False
        elif state.state != "closed" and state.code is not None and not self._in_trouble:
            self._in_trouble = True
            self._screen.print(Print(f"{state.reason or f'closed with {state.code}'}; trying again", Kind.NOTE))


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
