"""Moves KV between pools over gRPC. Knows core and the `KVPool` protocol, never an engine."""
