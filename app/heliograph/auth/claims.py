"""The claims of a token beside its user: what presence says of the bearer, what is subscribed at once, its end."""

from collections.abc import Mapping
from typing import Any

import msgspec

from heliograph.errors import BadData, InvalidToken
from heliograph.protocol.grants import Grants, grants_at_once
from heliograph.protocol.publication import check_data, json_of_base64
from heliograph.shared_settings import DEPTH

LATEST_END = 253_402_300_799  # the end of the year 9999


def read_info(claims: Mapping[str, Any]) -> bytes | None:
    """Return what presence says of the bearer, as JSON: the claim `info`, or `b64info`, which holds JSON in base64.

    Raises:
        InvalidToken: it is not JSON that every client can read.
    """
    encoded = claims.get("b64info")
    if encoded:
        try:
            return bytes(json_of_base64(encoded, DEPTH))
        except BadData as error:
            raise InvalidToken(f"the token's 'b64info': {error}") from None
    said = claims.get("info")
    return None if said is None else _checked("info", _json(said))


def read_meta(claims: Mapping[str, Any]) -> bytes | None:
    """Return what the token says of its bearer to the backend alone, a JSON object; None: nothing.

    Raises:
        InvalidToken: it is no object, or not JSON.
    """
    meta = claims.get("meta")
    if meta is None:
        return None
    if not isinstance(meta, dict):
        raise InvalidToken("the token's 'meta' is a JSON object")
    return _checked("meta", _json(meta))


def read_subs(claim: object) -> Grants:
    """Read the `subs` claim: channels that are subscribed at once, each with an object that may hold its `info`.

    Raises:
        InvalidToken: it is not an object of channels; or an entry overrides options, which only namespaces have here.
    """
    if not isinstance(claim, dict):
        raise InvalidToken("the token's 'subs' is an object of channels, each with an object")
    infos: dict[str, bytes | None] = {}
    for channel, options in claim.items():
        if not isinstance(options, dict):
            raise InvalidToken(f"the token's 'subs': {channel!r} needs an object, such as {{}}")
        refuse_override(options)
        infos[channel] = read_info(options)
    return grants_at_once(infos)


def refuse_override(claims: Mapping[str, Any]) -> None:
    """Refuse options of a channel in a token: a bearer must not be shown where the token's maker thought otherwise.

    Raises:
        InvalidToken: there are some.
    """
    if claims.get("override"):
        raise InvalidToken("the token has an 'override'; options of channels are those of namespaces here")


def read_end(claims: Mapping[str, Any], *, must_end: bool) -> float | None:
    """Return when what the token allows ends (seconds since the epoch): `expire_at`, or `exp`; None: never.

    `expire_at` is apart from `exp`, until which the token can be used. 0 means never.

    Raises:
        InvalidToken: it is no time that will come; or it never ends, and that is refused.
    """
    name = "exp" if claims.get("expire_at") is None else "expire_at"
    end = claims.get(name)
    if end is None:
        return None
    if name == "expire_at" and end == 0:
        if must_end:
            raise InvalidToken("the token's 'expire_at' is 0, and tokens without an end are refused here")
        return None
    try:
        end = float(end)
    except (OverflowError, ValueError, TypeError):
        end = float("inf")
    if not end <= LATEST_END:
        raise InvalidToken(f"the token is not valid: its {name!r} is no time that will come")
    return end


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError) as error:
        raise InvalidToken(f"the token is not valid: {error}") from None


def _checked(name: str, said: bytes) -> bytes:
    try:
        check_data(msgspec.Raw(said), DEPTH)
    except BadData as error:
        raise InvalidToken(f"the token's {name!r}: {error}") from None
    return said
