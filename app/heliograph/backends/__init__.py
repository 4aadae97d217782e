"""What the cluster remembers outside of this process: one protocol, kept in memory or in Redis."""
