"""Who has not said who they are, and cannot keep others out for it."""

import logging
from contextlib import AsyncExitStack

import pytest
from starlette.types import Scope

from heliograph.server.serving import one_address_warnings
from heliograph.settings import Settings
from heliograph.telemetry import Telemetry
from heliograph.transports.addresses import Addresses
from heliograph.transports.newcomers import Newcomers
from tests.conftest import StartReplica
from tests.support.client import Client
from tests.support.raw_socket import RawSocket
from tests.support.waiting import eventually


def scope_of(host: str, *headers: tuple[str, str]) -> Scope:
    return {"client": (host, 1), "headers": [(name.encode(), value.encode()) for name, value in headers]}


class Quiet:
    def __init__(self) -> None:
        self.made_room = 0

    def make_room(self) -> None:
        self.made_room += 1


class TestNewcomers:
    def test_the_oldest_of_the_same_address_makes_room(self) -> None:
        """Fails if the last to come is kept out, another address pays, or who has said who it is does."""
        telemetry = Telemetry()
        newcomers = Newcomers(2, telemetry)
        known, first, second, third, other = (Quiet() for _ in range(5))
        newcomers.enter("10.0.0.1", known)
        newcomers.leave("10.0.0.1", known)
        newcomers.leave("10.0.0.1", known)
        for newcomer in (first, second):
            newcomers.enter("10.0.0.1", newcomer)
        newcomers.enter("10.0.0.2", other)
        assert not any(each.made_room for each in (known, first, second, other))
        newcomers.enter("10.0.0.1", third)
        assert [each.made_room for each in (known, first, second, third, other)] == [0, 1, 0, 0, 0]
        assert telemetry.connections_refused == 1

    def test_nothing_is_kept_of_who_has_gone(self) -> None:
        """Fails if memory grows with every address that was ever here."""
        newcomers = Newcomers(0, Telemetry())
        for i in range(300):
            quiet = Quiet()
            newcomers.enter(f"10.0.0.{i % 250}", quiet)
            newcomers.leave(f"10.0.0.{i % 250}", quiet)
            assert quiet.made_room == 0
        assert not newcomers._by_address


class TestOverSockets:
    async def test_silent_sockets_keep_nobody_out(self, start_replica: StartReplica) -> None:
        """Fails if one address's silent sockets are so many that it cannot come in, or are not cut."""
        limits = {"newcomers_per_address": 10, "connect_timeout_s": 30}
        one = await start_replica(redis_url=None, limits=limits)
        async with AsyncExitStack() as stack, Client(one.url, user="early") as early:
            silent = [await stack.enter_async_context(RawSocket(one.url)) for _ in range(40)]
            for raw in silent[:30]:
                assert (await raw.closed())[0] == 1013
                assert await raw.body() == b"", "TCP is closed too, without an answer of the client"
            assert len(one.server.server_state.connections) == 11
            async with Client(one.url, user="late") as late:
                await early.send("late", "hello")
                assert await late.messages(1) == ["hello"]
            assert one.replica.telemetry.connections_refused >= 30

    async def test_who_says_nothing_is_cut_at_the_deadline(self, start_replica: StartReplica) -> None:
        """Fails if the connection of a client that says nothing, and answers nothing, outlives its time."""
        one = await start_replica(redis_url=None, limits={"connect_timeout_s": 0.2})
        async with RawSocket(one.url) as raw:
            assert await raw.closed(within_s=2) == (3501, "no 'connect' in time")
            assert await raw.body(within_s=2) == b""
            await eventually(lambda: not one.server.server_state.connections, within_s=2)


class TestProxies:
    @pytest.mark.parametrize(
        ("headers", "setting"),
        [
            ([("x-forwarded-for", "203.0.113.7")], "in HELIOGRAPH_TRUSTED_PROXIES"),
            ([("x-forwarded-unbelieved", "172.18.0.1")], "in HELIOGRAPH_NGINX_TRUSTED_PROXIES"),
            ([("x-forwarded-for", "203.0.113.7, 10.0.0.9")], None),
            ([("x-forwarded-unbelieved", "")], None),
            ([], None),
        ],
    )
    def test_one_that_is_not_believed_is_said_once(
        self, caplog: pytest.LogCaptureFixture, headers: list[tuple[str, str]], setting: str | None
    ) -> None:
        """Fails if all clients are one address and nobody is told, or is told with every request."""
        addresses = Addresses(0)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                addresses.enter(scope_of("10.0.0.9", *headers))
        assert [setting in record.getMessage() for record in caplog.records if setting] == ([True] if setting else [])
        assert len(caplog.records) == (1 if setting else 0)

    async def test_a_proxy_that_is_believed_is_no_reason(
        self, start_replica: StartReplica, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Fails if what a trusted proxy says is warned of."""
        one = await start_replica(redis_url=None)
        async with RawSocket(one.url, "/ws?user=a", headers={"X-Forwarded-For": "203.0.113.7"}) as raw:
            await raw.next("connected")
        assert "is not believed" not in caplog.text
        strict = await start_replica("replica-2", redis_url=None, trusted_proxies="10.0.0.1")
        async with RawSocket(strict.url, "/ws?user=a", headers={"X-Forwarded-For": "203.0.113.7"}) as raw:
            await raw.next("connected")
        assert "127.0.0.1 is not believed" in caplog.text

    @pytest.mark.parametrize(
        ("mode", "trusted", "host", "environment", "count"),
        [
            ("jwt", "127.0.0.1", "127.0.0.1", {}, 0),
            ("jwt", "10.0.0.0/8", "127.0.0.1", {}, 1),
            ("open", "10.0.0.0/8", "127.0.0.1", {"HELIOGRAPH_NGINX_TRUSTED_PROXIES": ""}, 0),
            ("jwt", "*", "10.0.0.1", {"HELIOGRAPH_NGINX_TRUSTED_PROXIES": " "}, 1),
            ("jwt", "*", "10.0.0.1", {"HELIOGRAPH_NGINX_TRUSTED_PROXIES": "set_real_ip_from 172.18.0.1;"}, 0),
        ],
    )
    def test_settings_that_make_all_clients_one(
        self, mode: str, trusted: str, host: str, environment: dict[str, str], count: int
    ) -> None:
        """Fails if a start says nothing although everybody will share one limit, or cries wolf."""
        settings = Settings.model_validate({"auth": {"mode": mode, "secret": "s" * 32}, "trusted_proxies": trusted})
        warnings = one_address_warnings(settings, host, environment)
        assert len(warnings) == count
        assert all("one address" in warning for warning in warnings)
