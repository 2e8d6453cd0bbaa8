"""Array-backed environments: chain, walks, race."""
