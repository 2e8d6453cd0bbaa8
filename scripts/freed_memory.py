"""Memory that tensors have freed stays with the process, because the next ones need it."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks of up to 1 GiB instead of giving them back to the system.

    Each minibatch allocates and frees the same tensors, and fresh pages cost more than many of the
    operations on them. Has no effect with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_TRIM_THRESHOLD, _BYTES)
        libc.mallopt(_MMAP_THRESHOLD, _BYTES)
