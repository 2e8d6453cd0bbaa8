"""Config groups of the project."""
