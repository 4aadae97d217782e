"""The body of a request, up to a limit."""

from starlette.requests import Request


async def read_body(request: Request, most_bytes: int) -> bytes | None:
    """Return the body; None if it is too large, which is known before all of it has arrived.

    The server drops the rest, so that the client can read the answer.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most_bytes:
            return None
        parts.append(part)
    return b"".join(parts)
