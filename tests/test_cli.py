"""`heliograph …`, as a person at a terminal meets it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import SecretStr

from heliograph.auth.authenticator import Authenticator, Credentials
from heliograph.backends.memory.tickets import MemoryTickets
from heliograph.cli import main
from heliograph.clock import SystemClock
from heliograph.cluster.blocked_users import BlockedUsers
from heliograph.errors import InvalidToken
from heliograph.protocol.grants import read_grants
from heliograph.settings import AuthSettings, Settings
from tests.support.tokens import SECRET

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("HELIOGRAPH_"):
            monkeypatch.delenv(name)


def run(*words: str, **environment: str) -> Result:
    """Run a command in this process."""
    variables = {f"HELIOGRAPH_{name}": value for name, value in environment.items()}
    return CliRunner().invoke(main, words, env=variables)


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m heliograph …`, as a person does."""
    variables = {f"HELIOGRAPH_{name}": value for name, value in environment.items()}
    return subprocess.run(
        [sys.executable, "-m", "heliograph", *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


class TestServe:
    def test_a_bad_setting_is_one_line_and_status_2(self) -> None:
        """Fails if a person is shown a traceback, the value of a secret, or not told which variable it was."""
        done = python("serve", AUTH__SECRET="hunter2", LIMITS__DEPTH="deep")
        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("heliograph: HELIOGRAPH_")
        assert "HELIOGRAPH_LIMITS__DEPTH: " in line
        assert "HELIOGRAPH_AUTH: " in line
        assert "hunter2" not in line

    @pytest.mark.parametrize(
        ("variables", "says"),
        [
            ({}, "HELIOGRAPH_AUTH: MODE jwt needs SECRET"),
            (
                {"AUTH__MODE": "open", "REDIS__URL": "redis://host:port"},
                "HELIOGRAPH_REDIS__URL: cannot be read: ",
            ),
            ({"AUTH__MODE": "open", "ALLOWED_ORIGINS": "https://app.example.org"}, "HELIOGRAPH_ALLOWED_ORIGINS: "),
            ({"AUTH__MODE": "open", "LIMITS__DEPHT": "3"}, "HELIOGRAPH_LIMITS__DEPHT: there is no such setting"),
        ],
        ids=["no secret", "Redis port", "origins", "typing error"],
    )
    def test_each_kind_of_bad_setting(self, variables: dict[str, str], says: str) -> None:
        """Fails if one of them gets past the first line of the program, or ends in a traceback."""
        result = run("serve", **variables)
        assert result.exit_code == 2, result.exception
        assert result.stderr.startswith(f"heliograph: {says}")
        assert len(result.stderr.splitlines()) == 1

    @pytest.mark.parametrize("port", ["99999", "-1", "http"])
    def test_a_port_that_is_none_is_refused(self, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if a replica claims to serve on a port that there is not."""
        monkeypatch.setattr("heliograph.server.serving.serve", lambda *_, **__: pytest.fail("it went on to serve"))
        result = run("serve", "--port", port, AUTH__MODE="open")
        assert result.exit_code == 2
        assert "--port" in result.stderr

    def test_a_port_that_is_taken_is_said_to_be(self) -> None:
        """Fails if the process ends as if all were well, or hangs."""
        import socket

        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            done = python("serve", "--port", str(taken.getsockname()[1]), AUTH__MODE="open")
        assert done.returncode not in (0, 2), "it did not serve, and its settings were not what was wrong"
        assert "in use" in done.stderr
        assert "Traceback" not in done.stderr

    def test_what_is_given_is_what_is_served(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Fails if an option or a setting does not arrive, or the process's status is lost."""
        seen: dict[str, object] = {}

        def serve(settings: Settings, **options: object) -> int:
            seen.update(options, depth=settings.limits.depth)
            return 7

        monkeypatch.setattr("heliograph.server.serving.serve", serve)
        words = ("--host", "127.0.0.9", "--port", "9001", "--name", "replica-9")
        result = run("serve", *words, AUTH__MODE="open", LIMITS__DEPTH="4")
        assert result.exit_code == 7
        assert seen == {"host": "127.0.0.9", "port": 9001, "name": "replica-9", "depth": 4}

    def test_an_unknown_variable_is_warned_of(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if a misspelt group is ignored without a word."""
        monkeypatch.setattr("heliograph.server.serving.serve", lambda *_, **__: 0)
        assert run("serve", AUTH__MODE="open", REDDIS__URL="redis://x").exit_code == 0
        assert "unknown setting HELIOGRAPH_REDDIS__URL" in caplog.text


class TestToken:
    async def test_a_token_that_a_replica_accepts(self) -> None:
        """Fails if what the command prints does not open the endpoint, for whom and for how long it was asked."""
        result = run("token", "우주여행고양이", "--expires-in", "60", AUTH__SECRET=SECRET)
        assert result.exit_code == 0
        identity = await Authenticator(
            AuthSettings(mode="jwt", secret=SecretStr(SECRET), leeway_s=0),
            MemoryTickets(SystemClock()),
            BlockedUsers(SystemClock()),
        ).identify(Credentials(result.stdout.strip(), None))
        assert identity.user == "우주여행고양이"
        assert identity.expires_at is not None
        assert 50 < identity.expires_at - time.time() <= 60

    async def test_a_token_of_another_secret_is_not_accepted(self) -> None:
        """Fails if the command signs with something else than the setting."""
        printed = run("token", "bob", AUTH__SECRET="another secret of thirty-two bytes").stdout.strip()
        with pytest.raises(InvalidToken):
            await Authenticator(
                AuthSettings(mode="jwt", secret=SecretStr(SECRET)),
                MemoryTickets(SystemClock()),
                BlockedUsers(SystemClock()),
            ).identify(Credentials(printed))

    @pytest.mark.parametrize(
        ("written", "claim"),
        [
            ("news, run:*", ["news", "run:*"]),
            ("안녕", ["안녕"]),
            ('["a,b"]', ["a,b"]),
            ('{"chat:*": ["subscribe", "publish"]}', {"chat:*": ["subscribe", "publish"]}),
        ],
    )
    async def test_a_token_with_channels(self, written: str, claim: object) -> None:
        """Fails if what the token gives is not what was written."""
        printed = run("token", "bob", "--channels", written, AUTH__SECRET=SECRET).stdout.strip()
        reader = Authenticator(
            AuthSettings(mode="jwt", secret=SecretStr(SECRET)),
            MemoryTickets(SystemClock()),
            BlockedUsers(SystemClock()),
        )
        assert (await reader.identify(Credentials(printed))).channels == read_grants(claim)

    async def test_a_token_for_one_channel(self) -> None:
        """Fails if a subscription token is for something else, or for more."""
        printed = run("token", "bob", "--for-channel", "vip:1", AUTH__SECRET=SECRET).stdout.strip()
        reader = Authenticator(
            AuthSettings(mode="jwt", secret=SecretStr(SECRET)),
            MemoryTickets(SystemClock()),
            BlockedUsers(SystemClock()),
        )
        assert (await reader.permit(printed, user="bob", channel="vip:1")).channel == "vip:1"
        for more in (["--channels", "news"], ["--for-channel", "a\nb"]):
            result = run("token", "bob", "--for-channel", "vip:1", *more, AUTH__SECRET=SECRET)
            assert result.exit_code != 0
            assert result.stdout == ""

    @pytest.mark.parametrize("written", ["", "#bob", "a*b", "{", '{"a": "subscribe"}', "a,,b"])
    def test_channels_that_cannot_be_meant(self, written: str) -> None:
        """Fails if a token is printed that no replica would accept."""
        result = run("token", "bob", "--channels", written, AUTH__SECRET=SECRET)
        assert result.exit_code != 0
        assert "channels" in result.stderr
        assert result.stdout == ""

    def test_without_a_secret_it_says_what_to_set(self) -> None:
        """Fails if a token is signed with nothing (open mode has no secret), or the refusal does not help."""
        result = run("token", "bob", AUTH__MODE="open")
        assert result.exit_code == 1
        assert "HELIOGRAPH_AUTH__SECRET" in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize("user", ["", "a\nb", "x" * 256])
    def test_an_impossible_user_is_refused(self, user: str) -> None:
        """Fails if a token is printed that no replica accepts, or a traceback."""
        result = run("token", user, AUTH__SECRET=SECRET)
        assert result.exit_code == 1
        assert "a user id" in result.stderr
        assert result.stdout == ""


class TestHelp:
    @pytest.mark.parametrize("command", ["serve", "up", "token", "settings"])
    def test_every_command_explains_itself(self, command: str) -> None:
        """Fails if a command is gone, or its help needs settings."""
        assert command in run("--help").stdout
        result = run(command, "--help")
        assert result.exit_code == 0
        assert "Usage:" in result.stdout

    def test_the_version(self) -> None:
        """Fails if the package's version cannot be asked for."""
        from importlib import metadata

        assert metadata.version("heliograph") in run("--version").stdout

    def test_the_settings_without_any_being_good(self) -> None:
        """Fails if one has to know the settings before one can be shown them."""
        result = run("settings", LIMITS__DEPTH="x")
        assert result.exit_code == 0
        assert "| `HELIOGRAPH_AUTH__SECRET` |" in result.stdout

    def test_python_dash_m_app_is_heliograph(self) -> None:
        """Fails if `python -m heliograph` does something else."""
        done = python("--help")
        assert done.returncode == 0
        assert "serve" in done.stdout


class TestImportedByAServer:
    """`uvicorn heliograph.main:app`."""

    def test_the_application_is_there(self) -> None:
        """Fails if importing it opens something, or it is no ASGI application."""
        code = "from heliograph.main import app; assert callable(app); print(app.__class__.__name__)"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            cwd=ROOT,
            env={**os.environ, "HELIOGRAPH_AUTH__MODE": "open"},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "Starlette", "")
