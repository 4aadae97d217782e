"""The SDKs, how each is set up, and scenarios run over all of them at once."""

import asyncio
import fcntl
import hashlib
import itertools
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.sdk.clusters import Cluster, Fields
from tests.sdk.driver import Client, Driver, ProgramDriver, Sdk
from tests.sdk.page import PageDriver
from tests.support.cluster import ROOT
from tests.support.tokens import token

Result = TypeVar("Result")

DRIVERS = Path(__file__).parent / "drivers"
ANOTHER = 2  # the number of a replica to which nginx does not send 127.0.0.1
INSTALLED = ROOT / "artifacts" / "sdks"

SDKS = (
    Sdk("node-json", "node"),
    Sdk("node-protobuf", "node", protocol="protobuf"),
    Sdk("node-http_stream", "node", transport="http_stream"),
    Sdk("node-sse", "node", transport="sse"),
    Sdk("chromium-json", "chromium"),
    Sdk("chromium-http_stream", "chromium", transport="http_stream"),
    Sdk("chromium-sse", "chromium", transport="sse"),
    Sdk("python-json", "python"),
    Sdk("python-protobuf", "python", protocol="protobuf"),
    Sdk("go-json", "go"),
    Sdk("go-protobuf", "go", protocol="protobuf"),
    Sdk("java", "java", protocol="protobuf", can_delta=False),
)


@contextmanager
def _alone() -> Iterator[None]:
    """Let nobody else install: drivers are started at once, and test files run in several processes."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        yield


def install_javascript() -> Path:
    """Install the packages of the JavaScript driver; return where they are."""
    home = INSTALLED / f"javascript-{_digest(DRIVERS / 'javascript' / 'package.json')}"
    with _alone():
        if not home.exists():
            making = home.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            shutil.copy(DRIVERS / "javascript" / "package.json", making)
            _run("npm", "install", "--silent", "--no-fund", "--no-audit", "--no-package-lock", "--prefix", making)
            making.rename(home)
    return home


def build_go() -> Path:
    """Build the Go driver; return the program."""
    program = INSTALLED / f"go-{_digest(*sorted((DRIVERS / 'go').iterdir()))}"
    with _alone():
        if not program.exists():
            _run("go", "build", "-o", program, ".", cwd=DRIVERS / "go")
    return program


def build_java() -> str:
    """Compile the Java driver; return its class path."""
    home = INSTALLED / f"java-{_digest(*sorted((DRIVERS / 'java').iterdir()))}"
    with _alone():
        if not home.exists():
            making = home.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            packages = making / "class-path"
            _run(
                "mvn",
                "--quiet",
                "--batch-mode",
                "--file",
                DRIVERS / "java" / "pom.xml",
                "dependency:build-classpath",
                f"-Dmdep.outputFile={packages}",
            )
            _run("javac", "-d", making, "-cp", packages.read_text(), DRIVERS / "java" / "Driver.java")
            making.rename(home)
    return f"{home}:{(home / 'class-path').read_text()}"


async def start_driver(name: str, origin: str) -> Driver:
    """The driver of this name, set up and started. `origin`: that of pages."""
    match name:
        case "node":
            packages = await asyncio.to_thread(install_javascript)
            return await ProgramDriver(["node", f"{DRIVERS}/javascript/node.js", f"{packages}"]).start()
        case "chromium":
            packages = await asyncio.to_thread(install_javascript)
            return await PageDriver.open(origin, packages)
        case "python":
            return await ProgramDriver([sys.executable, f"{DRIVERS}/python/driver.py"]).start()
        case "go":
            return await ProgramDriver([f"{await asyncio.to_thread(build_go)}"]).start()
        case "java":
            class_path = await asyncio.to_thread(build_java)
            return await ProgramDriver(["java", "-XX:TieredStopAtLevel=1", "-cp", class_path, "Driver"]).start()
    raise ValueError(f"there is no driver {name!r}")


class Run:
    """A scenario's run over one SDK: users, channels and clients of its own."""

    _numbers = itertools.count()

    def __init__(self, sdk: Sdk, driver: Driver, cluster: Cluster) -> None:
        self.sdk = sdk
        self.cluster = cluster
        self.clients: list[Client] = []
        self._driver = driver
        self._number = next(self._numbers)

    def user(self, name: str) -> str:
        return f"{name}-{self.sdk.name}-{self._number}"

    def channel(self, namespace: str) -> str:
        return f"{namespace}:{self.sdk.name}-{self._number}"

    async def client(self, user: str, **options: Any) -> Client:
        """A client of this user, not connected yet; with a good token, unless `options` say otherwise."""
        if not {"token", "tokens"} & options.keys():
            options["token"] = token(self.user(user), expires_in=600)
        url = f"{self.cluster.url}/connection/{self.sdk.transport}"
        if self.sdk.transport == "websocket":
            url = url.replace("http", "ws", 1)
        else:
            # Commands go to a replica that does not hold the stream. A page's cannot: it has another origin.
            other = self.cluster.address(0 if self.sdk.driver == "chromium" else ANOTHER)
            options |= {"transport": self.sdk.transport, "emulation": f"{other}/emulation"}
        client = Client(self._driver, self.sdk, f"{self.user(user)}-{len(self.clients)}")
        self._driver.register(client)
        self.clients.append(client)
        await client.call("open", protocol=self.sdk.protocol, url=url, **options)
        return client

    async def connected(self, user: str, **options: Any) -> Client:
        client = await self.client(user, **options)
        await client.connect()
        return client

    async def publish(self, channel: str, data: Any, *, replica: int = ANOTHER) -> Fields:
        """Publish as a program does."""
        return await self.cluster.api("publish", replica=replica, channel=channel, data=data)

    async def publish_all(self, channel: str, numbers: Sequence[int], *, replica: int = ANOTHER) -> None:
        """Publish each number, in batches of a hundred."""
        for first in range(0, len(numbers), 100):
            batch = numbers[first : first + 100]
            commands = [{"publish": {"channel": channel, "data": {"n": number}}} for number in batch]
            parallel = self.cluster.parallel_keeps_order
            answers = await self.cluster.api("batch", replica=replica, commands=commands, parallel=parallel)
            assert not [each for each in answers["replies"] if "error" in each]


class Sdks:
    """What runs a scenario over all SDKs at once: most of a scenario waits."""

    def __init__(self, sdks: Iterable[Sdk], drivers: dict[str, Driver], cluster: Cluster) -> None:
        self.cluster = cluster
        self.runs: list[Run] = []
        self._sdks = tuple(sdks)
        self._drivers = drivers

    async def every(
        self, scenario: Callable[[Run], Awaitable[Result]], *, where: Callable[[Sdk], bool] = lambda _: True
    ) -> list[tuple[Run, Result]]:
        """Run a scenario over every SDK; raise what went wrong, each with the name of its SDK."""

        async def one(run: Run) -> Result:
            try:
                return await scenario(run)
            except Exception as error:
                error.add_note(f"with {run.sdk.name}")
                raise

        runs = [Run(sdk, self._drivers[sdk.driver], self.cluster) for sdk in self._sdks if where(sdk)]
        self.runs += runs
        results = await asyncio.gather(*map(one, runs), return_exceptions=True)
        failed = [result for result in results if isinstance(result, Exception)]
        if failed:
            raise ExceptionGroup(f"{len(failed)} of {len(runs)} SDKs failed", failed)
        return [
            (run, result) for run, result in zip(runs, results, strict=True) if not isinstance(result, BaseException)
        ]

    async def disconnect_all(self) -> None:
        clients = [client for run in self.runs for client in run.clients]
        self.runs.clear()
        await asyncio.gather(*(client.call("disconnect") for client in clients))


def _digest(*files: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _run(*command: object, cwd: Path | None = None) -> None:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout}{done.stderr}"
