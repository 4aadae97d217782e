"""A FastAPI application whose cluster asks it who comes in, who may publish what, and the answers to calls."""

import os
from pathlib import Path
from typing import Any

from fastapi import Body, FastAPI, Request
from fastapi.responses import FileResponse
from starlette.middleware.sessions import SessionMiddleware

from heliograph.contrib.fastapi import Hooks
from heliograph.contrib.hooks import Client, ConnectRequest, Message, PublishRequest, Refuse, RpcRequest

PAGE = Path(__file__).with_name("index.html")

hooks = Hooks(os.environ["LIVE_SECRET"])  # the cluster shows it with each request


@hooks.connect
def connect(asked: ConnectRequest, request: Request) -> Client | None:
    """The cookie of the page's session says who this is."""
    name = request.session.get("name")
    return None if name is None else Client(name, channels=["team"])


@hooks.publish
def publish(asked: PublishRequest) -> Message | bool:
    """The team may write, and others cannot be signed with their names."""
    if asked.channel != "team":
        return False
    return Message({"from": asked.user, "text": str(asked.data)[:200]})


@hooks.rpc
def rpc(asked: RpcRequest) -> Any:
    if asked.method != "shout":
        raise Refuse(f"there is no method {asked.method}", 404)
    return str(asked.data).upper()


api = FastAPI()
api.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])
api.include_router(hooks.router, prefix="/hooks")


@api.get("/")
def index() -> FileResponse:
    return FileResponse(PAGE)


@api.post("/login", status_code=204)
def log_in(request: Request, name: str = Body(embed=True)) -> None:
    """A real application would ask for a password."""
    request.session["name"] = name
