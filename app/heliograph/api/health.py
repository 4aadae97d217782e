"""`/health` and `/ready`, for load balancers and people."""

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from heliograph.cluster.node import Node
from heliograph.ports import Bus


def health_routes(node: Node, bus: Bus) -> list[Route]:
    async def health(_: Request) -> Response:
        """Answer 200 while the event loop runs; 503 if the replica cannot heal and should be restarted."""
        state = {"status": status_of(node), "replica": node.name}
        if node.reason:
            state["reason"] = node.reason
        return JSONResponse(state, status_code=503 if node.gave_up else 200)

    async def ready(_: Request) -> Response:
        """Answer 200 if new clients are welcome, otherwise 503 with the reason."""
        state: dict[str, object] = {"replica": node.name, "bus": bus.state.name.lower(), "draining": node.draining}
        if bus.enabled:
            age_s = bus.canary_age_s
            state["canary_age_s"] = None if age_s == float("inf") else round(age_s, 3)
        if node.reason:
            state["reason"] = node.reason
        if node.detail:
            state["detail"] = node.detail
        if shards := node.shards:
            state["shards"] = [msgspec.structs.asdict(each) for each in shards]
        return JSONResponse({"ready": node.ready, **state}, status_code=200 if node.ready else 503)

    return [Route("/health", health), Route("/ready", ready)]


def status_of(node: Node) -> str:
    """Return the status in a word: `alive`, `degraded` (it cannot do everything) or `broken`."""
    if node.gave_up:
        return "broken"
    return "degraded" if node.reason and not node.draining else "alive"


def status_routes(node: Node) -> list[Route]:
    """Return the same routes for the public port: the status without its reason."""

    async def health(_: Request) -> Response:
        return JSONResponse({"status": status_of(node)}, status_code=503 if node.gave_up else 200)

    async def ready(_: Request) -> Response:
        return JSONResponse({"ready": node.ready}, status_code=200 if node.ready else 503)

    return [Route("/health", health), Route("/ready", ready)]
