"""A client in asyncio: `heliograph.connect`.

`dispatcher.py` decides, without I/O; `client.py` opens and replaces connections; the links are the transports.
"""

from heliograph.client.connection.client import Client, connect

__all__ = ["Client", "connect"]
