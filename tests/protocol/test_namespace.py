"""Which options hold for a channel, and what a channel may be called."""

from pathlib import Path

import pytest

from heliograph.errors import BadChannel
from heliograph.protocol.channel_options import BadOption, Namespace, options_table
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


def test_options_that_are_one_of_a_few() -> None:
    """Fails if an unknown mode or kind of delta is accepted, or a good one is not."""
    read = Namespace.read({"force_recovery_mode": "cache", "allowed_delta_types": ["fossil", "fossil"]})
    assert (read.force_recovery_mode, read.allowed_delta_types) == ("cache", ("fossil",))
    for option, value in [
        ("force_recovery_mode", "cash"),
        ("force_recovery_mode", None),
        ("force_recovery_mode", ["cache"]),
        ("allowed_delta_types", "fossil"),
        ("allowed_delta_types", ["xdelta"]),
        ("allowed_delta_types", [["fossil"]]),
        ("allowed_delta_types", None),
    ]:
        with pytest.raises(BadOption, match=option):
            Namespace.read({option: value})


def test_the_handbook_has_every_option() -> None:
    """Fails if docs/operations.md lacks an option, or tells another default or meaning than the code."""
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.partition("### Options of namespaces")[2]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert rows == options_table().splitlines(), "put in what `heliograph settings` prints"
