"""The Helm chart. What helm must render is skipped where it is not installed: `scripts/test-helm` builds it."""

import base64
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel

from heliograph.settings import DrainSettings, Settings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "heliograph"
TRIAL_REDIS = CHART / "examples" / "redis.yaml"
EXAMPLES = {path.stem: path for path in sorted((CHART / "examples").glob("*.yaml")) if path != TRIAL_REDIS}
VERSIONS = ("1.30", "1.37")  # of Kubernetes: the oldest that the chart allows, and the newest that we have schemas of
OTHERS = {
    "HTTPRoute",
    "ServiceMonitor",
    "PrometheusRule",
    "BackendTrafficPolicy",
}  # kinds that are not of Kubernetes itself
VARIABLE = re.compile(r"\bHELIOGRAPH_(?:[A-Z0-9]+_{1,2})*[A-Z0-9]+\b")
HELM = shutil.which("helm") or shutil.which("helm", path=ROOT / "build" / "helm")
A_REDIS = "redis.url=redis://redis:6379/0"
MINIMAL = ("--set", A_REDIS)

needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed here; scripts/test-helm builds it")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def schema() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return loaded


def merged(defaults: Any, given: Any) -> Any:
    """The values of the chart with those of a file in place of them, as helm merges them."""
    if not isinstance(defaults, dict) or not isinstance(given, dict):
        return given
    return {**defaults, **{key: merged(defaults.get(key), value) for key, value in given.items()}}


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split("/")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def known_variables() -> set[str]:
    found = set()
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            found |= {f"HELIOGRAPH_{name}__{inner}".upper() for inner in group.model_fields}
        else:
            found.add(f"HELIOGRAPH_{name}".upper())
    return found


def variables_in(path: Path) -> set[str]:
    return set(VARIABLE.findall(path.read_text(encoding="utf-8")))


# -- what needs no helm


@pytest.mark.parametrize(
    "path", [each for each in sorted(CHART.rglob("*")) if each.is_file()], ids=lambda path: path.name
)
def test_the_chart_names_settings_that_exist(path: Path) -> None:
    """Fails if a setting was renamed, and a template, an example or the README still has the old name."""
    # What Kubernetes makes of a Service with our name is no setting: the README warns of it.
    assert variables_in(path) - known_variables() <= {"HELIOGRAPH_PORT"}


def test_a_setting_has_one_place() -> None:
    """Fails if `settings` may repeat what another value sets: Kubernetes would take either."""
    helpers = (CHART / "templates" / "_helpers.tpl").read_text()
    refused = dict(re.findall(r"^(HELIOGRAPH_\w+): ([\w.]+)$", helpers, re.MULTILINE))
    assert variables_in(CHART / "templates" / "deployment.yaml") - {"HELIOGRAPH_PORT"} <= set(refused)
    values = read(CHART / "values.yaml")
    for value in refused.values():
        group, _, name = value.partition(".")
        assert name in values[group] if name else group in values, value


def test_the_defaults_are_valid_and_complete() -> None:
    """Fails if a value has no default, or its default is refused."""
    defaults = read(CHART / "values.yaml")
    jsonschema.validate(defaults, schema())

    def compare(values: dict[str, Any], declared: dict[str, Any], place: str) -> None:
        assert set(values) == set(declared) - {"global"}, place
        for key, value in values.items():
            if inner := declared[key].get("properties"):
                compare(value, inner, f"{place}.{key}")

    compare(defaults, schema()["properties"], "values")


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_valid(name: str) -> None:
    """Fails if the schema refuses an example."""
    jsonschema.validate(merged(read(CHART / "values.yaml"), read(EXAMPLES[name])), schema())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("replica", 3),
        ("replicas", 0),
        ("replicas", "3"),
        ("image/pullPolicy", "Sometimes"),
        ("redis/url", "http://redis:6379"),
        ("redis/url", "redis+shards://redis:6379"),
        ("redis/shards", "redis://one,redis://two"),
        ("redis/shards", ["one:6379"]),
        ("redis/shards", ["redis://one", "redis://one"]),
        ("redis/ack", "always"),
        ("redis/ackReplicas", 17),
        ("redis/uri", "redis://redis:6379"),
        ("auth/mode", "none"),
        ("auth/jwksUrl", "http://login.example.org/keys"),
        ("auth/publicKey", "ssh-rsa AAAA"),
        ("allowedOrigins", ["app.example.org"]),
        ("allowedOrigins", ["https://app.example.org/path"]),
        ("settings", {"LOG_LEVEL": "debug"}),
        ("settings", {"HELIOGRAPH_LOG__LEVEL": None}),
        ("drain/preStopSeconds", 0),
        ("drain/deadlineSeconds", "20s"),
        ("listenAddress", "127.0.0.1"),
        ("service/type", "ExternalName"),
        ("ingress/hosts", ["https://live.example.org"]),
        ("autoscaling/cpuPerReplica", "70%"),
        ("podDisruptionBudget/maxUnavailable", 0),
    ],
)
def test_a_wrong_value_is_refused(place: str, value: Any) -> None:
    """Fails if a typing error is installed."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(merged(read(CHART / "values.yaml"), nested(place, value)), schema())


def test_the_chart_agrees_with_the_rest() -> None:
    """Fails if the version, the user of the image or the defaults of a drain are said in two ways."""
    about = read(CHART / "Chart.yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["version"] == about["appVersion"] == project["version"]
    values = read(CHART / "values.yaml")
    assert f"--uid {values['podSecurityContext']['runAsUser']} " in (ROOT / "Dockerfile").read_text()
    drain = DrainSettings()
    assert [values["drain"][key] for key in ("perSecond", "windowSeconds", "graceSeconds", "deadlineSeconds")] == [
        drain.per_second,
        drain.window_s,
        drain.grace_s,
        drain.deadline_s,
    ]


def test_the_readme_explains_every_value() -> None:
    """Fails if a value is in values.yaml only."""
    text = (CHART / "README.md").read_text(encoding="utf-8")
    assert {key for key in read(CHART / "values.yaml") if f"`{key}" not in text} == set()


def test_the_redis_to_try_it_with_is_valid() -> None:
    """Fails if Kubernetes would refuse the manifest of the trial."""
    check(list(yaml.safe_load_all(TRIAL_REDIS.read_text())))


# -- what helm renders


def helm(*words: str | Path, succeeds: bool = True) -> str:
    assert HELM is not None
    done = subprocess.run([HELM, *words], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode == 0) is succeeds, done.stdout + done.stderr
    return done.stdout if succeeds else done.stderr


def render(*words: str | Path, name: str = "heliograph") -> list[dict[str, Any]]:
    """The objects that an installation makes."""
    text = helm("template", name, CHART, "--namespace", "live", "--kube-version", "1.37", *words)
    return [each for each in yaml.safe_load_all(text) if each]


def check(objects: list[dict[str, Any]]) -> None:
    """Compare objects with Kubernetes' own schemas, strictly: an unknown field is an error too."""
    for each in objects:
        if each["kind"] not in OTHERS:
            for version in VERSIONS:
                kubernetes_validate.validate(each, version, strict=True)


def kinds(objects: list[dict[str, Any]]) -> set[str]:
    return {each["kind"] for each in objects}


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(each for each in objects if each["kind"] == kind)


def pod_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = of_kind(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


def environment_of(objects: list[dict[str, Any]]) -> dict[str, str | None]:
    """The variables of a replica; None where the value comes from elsewhere."""
    [replica] = pod_of(objects)["containers"]
    names = [each["name"] for each in replica["env"]]
    assert len(set(names)) == len(names)
    return {each["name"]: each.get("value") for each in replica["env"]}


def expanded(value: str, *, before: str, of: dict[str, str | None], found: dict[str, str]) -> str:
    """The value as Kubernetes makes it: of other variables it knows those that stand before this one."""
    for name in list(of)[: list(of).index(before)]:
        value = value.replace(f"$({name})", found.get(name, of[name] or ""))
    return value


@pytest.fixture(params=["default", *EXAMPLES])
def values(request: pytest.FixtureRequest) -> tuple[str | Path, ...]:
    """Words for helm: the defaults, and each example."""
    return MINIMAL if request.param == "default" else ("--values", EXAMPLES[request.param])


@needs_helm
def test_lint_and_schemas(values: tuple[str | Path, ...]) -> None:
    """Fails if helm finds fault with the chart, or Kubernetes would with what comes out of it."""
    helm("lint", "--strict", CHART, *values)
    objects = render(*values)
    check(objects)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


@needs_helm
def test_a_replica_accepts_its_settings(
    values: tuple[str | Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a replica would refuse the environment that the chart gives it."""
    key = tmp_path / "key"
    key.write_text("k" * 64)
    elsewhere = {
        "REDIS_PASSWORD": "pass%2Fword",
        "HELIOGRAPH_REDIS__URL": "rediss+sentinel://one:26379/0?master=main",
        "HELIOGRAPH_REDIS__DURABLE_URL": "redis://two:6379/0",
        "HELIOGRAPH_HOOKS__STATIC_HEADERS": '{"Authorization":"Bearer 1"}',
    }
    environment = environment_of(render(*values))
    for name, value in environment.items():
        if name.startswith("HELIOGRAPH_"):
            said = elsewhere[name] if value is None else expanded(value, before=name, of=environment, found=elsewhere)
            monkeypatch.setenv(name, str(key) if name.endswith("_FILE") else said)
    settings = Settings.load()
    assert settings.redis.urls
    assert not any("$" in url for url in settings.redis.urls)
    assert settings.internal.port == 9000


TOPOLOGIES = {
    "trial": ["redis://heliograph-redis:6379/0"],
    "shards": [f"redis://heliograph:pw@redis-{number}.redis:6379/0" for number in range(3)],
    "shards-sentinel": [
        "redis+sentinel://heliograph:pw@sentinel-0.redis:26379,sentinel-1.redis:26379,sentinel-2.redis:26379/0"
        f"?master={name}"
        for name in ("one", "two")
    ],
    "cluster": [
        "redis+cluster://heliograph:pw@redis-0.redis:6379,redis-1.redis:6379,redis-2.redis:6379?virtual_shards=16"
    ],
}


@needs_helm
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_replicas_get_every_server(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if replicas get other servers than the values name, in another order, or no password."""
    environment = environment_of(render("--values", EXAMPLES[name]))
    monkeypatch.setenv("HELIOGRAPH_AUTH__MODE", "open")
    for variable in ("HELIOGRAPH_REDIS__URL", "HELIOGRAPH_REDIS__SHARDS", "HELIOGRAPH_REDIS__ACK"):
        if (value := environment.get(variable)) is not None:
            found = {"REDIS_PASSWORD": "pw"}
            monkeypatch.setenv(variable, expanded(value, before=variable, of=environment, found=found))
    redis = Settings.load().redis
    assert list(redis.urls) == TOPOLOGIES[name]
    assert redis.ack == read(EXAMPLES[name])["redis"].get("ack", "memory")


@needs_helm
def test_shards_may_come_from_a_secret() -> None:
    """Fails if replicas look for one URL where the Secret has a list of them."""
    [replica] = pod_of(render("--set", "redis.existingSecret=mine,redis.shardsKey=all"))["containers"]
    asked = {
        each["name"]: each["valueFrom"]["secretKeyRef"]
        for each in replica["env"]
        if "REDIS" in each["name"] and "valueFrom" in each
    }
    assert asked == {"HELIOGRAPH_REDIS__SHARDS": {"name": "mine", "key": "all"}}


@needs_helm
@pytest.mark.parametrize(
    ("ports", "reached"),
    [
        ("", True),
        (',"ports":[{"port":26379}]', True),
        (',"ports":[{"port":26000,"endPort":26999}]', True),
        (',"ports":[{"port":6379}]', False),
        (',"ports":[{"port":26000,"endPort":26378}]', False),
        (',"ports":[{"protocol":"UDP"}]', False),
    ],
)
def test_a_network_policy_lets_replicas_reach_redis(ports: str, reached: bool) -> None:
    """Fails if a policy is installed that keeps replicas from Redis, or one is refused that does not."""
    rule = f'[{{"to":[{{"podSelector":{{}}}}]{ports}}}]'
    url = "redis.url=redis+sentinel://s-1/0?master=m,networkPolicy.enabled=true"
    words = ("--set", url, "--set-json", f"networkPolicy.egress={rule}")
    if reached:
        assert of_kind(render(*words), "NetworkPolicy")["spec"]["egress"][1] == json.loads(rule)[0]
    else:
        said = helm("template", "heliograph", CHART, "--kube-version", "1.37", *words, succeeds=False)
        assert "no rule lets replicas connect to port 26379, which redis.url names" in said


@needs_helm
def test_a_pod_has_time_to_drain() -> None:
    """Fails if a replica is killed while it drains, or there is ever one less of them than there should be."""
    objects = render(*MINIMAL, "--set-json", "drain.deadlineSeconds=61.5", "--set", "drain.preStopSeconds=7")
    pod = pod_of(objects)
    assert pod["terminationGracePeriodSeconds"] == 62 + 7 + 5
    [replica] = pod["containers"]
    assert replica["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert environment_of(objects)["HELIOGRAPH_DRAIN__DEADLINE_S"] == "61.5"
    deployment = of_kind(objects, "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert deployment["minReadySeconds"] > 0
    assert of_kind(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@needs_helm
def test_a_pod_may_do_little() -> None:
    """Fails if a replica runs as root, may write to its image, has a token of Kubernetes, or takes Services for
    settings."""
    pod = pod_of(render(*MINIMAL))
    [replica] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert replica["securityContext"]["readOnlyRootFilesystem"]
    assert replica["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    assert pod["shareProcessNamespace"], "the watchdog cannot kill process 1"
    assert {replica[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")} == {"/health"}
    assert replica["readinessProbe"]["httpGet"]["path"] == "/ready"


@needs_helm
def test_secrets_are_made_or_taken() -> None:
    """Fails if a secret is made that nobody reads, or is too short, or stands in the Deployment."""
    made = render(*MINIMAL)
    secret = of_kind(made, "Secret")
    assert set(secret["data"]) == {"auth-secret", "api-key"}
    assert all(len(base64.b64decode(value)) == 64 for value in secret["data"].values())
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "Secret" not in kinds(render(*MINIMAL, "--set", "secrets.existingSecret=mine"))

    checked_elsewhere = (*MINIMAL, "--set", "auth.jwksUrl=https://login.example.org/keys")
    [volume] = [each for each in pod_of(render(*checked_elsewhere))["volumes"] if each["name"] == "secrets"]
    assert [item["path"] for item in volume["secret"]["items"]] == ["api-key"]
    without = render(*checked_elsewhere, "--set", "api.enabled=false")
    assert "Secret" not in kinds(without)
    assert [each["name"] for each in pod_of(without)["volumes"]] == ["tmp"]


@needs_helm
def test_a_public_key_is_mounted(tmp_path: Path) -> None:
    """Fails if replicas do not find the key, or keep the old one when it changes."""
    pem = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
    (tmp_path / "key.pem").write_text(pem)
    objects = render(*MINIMAL, "--set-file", f"auth.publicKey={tmp_path / 'key.pem'}")
    check(objects)
    assert of_kind(objects, "ConfigMap")["data"]["key.pem"] == pem
    assert environment_of(objects)["HELIOGRAPH_AUTH__PUBLIC_KEY_FILE"] == "/etc/heliograph/public-key/key.pem"
    assert "checksum/public-key" in of_kind(objects, "Deployment")["spec"]["template"]["metadata"]["annotations"]


@needs_helm
def test_production() -> None:
    """Fails if an option of the largest example has no effect, or a number becomes 4.194304e+06."""
    objects = render("--values", EXAMPLES["production"])
    assert kinds(objects) == {
        *("Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "HorizontalPodAutoscaler"),
        *("NetworkPolicy", "Ingress", "ServiceMonitor", "PrometheusRule", "Pod"),
    }
    environment = environment_of(objects)
    assert environment["HELIOGRAPH_LIMITS__OUTBOX_BYTES"] == "4194304"
    assert json.loads(environment["HELIOGRAPH_EMIT__EVENTS"] or "") == ["order", "page.*"]
    assert json.loads(environment["HELIOGRAPH_NAMESPACES"] or "")["chat"]["history_size"] == 1000
    assert environment["HELIOGRAPH_TRUSTED_PROXIES"] == "10.0.0.0/8"
    assert "replicas" not in of_kind(objects, "Deployment")["spec"], "it would undo what the autoscaler does"
    by_connections, by_cpu = of_kind(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert by_connections["pods"]["metric"]["name"] == "heliograph_connections"
    assert by_connections["pods"]["target"]["averageValue"] == "8000"
    assert by_cpu["resource"]["name"] == "cpu"
    monitored = of_kind(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    services = [each for each in objects if each["kind"] == "Service"]
    assert [monitored.items() <= each["metadata"]["labels"].items() for each in services] == [False, True]
    # An alert finds replicas by the name of the job, which is that of the Service.
    job = services[1]["metadata"]["name"]
    alerts = {each["alert"]: each for each in of_kind(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]}
    [pattern] = re.findall(r'job=~"(.*)"', alerts["HeliographReplicaDown"]["expr"])
    assert re.fullmatch(pattern, job)
    assert "{{ $labels.shard }}" in alerts["HeliographShardDown"]["annotations"]["summary"]
    assert [each["from"] for each in of_kind(objects, "NetworkPolicy")["spec"]["ingress"]]


@needs_helm
def test_who_is_trusted_to_say_where_a_client_is() -> None:
    """Fails if anybody may claim an address where no proxy stands before the replicas."""
    assert "HELIOGRAPH_TRUSTED_PROXIES" not in environment_of(render(*MINIMAL))
    for behind in ("ingress-nginx", "gateway-api"):
        assert environment_of(render("--values", EXAMPLES[behind]))["HELIOGRAPH_TRUSTED_PROXIES"] == "*"


@needs_helm
def test_names_follow_the_release() -> None:
    """Fails if two releases in one namespace get into each other's way, or an extra object misses its target."""
    objects = render("--values", EXAMPLES["gateway-api"], name="chat")
    named = {each["metadata"]["name"] for each in objects}
    assert named == {"chat-heliograph", "chat-heliograph-internal", "chat-heliograph-test"}
    [target] = of_kind(objects, "BackendTrafficPolicy")["spec"]["targetRefs"]
    assert target["name"] == of_kind(objects, "HTTPRoute")["metadata"]["name"]


REFUSED = [
    ("", "set redis.url, redis.shards, or redis.existingSecret"),
    (f"{A_REDIS},redis.existingSecret=mine", "redis.url is set, and redis.existingSecret too"),
    (f"{A_REDIS},redis.shards={{redis://one,redis://two}}", "either redis.url or redis.shards, not both"),
    (
        "redis.shards={redis://one,redis://two},redis.durableUrl=redis://three",
        "Each of redis.shards keeps what it holds",
    ),
    ("redis.durableUrl=redis://three", "redis.durableUrl goes with redis.url"),
    ("redis.url=redis+cluster://one,redis.durableUrl=redis://two", "does not go with a cluster"),
    (f"{A_REDIS},redis.durableUrl=redis+cluster://two", "does not go with a cluster"),
    ("redis.shards={redis://one,redis+cluster://two}", "a cluster is no shard"),
    (f"{A_REDIS},redis.shardsKey=all", "redis.shardsKey is a key of redis.existingSecret, which is not set"),
    ("redis.existingSecret=mine,redis.shardsKey=all,redis.durableUrlKey=log", "Each shard keeps what it holds"),
    (f"{A_REDIS},redis.ack=disk,redis.ackReplicas=2", "redis.ackReplicas (2) is for redis.ack replica"),
    ("redis.url=redis://:$(REDIS_PASSWORD)@redis", "redis.passwordSecret does not say which Secret"),
    (f"{A_REDIS},redis.passwordSecret=mine", "no URL above says $(REDIS_PASSWORD)"),
    (
        "redis.shards={redis://one,redis://hunter2@two},redis.passwordSecret=mine",
        "redis.shards[1] holds a user or a password",
    ),
    (
        "redis.url=redis://me:hunter2$(REDIS_PASSWORD)@one,redis.passwordSecret=mine",
        "redis.url holds a user or a password",
    ),
    ("redis.url=redis://me:hunter2/hunter2@one", "put the URL into a Secret"),
    (f"{A_REDIS},settings.HELIOGRAPH_REDIS__ACK=disk", "its value here is redis.ack"),
    (f"{A_REDIS},redis.durableUrlKey=other", "redis.existingSecret, which is not set"),
    ("redis.url=redis://:hunter2@redis:6379/0", "put the URL into a Secret"),
    ("redis.url=redis+sentinel://s:1/0?master=m&sentinel_password=hunter2", "put the URL into a Secret"),
    (f"{A_REDIS},auth.mode=hook", "HELIOGRAPH_HOOKS__CONNECT"),
    (f"{A_REDIS},auth.mode=open,auth.jwksUrl=https://x/", "checks no tokens"),
    (f"{A_REDIS},drain.deadlineSeconds=11", "must be more than windowSeconds and graceSeconds together"),
    (f"{A_REDIS},autoscaling.enabled=true,autoscaling.minReplicas=20", "is more than autoscaling.maxReplicas"),
    (
        f"{A_REDIS},autoscaling.enabled=true,autoscaling.connectionsPerReplica=0,autoscaling.cpuPerReplica=0",
        "nothing to scale by",
    ),
    (f"{A_REDIS},ingress.enabled=true", "ingress.hosts"),
    (f"{A_REDIS},gateway.enabled=true", "gateway.parentRefs"),
    (f"{A_REDIS},settings.HELIOGRAPH_AUTH__SECRET=hunter2", "its value here is secrets.existingSecret"),
    (f"{A_REDIS},settings.HELIOGRAPH_DRAIN__DEADLINE_S=60", "its value here is drain.deadlineSeconds"),
    (f"{A_REDIS},replicas=many", "replicas"),
    (f"{A_REDIS},drain.deadline=30", "deadline"),
]


@needs_helm
@pytest.mark.parametrize(("given", "says"), REFUSED)
def test_what_cannot_work_is_refused_with_a_word(given: str, says: str) -> None:
    """Fails if it is installed, or the message does not say what to do; or says a password."""
    words = ("--set", given) if given else ()
    said = helm("template", "heliograph", CHART, "--kube-version", "1.37", *words, succeeds=False)
    assert says in said
    assert "hunter2" not in said
