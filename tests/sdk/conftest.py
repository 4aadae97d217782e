"""One cluster and one program for each SDK, shared by all scenarios."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.sdk.backend import Backend
from tests.sdk.clusters import Centrifugo, Cluster, Heliograph
from tests.sdk.sdks import SDKS, Sdks, start_driver

if TYPE_CHECKING:
    from tests.sdk.driver import Driver


# The languages of the samples, and the SDK that runs each.
SAMPLES = {"js": "node", "python": "python", "go": "go", "java": "java"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "language" in metafunc.fixturenames:
        chosen = _chosen(metafunc.config)
        metafunc.parametrize("language", [language for language, sdk in SAMPLES.items() if sdk in chosen])


def _chosen(config: pytest.Config) -> list[str]:
    return str(config.getoption("--sdk")).split(",")


@pytest.fixture(scope="session")
def sdk_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    kind = Centrifugo if request.config.getoption("--reference") else Heliograph
    with Backend() as backend:
        cluster = kind(tmp_path_factory.mktemp("sdks"), rpc_url=backend.url)
        yield cluster
        cluster.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def all_sdks(request: pytest.FixtureRequest, sdk_cluster: Cluster) -> AsyncIterator[Sdks]:
    names = _chosen(request.config)
    chosen = [sdk for sdk in SDKS if sdk.driver in names or sdk.name in names]
    unknown = {*names} - {sdk.driver for sdk in SDKS} - {sdk.name for sdk in SDKS}
    assert not unknown, f"--sdk: there is no SDK {', '.join(sorted(unknown))}"
    drivers: dict[str, Driver] = {}
    for name in sorted({sdk.driver for sdk in chosen}):
        drivers[name] = await start_driver(name, sdk_cluster.url)
    yield Sdks(chosen, drivers, sdk_cluster)
    for driver in drivers.values():
        await driver.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def sdks(all_sdks: Sdks) -> AsyncIterator[Sdks]:
    yield all_sdks
    await all_sdks.disconnect_all()
