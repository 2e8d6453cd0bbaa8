"""Designers, which propose reward programs: by a grammar or by a language model."""
