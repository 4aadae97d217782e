"""One stream of server-sent events."""

from typing import Final

from heliograph.client.connection.http_link import HttpLink
from heliograph.client.connection.link import ABNORMAL, Closed, LinkEnded

SLACK_S: Final = 5.0


class StreamLink(HttpLink):
    """Read `/sse`. See `Link`."""

    transport = "sse"
    received_path = "api/received"

    async def follow(self) -> None:
        ping_s = 0.0
        async with self.request(self.begin(), first=True) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise LinkEnded(Closed(ABNORMAL, "the answer is not an event stream"))
            buffer = b""
            data: list[bytes] = []
            async for chunk in response.aiter_bytes():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data:"):
                        data.append(line[5:].removeprefix(b" ").removesuffix(b"\r"))
                    elif line in (b"", b"\r") and data:
                        ping_s = self._take(b"\n".join(data), ping_s)
                        data.clear()
                    # `id`, the whole cursor, is the sum of what the messages say; `retry` is for an EventSource.
                    if self.ended():
                        return
                # The server sends something every `ping` seconds, if only a comment.
                if ping_s > 0:
                    self.expect_within(ping_s + SLACK_S, "no sign of life")
        raise LinkEnded(Closed(ABNORMAL, "the stream has ended"))

    def _take(self, text: bytes, ping_s: float) -> float:
        """Handle one event. Return the seconds within which the server sends something, once they are known."""
        frame = self.decode(text)
        if frame is None:
            return ping_s
        if frame["type"] == "connected" and not self.replica:
            self.welcome(frame)
            return float(frame["ping"])
        if frame["type"] == "disconnect":
            raise LinkEnded(Closed(frame["code"], frame["reason"]))
        self.deliver(frame)
        return ping_s
