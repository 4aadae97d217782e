"""Redis Cluster: V virtual shards, each one slot, which servers pass on to each other."""
