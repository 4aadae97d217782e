"""Django Channels with its Redis pub/sub layer, under uvicorn."""

import json
import os
from typing import Any

import django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import re_path

settings.configure(
    SECRET_KEY="benchmark",  # noqa: S106 - Django wants one, and nothing here uses it
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]]},
        }
    },
)
django.setup()


class Consumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Everybody but the publisher is in one group, and in one of his own."""

    async def connect(self) -> None:
        if "publisher" not in self.scope["path"]:
            await self.channel_layer.group_add("all", self.channel_name)
            await self.channel_layer.group_add(self.scope["path"].rpartition("/")[2], self.channel_name)
        await self.accept()
        await self.send(text_data="{}")

    async def receive(self, text_data: str = "", bytes_data: bytes | None = None) -> None:
        data = json.loads(text_data)
        if "to" in data:
            await self.channel_layer.group_send(data["to"], {"type": "said", "text": json.dumps(data["message"])})
        else:
            await self.channel_layer.group_send("all", {"type": "said", "text": text_data})

    async def said(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": URLRouter([re_path(r"^ws/", Consumer.as_asgi())])})
