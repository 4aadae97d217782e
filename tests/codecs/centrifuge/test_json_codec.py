"""The JSON format of Centrifuge SDKs: what each command becomes, and what each event."""

import json
from typing import Any

import msgspec
import pytest

from heliograph.codecs.centrifuge.json_codec import CentrifugeJsonCodec
from heliograph.errors import ErrorCode
from heliograph.protocol import events, operations
from heliograph.protocol.client_info import ClientInfo
from heliograph.protocol.codes import CloseCode, ErrorNumber, UnsubscribeCode
from heliograph.protocol.operations import Incomplete
from heliograph.protocol.position import Position, Positions
from heliograph.protocol.publication import Publication

CODEC = CentrifugeJsonCodec(4, "1.2.3")
AT = Position("e1", 7)
RAW = msgspec.Raw(b'{"a":1}')


def sent(event: events.Event) -> Any:
    return json.loads(CODEC.encode(event))


@pytest.mark.parametrize(
    ("frame", "operation"),
    [
        ("{}", operations.PingAnswered()),
        (
            '{"id":1,"connect":{"token":"t","name":"js","data":{"user":"bob"},"subs":{"#bob":{"recover":true,"offset":7,"epoch":"e1"}}}}',
            operations.Connect(
                "t",
                "bob",
                Positions({"#bob": AT}),
                request_id=1,
                has_reply=True,
                incomplete=Incomplete.SKIP,
                by_client=True,
                data=msgspec.Raw(b'{"user":"bob"}'),
                name="js",
                channels=("#bob",),
            ),
        ),
        (
            '{"id":1,"connect":{"headers":{"authorization":"Bearer t"},"data":"anything"}}',
            operations.Connect(
                "t",
                request_id=1,
                has_reply=True,
                incomplete=Incomplete.SKIP,
                by_client=True,
                data=msgspec.Raw(b'"anything"'),
                headers=(("authorization", "Bearer t"),),
            ),
        ),
        (
            '{"id":2,"subscribe":{"channel":"news","flag":1}}',
            operations.Subscribe("news", request_id=2, incomplete=Incomplete.SKIP),
        ),
        (
            '{"id":2,"subscribe":{"channel":"news","recover":true,"offset":7,"epoch":"e1","flag":3,"token":"t"}}',
            operations.Subscribe(
                "news", Positions({"news": AT}), request_id=2, incomplete=Incomplete.REFUSE, token="t"
            ),
        ),
        ('{"id":3,"unsubscribe":{"channel":"news"}}', operations.Unsubscribe("news", 3, may_repeat=True)),
        (
            '{"id":4,"publish":{"channel":"news","data":{"a":1}}}',
            operations.Publish("news", RAW, request_id=4, names_client=True),
        ),
        (
            '{"id":4,"publish":{"channel":"#bob","data":{"a":1}}}',
            operations.Send("bob", RAW, request_id=4, names_client=True),
        ),
        ('{"send":{"data":{"a":1}}}', operations.Emit("message", RAW)),
        ('{"id":5,"rpc":{"method":"sum","data":{"a":1}}}', operations.Rpc("sum", RAW, 5)),
        ('{"id":6,"refresh":{"token":"t"}}', operations.Refresh("t", 6)),
        ('{"id":7,"presence":{"channel":"news"}}', operations.ReadPresence("news", 7, by_client=True)),
        ('{"id":7,"presence_stats":{"channel":"news"}}', operations.CountPresence("news", 7)),
        ('{"id":7,"sub_refresh":{"channel":"news","token":"t"}}', operations.RefreshSubscription("news", "t", 7)),
        (
            '{"id":2,"subscribe":{"channel":"news","join_leave":true,"delta":"fossil"}}',
            operations.Subscribe("news", request_id=2, incomplete=Incomplete.SKIP, join_leave=True, delta="fossil"),
        ),
    ],
)
def test_a_command_becomes_an_operation(frame: str, operation: operations.Operation) -> None:
    """Fails if a field of a command is lost or taken for another."""
    assert CODEC.decode(frame) == (operation,)


def test_a_frame_holds_any_number_of_commands() -> None:
    """Fails if commands that an SDK joins, or spreads over lines, are not told apart."""
    frame = '{"id":1,"connect":{}}\n{"id":2,"unsubscribe":{\n"channel":"a"}}\n\n{}\n'
    assert [type(each).__name__ for each in CODEC.decode(frame)] == ["Connect", "Unsubscribe", "PingAnswered"]
    assert CODEC.request_ids(frame) == [1, 2, None]


@pytest.mark.parametrize(
    ("frame", "code", "request_id", "close"),
    [
        ("", ErrorCode.BAD_REQUEST, None, CloseCode.BAD_REQUEST),
        ("{", ErrorCode.BAD_JSON, None, CloseCode.BAD_REQUEST),
        ("[" * 3000, ErrorCode.TOO_DEEP, None, CloseCode.BAD_REQUEST),
        ('{"subscribe":{"channel":"a"}}', ErrorCode.BAD_REQUEST, None, CloseCode.BAD_REQUEST),
        ('{"id":1,"ping":{}}', ErrorCode.BAD_REQUEST, None, CloseCode.BAD_REQUEST),
        ('{"id":-1,"publish":{}}', ErrorCode.BAD_REQUEST, None, CloseCode.BAD_REQUEST),
        ("7", ErrorCode.BAD_REQUEST, None, CloseCode.BAD_REQUEST),
        ('{"send":{"data":1e999}}', ErrorCode.BAD_REQUEST, None, CloseCode.BAD_REQUEST),
        ('{"id":1,"dance":{}}', ErrorCode.UNKNOWN_TYPE, 1, None),
        ('{"id":1,"subscribe":{"channel":5}}', ErrorCode.BAD_REQUEST, 1, None),
        ('{"id":1,"publish":{"channel":"a"}}', ErrorCode.BAD_REQUEST, 1, None),
        ('{"id":1,"publish":{"channel":"a","data":[[[[[1]]]]]}}', ErrorCode.TOO_DEEP, 1, None),
        ('{"id":1,"publish":{"channel":"a","data":1e999}}', ErrorCode.BAD_REQUEST, 1, None),
    ],
)
def test_what_is_wrong_is_answered_or_closes(
    frame: str, code: ErrorCode, request_id: int | None, close: CloseCode | None
) -> None:
    """Fails if a wrong command is taken, or an answer names no command or a wrong one."""
    [operation] = CODEC.decode(frame)
    assert isinstance(operation, operations.Malformed)
    assert (operation.code, operation.request_id, operation.close) == (code, request_id, close)


@pytest.mark.parametrize("line", ["{}", '{"id":1,"rpc":{}}', '{"id":"x"}'])
def test_a_frame_has_a_limit_of_commands(line: str) -> None:
    """Fails if one frame of two bytes a command keeps the loop busy for as long as thousands of frames."""
    frame = "\n".join([line] * 1001)
    [operation] = CODEC.decode(frame)
    assert isinstance(operation, operations.Malformed)
    assert operation.close is CloseCode.BAD_REQUEST
    assert len(CODEC.request_ids(frame)) <= 1000


def test_a_wrong_command_does_not_take_the_others_of_its_frame_with_it() -> None:
    """Fails if one wrong command of a frame makes all of them wrong."""
    found = CODEC.decode(
        '{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":5}}\n{"id":3,"refresh":{"token":"t"}}'
    )
    assert [type(each).__name__ for each in found] == ["Connect", "Malformed", "Refresh"]


@pytest.mark.parametrize(
    ("event", "reply"),
    [
        (
            Publication("news", RAW, "m", "t", "alice", "r", AT),
            {
                "push": {
                    "channel": "news",
                    "pub": {"data": {"a": 1}, "offset": 7, "info": {"user": "alice", "client": ""}},
                }
            },
        ),
        (
            Publication("news", RAW, "m", "t", "alice", "r", AT, author=ClientInfo("c1", "alice", RAW)),
            {
                "push": {
                    "channel": "news",
                    "pub": {
                        "data": {"a": 1},
                        "offset": 7,
                        "info": {"user": "alice", "client": "c1", "conn_info": {"a": 1}},
                    },
                }
            },
        ),
        (Publication("news", RAW, "m", "t"), {"push": {"channel": "news", "pub": {"data": {"a": 1}}}}),
        (
            events.Progress(Publication("run:1", RAW, "m", "t", position=AT), "RUNNING", 4.0, None),
            {"push": {"channel": "run:1", "pub": {"data": {"a": 1}, "offset": 7}}},
        ),
        (
            events.InitialState("run:1", AT, "RUNNING", 4.0, ["x"]),
            {
                "push": {
                    "channel": "run:1",
                    "pub": {
                        "data": {"state": "RUNNING", "progress": 4.0, "message": None, "logs": ["x"]},
                        "offset": 7,
                    },
                }
            },
        ),
        (events.Published("news", "m", AT, 3), {"id": 3, "publish": {}}),
        (events.Ack("m", events.Delivery.LOCAL, 3), {"id": 3, "publish": {}}),
        (events.ServerPing(), {}),
        (
            events.Subscribed("news", AT, True, request_id=3, was_recovering=True),
            {
                "id": 3,
                "subscribe": {
                    "recoverable": True,
                    "positioned": True,
                    "epoch": "e1",
                    "offset": 7,
                    "recovered": True,
                    "was_recovering": True,
                },
            },
        ),
        (
            events.Subscribed("#bob", AT, False),
            {
                "push": {
                    "channel": "#bob",
                    "subscribe": {"recoverable": True, "positioned": True, "epoch": "e1", "offset": 7},
                }
            },
        ),
        (
            events.Subscribed("cursors", Position("e1", 0), False, request_id=3, is_kept=False),
            {"id": 3, "subscribe": {"epoch": "e1"}},
        ),
        (events.Unsubscribed("news", 3), {"id": 3, "unsubscribe": {}}),
        (
            events.Unsubscribed("news", code=UnsubscribeCode.GAP),
            {"push": {"channel": "news", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}},
        ),
        (
            events.Connected(
                "bob",
                "s",
                "replica-1",
                {},
                25,
                1,
                {"#bob": events.Subscribed("#bob", AT, False), "a": None},
                100,
            ),
            {
                "id": 1,
                "connect": {
                    "client": "s",
                    "version": "1.2.3",
                    "expires": True,
                    "ttl": 75,
                    "subs": {
                        "#bob": {"recoverable": True, "positioned": True, "epoch": "e1", "offset": 7},
                        "a": {},
                    },
                    "ping": 25,
                    "pong": True,
                    "session": "s",
                    "node": "replica-1",
                },
            },
        ),
        (
            events.Refreshed(8, 3, "s"),
            {"id": 3, "refresh": {"client": "s", "version": "1.2.3", "expires": True, "ttl": 6}},
        ),
        (events.Refreshed(None, 3, "s"), {"id": 3, "refresh": {"client": "s", "version": "1.2.3"}}),
        (events.Refreshed(8, session="s"), {"push": {"refresh": {"expires": True, "ttl": 6}}}),
        (events.RpcResult(RAW, 3), {"id": 3, "rpc": {"data": {"a": 1}}}),
        (
            events.ClientJoined("news", ClientInfo("c1", "bob", RAW)),
            {"push": {"channel": "news", "join": {"info": {"user": "bob", "client": "c1", "conn_info": {"a": 1}}}}},
        ),
        (
            events.ClientPresence("news", {"c1": ClientInfo("c1", "bob", chan_info=RAW)}, 3),
            {"id": 3, "presence": {"presence": {"c1": {"user": "bob", "client": "c1", "chan_info": {"a": 1}}}}},
        ),
        (events.PresenceStats("news", 0, 0, 3), {"id": 3, "presence_stats": {"num_clients": 0, "num_users": 0}}),
        (events.SubscriptionRefreshed("news", 60, 3), {"id": 3, "sub_refresh": {"expires": True, "ttl": 60}}),
        (events.SubscriptionRefreshed("news", None, 3), {"id": 3, "sub_refresh": {}}),
        (
            events.Error(ErrorCode.UNAVAILABLE, "later", "t", 3),
            {"id": 3, "error": {"code": 100, "message": "later", "temporary": True}},
        ),
        (
            events.Error(ErrorCode.BAD_REQUEST, "twice", "t", 3, ErrorNumber.ALREADY_SUBSCRIBED),
            {"id": 3, "error": {"code": 105, "message": "twice"}},
        ),
    ],
)
def test_an_event_becomes_a_reply_or_a_push(event: events.Event, reply: Any) -> None:
    """Fails if a field has another name or place than SDKs read it from."""
    assert sent(event) == reply


@pytest.mark.parametrize(
    "event",
    [
        events.Error(ErrorCode.BAD_REQUEST, "unasked", "t"),
        events.Reconnect(100, {}),
        events.Emitted(),
        events.Pong(),
    ],
)
def test_what_these_clients_have_no_name_for_is_not_sent(event: events.Event) -> None:
    """Fails if an SDK gets what it cannot read; it would take an empty reply for a ping."""
    assert CODEC.encode(event) == b""


def test_a_reply_is_one_line() -> None:
    """Fails if data that its author has spread over lines breaks a reply in two: SDKs split at line breaks."""
    encoded = CODEC.encode(Publication("news", msgspec.Raw(b'{"a":\n"b\\nc"}'), "m", "t"))
    assert b"\n" not in encoded
    assert json.loads(encoded)["push"]["pub"]["data"] == {"a": "b\nc"}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_error_has_a_number(code: ErrorCode) -> None:
    """Fails if a new error code would raise while it is encoded."""
    assert sent(events.Error(code, "text", "t", 1))["error"]["code"] >= 100


@pytest.mark.parametrize("code", CloseCode)
def test_sdks_come_back_after_the_same_closes(code: CloseCode) -> None:
    """Fails if an SDK stays away where a plain client comes back, but for a limit that a new attempt meets again."""
    on_wire = CODEC.close_code(code)
    stays_away = 3500 <= on_wire < 4000
    assert stays_away == (code >= 3500 or code in (CloseCode.UNSUPPORTED_DATA, CloseCode.CONNECTION_LIMIT))
