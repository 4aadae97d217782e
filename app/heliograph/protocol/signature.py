"""Signatures of webhooks, as the Standard Webhooks specification has them (standardwebhooks.com). Pure."""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from heliograph.errors import BadSetting, BadSignature

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
TOLERANCE_S: Final = 300.0  # how much the clocks of the cluster and of the receiver may differ
LEAST_SECRET_BYTES: Final = 24

_PREFIX: Final = "whsec_"


def read_secrets(text: str) -> list[bytes]:
    """Return the keys of one or more secrets, separated by spaces: base64, with or without `whsec_` before it.

    Raises:
        BadSetting: one of them is not base64, or too short, or there is none.
    """
    secrets = [_key(each) for each in text.split()]
    if not secrets:
        raise BadSetting("the secret of webhooks is empty; make one: openssl rand -base64 32")
    return secrets


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise BadSetting("the secret of webhooks must be base64; make one: openssl rand -base64 32") from None
    if len(key) < LEAST_SECRET_BYTES:
        raise BadSetting(f"the secret of webhooks needs {LEAST_SECRET_BYTES} bytes or more; it has {len(key)}")
    return key


def signed_headers(secrets: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> dict[str, str]:
    """Return the headers of a webhook. Each secret signs, so that a receiver can change from one to the next."""
    signatures = [f"v1,{_signature(secret, message_id, str(timestamp_s), body)}" for secret in secrets]
    return {ID: message_id, TIMESTAMP: str(timestamp_s), SIGNATURE: " ".join(signatures)}


def check_signature(secrets: Sequence[bytes], headers: Mapping[str, str], body: bytes, now_s: float) -> None:
    """Check that a webhook was signed with one of the secrets, at about this time. `headers`: names in any case.

    Raises:
        BadSignature: it was not, or a header is missing.
    """
    given = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in (ID, TIMESTAMP, SIGNATURE) if name not in given]
    if missing:
        raise BadSignature(f"the header {missing[0]} is missing")
    message_id, timestamp = given[ID], given[TIMESTAMP]
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        raise BadSignature(f"the header {TIMESTAMP} must be seconds since the epoch")
    if abs(now_s - int(timestamp)) > TOLERANCE_S:
        raise BadSignature(f"signed {now_s - int(timestamp):.0f} s ago; {TOLERANCE_S:.0f} s are allowed")
    shown = [each.removeprefix("v1,").encode() for each in given[SIGNATURE].split() if each.startswith("v1,")]
    for secret in secrets:
        expected = _signature(secret, message_id, timestamp, body).encode()
        if any(hmac.compare_digest(expected, each) for each in shown):
            return
    raise BadSignature("no signature matches the body and the secret")


def _signature(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
