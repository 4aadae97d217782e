"""The Protobuf wire format (its encoding of messages), for the messages that a table of fields describes.

A field is a number, the name of an attribute, and a kind. Unknown fields are skipped, empty ones are left out.
Google's library would read a command some microseconds faster, and write the push slower (docs/performance.md).
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

import msgspec

from heliograph.codecs.varint import read_varint, varint

_VARINT: Final = 0  # wire types
_FIXED64: Final = 1
_BYTES: Final = 2
_FIXED32: Final = 5
_MASK: Final = (1 << 64) - 1


class Kind(Enum):
    """What a field holds."""

    NUMBER = auto()  # not negative
    SIGNED = auto()
    FLAG = auto()
    TEXT = auto()
    RAW = auto()
    MESSAGE = auto()
    MESSAGES = auto()  # any number of them
    TEXT_BY_NAME = auto()
    MESSAGE_BY_NAME = auto()


class Field:
    """One field of a message; `message`: what it holds, if that is a message."""

    __slots__ = ("head", "kind", "message", "name", "number")

    def __init__(self, number: int, name: str, kind: Kind, message: "Message | None" = None) -> None:
        self.number = number
        self.name = name
        self.kind = kind
        self.message = message
        wire_type = _VARINT if kind in (Kind.NUMBER, Kind.SIGNED, Kind.FLAG) else _BYTES
        self.head = varint(number << 3 | wire_type)


class Message:
    """The fields of a message, and the type that it is decoded to."""

    __slots__ = ("by_number", "fields", "type")

    def __init__(self, kind: Callable[..., Any], *fields: Field) -> None:
        self.type = kind
        self.fields = fields
        self.by_number = {field.number: field for field in fields}

    def decode(self, data: bytes, begin: int, end: int) -> Any:
        """Return the message in this part of `data`.

        Raises:
            ValueError: it is not a message.
        """
        found: dict[str, Any] = {}
        at = begin
        while at < end:
            tag, at = read_varint(data, at, end)
            number, wire_type = tag >> 3, tag & 7
            field = self.by_number.get(number)
            if wire_type == _VARINT:
                value, at = read_varint(data, at, end)
                if field is not None:
                    found[field.name] = _number(field, value)
            elif wire_type == _BYTES:
                size, at = read_varint(data, at, end)
                if size > end - at:
                    raise ValueError(f"field {number} is longer than its message")
                if field is not None:
                    _read(field, data, at, at + size, found)
                at += size
            elif wire_type in (_FIXED32, _FIXED64):
                at += 4 if wire_type == _FIXED32 else 8
                if field is not None or at > end:
                    raise ValueError(f"field {number} is of the wrong type, or cut off")
            else:
                raise ValueError(f"field {number} has the unknown wire type {wire_type}")
        return self.type(**found)

    def encode(self, message: Any) -> bytes:
        """Return the message."""
        parts: list[bytes] = []
        for field in self.fields:
            value = getattr(message, field.name)
            if value or value == {}:
                _write(field, value, parts)
        return b"".join(parts)


def delimited(body: bytes) -> bytes:
    """Return the message after its length."""
    return varint(len(body)) + body


def _number(field: Field, value: int) -> object:  # not int: compiled, a flag would come out as a number
    if field.kind is Kind.FLAG:
        return value != 0
    if field.kind is Kind.NUMBER:
        if value > 2**53:
            raise ValueError(f"{field.name} is too large")
        return value
    if field.kind is Kind.SIGNED:
        return value - 2**64 if value >= 2**63 else value
    raise ValueError(f"{field.name} is a number")


def _read(field: Field, data: bytes, begin: int, end: int, found: dict[str, Any]) -> None:
    kind, message = field.kind, field.message
    if kind is Kind.TEXT:
        found[field.name] = data[begin:end].decode()
    elif kind is Kind.RAW:
        found[field.name] = msgspec.Raw(data[begin:end])
    elif kind is Kind.TEXT_BY_NAME:
        entry = _TEXT_ENTRY.decode(data, begin, end)
        found.setdefault(field.name, {})[entry.get("key", "")] = entry.get("value", "")
    elif message is None:
        raise ValueError(f"{field.name} is no number")
    elif kind is Kind.MESSAGE:
        found[field.name] = message.decode(data, begin, end)
    elif kind is Kind.MESSAGES:
        found.setdefault(field.name, []).append(message.decode(data, begin, end))
    else:
        entry = _RAW_ENTRY.decode(data, begin, end)
        value = bytes(entry.get("value", b""))
        found.setdefault(field.name, {})[entry.get("key", "")] = message.decode(value, 0, len(value))


def _write(field: Field, value: Any, parts: list[bytes]) -> None:
    kind, message, head = field.kind, field.message, field.head
    if kind is Kind.NUMBER or kind is Kind.SIGNED:
        parts += (head, varint(value & _MASK))  # a negative number is its complement
    elif kind is Kind.FLAG:
        parts += (head, b"\1")
    elif kind is Kind.TEXT:
        parts += (head, delimited(value.encode()))
    elif kind is Kind.RAW:
        parts += (head, delimited(bytes(value)))
    elif kind is Kind.TEXT_BY_NAME:
        for name, text in value.items():
            entry = _NAME_HEAD + delimited(name.encode()) + _VALUE_HEAD + delimited(text.encode())
            parts += (head, delimited(entry))
    elif message is None:
        raise TypeError(f"{field.name} cannot be written")
    elif kind is Kind.MESSAGE:
        parts += (head, delimited(message.encode(value)))
    elif kind is Kind.MESSAGES:
        for each in value:
            parts += (head, delimited(message.encode(each)))
    else:
        for name, each in value.items():
            entry = _NAME_HEAD + delimited(name.encode()) + _VALUE_HEAD + delimited(message.encode(each))
            parts += (head, delimited(entry))


_NAME_HEAD: Final = varint(1 << 3 | _BYTES)  # an entry of a map is a message with the fields 1 and 2
_VALUE_HEAD: Final = varint(2 << 3 | _BYTES)
_TEXT_ENTRY: Final = Message(dict, Field(1, "key", Kind.TEXT), Field(2, "value", Kind.TEXT))
_RAW_ENTRY: Final = Message(dict, Field(1, "key", Kind.TEXT), Field(2, "value", Kind.RAW))
