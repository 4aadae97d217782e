"""`/health`, `/ready`: what load balancers and people ask a replica."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from app.cluster.node import Node
from app.cluster.pubsub_manager import PubSubManager


def health_routes(node: Node, bus: PubSubManager) -> list[Route]:
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

    return [Route("/health", health), Route("/ready", ready)]


def status_routes(node: Node) -> list[Route]:
    """The same for everybody: whether, but not why."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": node.ready}, status_code=200 if node.ready else 503)

    return [Route("/health", health), Route("/ready", ready)]
