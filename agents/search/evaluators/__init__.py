"""Evaluators: run genomes for an episode each, and report where they ended and what they got."""
