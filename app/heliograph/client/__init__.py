"""What other programs use: they know Redis and this package, and nothing of the cluster."""
