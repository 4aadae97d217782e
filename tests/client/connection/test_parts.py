"""The small parts that a client is made of."""

import pytest

from heliograph.client.connection.addresses import Addresses
from heliograph.client.connection.backoff import Backoff
from heliograph.client.connection.credentials import Credentials, NoCredentials
from heliograph.client.connection.recent_ids import MOST, RecentIds
from heliograph.client.connection.transport_selector import TransportSelector
from heliograph.errors import BadSetting
from tests.support.tokens import token


@pytest.mark.parametrize(
    ("url", "websocket", "poll"),
    [
        ("https://live.example.org", "wss://live.example.org/ws", "https://live.example.org/api/poll"),
        ("http://[::1]:8080/live/", "ws://[::1]:8080/live/ws", "http://[::1]:8080/live/api/poll"),
        (
            "wss://live.example.org/live/ws",
            "wss://live.example.org/live/ws",
            "https://live.example.org/live/api/poll",
        ),
    ],
)
def test_every_endpoint_is_known_by_one_url(url: str, websocket: str, poll: str) -> None:
    """Fails if a path prefix, TLS or a port gets lost on the way from one transport to another."""
    addresses = Addresses.of(url)
    assert addresses.of_transport("websocket") == websocket
    assert addresses.of_transport("poll") == poll


@pytest.mark.parametrize(
    "url", ["redis://host", "live.example.org", "https://", "https://host/?a=1", "ws://host:x/ws"]
)
def test_a_url_that_is_none_says_so(url: str) -> None:
    """Fails if a mistake in a setting becomes a client that tries for ever."""
    with pytest.raises(BadSetting, match="URL"):
        Addresses.of(url)


def test_delays_grow_to_a_limit_and_are_drawn() -> None:
    """Fails if the clients of a dead replica come back as one wave, or wait for minutes."""
    backoff = Backoff(lambda: 0.5)
    delays = [backoff.next() for _ in range(40)]
    assert delays[:3] == [0.15, 0.3, 0.6]
    assert max(delays) == 10
    backoff.reset()
    assert backoff.next() == 0.15


def test_what_cannot_be_established_gives_way_and_is_tried_again_later() -> None:
    """Fails if a working transport is given up for one failure, or a client stays with a poor one for ever."""
    selector = TransportSelector(("websocket", "sse", "poll"), lambda: 1.0)
    assert selector.failed("websocket")
    assert selector.failed("sse")
    selector.connected("poll")
    assert selector.can_upgrade()
    assert selector.upgrade_in_s == 5
    assert [selector.next_upgrade() for _ in range(3)] == ["websocket", "sse", "websocket"]
    assert selector.upgrade_in_s == 40
    selector.connected("websocket")
    assert not selector.can_upgrade()
    assert [selector.failed("websocket") for _ in range(3)] == [False, False, True]
    assert str(selector.current) == "sse"
    selector.failed("sse")
    assert [selector.failed("poll") for _ in range(3)] == [False, False, False]
    assert selector.current == "websocket"


def test_ids_are_remembered_for_a_while() -> None:
    """Fails if what comes over two connections is delivered twice, or memory grows without end."""
    ids = RecentIds()
    assert ids.add("a")
    assert not ids.add("a")
    for number in range(MOST):
        ids.add(str(number))
    assert ids.add("a")


async def test_a_token_goes_where_no_log_keeps_it() -> None:
    """Fails if a token stands in a URL, or a function of either kind is not asked for it."""

    async def later() -> str:
        return "from a coroutine"

    assert (await Credentials(None, "t", None, None).for_socket()).query == {}
    assert (await Credentials(None, None, later, None).for_socket()).token == "from a coroutine"
    assert (await Credentials(None, None, lambda: "t", None).for_request()).headers == {"Authorization": "Bearer t"}
    assert (await Credentials(None, None, None, lambda: "once").for_request()).query == {"ticket": "once"}
    assert (await Credentials("bob", None, None, None).for_socket()).query == {"user": "bob"}
    with pytest.raises(NoCredentials):
        await Credentials(None, None, lambda: None, None).for_socket()
    with pytest.raises(NoCredentials):
        await Credentials(None, None, None, lambda: "").for_request()


async def test_a_token_is_renewed_before_its_end() -> None:
    """Fails if a client waits for its token to expire, or renews what is good for ever."""
    credentials = Credentials(None, None, lambda: token(expires_in=100), None)
    await credentials.token()
    by_itself = credentials.renew_in_s(None, is_said=False)
    assert by_itself is not None
    assert 78 < by_itself <= 80
    assert credentials.renew_in_s(10, is_said=True) == 8
    assert credentials.renew_in_s(None, is_said=True) is None
    assert Credentials(None, "t", None, None).renew_in_s(10, is_said=True) is None
