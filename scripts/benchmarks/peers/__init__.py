"""Timed runs of firstlight and of its peers on one task, each a script of its own."""
