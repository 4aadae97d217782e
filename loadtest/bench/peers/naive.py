"""A WebSocket server as a tutorial writes it: a dictionary of sockets, `send_json` to each, redis-py's `listen()`."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.asyncio as redis
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

CHANNEL = "chat"
connected: dict[str, WebSocket] = {}
client = redis.from_url(os.environ["REDIS_URL"], decode_responses=True)


async def listen() -> None:
    pubsub = client.pubsub()
    await pubsub.subscribe(CHANNEL)
    async for message in pubsub.listen():
        if message["type"] == "message":
            data = json.loads(message["data"])
            to = data.get("to")
            if to is None:
                for socket in list(connected.values()):
                    await socket.send_json(data)
            elif to in connected:
                await connected[to].send_json(data["message"])


async def chat(socket: WebSocket) -> None:
    await socket.accept()
    name = socket.path_params["name"]
    await socket.send_json({"connected": name})
    if not name.startswith("publisher"):
        connected[name] = socket
    try:
        while True:
            await client.publish(CHANNEL, json.dumps(await socket.receive_json()))
    except WebSocketDisconnect:
        pass
    finally:
        connected.pop(name, None)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    task = asyncio.create_task(listen())
    yield
    task.cancel()


app = Starlette(routes=[WebSocketRoute("/ws/{name}", chat)], lifespan=lifespan)
