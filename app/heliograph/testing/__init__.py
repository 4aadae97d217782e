"""For tests of programs that use Heliograph: publishers that record, and a real server in the test's process."""

from heliograph.testing.recording import AsyncRecordingPublisher, Recorded, RecordingPublisher
from heliograph.testing.server import EmbeddedServer

__all__ = ["AsyncRecordingPublisher", "EmbeddedServer", "Recorded", "RecordingPublisher"]
