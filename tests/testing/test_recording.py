"""The publishers that record: what they stand for, as a user's tests see it."""

import pytest

from heliograph.client.publisher import AsyncPublisher, Publisher
from heliograph.errors import BadData, PublishError
from heliograph.protocol.channel_options import Namespace
from heliograph.testing import AsyncRecordingPublisher, RecordingPublisher


def test_it_records_what_every_verb_publishes() -> None:
    """Fails if a test of a user's program cannot see what the program said, to whom, and where it stands."""
    with RecordingPublisher() as publisher:
        assert isinstance(publisher, Publisher)
        assert publisher.publish("news", {"a": 1}).offset == 1
        assert publisher.publish("news", [2], "key").offset == 2
        assert publisher.publish("news", [3], "key").offset == 2
        publisher.send_to_user("bob", "hi")
        publisher.publish_progress("7", state="RUNNING", progress=40)
        publisher.log_many(101, [("a\n", "stdout"), ("b", "stderr")])
        assert publisher.data("news") == [{"a": 1}, [2]]
        assert publisher.data("#bob") == ["hi"]
        assert publisher.data("run:7") == [{"state": "RUNNING", "progress": 40}]
        assert [each["line"] for each in publisher.data("logs:101")] == ["a", "b"]
        assert [each.channel for each in publisher.recorded][:3] == ["news", "news", "#bob"]
        publisher.clear()
        assert publisher.recorded == []


def test_it_refuses_what_a_publisher_refuses() -> None:
    """Fails if a program passes its tests with what the cluster would not take."""
    with RecordingPublisher() as publisher:
        with pytest.raises(BadData):
            publisher.publish_progress("7", progress=101)
        publisher.fail_with(PublishError("Redis is away"))
        with pytest.raises(PublishError, match="away"):
            publisher.publish("news", 1)
        publisher.fail_with(None)
        publisher.lease_runs(["7", "8"], 10)
        publisher.release_run("8")
        assert publisher.leased == {"7"}
        assert publisher.reap_lost_runs() == 0
        assert publisher.recorded == []


def test_nothing_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails if a test reaches the cluster that its machine is set up for, or depends on it."""
    monkeypatch.setenv("HELIOGRAPH_REDIS__URL", "redis://production:6379/0")
    monkeypatch.setenv("HELIOGRAPH_NAMESPACES", '{"news": {"ephemeral": true}}')
    with RecordingPublisher() as publisher:
        assert publisher.publish("news", 1).offset == 1
    with RecordingPublisher(namespaces={"cursors": Namespace(ephemeral=True)}) as publisher:
        assert publisher.publish("cursors:1", 1).epoch is None


async def test_the_same_for_coroutines() -> None:
    """Fails if an `AsyncPublisher` cannot be stood for."""
    async with AsyncRecordingPublisher() as publisher:
        assert isinstance(publisher, AsyncPublisher)
        await publisher.publish("news", 1)
        await publisher.publish_progress("7", "END")
        assert [each.data for each in publisher.recorded] == [1, {"state": "END"}]
