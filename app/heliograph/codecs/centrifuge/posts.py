"""What a client posts to its session: the commands of one frame, and which session on which node it is."""

from typing import Final

import msgspec

from heliograph.codecs.centrifuge.commands import Post
from heliograph.codecs.centrifuge.messages import POST
from heliograph.errors import BadData

_read_post: Final = msgspec.json.Decoder(Post).decode
_read_text: Final = msgspec.json.Decoder(str).decode


def read_post(body: bytes, *, is_binary: bool) -> tuple[str, str, bytes]:
    """Return the node, the session, and the frame. In JSON the frame is a text with lines of commands.

    Raises:
        BadData: the body is not that.
    """
    try:
        post = POST.decode(body, 0, len(body)) if is_binary else _read_post(body)
        frame = bytes(post.data) if is_binary else _read_text(post.data).encode()
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        what = "a Protobuf message" if is_binary else 'JSON, {"session":…,"node":…,"data":"…"}'
        raise BadData(f"the body must be {what}: {error}") from None
    if not (post.node and post.session and frame):
        raise BadData("'node' and 'session' of the reply to connect, and 'data' with commands must be given")
    return post.node, post.session, frame
