"""What a replica says of itself."""

from typing import Any

import msgspec

from heliograph.ports import ReplicaInfo


def replica_info(name: str = "replica-1", **fields: Any) -> ReplicaInfo:
    """A replica that has nothing special, but for `fields`."""
    info = ReplicaInfo(
        name=name,
        node_id=f"{name}-boot-1",
        ready=True,
        draining=False,
        connections=3,
        users=2,
        started_at="2026-01-01T00:00:00.000Z",
        renewed_at=1_767_225_600.5,
        version="0.2.0",
    )
    return msgspec.structs.replace(info, **fields)
