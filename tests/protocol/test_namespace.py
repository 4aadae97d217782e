"""Which options hold for a channel, and what a channel may be called."""

import pytest

from heliograph.errors import BadChannel
from heliograph.protocol.channel_options import Namespace
from heliograph.protocol.identity import MAX_CHANNEL_BYTES, check_channel
from heliograph.protocol.namespace import BUILT_IN, Namespaces


@pytest.mark.parametrize(
    ("channel", "namespace"),
    [
        ("run:42", "run"),
        ("run:20251105_1430_우주여행고양이", "run"),
        ("logs:a:b", "logs"),
        ("#bob", "#"),
        ("#run:42", "#"),
        ("run", ""),
        ("RUN:1", ""),
        ("chat:1", "chat"),
        ("games:1", ""),
        (":x", ""),
    ],
)
def test_what_stands_before_the_first_colon_decides(channel: str, namespace: str) -> None:
    """Fails if a channel gets the options of another namespace (a user called `run:42` is a user)."""
    assert Namespaces().of(channel) is BUILT_IN[namespace]


def test_the_defaults_are_those_of_the_handbook() -> None:
    """Fails if history sizes and times are not 100/5 min for users, 1,000/24 h for runs, 10,000/24 h for logs."""
    kept = {name: (options.history_size, options.history_ttl_s) for name, options in BUILT_IN.items()}
    few = (100, 300)
    assert kept == {"#": few, "run": (1000, 86_400), "logs": (10_000, 86_400), "chat": few, "": few}
    assert BUILT_IN["run"].final_ttl_s == 3600
    assert BUILT_IN["run"].run
    assert BUILT_IN["logs"].replay


def test_settings_replace_the_built_in_options() -> None:
    """Fails if an operator's options are not taken, touch other namespaces, or opening one changes what it keeps."""
    own = Namespace(history_size=7)
    namespaces = Namespaces({"news": own, "logs": Namespace(client_subscribe=True, history_ttl_s=5)})
    assert namespaces.of("news:1") is own
    logs = namespaces.of("logs:1")
    assert (logs.client_subscribe, logs.history_ttl_s, logs.history_size, logs.replay) == (True, 5, 10_000, True)
    assert namespaces.of("run:1") is BUILT_IN["run"]
    assert BUILT_IN["logs"].history_size == 10_000


@pytest.mark.parametrize(
    "name", ["a", "{braces}", "a b", "#bob", "우주", "x" * MAX_CHANNEL_BYTES, "a:*?[", "👩‍👩‍👧‍👦"]
)
def test_a_name_may_be_almost_anything(name: str) -> None:
    assert check_channel(name) == name


@pytest.mark.parametrize("name", ["", "#", "a\x00", "a\nb", "\x7f", "\x85", "\ud800", "x" * 513, "우" * 171])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    """Fails if a name gets in that Redis keys, URLs or JSON would choke on."""
    with pytest.raises(BadChannel):
        check_channel(name)
