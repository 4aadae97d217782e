"""What travels on the bus."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.errors import BadEnvelope, BadUserId
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.command import (
    DisconnectUser,
    Forward,
    Only,
    RefreshUser,
    Selection,
    SubscribeUser,
    UnsubscribeUser,
)
from heliograph.protocol.envelope import (
    MAX_DEPTH,
    Envelope,
    decode_envelope,
    decode_envelopes,
    encode_envelope,
    ending_of,
)
from heliograph.protocol.identity import check_user_id, user_of
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication


def _is_user_id(text: str) -> bool:
    try:
        check_user_id(text)
    except BadUserId:
        return False
    return True


texts = st.text(alphabet=st.characters(codec="utf-8"))
user_ids = st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=60).filter(_is_user_id)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


def envelope_of(publication: Publication, node_id: str) -> Envelope:
    """What the replica `node_id` sends for an ephemeral publication."""
    user_id = user_of(publication.channel)
    return Envelope(
        message=publication.data,
        target_user_id=user_id,
        channel=publication.channel if user_id is None else None,
        message_id=publication.message_id,
        sent_at=publication.sent_at,
        sender=publication.sender,
        origin=publication.origin,
        author=publication.author,
        node_id=node_id,
    )


@settings(deadline=None)
@given(user_ids, values, st.none() | texts, st.none() | texts, st.none() | texts)
def test_an_envelope_comes_out_as_it_went_in(
    user: str, value: object, sender: str | None, origin: str | None, node_id: str | None
) -> None:
    """Fails if a field, a script or the data does not survive the way through Redis."""
    data = json.dumps(value, ensure_ascii=False)
    publication = Publication(f"#{user}", msgspec.Raw(data.encode()), "m-1", "2026-01-01", sender, origin)
    envelope = envelope_of(publication, node_id or "")
    arrived = decode_envelope(encode_envelope(envelope))
    assert arrived.node_id == (node_id or "")
    arrived.check()
    assert bytes(arrived.message).decode() == data
    assert (arrived.address, arrived.message_id, arrived.sent_at) == (f"#{user}", "m-1", "2026-01-01")
    assert (arrived.sender, arrived.origin) == (sender, origin)


def test_the_wire_form_is_what_foreign_programs_write() -> None:
    """Fails if a field is renamed on the bus: replicas of two versions, and foreign programs, share it."""
    publication = Publication("#bob", msgspec.Raw(b'{"a": 1}'), "m", "t", "alice", "replica-1")
    payload = encode_envelope(envelope_of(publication, "n"))
    assert json.loads(payload) == {
        "target_user_id": "bob",
        "message": {"a": 1},
        "message_id": "m",
        "sent_at": "t",
        "from": "alice",
        "origin": "replica-1",
        "node_id": "n",
    }
    assert b'"message":{"a": 1}' in payload, "the data as its author wrote it"


def test_the_wire_form_on_a_channel() -> None:
    """Fails if what is for a channel is addressed to a user, or where it stands is renamed or lost on the bus."""
    publication = Publication("room:1", msgspec.Raw(b'{"a": 1}'), "m", "t")
    envelope = envelope_of(publication, "n")
    assert json.loads(encode_envelope(envelope)) == {
        "channel": "room:1",
        "message": {"a": 1},
        "message_id": "m",
        "sent_at": "t",
        "node_id": "n",
    }
    kept = msgspec.structs.replace(envelope, epoch="e", offset=7, seq=9)
    payload = encode_envelope(kept)
    assert json.loads(payload).items() >= {"epoch": "e", "offset": 7, "seq": 9}.items()
    arrived = decode_envelope(payload)
    assert arrived == kept
    assert arrived.publication(arrived.address) == msgspec.structs.replace(publication, position=Position("e", 7))
    coming = Envelope(msgspec.Raw(b'"alice"'), channel="room:1", presence="join")
    assert json.loads(encode_envelope(coming)) == {"channel": "room:1", "message": "alice", "presence": "join"}
    assert decode_envelope(encode_envelope(coming)) == coming


def test_the_wire_form_of_a_command() -> None:
    """Fails if a command is renamed on the bus, or one that no replica could carry out is let in."""
    kick = Envelope(msgspec.Raw(b"null"), target_user_id="bob", command=DisconnectUser(reason="enough"))
    assert json.loads(encode_envelope(kick)) == {
        "target_user_id": "bob",
        "message": None,
        "command": {"type": "disconnect", "code": 3503, "reason": "enough"},
    }
    off = Envelope(msgspec.Raw(b"null"), target_user_id="bob", command=UnsubscribeUser("방:1"))
    assert json.loads(encode_envelope(off))["command"] == {"type": "unsubscribe", "channel": "방:1"}
    on = Envelope(msgspec.Raw(b"null"), target_user_id="bob", command=SubscribeUser("방:1", Position("e", 5)))
    seat = SubscribeUser("방:1", info=msgspec.Raw(b'{"seat":3}'), data=msgspec.Raw(b"1"), expire_at=5.5)
    assert json.loads(encode_envelope(on))["command"] == {
        "type": "subscribe",
        "channel": "방:1",
        "since": {"epoch": "e", "offset": 5},
    }
    longer = Envelope(msgspec.Raw(b"null"), target_user_id="bob", command=RefreshUser(12.5))
    some = Envelope(
        msgspec.Raw(b"null"), target_user_id="bob", command=Only(DisconnectUser(4001), Selection(client="c"))
    )
    assert json.loads(encode_envelope(some))["command"] == {
        "type": "only",
        "command": {"type": "disconnect", "code": 4001, "reason": "disconnected by the server"},
        "selection": {"client": "c", "session": "", "keep": []},
    }
    forward = Envelope(msgspec.Raw(b"null"), channel="", node_id="n", command=Forward("s", b"\x00\xff"))
    told = Envelope(msgspec.Raw(b"null"), target_user_id="bob", command=seat)
    assert json.loads(encode_envelope(told))["command"] == {
        "type": "subscribe",
        "channel": "방:1",
        "info": {"seat": 3},
        "data": 1,
        "expire_at": 5.5,
    }
    for envelope in (kick, off, on, told, longer, some, forward):
        assert decode_envelope(encode_envelope(envelope)) == envelope
    for bad in (
        '{"message":null,"channel":"news","command":{"type":"disconnect"}}',
        '{"message":null,"command":{"type":"disconnect"}}',
        '{"message":null,"target_user_id":"bob","command":{"type":"explode"}}',
        '{"message":null,"target_user_id":"bob","command":{"type":"disconnect","code":9}}',
        '{"message":null,"target_user_id":"bob","command":{"type":"unsubscribe","channel":""}}',
        '{"message":null,"target_user_id":"bob","command":{"type":"subscribe","channel":""}}',
        '{"message":null,"target_user_id":"bob","command":{"type":"only","command":{"type":"unsubscribe","channel":""},'
        '"selection":{}}}',
        '{"message":null,"target_user_id":"bob","command":"disconnect"}',
    ):
        with pytest.raises(BadEnvelope):
            decode_envelope(bad.encode())


def test_the_two_required_fields_are_enough() -> None:
    """Fails if a foreign process must write more than its user and its message."""
    envelope = decode_envelope('{"message":{"한":"글"},"target_user_id":"밥","unknown":[1]}'.encode())
    assert envelope == Envelope(message=envelope.message, target_user_id="밥")
    assert envelope.address == "#밥"
    payload = encode_envelope(envelope)
    assert json.loads(payload) == {"target_user_id": "밥", "message": {"한": "글"}}
    assert '{"한":"글"}'.encode() in payload


def test_many_envelopes_come_one_a_line() -> None:
    """Fails if one of them is lost, or if a line break inside of an envelope is taken for its end."""
    first = b'{"target_user_id":"b",\n"message":{\r\n"a": "\\n"}}'
    second = b'{"channel":"news","message":2}'
    envelopes = decode_envelopes(first + b"\n" + second + b"\n")
    assert [each.address for each in envelopes] == ["#b", "news"]
    assert [json.loads(bytes(each.message)) for each in envelopes] == [{"a": "\n"}, 2]


@pytest.mark.parametrize(
    "bad", [b"null", b'{"message":1}', b'{"target_user_id":"","message":1}', b'{"message"', b"\xff"]
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_bad_envelope_spoils_those_it_came_with(bad: bytes, at: int) -> None:
    """Fails if half of what was published together counts: nobody could say which half."""
    lines = [b'{"target_user_id":"b","message":1}'] * 2
    lines.insert(at, bad)
    with pytest.raises(BadEnvelope):
        decode_envelopes(b"\n".join(lines))


def test_where_one_envelope_is_expected_two_are_none() -> None:
    """Fails if something that was kept is passed over in silence."""
    with pytest.raises(BadEnvelope, match="2 envelopes"):
        decode_envelope(b'{"target_user_id":"b","message":1}\n' * 2)


def _deep(levels: int) -> bytes:
    return b'{"target_user_id":"b","message":' + b"[" * levels + b"]" * levels + b"}"


def test_the_depth_that_foreign_processes_may_use_is_exact() -> None:
    """Fails if the limit for what the bus carries is off by one."""
    decode_envelope(_deep(MAX_DEPTH))
    with pytest.raises(BadEnvelope, match="nested deeper than 128"):
        decode_envelope(_deep(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"message":1}',
        b'{"target_user_id":"b"}',
        b'{"channel":"room:1"}',
        b'{"channel":null,"message":1}',
        b'{"channel":1,"message":1}',
        b'{"channel":"","message":1}',
        b'{"channel":"#","message":1}',
        b'{"channel":"a\\u0000b","message":1}',
        b'{"channel":"' + b"x" * 513 + b'","message":1}',
        b'{"channel":"c","message":1,"epoch":5}',
        b'{"channel":"c","message":1,"offset":"5"}',
        b'{"target_user_id":1,"message":1}',
        b'{"target_user_id":null,"message":1}',
        b'{"target_user_id":"","message":1}',
        b'{"target_user_id":"a\\u0000b","message":1}',
        b'{"target_user_id":"' + b"x" * 256 + b'","message":1}',
        b'{"target_user_id":"\\ud800","message":1}',
        b'{"target_user_id":"\xff","message":1}',
        b'{"target_user_id":"b","message":}',
        b'{"target_user_id":"b","message":NaN}',
        b'{"target_user_id":"b","message":1e999}',
        b'{"target_user_id":"b","message":' + b"9" * 5000 + b"}",
        b'{"target_user_id":"b","message":"\\udc00"}',
        b'{"target_user_id":"b","message":"\xff"}',
        b'{"target_user_id":"b","message":1,"message_id":5}',
        b'{"target_user_id":"b","message":1} {}',
        _deep(1000),
        _deep(100_000),
        b"[" * 100_000,
    ],
    ids=lambda payload: repr(payload[:48]),
)
def test_bad_payloads_are_bad_envelopes(payload: bytes) -> None:
    """Fails if something that no client could read passes, or raises what the listen loop does not expect."""
    with pytest.raises(BadEnvelope) as raised:
        decode_envelope(payload)
    assert str(raised.value)


def test_no_depth_raises_something_else() -> None:
    """Fails if some depth breaks the reader with an error that the listen loop would count as a handler's."""
    for levels in range(900, 1100):
        with pytest.raises(BadEnvelope):
            decode_envelope(_deep(levels))


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_an_envelope_or_a_bad_one(payload: bytes) -> None:
    """Fails if there are bytes that stop the listener."""
    with suppress(BadEnvelope):
        decode_envelope(payload)


def test_an_ephemeral_envelope_tells_by_its_end_whose_it_is() -> None:
    """Fails if a field is added behind the node id: a replica would no longer know its own messages from afar."""
    author = ClientInfo("c1", "alice", msgspec.Raw(b"{}"))
    publication = Publication("#bob", msgspec.Raw(b"1"), "m", "now", "alice", "replica-1", author=author)
    encoded = encode_envelope(envelope_of(publication, "n1"))
    assert encoded.endswith(ending_of("n1"))
    assert not encoded.endswith(ending_of("n2"))
    inside = b'{"target_user_id":"bob","message":{"node_id":"n1"}}'
    assert not inside.endswith(ending_of("n1")), "what somebody says in a message is no sender"


@pytest.mark.parametrize(
    "message", [b"[" * 200 + b"]" * 200, b'"\xff"'], ids=["deeper than a reader can bear", "no UTF-8"]
)
def test_data_that_would_break_a_reader_are_refused_whoever_sends_them(message: bytes) -> None:
    """Fails if it is enough to call oneself a replica to get through what closes every socket of a channel."""
    for node_id in (b"", b',"node_id":"n1"'):
        with pytest.raises(BadEnvelope):
            decode_envelope(b'{"target_user_id":"bob","message":' + message + node_id + b"}").check()
