"""Reward programs: rewards as code, by a person or a language model (docs/reward_programs.md)."""
