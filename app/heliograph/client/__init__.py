"""What other programs use. They know Redis and this package, and nothing of the cluster."""
