"""Calls to the user's own backend, which decides who may connect, subscribe and publish, and answers `rpc`."""
