"""NetHack and MiniHack: tasks, side channels, text and drawing. Needs the extra `nethack`."""

from firstlight.envs.nethack.nethack import make

__all__ = ["make"]
