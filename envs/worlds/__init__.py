"""Array-backed environments: chain, deepsea, walks, race, warehouse, mazes, arms."""
