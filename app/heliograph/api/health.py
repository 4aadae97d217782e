"""`/health`, `/ready`: what load balancers and people ask a replica."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from heliograph.cluster.node import Node
from heliograph.ports import Bus


def health_routes(node: Node, bus: Bus) -> list[Route]:
    async def health(_: Request) -> Response:
        """200 while the process runs its event loop: do not restart it. 503 if it says itself that it cannot heal."""
        state = {"status": status_of(node), "replica": node.name}
        if node.reason:
            state["reason"] = node.reason
        return JSONResponse(state, status_code=503 if node.gave_up else 200)

    async def ready(_: Request) -> Response:
        """200 if new clients are welcome; otherwise 503 and why."""
        state: dict[str, object] = {"replica": node.name, "bus": bus.state.name.lower(), "draining": node.draining}
        if bus.enabled:
            age_s = bus.canary_age_s
            state["canary_age_s"] = None if age_s == float("inf") else round(age_s, 3)
        if node.reason:
            state["reason"] = node.reason
        return JSONResponse({"ready": node.ready, **state}, status_code=200 if node.ready else 503)

    return [Route("/health", health), Route("/ready", ready)]


def status_of(node: Node) -> str:
    """In a word: `alive`, `degraded` (it cannot do all that it should) or `broken`."""
    if node.gave_up:
        return "broken"
    return "degraded" if node.reason and not node.draining else "alive"


def status_routes(node: Node) -> list[Route]:
    """The same for everybody: whether, but not why."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": status_of(node)}, status_code=503 if node.gave_up else 200)

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": node.ready}, status_code=200 if node.ready else 503)

    return [Route("/health", health), Route("/ready", ready)]
