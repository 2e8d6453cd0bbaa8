"""Behaviour search: novelty search and its descendants, which follow no gradient."""
