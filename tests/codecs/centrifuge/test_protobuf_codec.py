"""The Protobuf format of Centrifuge SDKs. The bytes here are what Google's library makes of the same messages."""

import msgspec
import pytest

from heliograph.codecs.centrifuge.encoding import publication_of
from heliograph.codecs.centrifuge.json_codec import CentrifugeJsonCodec
from heliograph.codecs.centrifuge.messages import PUBLICATION
from heliograph.codecs.centrifuge.protobuf_codec import CentrifugeProtobufCodec
from heliograph.codecs.centrifuge.wire import delimited
from heliograph.codecs.varint import read_varint, varint
from heliograph.errors import ErrorCode
from heliograph.protocol import events, operations
from heliograph.protocol.client_info import NO_INFO, ClientInfo
from heliograph.protocol.codes import CloseCode, UnsubscribeCode
from heliograph.protocol.position import Position
from heliograph.protocol.publication import Publication

JSON = CentrifugeJsonCodec(4, "1")
CODEC = CentrifugeProtobufCodec(4, "1")
AT = Position("e1", 7)
RAW = msgspec.Raw(b'{"a":1}')
CONNECT = (
    "400801223c0a0174120e7b2275736572223a22626f62227d1a100a0423626f62120818013202653138072202676f32060a0178120179"
    "38ffffffffffffffffff01"
)
CONNECTED = "2c08012a280a01731201311801204b32120a0423626f62120a18013202653148075001381940014a0173520172"


@pytest.mark.parametrize(
    ("hexadecimal", "same"),
    [
        (
            CONNECT,
            '{"id":1,"connect":{"token":"t","data":{"user":"bob"},"headers":{"x":"y"},"name":"go",'
            '"subs":{"#bob":{"recover":true,"offset":7,"epoch":"e1"}}}}',
        ),
        ("1308022a0f0a046e6577736a050a03616e647001", '{"id":2,"subscribe":{"channel":"news","flag":1}}'),
        (
            "1f08022a1b0a046e65777312017418013202653138076206666f7373696c7003",
            '{"id":2,"subscribe":{"channel":"news","recover":true,"offset":7,"epoch":"e1","flag":3,"token":"t",'
            '"delta":"fossil"}}',
        ),
        ("0a080332060a046e657773", '{"id":3,"unsubscribe":{"channel":"news"}}'),
        ("1308043a0f0a046e65777312077b2261223a317d", '{"id":4,"publish":{"channel":"news","data":{"a":1}}}'),
        ("0b62090a077b2261223a317d", '{"send":{"data":{"a":1}}}'),
        ("1208056a0e0a077b2261223a317d120373756d", '{"id":5,"rpc":{"method":"sum","data":{"a":1}}}'),
        ("07080672030a0174", '{"id":6,"refresh":{"token":"t"}}'),
        ("0a080742060a046e657773", '{"id":7,"presence":{"channel":"news"}}'),
        (
            "1f0808521b0a046e65777338ffffffffffffffffff0142060807120265314801",
            '{"id":8,"history":{"channel":"news","limit":-1,"since":{"offset":7,"epoch":"e1"},"reverse":true}}',
        ),
        ("0d08097a090a046e657773120174", '{"id":9,"sub_refresh":{"channel":"news","token":"t"}}'),
        ("0a08094a060a046e657773", '{"id":9,"presence_stats":{"channel":"news"}}'),
        ("00", "{}"),
        ("0a080332060a046e65777300", '{"id":3,"unsubscribe":{"channel":"news"}}\n{}'),
    ],
)
def test_a_command_is_the_same_operation_as_in_json(hexadecimal: str, same: str) -> None:
    """Fails if a field of a command is lost or taken for another."""
    frame = bytes.fromhex(hexadecimal)
    assert list(CODEC.decode(frame)) == list(JSON.decode(same))
    assert list(CODEC.request_ids(frame)) == list(JSON.request_ids(same))


@pytest.mark.parametrize(
    ("event", "hexadecimal"),
    [
        (
            Publication("news", RAW, "m", "t", "alice", "r", Position("e1", 300)),
            "1f221d12046e657773221522077b2261223a317d2a070a05616c69636530ac02",
        ),
        (
            events.Progress(Publication("run:1", RAW, "m", "t", position=AT), "RUNNING", 4.0, None),
            "162214120572756e3a31220b22077b2261223a317d3007",
        ),
        (events.Published("news", "m", AT, 3), "0408034200"),
        (
            events.Subscribed("news", AT, True, request_id=3, was_recovering=True),
            "120803320e1801320265314001480750016001",
        ),
        (events.Subscribed("#bob", AT, False), "142212120423626f624a0a08012202653128073001"),
        (
            events.Unsubscribed("news", code=UnsubscribeCode.GAP),
            "21221f12046e6577733a1710c4131a12696e73756666696369656e74207374617465",
        ),
        (
            events.Connected("bob", "s", "r", {}, 25, 1, {"#bob": events.Subscribed("#bob", AT, False)}, 100),
            CONNECTED,
        ),
        (events.Refreshed(8, 3, "s"), "0e0803720a0a017312013118012006"),
        (events.RpcResult(RAW, 3), "0d08036a090a077b2261223a317d"),
        (events.Error(ErrorCode.UNAVAILABLE, "later", "t", 3), "0f0803120b086412056c617465721801"),
        (
            events.ClientJoined("news", ClientInfo(client="", user="bob")),
            "11220f12046e6577732a070a050a03626f62",
        ),
        (
            events.ClientPresence(
                "news", {"c1": ClientInfo("c1", "bob", msgspec.Raw(b'{"n":1}'), msgspec.Raw(b"2"))}, 3
            ),
            "2108034a1d0a1b0a02633112150a03626f62120263311a077b226e223a317d220132",
        ),
        (events.PresenceStats("news", 2, 1, 3), "080803520408021001"),
        (events.SubscriptionRefreshed("news", 50, 3), "0808037a0408011032"),
        (
            Publication("news", msgspec.Raw(b"1"), "m", "t", position=AT, tags={"a": "b"}),
            "17221512046e657773220d22013130073a060a0161120162",
        ),
        (
            events.History(
                "news",
                [Publication("news", msgspec.Raw(b"1"), "m", "t", position=AT)],
                AT,
                Position("e1", 9),
                request_id=3,
            ),
            "1108035a0d0a052201313007120265311809",
        ),
        (events.ServerPing(), "00"),
    ],
)
def test_an_event_is_what_the_library_of_sdks_reads(event: events.Event, hexadecimal: str) -> None:
    """Fails if a field has another number or type than SDKs read."""
    assert CODEC.encode(event).hex() == hexadecimal


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x05\x08",  # longer than the frame
        b"\xff" * 11,  # a length without an end
        b"\x02\x08\xff",  # an id without an end
        b"\x02\x0b\x00",  # a group
        b"\x03\x32\x05\x0a",  # a field longer than its command
        b"\x05\x0d\x00\x00\x00\x00",  # an id of a fixed size
        b"\x06\x08\x01\x32\x02\x0a\xff",
        delimited(b"\x08\x01\x32" + delimited(b"\x0a\x01\xff")),  # no UTF-8
        b"\0" * 1001,  # too many commands
        b"\x02\x22\x00",  # a connect without an id
    ],
)
def test_what_cannot_be_read_closes(frame: bytes) -> None:
    """Fails if bytes that are no command are taken for one, or raise."""
    operation = CODEC.decode(frame)[-1]
    assert isinstance(operation, operations.Malformed)
    assert operation.close == CloseCode.BAD_REQUEST
    assert CODEC.request_ids(frame)


def test_data_must_be_json_here_too() -> None:
    """Fails if data that other clients of the channel cannot read are published."""
    [operation] = CODEC.decode(delimited(b"\x08\x04\x3a" + delimited(b"\x0a\x01a\x12\x02\xff\x00")))
    assert isinstance(operation, operations.Malformed)
    assert (operation.request_id, operation.close) == (4, None)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32, 2**63 - 1, 2**64 - 1])
def test_numbers_come_back(number: int) -> None:
    """Fails if a number is written in a way in which it is read as another."""
    encoded = varint(number)
    assert read_varint(b"x" + encoded + b"y", 1, len(encoded) + 1) == (number, len(encoded) + 1)


@pytest.mark.parametrize("number", [2**64, 2**70 - 1, 2**77])
def test_numbers_of_more_than_64_bits_are_refused(number: int) -> None:
    encoded = varint(number)
    with pytest.raises(ValueError, match="more than 64 bits"):
        read_varint(encoded, 0, len(encoded))


@pytest.mark.parametrize("conn_info", [NO_INFO, RAW])
@pytest.mark.parametrize("chan_info", [NO_INFO, msgspec.Raw(b"2")])
def test_an_author_is_the_same_by_hand_and_by_table(conn_info: msgspec.Raw, chan_info: msgspec.Raw) -> None:
    """Fails if what is written by hand, for speed, differs from what the tables say."""
    author = ClientInfo("c1", "alice", conn_info, chan_info)
    publication = Publication("news", RAW, "m", "t", "alice", position=AT, author=author)
    by_table = b"\x12" + delimited(b"news") + b"\x22" + delimited(PUBLICATION.encode(publication_of(publication)))
    assert CODEC.encode(publication) == delimited(b"\x22" + delimited(by_table))
