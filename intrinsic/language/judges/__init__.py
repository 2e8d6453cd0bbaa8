"""Judges: who is asked whether a text is good news, or which of two is the better."""
