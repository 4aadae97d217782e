"""Which pages may connect, in both modes; over real sockets where a browser would see the difference."""

import logging

import pytest
from starlette.datastructures import Headers
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from heliograph.transports.origins import MOST_LOGGED, OriginPolicy
from tests.conftest import StartReplica
from tests.support.http import http_client


def headers(host: str | None, origin: str | None = None) -> list[tuple[bytes, bytes]]:
    return Headers({name: value for name, value in (("host", host), ("origin", origin)) if value is not None}).raw


class TestOriginPolicy:
    @pytest.mark.parametrize(
        ("origin", "admitted"),
        [
            (None, True),
            ("http://here:8080", True),
            ("https://here:8080", True),
            ("https://app.example.org", True),
            ("http://app.example.org", False),
            ("https://app.example.org:444", False),
            ("https://app.example.org.evil.test", False),
            ("https://evil.test/app.example.org", False),
            ("http://here", False),
            ("http://here:8081", False),
            ("http://user@here:8080", False),
            ("null", False),
            ("", False),
            ("here:8080", False),
            ("http://HERE:8080", False),
            ("HTTP://here:8080", False),
            ("http://here.:8080", False),
            ("http://here:8080/", False),
            ("http://here:08080", False),
            ("ftp://here:8080", False),
            ("https://APP.example.org", False),
            ("https://app.example.org.", False),
            ("https://app.example.org:443", True),
            ("https://app.example.org/", False),
            ("https://app.example.org https://evil.test", False),
            (" https://app.example.org", False),
            ("http://[", False),
            ("http://[::1", False),
            ("\xff\xfe", False),
        ],
    )
    def test_which_pages_may_connect(self, origin: str | None, admitted: bool) -> None:
        """Fails if a page of another origin gets in, one of ours does not, or nonsense raises."""
        policy = OriginPolicy(("https://app.example.org",))
        headers = {"host": "here:8080"} if origin is None else {"host": "here:8080", "origin": origin}
        assert policy.admits(Headers(headers).raw) is admitted

    @pytest.mark.parametrize(
        ("host", "origin", "admitted"),
        [
            ("x:443", "https://x", True),
            ("x", "https://x:443", True),
            ("x:80", "http://x", True),
            ("X:443", "https://x", True),
            ("[::1]:80", "http://[::1]", True),
            ("x:443", "http://x", False),
            ("x:80", "https://x", False),
            ("x", "http://x:443", False),
            ("x:8080", "http://x", False),
            ("x:", "http://x", False),
            ("x:99999999", "http://x", False),
            ("", "http://x", False),
            (None, "http://x", False),
            ("localhost:8080", "http://127.0.0.1:8080", False),
        ],
    )
    def test_default_ports_are_the_same_host(self, host: str | None, origin: str, admitted: bool) -> None:
        """Fails if a proxy that writes the default port into `Host` locks pages out, or another port is the same."""
        assert OriginPolicy(()).admits(headers(host, origin)) is admitted


class TestOpenMode:
    policy = OriginPolicy(("http://dev.example:3000",), open_mode=True)

    @pytest.mark.parametrize(
        ("host", "origin", "admitted"),
        [
            ("localhost:8080", "http://127.0.0.1:8080", True),
            ("127.0.0.1:8080", "http://localhost:8080", True),
            ("[::1]:8080", "http://app.localhost:8080", True),
            ("127.0.0.1:8080", None, True),
            ("127.9.9.9:8080", None, True),
            (None, None, True),
            ("localhost:8080", "http://localhost:3000", False),
            ("evil.test:8080", "http://evil.test:8080", False),
            ("evil.test:8080", None, False),
            ("127.0.0.1.evil.test", "http://127.0.0.1.evil.test", False),
            ("localhost.evil.test", None, False),
            ("192.168.1.5:8080", "http://192.168.1.5:8080", False),
            ("replica-1:8080", None, False),
            ("", "http://localhost", False),
            ("localhost:8080", "http://dev.example:3000", True),
            ("dev.example:8080", None, True),
            ("user@localhost", None, False),
        ],
    )
    def test_only_loopback_hosts_are_taken_as_own(self, host: str | None, origin: str | None, admitted: bool) -> None:
        """Fails if a page whose name was made to lead here (DNS rebinding) connects, or our own cannot."""
        assert self.policy.admits(headers(host, origin)) is admitted

    @pytest.mark.parametrize(
        ("host", "admitted"),
        [
            ("192.168.1.5:8080", True),
            ("[fe80::1]:8080", True),
            ("replica-1:8080", True),
            ("evil.test:8080", False),
            ("1.2.3.4.evil.test", False),
        ],
    )
    def test_open_to_the_network_no_foreign_name_is_own(self, host: str, admitted: bool) -> None:
        """Fails if the second switch lets in what a name server of somebody else says."""
        policy = OriginPolicy((), open_mode=True, open_to_network=True)
        assert policy.admits(headers(host)) is admitted
        assert policy.admits(headers(host, f"http://{host}")) is admitted

    async def test_over_real_sockets(self, start_replica: StartReplica, caplog: pytest.LogCaptureFixture) -> None:
        """Fails if an endpoint forgets it, or a page on `localhost` gets nothing from 127.0.0.1."""
        one = await start_replica(redis_url=None)
        port = one.url.rpartition(":")[2]
        page = f"http://localhost:{port}"
        socket_url = f"{one.url.replace('http', 'ws', 1)}/ws?user=alice"
        async with connect(socket_url, origin=Origin(page), proxy=None) as socket:
            assert '"connected"' in await socket.recv(decode=True)
        evil = {"Host": f"evil.test:{port}"}
        with caplog.at_level(logging.WARNING, "heliograph"):
            for _ in range(3):
                with pytest.raises(InvalidStatus) as refused:
                    async with connect(socket_url, origin=Origin("http://evil.test"), proxy=None):
                        pass
                assert refused.value.response.status_code == 403
        assert len([record for record in caplog.records if "evil.test" in record.getMessage()]) == 1
        async with http_client(one.url) as http:
            for path in ("/sse?user=a", "/api/poll?user=a", "/api/cluster", "/api/runs/1"):
                assert (await http.get(path, headers=evil)).status_code == 403, path
            assert (await http.post("/api/ticket?user=a", headers=evil)).status_code == 403
            answer = await http.get("/api/poll?user=a&wait=0", headers={"Origin": page})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, page)


def test_what_is_logged_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Fails if who makes up origins fills the log or the memory."""
    policy = OriginPolicy(())
    with caplog.at_level(logging.WARNING, "heliograph"):
        for number in range(3 * MOST_LOGGED):
            assert not policy.admits(headers("here", f"http://page{number}"))
    assert len(caplog.records) == MOST_LOGGED
    assert "further ones are not logged" in caplog.records[-1].getMessage()
