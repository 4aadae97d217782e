"""What the handbook shows of the Python client runs."""

import asyncio
import re
import sys

import pytest

from heliograph.client.publisher import Publisher
from tests.client.programs import environment, program
from tests.conftest import StartReplica
from tests.support.cluster import ROOT
from tests.support.redis_server import RedisServer


@pytest.mark.parametrize("page", ["README.md", "docs/python-client.md"])
async def test_the_first_sample_prints_what_is_published(
    start_replica: StartReplica, redis_server: RedisServer, namespace: str, page: str
) -> None:
    """Fails if a reader who copies the first sample hears nothing."""
    replica = await start_replica()
    samples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    sample = next(each for each in samples if "heliograph.connect(" in each)
    source = sample.replace("http://localhost:8080", replica.url)
    assert source != sample
    env = environment(redis_server.url, namespace, PYTHONUNBUFFERED="1")
    async with program(sys.executable, "-c", source, env=env) as reader:
        with Publisher(redis_server.url, prefix=f"{namespace}:", bus_channel=f"{namespace}:events") as publisher:
            async with asyncio.timeout(20):
                while not reader.out:
                    await asyncio.to_thread(publisher.publish, "news", {"text": "hello"})
                    await asyncio.sleep(0.1)
    assert reader.out[0].startswith("news ")
