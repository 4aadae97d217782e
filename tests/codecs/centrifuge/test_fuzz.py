"""Whatever a client sends becomes operations on which a session decides, and nothing is raised."""

from itertools import islice

import pytest

from heliograph.codecs.centrifuge.json_codec import CentrifugeJsonCodec
from heliograph.codecs.centrifuge.protobuf_codec import CentrifugeProtobufCodec
from heliograph.codecs.codec import Codec
from heliograph.protocol.actions import Reject, Reply
from heliograph.protocol.events import Error
from heliograph.protocol.namespace import Namespaces
from heliograph.protocol.operations import Connect
from heliograph.protocol.policy import Policy
from heliograph.protocol.session import Session
from tests.codecs.centrifuge import frames
from tests.support.mutations import mutated

COUNT = 50_000  # of each format


def new_session() -> Session:
    policy = Policy(Namespaces(), open_mode=True, events=["message"])
    session = Session("s", "replica-1", policy=policy, ping_interval_s=25, max_channels=100)
    session.receive(Connect())
    session.identified("bob")
    return session


def decide(codec: Codec, session: Session, frame: str | bytes) -> int:
    """Do with a frame what a connection does, up to the router. Return how many refusals it got."""
    operations = codec.decode(frame)
    assert operations, "each frame is answered, or closes"
    assert codec.request_ids(frame)
    refusals = 0
    for operation in operations:
        action = session.receive(operation)
        if isinstance(action, Reject):
            refusals += 1
            codec.encode(Error(action.code, action.message, "t", action.request_id, action.number))
        elif isinstance(action, Reply):
            codec.encode(action.event)
    return refusals


@pytest.mark.parametrize("name", ["json", "protobuf"])
def test_a_hundred_thousand_frames(name: str) -> None:
    """Fails if some frame raises, in decoding, in deciding or in the answer."""
    session = new_session()
    codec: Codec = CentrifugeJsonCodec(32, "1") if name == "json" else CentrifugeProtobufCodec(32, "1")
    refused = 0
    for frame in islice(mutated(frames.JSON if name == "json" else frames.PROTOBUF, seed=20), COUNT):
        refused += decide(codec, session, frame.decode(errors="replace") if name == "json" else frame) > 0
    assert COUNT // 4 < refused < COUNT, "some are wrong, and some are not"


@pytest.mark.parametrize("frame", [*frames.JSON, *frames.PROTOBUF])
def test_the_frames_were_right_before_they_were_changed(frame: bytes) -> None:
    """Fails if the test above changes what nobody would read anyway."""
    is_json = frame in frames.JSON
    codec: Codec = CentrifugeJsonCodec(32, "1") if is_json else CentrifugeProtobufCodec(32, "1")
    found = codec.decode(frame.decode() if is_json else frame)
    assert "Malformed" not in [type(each).__name__ for each in found]
