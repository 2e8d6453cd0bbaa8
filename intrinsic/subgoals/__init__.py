"""Subgoals as a reward: teachers, what the policy sees of their plans, credit by language."""
