"""One kind of link for each transport. They need websockets and httpx."""

from heliograph.client.connection.poll_link import PollLink
from heliograph.client.connection.socket_link import SocketLink
from heliograph.client.connection.stream_link import StreamLink

__all__ = ["PollLink", "SocketLink", "StreamLink"]
