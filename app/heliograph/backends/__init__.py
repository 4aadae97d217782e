"""The cluster's state outside of this process: the same ports, in memory or in Redis."""
