"""Confine the process that runs a reward program: limits, Landlock, seccomp.

Run by `sandbox_worker.py` alone, which loads this file by its path: it imports nothing of ours.
Numbers are those of Linux's user-space interface, which never change.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 4, 38, 22
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT, _LANDLOCK_VERSION = 444, 446, 1
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refuse: the error EPERM
_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: word, jump if equal, if bits set
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
_PROT_EXEC, _DUPLICATE = 4, 1030  # the second: F_DUPFD_CLOEXEC

# architecture, number of fcntl, and of: read write close fstat lseek mmap mprotect munmap brk
# rt_sigaction rt_sigprocmask rt_sigreturn mremap madvise futex clock_gettime clock_nanosleep exit
# exit_group sched_yield getrandom restart_syscall gettid getpid
_TABLES = {
    "x86_64": (
        0xC000003E,
        72,
        *(
            (0, 1, 3, 5, 8, 9, 10, 11, 12, 13, 14, 15, 25, 28, 202, 228, 230, 60, 231),
            (24, 318, 219, 186, 39),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        25,
        *(
            (63, 64, 57, 80, 62, 222, 226, 215, 214, 134, 135, 139, 216, 233, 98, 113, 115, 93, 94),
            (124, 278, 128, 178, 172),
        ),
    ),
}
_WRITE, _MMAP, _MPROTECT = 1, 5, 6  # positions in those lists


def confine(write_fd: int, memory_bytes: int) -> dict[str, bool]:
    """Give up everything but computing and writing to one descriptor, for ever.

    Modules that are needed must be imported, and files open, before.

    Args:
        write_fd: the only descriptor that may be written to.
        memory_bytes: limit of the address space.

    Returns:
        Parts of the confinement to whether they hold: "limits", "no_new_privileges", "landlock"
        (no file, no network) and "seccomp" (only calls of the kernel that computing needs).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return {
        "limits": _limit(memory_bytes),
        "no_new_privileges": _give_up_privileges(libc),
        "landlock": _restrict_files(libc),
        "seccomp": _restrict_calls(libc, write_fd),  # last: it forbids the calls of the others
    }


def _limit(memory_bytes: int) -> bool:
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 16,
    }
    try:
        for kind, value in limits.items():
            resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):
        return False
    return True


def _give_up_privileges(libc: ctypes.CDLL) -> bool:
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # end with the parent
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        return libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    except AttributeError:  # not Linux
        return False


def _restrict_files(libc: ctypes.CDLL) -> bool:
    """Forbid every access to files, and to the network where the kernel is new enough."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return False
    kinds = {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)  # rights for files, by version
    rules = struct.pack("=Q", (1 << kinds) - 1)
    if version >= 4:
        rules += struct.pack("=Q", 3)  # bind and connect
    if version >= 6:
        rules += struct.pack("=Q", 3)  # sockets without a file, signals
    fd = libc.syscall(_LANDLOCK_CREATE, rules, len(rules), 0)
    if fd < 0:
        return False
    try:
        return libc.syscall(_LANDLOCK_RESTRICT, fd, 0) == 0
    finally:
        os.close(fd)


def _restrict_calls(libc: ctypes.CDLL, write_fd: int) -> bool:
    """Allow only the calls of the kernel that computing needs; others fail with EPERM."""
    if platform.machine() not in _TABLES:
        return False
    architecture, fcntl, first, second = _TABLES[platform.machine()]
    calls = [*first, *second]
    write, mmap, mprotect = (calls[i] for i in (_WRITE, _MMAP, _MPROTECT))
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, architecture, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        # write: only to one descriptor
        _instruction(_EQUAL, write, 0, 4),
        _instruction(_LOAD, _ARGUMENTS),
        _instruction(_EQUAL, write_fd, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _REFUSE),
    ]
    program += [  # fcntl: only to duplicate a descriptor, as Python's mmap does
        _instruction(_EQUAL, fcntl, 0, 4),
        _instruction(_LOAD, _ARGUMENTS + 8),
        _instruction(_EQUAL, _DUPLICATE, 0, 1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _REFUSE),
    ]
    for call in (mmap, mprotect):  # not executable
        program += [
            _instruction(_EQUAL, call, 0, 4),
            _instruction(_LOAD, _ARGUMENTS + 2 * 8),
            _instruction(_SET, _PROT_EXEC, 1, 0),
            _instruction(_RETURN, _ALLOW),
            _instruction(_RETURN, _REFUSE),
        ]
    for call in calls:
        if call not in (write, mmap, mprotect):
            program += [_instruction(_EQUAL, call, 0, 1), _instruction(_RETURN, _ALLOW)]
    program.append(_instruction(_RETURN, _REFUSE))
    code = ctypes.create_string_buffer(b"".join(program))
    header = ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    )
    return libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Encode a BPF instruction; jumps are relative to the next one."""
    return struct.pack("HBBI", code, if_true, if_false, value)
