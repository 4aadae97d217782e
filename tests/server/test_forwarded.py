"""What is believed of `X-Forwarded-For`."""

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from heliograph.server.forwarded import believing

CLAIMED, HEARD, PROXY = "6.6.6.6", "1.2.3.4", "10.0.0.9"


async def client_of(trusted: str, *values: str, peer: str = PROXY) -> str:
    """Who the application takes the client for."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["client"][0])

    headers = [(b"x-forwarded-for", value.encode()) for value in values]
    scope: Scope = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": headers}
    await believing(app, trusted)(scope, None, None)  # type: ignore[arg-type]
    return str(seen[0])


@pytest.mark.parametrize(
    ("trusted", "values", "client"),
    [
        ("*", (HEARD,), HEARD),
        ("*", (f"{CLAIMED}, {HEARD}",), HEARD),
        ("*", (CLAIMED, HEARD), HEARD),
        ("*", (), PROXY),
        ("10.0.0.0/8", (f"{CLAIMED}, {HEARD}",), HEARD),
        ("10.0.0.0/8", (f"{CLAIMED}, {HEARD}, 10.0.0.8",), HEARD),
        ("127.0.0.1", (HEARD,), PROXY),
    ],
)
async def test_what_a_client_claims_of_itself_is_not_believed(
    trusted: str, values: tuple[str, ...], client: str
) -> None:
    """Fails if whoever writes an address into the header is counted as that address: with `*` the leftmost was."""
    assert await client_of(trusted, *values) == client
