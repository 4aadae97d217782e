"""The OpenAPI document of all endpoints over plain HTTP."""

from functools import cache
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from heliograph.api import models
from heliograph.api.methods import METHODS, Method
from heliograph.cluster.status import VERSION
from heliograph.ports import ReplicaInfo

Object = dict[str, Any]

_REF = "#/components/schemas/{model}"
_MSGSPEC_REF = "#/components/schemas/{name}"

_REFUSED = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}
_ANY_OBJECT = {"type": "object"}


@cache
def openapi_document() -> Object:
    """Return the document that `/api/openapi.json` serves."""
    _, params = models_json_schema([(method.params, "validation") for method in METHODS.values()], ref_template=_REF)
    schemas = params["$defs"]
    for method in METHODS.values():
        _or_null(schemas[method.params.__name__])
    schemas["BatchParams"]["properties"]["commands"]["items"] = {
        "oneOf": [
            {
                "type": "object",
                "required": [name],
                "properties": {name: _ref(method.params.__name__)},
                "additionalProperties": False,
            }
            for name, method in METHODS.items()
            if method.params is not models.BatchParams
        ]
    }
    _, results = msgspec.json.schema_components(
        [models.ErrorInfo, ReplicaInfo, *{method.result for method in METHODS.values()}], ref_template=_MSGSPEC_REF
    )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Heliograph", "version": VERSION, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": {
            **{f"/api/{name}": {"post": _method(name, method)} for name, method in METHODS.items()},
            **_READING,
        },
        "components": {
            "schemas": {**results, **schemas, "Refused": _REFUSED},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }


def _or_null(schema: Object) -> None:
    """Let an optional parameter be null, which means the same as leaving it out."""
    for name, value in schema.get("properties", {}).items():
        if name not in schema.get("required", ()) and {"type": "null"} not in value.get("anyOf", ()):
            schema["properties"][name] = {"anyOf": [value, {"type": "null"}]}


def _method(name: str, method: Method) -> Object:
    error = {"type": "object", "required": ["error"], "properties": {"error": _ref("ErrorInfo")}}
    result = {"type": "object", "required": ["result"], "properties": {"result": _ref(method.result.__name__)}}
    if method.result is models.BatchResult:
        result = _ref("BatchResult")
    return {
        "operationId": name,
        "summary": method.summary,
        "security": [{"key": []}],
        "requestBody": {"required": True, "content": _json(_ref(method.params.__name__))},
        "responses": {
            "200": {
                "description": "the result, or why it could not be carried out",
                "content": _json({"anyOf": [result, error]}),
            },
            "400": {"description": "the body is not a JSON object", "content": _json(error)},
            "401": {"description": "the key is not the cluster's", "content": _json(error)},
            "405": {"description": "it takes a POST", "content": _json(error)},
            "413": {"description": "the body is too large", "content": _json(error)},
        },
    }


def _reading(
    summary: str, answer: Object, *, parameters: list[Object] | None = None, others: dict[str, str], **more: Any
) -> Object:
    """Describe an operation that only reads. `others`: further answers, each with an error as its body."""
    return {
        "get": {
            "summary": summary,
            "parameters": parameters or [],
            "responses": {
                "200": {"description": "OK", "content": _json(answer)},
                **{status: {"description": why, "content": _json(_ref("Refused"))} for status, why in others.items()},
            },
            **more,
        }
    }


def _json(schema: Object) -> Object:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Object:
    return {"$ref": _REF.format(model=name)}


def _query(name: str, description: str, **schema: Any) -> Object:
    return {"name": name, "in": "query", "description": description, "schema": {"type": "string", **schema}}


_WHO = [
    _query("user", "the user, in open mode"),
    _query("ticket", "a ticket, in jwt mode, where a header cannot be set"),
]
_WHAT = [
    _query("channels", "names, separated by commas; none: the user's own"),
    {
        "name": "channel",
        "in": "query",
        "description": "one name, which may hold a comma; given once for each",
        "schema": {"type": "array", "items": {"type": "string"}},
    },
    _query("cursor", "the client's positions"),
]
_REFUSALS = {
    "400": "the request cannot be understood",
    "401": "the token or ticket is missing or not valid",
    "403": "not allowed",
    "429": "too many connections",
    "503": "not now: Redis is away, or this replica drains",
}
_SESSION: Object = {
    "type": "object",
    "required": ["operator", "ways"],
    "properties": {
        "operator": {
            "type": ["object", "null"],
            "required": ["name", "way", "expires_in"],
            "properties": {
                "name": {"type": "string", "description": "the user of the token; empty with a key"},
                "way": {"enum": ["key", "token", "open"]},
                "expires_in": {"type": "integer"},
            },
        },
        "ways": {"type": "array", "items": {"enum": ["key", "token", "open"]}},
    },
}


def _session_change(summary: str, body: Object | None, refusals: tuple[str, ...]) -> Object:
    """Describe an operation that begins or ends the session of an operator."""
    header = {"name": "X-Heliograph-Console", "in": "header", "required": True, "schema": {"type": "string"}}
    operation = {
        "summary": summary,
        "parameters": [header],
        "responses": {
            "200": {"description": "the session now", "content": _json(_SESSION)},
            **{status: {"description": _REFUSALS[status], "content": _json(_ref("Refused"))} for status in refusals},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    return {"post": operation}


_TICKET_REFUSALS = ("400", "401", "403", "429", "503")
_PUBLIC: list[Object] = [{}, {"token": []}]

_READING: Object = {
    "/health": _reading("Whether the process runs", _ANY_OBJECT, others={}),
    "/ready": {
        "get": {
            "summary": "Whether new clients are welcome",
            "responses": {
                "200": {"description": "they are", "content": _json(_ANY_OBJECT)},
                "503": {"description": "they are not, and why", "content": _json(_ANY_OBJECT)},
            },
        }
    },
    "/api/ticket": {
        "post": {
            "summary": "A ticket for the caller's token, to be used once in a URL",
            "security": _PUBLIC,
            "parameters": [_WHO[0]],
            "responses": {
                "200": {
                    "description": "the ticket",
                    "content": _json(
                        {
                            "type": "object",
                            "required": ["ticket", "expires_in"],
                            "properties": {"ticket": {"type": "string"}, "expires_in": {"type": "integer"}},
                        }
                    ),
                },
                **{
                    status: {"description": _REFUSALS[status], "content": _json(_ref("Refused"))}
                    for status in _TICKET_REFUSALS
                },
            },
        }
    },
    "/api/received": {
        "post": {
            "summary": "Say what a device of the caller has received: for clients without a WebSocket",
            "security": _PUBLIC,
            "parameters": [_WHO[0]],
            "requestBody": {
                "required": True,
                "content": _json(
                    {
                        "type": "object",
                        "required": ["cursor"],
                        "properties": {
                            "cursor": {
                                "type": "string",
                                "minLength": 1,
                                "description": "of messages, joined with `&`",
                            },
                            "device": {"type": "string", "maxLength": 64},
                        },
                    }
                ),
            },
            "responses": {
                "200": {"description": "it is noted", "content": _json(_ANY_OBJECT)},
                **{
                    status: {"description": _REFUSALS[status], "content": _json(_ref("Refused"))}
                    for status in _TICKET_REFUSALS
                },
            },
        }
    },
    "/api/cluster": _reading(
        "The replicas whose lease is alive (where the console is on)",
        {
            "type": "object",
            "required": ["auth", "replica", "replicas"],
            "properties": {
                "auth": {"enum": ["jwt", "hook", "open"]},
                "replica": {"type": "string"},
                "replicas": {
                    "type": "array",
                    "items": {
                        "allOf": [_ref("ReplicaInfo")],
                        "required": ["seen_ms"],
                        "properties": {"seen_ms": {"type": "integer"}},
                    },
                },
                "error": {"type": "string", "description": "why this replica can see no other"},
            },
        },
        others={status: _REFUSALS[status] for status in ("403", "429")},
    ),
    "/api/session": _reading(
        "The operator who is logged in to the console, and how one can log in (where the console is on)",
        _SESSION,
        others={status: _REFUSALS[status] for status in ("403", "429")},
    ),
    "/api/login": _session_change(
        "Log in to the console as an operator: a cookie stands for the session",
        {
            "type": "object",
            "properties": {"key": {"type": "string"}, "token": {"type": "string"}},
            "description": "the key of the server API, or a token with the claim `admin`",
        },
        ("400", "401", "403", "429", "503"),
    ),
    "/api/logout": _session_change("End the session of the operator", None, ("403", "429", "503")),
    "/sse": {
        "get": {
            "summary": "Server-sent events, with the cursor as id",
            "security": _PUBLIC,
            "parameters": [*_WHO, *_WHAT],
            "responses": {
                "200": {"description": "a stream", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
                **{
                    status: {"description": why, "content": _json(_ref("Refused"))}
                    for status, why in _REFUSALS.items()
                },
            },
        }
    },
    "/api/poll": _reading(
        "What is new since the cursor; waits for it",
        {
            "type": "object",
            "required": ["user", "replica", "cursor", "events"],
            "properties": {
                "user": {"type": "string"},
                "replica": {"type": "string"},
                "cursor": {"type": "string"},
                "events": {"type": "array", "items": _ANY_OBJECT},
            },
        },
        parameters=[
            *_WHO,
            *_WHAT,
            _query("wait", "seconds to wait for something new", type="number", minimum=0, maximum=50),
        ],
        others=_REFUSALS,
        security=_PUBLIC,
    ),
    "/api/runs/{run_id}": _reading(
        "The latest of a run",
        {
            "type": "object",
            "required": ["run_id", "state", "progress", "logs", "cursor"],
            "properties": {
                "run_id": {"type": "string"},
                "state": {"type": ["string", "null"]},
                "progress": {"type": "number"},
                "logs": {"type": "array", "items": {"type": "string"}},
                "cursor": {"type": "string"},
            },
        },
        parameters=[
            {"name": "run_id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}},
            _WHO[1],
        ],
        others={"404": "nothing is known of it", **_REFUSALS},
        security=_PUBLIC,
    ),
}
