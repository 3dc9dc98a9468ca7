"""Stubs generated from `protos/tandem/v1` by `scripts/protos`."""
