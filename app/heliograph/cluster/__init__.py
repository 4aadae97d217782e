"""What makes many replicas one: the bus, the directory, and the policy that decides what goes where."""
