"""Measurements: speed against named peers, and learning tables."""
