"""The dashboard, the alerts and the scrape configuration: what they name is what a replica says."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.metrics import families, scrape
from tests.support.waiting import eventually

DEPLOY = Path(__file__).parents[1] / "deploy"
PROMTOOL = shutil.which("promtool")
METRIC = re.compile(r"\b(?:heliograph|process)_\w+")


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "heliograph.json").read_text())
    return loaded


# Without them there is nothing to measure.
CALLS: dict[str, Any] = {
    "hooks": {"rpc": "http://127.0.0.1:9/"},
    "events": {"kinds": ["user_online"]},
    "webhooks": {"url": "http://127.0.0.1:9/", "secret": "a" * 32},
}
OF_SHARDS = {"heliograph_shard_up"}  # where there are several; see tests/cluster/test_shards.py


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
    one = await start_replica(**CALLS)
    async with Client(one.url, user="alice") as alice:
        await alice.send("alice", 1)
    await eventually(lambda: one.replica.telemetry.closes)
    there = {sample.name for family in families(await scrape(one)) for sample in family.samples}
    named = {name: place for place, expression in expressions().items() for name in METRIC.findall(expression)}
    assert len(named) > 25
    assert {name: place for name, place in named.items() if name not in there | OF_SHARDS} == {}


async def test_every_metric_of_ours_is_on_the_dashboard(start_replica: StartReplica) -> None:
    """Fails if something is measured that nobody would see."""
    one = await start_replica(**CALLS)
    ours = {family.name for family in families(await scrape(one)) if family.name.startswith("heliograph_")}
    shown = " ".join(expressions().values())
    assert {name for name in ours if not re.search(rf"\b{name}(_total|_bucket|_info)?\b", shown)} == set()


async def test_the_handbook_explains_every_metric(start_replica: StartReplica) -> None:
    """Fails if docs/operations.md leaves a metric out, or tells of one that is none."""
    one = await start_replica(**CALLS)
    there = {_in_docs(family.name, family.type) for family in families(await scrape(one))}
    told = set(METRIC.findall((DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")))
    ours = {name for name in there if name.startswith("heliograph_")} | OF_SHARDS
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


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed here; Prometheus brings it")
def test_alerts_fire_when_they_should() -> None:
    """Fails if Prometheus refuses a rule, or a dead shard is told of as many alerts or as none."""
    command = [str(PROMTOOL), "test", "rules", str(DEPLOY / "prometheus" / "alerts_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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


def compose(name: str = "docker-compose.prod.yml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY.parent / name).read_text())
    return loaded


def replicas() -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose()["services"].items() if name.startswith("replica-")}


def test_the_replicas_that_are_scraped_are_those_of_compose() -> None:
    """Fails if a replica of the production file is not scraped, or where it has no metrics."""
    ports = {name: service["environment"]["HELIOGRAPH_INTERNAL__PORT"] for name, service in replicas().items()}
    [job] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert set(job["static_configs"][0]["targets"]) == {f"{name}:{port}" for name, port in ports.items()}
    assert "9000" not in compose()["services"]["nginx"]["environment"]["HELIOGRAPH_NGINX_SERVERS"]


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.prod.yml"])
def test_compose_fills_in_all_of_the_nginx_configuration(name: str) -> None:
    """Fails if the template asks for a variable that a compose file does not set: nginx would not start."""
    template = DEPLOY.parent / "nginx/nginx.conf.template"
    asked = set(re.findall(r"\$\{(HELIOGRAPH_\w+)\}", template.read_text()))
    assert asked <= set(compose(name)["services"]["nginx"]["environment"])


def test_the_image_is_built_once() -> None:
    """Fails if each replica builds the image for itself, or one looks for it in a registry that has none."""
    assert [name for name, service in replicas().items() if "build" in service] == ["replica-1"]
    others = [service for service in replicas().values() if "build" not in service]
    assert {service.get("pull_policy") for service in others} == {"never"}
    assert len({service["image"] for service in replicas().values()}) == 1


def test_no_container_may_take_the_whole_host() -> None:
    """Fails if a service has no bound for memory or processes, or Redis gets less than it may fill."""
    services = {**compose()["services"], **compose("deploy/docker-compose.monitoring.yml")["services"]}
    for name, service in services.items():
        assert {"mem_limit", "pids_limit"} <= set(service), name
    redis = services["redis"]
    maxmemory = redis["command"][redis["command"].index("--maxmemory") + 1]
    assert _default_mib(redis["mem_limit"]) >= 2 * _default_mib(maxmemory)


def test_a_replica_can_be_killed_by_its_watchdog() -> None:
    """Fails if the replica is its container's first process, which no process in there can kill."""
    assert all(service["init"] for service in replicas().values())


def test_containers_of_others_can_join() -> None:
    """Fails if the networks or the names in them that docs/operations.md tells of are not there."""
    networks = compose()["networks"]
    handbook = (DEPLOY.parent / "docs" / "operations.md").read_text(encoding="utf-8")
    for service, network in (("redis", "bus"), ("nginx", "web")):
        [alias] = compose()["services"][service]["networks"][network]["aliases"]
        assert alias in handbook
        assert networks[network]["name"] in handbook


def test_the_command_of_the_monitoring_file_sets_what_it_needs() -> None:
    """Fails if who does as the file says is told that a variable is missing, or a file is not where it looks."""
    text = (DEPLOY / "docker-compose.monitoring.yml").read_text()
    told = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for variable in set(re.findall(r"\$\{(\w+):?\?", text + (DEPLOY.parent / "docker-compose.prod.yml").read_text())):
        assert f"{variable}=" in told
    files = re.findall(r"-f (\S+)", told)
    assert files == ["docker-compose.prod.yml", "deploy/docker-compose.monitoring.yml"]
    for service in compose(files[1])["services"].values():
        for volume in service["volumes"]:  # beside the first file, as compose has it
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY.parent / source).exists()


def _default_mib(size: str) -> int:
    """The default of `${NAME:-512mb}`, in MiB."""
    number, unit = re.fullmatch(r"(?:.*:-)?(\d+)([gm])b?\}?", size).groups()  # type: ignore[union-attr]
    return int(number) * {"g": 1024, "m": 1}[unit]
