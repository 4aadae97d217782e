"""The AsyncAPI 3 document of the socket, made from the types of its frames (`heliograph asyncapi`)."""

import inspect
from typing import Any, Final, get_args

import msgspec

from heliograph.codecs.plain.client_frames import (
    ClientFrame,
    Connect,
    Emit,
    Ping,
    Publish,
    ReadHistory,
    ReadPresence,
    Received,
    Refresh,
    Rpc,
    Send,
    Subscribe,
    Unsubscribe,
)
from heliograph.codecs.plain.server_frames import (
    Ack,
    Connected,
    Emitted,
    Error,
    History,
    Pong,
    Presence,
    Published,
    ReceiptNoted,
    Refreshed,
    RpcResult,
    ServerFrame,
    Subscribed,
    Unsubscribed,
)
from heliograph.protocol.codes import CloseCode

Struct = type[msgspec.Struct]

# The answer to each operation that succeeds.
ANSWERS: Final[dict[Struct, Struct]] = {
    Connect: Connected,
    Refresh: Refreshed,
    Send: Ack,
    Subscribe: Subscribed,
    Unsubscribe: Unsubscribed,
    Publish: Published,
    ReadHistory: History,
    ReadPresence: Presence,
    Emit: Emitted,
    Rpc: RpcResult,
    Received: ReceiptNoted,
    Ping: Pong,
}

_QUERY: Final = {
    "user": "The user, in open mode",
    "channels": "Channels to subscribe to at once, separated by commas",
    "ticket": "A ticket from POST /api/ticket; valid once",
    "cursor": "The client's positions, if the handshake identifies the client",
    "replay": "Start with everything that is kept of the user's own channel, if the handshake identifies the client",
    "device": "Which of the user's devices it is, if the handshake identifies the client",
}
_TEMPLATE: Final = "#/components/schemas/{name}"


def document(version: str) -> dict[str, Any]:
    """Return the whole document. `version`: of this program."""
    operations, events = list(get_args(ClientFrame)), list(get_args(ServerFrame))
    _, schemas = msgspec.json.schema_components([*operations, *events], ref_template=_TEMPLATE)
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Heliograph",
            "version": version,
            "description": "The plain JSON protocol: one JSON object in each text frame. See docs/protocol.md.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "localhost:8080", "protocol": "ws", "description": "What scripts/run starts"}},
        "channels": {"socket": _socket([*operations, *events])},
        "operations": {
            **{_tag(operation): _asked(operation, ANSWERS[operation]) for operation in operations},
            "tell": {
                "action": "send",
                "channel": {"$ref": "#/channels/socket"},
                "summary": "What the client is told unasked",
                "messages": [_message(event) for event in events if event not in _ONLY_ANSWERS],
            },
        },
        "components": {
            "messages": {each.__name__: _payload(each) for each in (*operations, *events)},
            "schemas": schemas,
        },
    }


# Two also come without a request: `subscribed` if a token opens a channel, and after a gap that could not be filled;
# `unsubscribed` if the server takes the client off a channel.
_ONLY_ANSWERS: Final = frozenset(ANSWERS.values()) - {Subscribed, Unsubscribed}


def _socket(messages: list[Struct]) -> dict[str, Any]:
    query = {name: {"type": "string", "description": text} for name, text in _QUERY.items()}
    return {
        "address": "/ws",
        "description": "Also /ws/users/{user}, /ws/runs/{id} and /ws/logs/{id}, which connect and subscribe at once.",
        "messages": {each.__name__: {"$ref": f"#/components/messages/{each.__name__}"} for each in messages},
        "bindings": {"ws": {"method": "GET", "query": {"type": "object", "properties": query}}},
        "x-close-codes": {str(code.value): code.name.lower() for code in CloseCode},
    }


def _asked(operation: Struct, answer: Struct) -> dict[str, Any]:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/socket"},
        "summary": _summary(operation),
        "messages": [_message(operation)],
        "reply": {"channel": {"$ref": "#/channels/socket"}, "messages": [_message(answer), _message(Error)]},
    }


def _payload(struct: Struct) -> dict[str, Any]:
    return {
        "name": _tag(struct),
        "summary": _summary(struct),
        "payload": {"$ref": _TEMPLATE.format(name=struct.__name__)},
    }


def _message(struct: Struct) -> dict[str, str]:
    return {"$ref": f"#/channels/socket/messages/{struct.__name__}"}


def _tag(struct: Struct) -> str:
    """Return the `type` of its frames."""
    return str(struct.__struct_config__.tag)


def _summary(struct: Struct) -> str:
    return inspect.cleandoc(struct.__doc__ or "").partition("\n")[0]
