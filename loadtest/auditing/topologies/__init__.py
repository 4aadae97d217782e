"""The kinds of Redis that an audit can run on."""

from typing import Final

from loadtest.auditing.topologies.cluster import ClusterTopology, ReplicatedClusterTopology
from loadtest.auditing.topologies.sentinel import SentinelTopology
from loadtest.auditing.topologies.shards import SentinelShardsTopology, ShardsTopology
from loadtest.auditing.topologies.single import SingleTopology
from loadtest.auditing.topology import Topology

TOPOLOGIES: Final[dict[str, type[Topology]]] = {
    each.name: each
    for each in (
        SingleTopology,
        SentinelTopology,
        ShardsTopology,
        SentinelShardsTopology,
        ClusterTopology,
        ReplicatedClusterTopology,
    )
}
