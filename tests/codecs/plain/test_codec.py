"""The plain JSON codec: what is refused and how, and what goes out byte for byte."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliograph.codecs.plain.codec import PlainCodec
from heliograph.errors import ErrorCode
from heliograph.protocol.events import Ack, Connected, Delivery, Error, Event, Pong, Reconnect, RpcResult
from heliograph.protocol.operations import Connect, Malformed, Operation, Ping, Send
from heliograph.protocol.publication import Publication

DEPTH = 8
codec = PlainCodec(DEPTH)

ID_TEXT = "'id' is a string of at most 128 characters or a 64-bit integer"


def send(data: str, **fields: object) -> str:
    """A `send` frame whose data is this text."""
    rest = "".join(f',"{name}":{json.dumps(value)}' for name, value in fields.items())
    return f'{{"type":"send","to":"bob","data":{data}{rest}}}'


def nested(levels: int, opening: str = "[", closing: str = "]", core: str = "") -> str:
    return opening * levels + core + closing * levels


def read(text: str, codec: PlainCodec = codec) -> Operation:
    [operation] = codec.decode(text)
    return operation


def refusal(text: str) -> Malformed:
    refused = read(text)
    assert isinstance(refused, Malformed)
    return refused


BAD = {
    "empty": ("", "bad_json", "the frame is not valid JSON"),
    "blank": ("  \n", "bad_json", "the frame is not valid JSON"),
    "word": ("hello", "bad_json", "the frame is not valid JSON"),
    "cut off": ('{"type":"ping"', "bad_json", "truncated"),
    "two values": ('{"type":"ping"}{"type":"ping"}', "bad_json", "trailing characters"),
    "byte order mark": ('\ufeff{"type":"ping"}', "bad_json", "the frame is not valid JSON"),
    "single quotes": ("{'type':'ping'}", "bad_json", "the frame is not valid JSON"),
    "array": ('[{"type":"ping"}]', "bad_request", "a frame is a JSON object, not an array"),
    "string": ('"ping"', "bad_request", "a frame is a JSON object, not a string"),
    "number": ("1.5", "bad_request", "a frame is a JSON object, not a number"),
    "boolean": ("true", "bad_request", "a frame is a JSON object, not a boolean"),
    "null": ("null", "bad_request", "a frame is a JSON object, not null"),
    "no type": ('{"id":1}', "bad_request", "missing required field `type`"),
    "type null": ('{"type":null}', "bad_request", "$.type"),
    "type number": ('{"type":5}', "bad_request", "$.type"),
    "type array": ('{"type":["ping"]}', "bad_request", "$.type"),
    "unknown type": (
        '{"type":"teleport"}',
        "unknown_type",
        "unknown type 'teleport'; known are "
        "connect, refresh, send, subscribe, unsubscribe, publish, history, presence, emit, rpc, received, ping",
    ),
    "type in capitals": ('{"type":"PING"}', "unknown_type", "unknown type 'PING'"),
    "empty type": ('{"type":""}', "unknown_type", "unknown type ''"),
    "send without to": ('{"type":"send","data":1}', "bad_request", "missing required field `to`"),
    "send without data": ('{"type":"send","to":"bob"}', "bad_request", "missing required field `data`"),
    "to is null": ('{"type":"send","to":null,"data":1}', "bad_request", "$.to"),
    "to is a list": ('{"type":"send","to":["bob"],"data":1}', "bad_request", "$.to"),
    "ephemeral is text": (send("1", ephemeral="yes"), "bad_request", "$.ephemeral"),
    "token is a number": ('{"type":"connect","token":5}', "bad_request", "$.token"),
    "user is an object": ('{"type":"connect","user":{}}', "bad_request", "$.user"),
    "id is a fraction": ('{"type":"ping","id":1.5}', "bad_request", ID_TEXT),
    "id is a boolean": ('{"type":"ping","id":true}', "bad_request", ID_TEXT),
    "id is a list": ('{"type":"ping","id":[1]}', "bad_request", ID_TEXT),
    "id is too long": (f'{{"type":"ping","id":"{"x" * 129}"}}', "bad_request", ID_TEXT),
    "id of 5,000 digits": (f'{{"type":"ping","id":{"9" * 5000}}}', "bad_json", "out of range"),
    "NaN": (send("NaN"), "bad_json", "the frame is not valid JSON"),
    "NaN inside": (send('{"a":[NaN]}'), "bad_json", "the frame is not valid JSON"),
    "Infinity": (send("Infinity"), "bad_json", "the frame is not valid JSON"),
    "-Infinity": (send("-Infinity"), "bad_json", "the frame is not valid JSON"),
    "1e999": (send("1e999"), "bad_request", "data is not JSON that every client can read"),
    "-1e999 inside": (send('{"a":[-1e999]}'), "bad_request", "data is not JSON that every client can read"),
    "5,000 digits": (send("9" * 5000), "bad_request", "data is not JSON that every client can read"),
    "undefined": (send("undefined"), "bad_json", "the frame is not valid JSON"),
    "trailing comma": (send("[1,]"), "bad_json", "the frame is not valid JSON"),
    "comment": (send("1/*x*/"), "bad_json", "the frame is not valid JSON"),
    "leading zero": (send("01"), "bad_json", "the frame is not valid JSON"),
    "high surrogate": (send('"\\ud800 "'), "bad_json", "the frame is not valid JSON"),
    "low surrogate": (send('"\\udc00"'), "bad_json", "the frame is not valid JSON"),
    "surrogates the wrong way round": (send('["\\udc00\\ud800"]'), "bad_json", "the frame is not valid JSON"),
    "surrogate in a key": (send('{"\\udfff":1}'), "bad_json", "the frame is not valid JSON"),
    "surrogate in to": ('{"type":"send","to":"\\ud800","data":1}', "bad_json", "the frame is not valid JSON"),
    "surrogate in id": ('{"type":"ping","id":"\\ud800"}', "bad_json", "the frame is not valid JSON"),
    "raw line break in a string": (send('"a\nb"'), "bad_json", "the frame is not valid JSON"),
    "raw zero byte in a string": (send('"a\x00b"'), "bad_json", "the frame is not valid JSON"),
    "too deep": (send(nested(DEPTH + 1)), "too_deep", f"data is nested deeper than {DEPTH} levels"),
    "too deep, in objects": (send(nested(DEPTH + 1, '{"a":', "}", "1")), "too_deep", "data is nested deeper"),
    "deeper than any reader goes": (send(nested(100_000)), "too_deep", "nested deeper than"),
    "deep and never closed": ("[" * 100_000, "too_deep", "nested deeper than"),
    "deep data and never closed": ('{"type":"send","to":"bob","data":' + "[" * 100_000, "too_deep", "nested deeper"),
    "deep objects": (send(nested(50_000, '{"a":', "}", "1")), "too_deep", "nested deeper than"),
    "deep elsewhere": (f'{{"type":"ping","x":{nested(100_000)}}}', "too_deep", "nested deeper than"),
}


class TestDecodeRefuses:
    @pytest.mark.parametrize(("text", "code", "says"), BAD.values(), ids=BAD.keys())
    def test_bad_input(self, text: str, code: str, says: str) -> None:
        """Fails if a bad frame is accepted, raises anything, or is explained with the wrong words."""
        error = refusal(text)
        assert error.code == code
        assert says in str(error)
        assert len(str(error)) < 300, "what the client wrote is not sent back at length"

    @pytest.mark.parametrize(
        ("text", "request_id"),
        [
            ('{"type":"teleport","id":7}', 7),
            ('{"id":"a-1","type":"send"}', "a-1"),
            ('{"type":"send","to":5,"data":1,"id":"한"}', "한"),
            (send("1e999", id=9), 9),
            (send(nested(DEPTH + 1), id="deep"), "deep"),
            ('{"type":5,"id":0}', 0),
            ('{"type":"ping","id":1.5}', None),
            ("[1]", None),
            ("{", None),
        ],
    )
    def test_the_request_id_comes_back_where_there_is_one(self, text: str, request_id: str | int | None) -> None:
        """Fails if a client cannot match a refusal to its request, or is given an id that it did not send."""
        assert refusal(text).request_id == request_id

    @pytest.mark.parametrize("limit", [1, 2, 8, 32, 128, 512])
    def test_the_limit_is_exact_for_each_kind_of_nesting(self, limit: int) -> None:
        """Fails if the exact limit is refused, or one level more passes."""
        limited = PlainCodec(limit)
        for opening, closing, core in (("[", "]", ""), ('{"a":', "}", "1"), ('[{"k":', "}]", "[]")):
            per_round = opening.count("[") + opening.count("{")
            rounds, odd = divmod(limit, per_round)
            if per_round == 2:  # its core is a level of its own
                rounds, odd = divmod(limit - 1, per_round)
            exact = "[" * odd + nested(rounds, opening, closing, core) + "]" * odd
            assert isinstance(read(send(exact), limited), Send)
            refused = read(send(f"[{exact}]"), limited)
            assert isinstance(refused, Malformed)
            assert refused.code is ErrorCode.TOO_DEEP

    @pytest.mark.parametrize("limit", [1, 4, 32])
    def test_wide_is_not_deep(self, limit: int) -> None:
        """Fails if brackets are counted instead of levels, or brackets inside strings count."""
        limited = PlainCodec(limit)
        assert isinstance(read(send("[" + ",".join(["1"] * 500) + "]"), limited), Send)
        assert isinstance(read(send(json.dumps("[" * 500 + '\\"{')), limited), Send)
        if limit > 1:
            assert isinstance(read(send("[" + ",".join(["[]"] * 500) + "]"), limited), Send)

    def test_what_hides_behind_a_repeated_key_is_deep_all_the_same(self) -> None:
        """Fails if `{"a":<deep>,"a":1}` passes: what a reader drops it has parsed before."""
        assert refusal(send('{"a":' + nested(500) + ',"a":1}')).code is ErrorCode.TOO_DEEP

    def test_no_depth_whatsoever_raises_something_else(self) -> None:
        """Fails if a frame nested just as deep as a reader can go gets an error that the socket's driver must log."""
        for levels in range(1, 1100):
            for text in (
                nested(levels),
                send(nested(levels)),
                send(nested(levels), id=[]),
                f'{{"type":{nested(levels)}}}',
                f'{{"type":5,"x":{nested(levels)}}}',
                f'{{"type":"ping","id":{nested(levels)}}}',
            ):
                try:
                    codec.decode(text)
                except RecursionError:
                    pytest.fail(f"RecursionError at {levels} levels: {text[:40]}…")

    @settings(deadline=None)
    @given(st.text())
    def test_any_text_is_an_operation_or_a_bad_frame(self, text: str) -> None:
        """Fails if there is a text on which decoding raises something that the driver does not expect."""
        [_] = codec.decode(text)

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["type", "to", "data", "id", "token", "user", "ephemeral", "more"]),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats()
                | st.text()
                | st.sampled_from(["send", "ping"]),
                lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
                max_leaves=6,
            ),
        )
    )
    def test_any_object_is_an_operation_or_a_bad_frame(self, frame: dict[str, object]) -> None:
        """Fails if some mixture of known fields and wrong values gets through half-read, or raises."""
        operation = read(json.dumps(frame))
        if not isinstance(operation, Malformed):
            assert type(operation).__name__.lower() == frame["type"]
            assert operation.request_id == frame.get("id")


class TestDecodeReads:
    @pytest.mark.parametrize(
        ("text", "operation"),
        [
            ('{"type":"ping"}', Ping()),
            ('{"type":"ping","id":3}', Ping(request_id=3)),
            ('{"type":"ping","id":"x"}', Ping(request_id="x")),
            ('{"type":"ping","id":null}', Ping()),
            ('{"id":"' + "x" * 128 + '","type":"ping"}', Ping(request_id="x" * 128)),
            (f'{{"type":"ping","id":{2**63 - 1}}}', Ping(request_id=2**63 - 1)),
            (f'{{"type":"ping","id":{-(2**63)}}}', Ping(request_id=-(2**63))),
            ('{"type":"connect"}', Connect()),
            ('{"type":"connect","token":"t","user":"밥","id":0}', Connect(token="t", user="밥", request_id=0)),
            (' {"type" : "ping" , "new":[1]} ', Ping()),
            ('{"type":"\\u0070ing"}', Ping()),
        ],
    )
    def test_good_frames(self, text: str, operation: Operation) -> None:
        """Fails if a valid frame is refused, an unknown field is, or a field is lost."""
        assert read(text) == operation

    def test_data_stays_as_it_was_written(self) -> None:
        """Fails if data is parsed and written anew on its way (numbers and escapes would change)."""
        written = '{"b": 1.0,"n":1e2,"k":"\\uc548","한":[null]}'
        operation = read(send(written, id="i", ephemeral=True))
        assert isinstance(operation, Send)
        assert bytes(operation.data).decode() == written
        assert (operation.to, operation.request_id, operation.ephemeral) == ("bob", "i", True)

    @pytest.mark.parametrize("user", ["", "x" * 300, "a\u0000", "\u202eabc"])
    def test_who_may_be_addressed_is_not_the_codecs_business(self, user: str) -> None:
        """Fails if the rules of user ids move into the wire format: the session has them, for every codec."""
        operation = read(json.dumps({"type": "send", "to": user, "data": 1}))
        assert isinstance(operation, Send)
        assert operation.to == user


class TestEncode:
    @pytest.mark.parametrize(
        ("event", "text"),
        [
            (Pong(), '{"type":"pong"}'),
            (Pong(request_id="x"), '{"type":"pong","id":"x"}'),
            (Pong(request_id=0), '{"type":"pong","id":0}'),
            (
                Connected(user="밥", session="s", replica="replica-1", positions={}, ping_s=25),
                '{"type":"connected","user":"밥","session":"s","replica":"replica-1","cursor":"","ping":25}',
            ),
            (
                Ack(message_id="m", delivery=Delivery.REMOTE, request_id=7),
                '{"type":"ack","message_id":"m","delivery":"remote","id":7}',
            ),
            (Ack(message_id="m", delivery=Delivery.OFFLINE), '{"type":"ack","message_id":"m","delivery":"offline"}'),
            (Reconnect(in_ms=1500, positions={}), '{"type":"reconnect","in_ms":1500,"cursor":""}'),
            (
                Error(code=ErrorCode.TOO_DEEP, message="no", timestamp="t"),
                '{"type":"error","code":"too_deep","message":"no","timestamp":"t"}',
            ),
            (RpcResult(msgspec.Raw(b'{"b": 1}'), request_id=7), '{"type":"rpc","data":{"b": 1},"id":7}'),
            (
                Publication(channel="#b", data=msgspec.Raw(b'{"a": 1.0}'), message_id="m", sent_at="t", sender="al"),
                '{"type":"message","channel":"#b","data":{"a": 1.0},"message_id":"m","sent_at":"t","from":"al"}',
            ),
            (
                Publication(channel="#b", data=msgspec.Raw(b"0"), message_id="m", sent_at="t", origin="replica-2"),
                '{"type":"message","channel":"#b","data":0,"message_id":"m","sent_at":"t","origin":"replica-2"}',
            ),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_the_bytes_of_each_event(self, event: Event, text: str) -> None:
        """Fails if `type` is not first, blanks creep in, `from` is called otherwise or unset fields are written."""
        assert codec.encode(event).decode() == text

    def test_a_message_names_only_what_its_publication_has(self) -> None:
        """Fails if a foreign message is given `"from":null`, or a sender is lost."""
        publication = Publication(channel="#b", data=msgspec.Raw(b"1"), message_id="m", sent_at="t")
        frame = json.loads(codec.encode(publication))
        assert set(frame) == {"type", "channel", "data", "message_id", "sent_at"}
        named = msgspec.structs.replace(publication, sender="al", origin="replica-1")
        frame = json.loads(codec.encode(named))
        assert (frame["from"], frame["origin"]) == ("al", "replica-1")
