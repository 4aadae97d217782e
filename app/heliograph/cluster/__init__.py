"""What makes many replicas one cluster: the bus, the directory, and the routing of messages."""
