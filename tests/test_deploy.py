"""The dashboard, the alerts and the scrape configuration: what they name is what a replica says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.metrics import families, scrape
from tests.support.waiting import eventually

DEPLOY = Path(__file__).parents[1] / "deploy"
METRIC = re.compile(r"\b(?:heliograph|process)_\w+")


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "heliograph.json").read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def expressions() -> dict[str, str]:
    """Every PromQL expression, by where it stands."""
    shown = {f"{panel['title']} {each['refId']}": each["expr"] for panel in panels() for each in panel["targets"]}
    asked = {f"variable {each['name']}": json.dumps(each["query"]) for each in dashboard()["templating"]["list"]}
    return {**shown, **asked, **{rule["alert"]: rule["expr"] for rule in rules()}}


async def test_every_metric_that_is_named_exists(start_replica: StartReplica) -> None:
    """Fails if a metric is renamed and the dashboard or an alert goes on looking for the old one."""
    one = await start_replica()
    async with Client(one.url, user="alice") as alice:
        await alice.send("alice", 1)
    await eventually(lambda: one.replica.telemetry.closes)
    there = {sample.name for family in families(await scrape(one)) for sample in family.samples}
    named = {name: place for place, expression in expressions().items() for name in METRIC.findall(expression)}
    assert len(named) > 25
    assert {name: place for name, place in named.items() if name not in there} == {}


async def test_every_metric_of_ours_is_on_the_dashboard(start_replica: StartReplica) -> None:
    """Fails if something is measured that nobody would see."""
    one = await start_replica()
    ours = {family.name for family in families(await scrape(one)) if family.name.startswith("heliograph_")}
    shown = " ".join(expressions().values())
    assert {name for name in ours if not re.search(rf"\b{name}(_total|_bucket|_info)?\b", shown)} == set()


async def test_the_handbook_explains_every_metric(start_replica: StartReplica) -> None:
    """Fails if docs/operations.md leaves a metric out, or tells of one that is none."""
    one = await start_replica()
    there = {_in_docs(family.name, family.type) for family in families(await scrape(one))}
    told = set(METRIC.findall((DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")))
    ours = {name for name in there if name.startswith("heliograph_")}
    assert {name for name in told if name.startswith("heliograph_") and name != "heliograph_bus_"} == ours


def _in_docs(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


@pytest.mark.parametrize("place", expressions())
def test_rates_of_counters_and_nothing_else(place: str) -> None:
    """Fails if a counter is shown as it stands, a gauge as a rate, or brackets do not match."""
    expression = expressions()[place]
    for left, right in ("()", "{}", "[]"):
        assert expression.count(left) == expression.count(right)
    counters = re.findall(r"\b\w+(?:_total|_bucket)\b", expression)
    rated = re.findall(r"\b(?:rate|increase)\((\w+)", expression)
    assert sorted(counters) == sorted(rated)


def test_every_alert_says_what_to_do() -> None:
    """Fails if an alert wakes somebody without a word."""
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 8
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} <= set(rule["annotations"])


def test_panels_have_a_place_of_their_own() -> None:
    """Fails if two panels overlap, share an id, or show a data source of somebody's own."""
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & mine, panel["title"]
        cells |= mine
    for panel in panels():
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}


def test_the_replicas_that_are_scraped_are_those_of_compose() -> None:
    """Fails if a replica of the production file is not scraped."""
    compose = yaml.safe_load((DEPLOY.parent / "docker-compose.prod.yml").read_text())
    replicas = {f"{name}:8080" for name in compose["services"] if name.startswith("replica-")}
    [job] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert set(job["static_configs"][0]["targets"]) == replicas
