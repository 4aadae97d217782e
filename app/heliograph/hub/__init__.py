"""This replica's registry of connections: memory only, no `await`."""
