"""Environments of our own, kept as arrays: chain, walks, race."""
