"""`/health`, `/ready`, `/metrics`: what load balancers, people and Prometheus ask a replica."""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.cluster.node import Node
from app.cluster.pubsub_manager import PubSubManager
from app.hub.hub import Hub
from app.telemetry import Telemetry


def health_routes(node: Node, bus: PubSubManager, hub: Hub, telemetry: Telemetry) -> list[Route]:
    async def health(_: Request) -> Response:
        """200 while the process runs its event loop: do not restart it."""
        return JSONResponse({"status": "alive", "replica": node.name})

    async def ready(_: Request) -> Response:
        """200 if new clients are welcome; otherwise 503 and why."""
        state = {"replica": node.name, "bus": bus.state.name.lower(), "draining": node.draining}
        if bus.enabled:
            age_s = bus.canary_age_s
            state["canary_age_s"] = None if age_s == float("inf") else round(age_s, 3)
        return JSONResponse({"ready": node.ready, **state}, status_code=200 if node.ready else 503)

    async def metrics(_: Request) -> Response:
        gauges = {
            "connections": lambda: hub.connections,
            "users": lambda: hub.users,
            "ready": lambda: node.ready,
            "draining": lambda: node.draining,
            "bus_canary_age_seconds": lambda: bus.canary_age_s,
        }
        return Response(telemetry.render(gauges), media_type=CONTENT_TYPE_LATEST)

    return [Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)]
