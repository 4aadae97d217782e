"""The ASGI application, for a server that imports one (`uvicorn heliograph.main:app --workers 1`) or to be mounted.

An application that mounts it runs `lifespan`, or enters it in its own: see docs/fastapi.md.
"""

import os
import socket

from heliograph.application import build_replica
from heliograph.cluster.pubsub_manager import get_pubsub_manager
from heliograph.settings import Settings

_settings = Settings.load()
# Each process is a replica of its own, and gets no name from outside.
_name = f"{socket.gethostname()}-{os.getpid()}"
app = build_replica(_settings, _name, get_pubsub_manager).app
lifespan = app.router.lifespan_context
