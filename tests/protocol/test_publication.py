"""`check_data`: what it lets through, every client can read."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.errors import BadData, DataTooDeep
from heliograph.protocol.publication import check_data

LIMIT = 5


def check(text: str, limit: int = LIMIT) -> None:
    check_data(msgspec.Raw(text.encode()), limit)


def depth(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 0


def strict(text: str) -> Any:
    """As a browser reads it: no NaN, no Infinity, nothing that turns into one."""

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise ValueError("a browser makes Infinity of it")
        return value

    def constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    value = json.loads(text, parse_constant=constant, parse_float=number, parse_int=number)
    json.dumps(value).encode()
    value_text = json.dumps(value, ensure_ascii=False)
    value_text.encode()  # fails on half of a surrogate pair
    return value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(json_values, st.booleans())
def test_it_agrees_with_a_strict_reader(value: object, ascii_only: bool) -> None:
    """Fails if data passes that a browser cannot read, or is refused although it can and is not too deep."""
    try:
        text = json.dumps(value, ensure_ascii=ascii_only)
        text.encode()
    except UnicodeEncodeError:
        return  # cannot stand in a text frame at all
    try:
        check(text)
    except DataTooDeep:
        assert depth(value) > LIMIT
    except BadData:
        with pytest.raises(ValueError):
            strict(text)
    else:
        assert depth(strict(text)) <= LIMIT


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet='[]{}",:0123456789.eE+-truefalsnl \\ud8', max_size=30))
def test_whatever_passes_is_json(text: str) -> None:
    """Fails if something passes that only looks like JSON."""
    try:
        check(text)
    except BadData:
        return
    assert depth(strict(text)) <= LIMIT


@pytest.mark.parametrize("limit", [1, 2, 3, 10, 100, 512])
def test_the_exact_limit_passes_and_one_more_does_not(limit: int) -> None:
    """Fails if the limit is off by one."""
    check("[" * limit + "]" * limit, limit)
    with pytest.raises(DataTooDeep, match=f"deeper than {limit} levels"):
        check("[" * (limit + 1) + "]" * (limit + 1), limit)


@pytest.mark.parametrize("text", ["1", '"[[[[[[[[[["', "[[],[],[],[],[],[],[]]", '{"{{{{":"}}}}","]]]]":[]}'])
def test_brackets_are_not_levels(text: str) -> None:
    """Fails if brackets are counted without looking where they stand."""
    check(text, 2)


def test_a_value_that_a_repeated_key_hides_counts() -> None:
    """Fails if depth can be hidden: a reader that drops the first `a` has to parse it first."""
    with pytest.raises(DataTooDeep):
        check('{"a":' + "[" * 900 + "]" * 900 + ',"a":1}')


@pytest.mark.parametrize("text", ["1e308", "-1e308", "1e-999", "0.1", "-0", str(2**64), "1" * 300])
def test_numbers_that_a_double_can_hold_pass(text: str) -> None:
    """Fails if a large number that is none too large is refused."""
    check(text)
