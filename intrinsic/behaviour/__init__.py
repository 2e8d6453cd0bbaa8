"""Novelty of behaviour: of whole episodes, in a space of descriptors."""
