"""Learners: what turns reward streams into an update of a policy."""
