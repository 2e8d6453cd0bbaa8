"""MiniGrid tasks in three backends, views, map memory and captions."""

from firstlight.envs.minigrid.backends import make

__all__ = ["make"]
