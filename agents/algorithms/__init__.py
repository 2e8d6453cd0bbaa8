"""Learners: they update a policy from a rollout and its reward streams."""
