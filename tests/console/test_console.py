"""The console: that it is served safely, whole, and only where it should be."""

import re

import httpx
import pytest

from heliograph.console.page import CLIENT, STATIC
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.http import http_client
from tests.support.redis_server import RedisServer
from tests.support.replicas import RunningReplica
from tests.support.tokens import JWT, bearer
from tests.support.waiting import eventually

FILES = sorted(
    {str(path.relative_to(place)) for place in (STATIC, CLIENT) for path in place.rglob("*") if path.is_file()}
)


async def get(replica: RunningReplica, path: str) -> httpx.Response:
    async with http_client(replica.url) as http:
        return await http.get(path)


def assert_safe(response: httpx.Response) -> None:
    """The headers that keep other pages, and injected ones, out."""
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert set(policy["connect-src"].split()) <= {"'self'", "ws:", "wss:"}
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-cache"


async def test_the_page_and_its_files(start_replica: StartReplica) -> None:
    """Fails if the page, or a file of it, is missing, lacks the headers or has the wrong type."""
    one = await start_replica(redis_url=None)
    page = await get(one, "/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert_safe(page)
    types = {"js": "javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}
    assert len(FILES) > 5
    for name in FILES:
        response = await get(one, f"/static/{name}")
        assert response.status_code == 200, name
        assert types[name.rsplit(".", 1)[1]] in response.headers["content-type"], name
        assert_safe(response)


async def test_every_file_that_is_asked_for_is_there(start_replica: StartReplica) -> None:
    """Fails if the page or a module asks for what does not exist, for anything from elsewhere, or from the root.

    From the root it would not be found where all of this stands under a path.
    """
    one = await start_replica(redis_url=None)
    asked: set[str] = set()
    seen: set[str] = set()
    page = await get(one, "/")
    for url in re.findall(r'(?:src|href)="([^"#]+)"', page.text):
        assert not url.startswith(("http:", "https:", "/")), f"{url} is not ours"
        asked.add(f"/{url}")
    while todo := asked - seen:
        for url in todo:
            seen.add(url)
            response = await get(one, url)
            assert response.status_code == 200, url
            for target in re.findall(r'(?:from|import)\s*\(?\s*"(\.[^"]+)"', response.text):
                asked.add(str(httpx.URL(f"http://h{url}").join(target).path))
    assert len(seen) > 5


async def test_the_page_holds_no_script_of_its_own(start_replica: StartReplica) -> None:
    """Fails if the page has inline scripts, styles or handlers, which its own policy forbids: it would be broken."""
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", text)
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=", text)


async def test_nothing_else_is_served(start_replica: StartReplica) -> None:
    """Fails if files outside of the page's folder can be read, or a folder is listed."""
    one = await start_replica(redis_url=None)
    paths = ("/static/../__init__.py", "/static/%2e%2e/__init__.py", "/static/%2e%2e%2f__init__.py")
    for path in (*paths, "/static//etc/passwd", "/static/", "/static/nope.js"):
        response = await get(one, path)
        assert response.status_code == 404, path
        assert "console_routes" not in response.text


async def test_the_cluster_as_the_page_sees_it(start_replica: StartReplica) -> None:
    """Fails if a replica is missing, or is shown with other connections than it has."""
    one, two = await start_replica("replica-1"), await start_replica("replica-2")
    async with Client(two.url, user="bob"), Client(two.url, user="bob"):

        async def counted() -> bool:
            replicas = (await get(one, "/api/cluster")).json()["replicas"]
            return [(each["name"], each["connections"], each["users"]) for each in replicas] == [
                ("replica-1", 0, 0),
                ("replica-2", 2, 1),
            ]

        await eventually(counted)
        answer = (await get(one, "/api/cluster")).json()
        assert (answer["auth"], answer["replica"]) == ("open", "replica-1")
        assert "error" not in answer
        for each in answer["replicas"]:
            assert each["ready"] is True
            assert 0 <= each["seen_ms"] < 3000
    await two.stop()
    names = [each["name"] for each in (await get(one, "/api/cluster")).json()["replicas"]]
    assert names == ["replica-1"], "one that has left is not shown until its lease runs out"


async def test_without_redis_it_shows_itself_and_says_why(
    start_replica: StartReplica, own_redis: RedisServer
) -> None:
    """Fails if the page breaks exactly when one looks at it to see what is wrong."""
    one = await start_replica(redis_url=own_redis.url)
    own_redis.stop()
    await eventually(lambda: not one.replica.node.ready)
    response = await get(one, "/api/cluster")
    assert response.status_code == 200
    answer = response.json()
    assert "cannot be reached" in answer["error"]
    assert "127.0.0.1" not in answer["error"], "what is inside is told to users"
    (itself,) = answer["replicas"]
    assert (itself["name"], itself["ready"]) == ("replica-1", False)


async def test_alone_it_shows_itself(start_replica: StartReplica) -> None:
    """Fails if one replica without Redis shows an empty cluster."""
    one = await start_replica(redis_url=None)
    (itself,) = (await get(one, "/api/cluster")).json()["replicas"]
    assert (itself["name"], itself["ready"]) == ("replica-1", True)


@pytest.mark.parametrize(
    ("settings", "there"),
    [
        ({}, True),
        ({"console": {"enabled": False}}, False),
        ({"auth": JWT}, False),
        ({"auth": JWT, "console": {"enabled": True}}, True),
    ],
)
async def test_it_is_there_only_where_it_should_be(
    start_replica: StartReplica, settings: dict[str, object], there: bool
) -> None:
    """Fails if a production replica (jwt) shows its users' counts to the world without being told to."""
    one = await start_replica(redis_url=None, **settings)
    for path in ("/", "/api/cluster"):
        assert (await get(one, path)).status_code == (200 if there else 404), path
    library = await get(one, "/static/heliograph.js")
    assert library.status_code == 200, "the client library is for every page, in every mode"
    assert_safe(library)


async def test_in_jwt_mode_the_cluster_is_not_shown_to_everybody(start_replica: StartReplica) -> None:
    """Fails if whoever finds the console is told about the replicas, or who may see them is not."""
    key = "a key of this test"
    one = await start_replica(redis_url=None, auth=JWT, console={"enabled": True}, api={"key": key})
    async with http_client(one.url) as http:
        anybody = (await http.get("/api/cluster")).json()
        assert (anybody["auth"], anybody["replicas"]) == ("jwt", [])
        assert "token" in anybody["error"]
        for headers in (bearer(), {"X-API-Key": key}, {"Authorization": f"apikey {key}"}):
            answer = (await http.get("/api/cluster", headers=headers)).json()
            assert [each["name"] for each in answer["replicas"]] == ["replica-1"]
        for headers in ({"Authorization": "Bearer no"}, {"X-API-Key": "no"}):
            answer = (await http.get("/api/cluster", headers=headers)).json()
            assert not answer.get("replicas"), headers
