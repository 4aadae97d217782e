"""python-socketio behind its own Redis manager, without polling."""

import os
from typing import Any

import socketio

server = socketio.AsyncServer(
    async_mode="asgi",
    transports=["websocket"],
    client_manager=socketio.AsyncRedisManager(os.environ["REDIS_URL"]),
    cors_allowed_origins="*",
)
app = socketio.ASGIApp(server)


@server.event
async def connect(sid: str, environ: dict[str, Any], auth: object = None) -> None:
    query = environ.get("QUERY_STRING", "")
    if "publisher" not in query:
        await server.enter_room(sid, "all")
        await server.enter_room(sid, "u" + query.rpartition("n=")[2])


@server.on("say")
async def say(sid: str, data: object) -> None:
    await server.emit("said", data, room="all")


@server.on("tell")
async def tell(sid: str, user: str, data: object) -> None:
    await server.emit("said", data, room=user)
