"""Valid frames of both formats, each with several commands, for tests that change them."""

from typing import Final

from heliograph.codecs.centrifuge.wire import delimited
from heliograph.codecs.varint import varint

SUBSCRIBE: Final = (
    b'{"id":2,"subscribe":{"channel":"news","recover":true,"offset":7,"epoch":"e1","flag":3,"delta":"fossil"}}'
)
JSON: Final = (
    b'{"id":1,"connect":{"token":"t","data":{"user":"bob"},"headers":{"x":"y"},"subs":{"#bob":{"recover":true}}}}',
    SUBSCRIBE,
    b'{"id":3,"unsubscribe":{"channel":"news"}}\n{"id":4,"publish":{"channel":"#bob","data":[{"a":[1,2.5e3,null]}]}}',
    b'{"id":5,"rpc":{"method":"sum","data":{"a":"\\u00e9"}}}\n{"send":{"data":"x"}}',
    b'{"id":6,"refresh":{"token":"t"}}\n{"id":7,"sub_refresh":{"channel":"news","token":"t"}}\n{}',
    b'{"id":8,"history":{"channel":"news","limit":-1,"since":{"offset":7,"epoch":"e1"},"reverse":true}}',
    b'{"id":9,"presence":{"channel":"run:1"}}\n{"id":10,"presence_stats":{"channel":"run:1"}}',
)


def _field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + delimited(value)


def _command(number: int, method: int, *fields: bytes) -> bytes:
    return delimited(b"\x08" + varint(number) + _field(method, b"".join(fields)))


_NEWS: Final = _field(1, b"news")
PROTOBUF: Final = (
    _command(
        1, 4, _field(1, b"t"), _field(2, b'{"user":"bob"}'), _field(3, _field(1, b"#bob") + _field(2, b"\x18\1"))
    ),
    _command(2, 5, _NEWS, b"\x18\1\x38\7", _field(6, b"e1"), _field(12, b"fossil"), b"\x70\3"),
    _command(3, 6, _NEWS) + _command(4, 7, _field(1, b"#bob"), _field(2, b'[{"a":[1,2.5e3,null]}]')),
    _command(5, 13, _field(1, b'{"a":1}'), _field(2, b"sum")) + delimited(_field(12, _field(1, b'"x"'))),
    _command(6, 14, _field(1, b"t")) + _command(7, 15, _NEWS, _field(2, b"t")) + b"\0",
    _command(8, 10, _NEWS, varint(7 << 3) + varint(-1), _field(8, b"\x08\7" + _field(2, b"e1")), b"\x48\1"),
    _command(9, 8, _field(1, b"run:1")) + _command(10, 9, _field(1, b"run:1")),
)
