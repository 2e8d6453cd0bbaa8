"""Diagnostics of reward sources: doctor, heat maps, reward video."""
