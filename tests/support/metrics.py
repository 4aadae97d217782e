"""Reading /metrics as Prometheus does."""

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.http import http_client
from tests.support.replicas import RunningReplica


async def scrape(replica: RunningReplica) -> str:
    """The text of /metrics."""
    async with http_client(replica.url) as http:
        response = await http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return response.text


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


class Reading:
    """One scrape: `reading("messages_in_total", transport="sse")`, without `heliograph_`."""

    def __init__(self, text: str) -> None:
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        key = (f"heliograph_{name}", frozenset(labels.items()))
        assert key in self._samples, f"no {key}"
        return self._samples[key]


async def read(replica: RunningReplica) -> Reading:
    return Reading(await scrape(replica))
