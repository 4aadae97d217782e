"""The JavaScript client as an npm package: what it does on Node, what is packed, and its types."""

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

from tests.support.cluster import ROOT

CLIENT = ROOT / "clients" / "js"
SAMPLE = CLIENT / "test" / "sample.ts"
STRICT = [
    "--strict",
    "--noUncheckedIndexedAccess",
    "--exactOptionalPropertyTypes",
    "--skipDefaultLibCheck",
    "--noEmit",
]
MODERN = ["--target", "es2022", "--lib", "es2022,dom,dom.iterable", "--module", "nodenext"]

pytestmark = pytest.mark.timeout(300)  # the compiler takes a core for ten seconds, and others want it too

needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm to pack the package with")


def manifest() -> dict[str, object]:
    loaded: dict[str, object] = json.loads((CLIENT / "package.json").read_text())
    return loaded


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node to run them")
def test_the_modules_do_what_they_say() -> None:
    """Fails if one of the tests of clients/js/test fails on Node, or none is found."""
    tests = sorted((CLIENT / "test").glob("*.test.js"))
    output = run("node", "--test", "--test-reporter=tap", *tests, cwd=CLIENT)
    found = re.search(r"^# pass (\d+)$", output, re.MULTILINE)
    assert found is not None, output
    assert int(found[1]) >= 25


def test_the_version_is_that_of_the_cluster() -> None:
    """Fails if a release changes one version and not the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert manifest()["version"] == project["version"]


def test_no_lock_file_names_a_registry() -> None:
    """Fails if somebody commits a lock file, which holds the addresses of the registry that they use."""
    listed = run("git", "ls-files", "clients/js", cwd=ROOT).split()
    assert "clients/js/package.json" in listed
    assert not [name for name in listed if "lock" in Path(name).name]
    assert (CLIENT / ".npmrc").read_text() == "package-lock=false\n"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive that `npm pack` makes of the sources, outside of the checkout."""
    compiler = CLIENT / "node_modules" / "typescript" / "package.json"
    dependencies = manifest()["devDependencies"]
    wanted = {"typescript": json.loads(compiler.read_text())["version"]} if compiler.is_file() else {}
    if wanted != dependencies:
        run("npm", "install", "--silent", "--no-fund", "--no-audit", cwd=CLIENT)
    copy = tmp_path_factory.mktemp("package") / "js"
    shutil.copytree(CLIENT, copy, ignore=shutil.ignore_patterns("node_modules", "types", "*.tgz"))
    (copy / "node_modules").symlink_to(CLIENT / "node_modules")
    run("npm", "pack", "--silent", cwd=copy)
    [archive] = copy.glob("*.tgz")
    return archive


@pytest.fixture(scope="module")
def project(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a program that has the package installed."""
    directory = tmp_path_factory.mktemp("project")
    place = directory / "node_modules" / "@heliograph" / "client"
    place.mkdir(parents=True)
    run("tar", "-xzf", package, "--strip-components=1", "-C", place, cwd=directory)
    (directory / "package.json").write_text('{"type":"module"}')
    return directory


@needs_npm
@pytest.mark.slow
def test_the_package_holds_what_belongs_to_it(package: Path) -> None:
    """Fails if a module or its types are missing from the package, or tests, tools or leftovers get into it."""
    with tarfile.open(package) as opened:
        found = {member.name.removeprefix("package/") for member in opened.getmembers()}
    modules = {path.relative_to(CLIENT / "src").with_suffix("").as_posix() for path in CLIENT.glob("src/**/*.js")}
    assert "heliograph" in modules
    wanted = {f"src/{module}.js" for module in modules} | {f"types/{module}.d.ts" for module in modules}
    assert found == wanted | {"package.json", "README.md", "LICENSE"}
    assert (CLIENT / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


@needs_npm
@pytest.mark.slow
def test_a_program_on_node_imports_it(project: Path) -> None:
    """Fails if `exports` leads nowhere, gives away what is not public, or importing needs a browser."""
    public = 'console.log(Object.keys(await import("@heliograph/client")).sort().join())'
    assert run("node", "--input-type=module", "-e", public, cwd=project) == "Heliograph,HeliographError\n"
    inside = 'await import("@heliograph/client/src/client/channel.js").catch(({ code }) => console.log(code))'
    assert run("node", "--input-type=module", "-e", inside, cwd=project) == "ERR_PACKAGE_PATH_NOT_EXPORTED\n"


@needs_npm
@pytest.mark.slow
def test_strict_typescript_compiles(project: Path) -> None:
    """Fails if a strict program cannot be written against the types, or they accept what is wrong (`any`)."""
    sources = [shutil.copy(SAMPLE, project / "sample.ts")]
    for page in (CLIENT / "README.md", ROOT / "docs" / "javascript.md"):
        for number, code in enumerate(re.findall(r"```ts\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)):
            source = project / f"{page.stem}-{number}.ts"
            source.write_text(code, encoding="utf-8")
            sources.append(source)
    assert len(sources) >= 3
    compiler = CLIENT / "node_modules" / ".bin" / "tsc"
    run(compiler, *STRICT, *MODERN, *sources, cwd=project)
