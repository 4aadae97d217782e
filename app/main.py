"""The ASGI application, for a server that wants to import one: `uvicorn app.main:app --workers 1`."""

from app.application import build_replica
from app.cluster.pubsub_manager import get_pubsub_manager
from app.settings import Settings

_settings = Settings.load()
app = build_replica(_settings, bus=get_pubsub_manager(_settings)).app
