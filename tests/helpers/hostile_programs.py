"""Programs that try to do more than compute a reward: name to body of `reward` or to a source.

A body is put into a program that may import everything, since nothing here relies on the lint.
None of them may reach the file whose path they get as TARGET, the network, another process, or the
training.
"""

BODIES = {
    # files
    "open a file": "open(TARGET, 'w').write('x')",
    "read the password file": "open('/etc/passwd').read()",
    "os.open": "import os; os.open(TARGET, os.O_CREAT | os.O_WRONLY)",
    "open by the kernel's number": "libc().syscall(2, TARGET.encode(), 0x41, 0o600)",
    "openat by number": "ok(libc().syscall(257, -100, TARGET.encode(), 0x41, 0o600))",
    "openat2 by number": "ok(libc().syscall(437, -100, TARGET.encode(), b'A' * 24, 24))",
    "numpy save": "np.save(TARGET, obs['x'])",
    "numpy tofile": "obs['x'].tofile(TARGET)",
    "numpy memmap": "np.memmap(TARGET, mode='w+', shape=(10,))",
    "numpy load": "np.load('/etc/passwd', allow_pickle=True)",
    "list a folder": "import os; os.listdir('/')",
    "make a folder": "import os; os.mkdir(TARGET)",
    "remove a file": "import os; os.remove(TARGET)",
    "rename": "import os; os.rename(TARGET, TARGET + '2')",
    "change rights": "import os; os.chmod(TARGET, 0o777)",
    "symlink": "import os; os.symlink('/etc/passwd', TARGET)",
    "truncate the shared memory": "import os; [os.ftruncate(fd, 0) for fd in range(3, 16)]",
    "temporary file": "import tempfile; tempfile.NamedTemporaryFile()",
    "new memory file": "import os; os.memfd_create('x')",
    "io.FileIO": "import io; io.FileIO(TARGET, 'w')",
    "through the loader": "__loader__.get_data('/etc/passwd')",
    "sqlite": "import sqlite3; sqlite3.connect(TARGET).execute('create table t (x)')",
    # network
    "socket": "import socket; socket.socket()",
    "connect": "import socket; socket.create_connection(('127.0.0.1', 80), 1)",
    "socket by number": "ok(libc().syscall(41, 2, 1, 0))",
    "url": "import urllib.request; urllib.request.urlopen('http://127.0.0.1/')",
    # processes
    "system": "import os; os.system('touch ' + TARGET)",
    "subprocess": "import subprocess; subprocess.run(['touch', TARGET])",
    "fork": "import os; os.fork()",
    "fork bomb": "import os\n    while True: os.fork()",
    "exec": "import os; os.execv('/bin/touch', ['touch', TARGET])",
    "clone by number": "ok(libc().syscall(56, 0x11, 0, 0, 0, 0))",
    "vfork by number": "ok(libc().syscall(58))",
    "posix_spawn": "import os; os.posix_spawn('/bin/touch', ['touch', TARGET], {})",
    "multiprocessing": "import multiprocessing as m; m.Process(target=print).start()",
    "thread": "import threading; threading.Thread(target=print).start()",
    # signals and other processes
    "kill the parent": "import os; os.kill(os.getppid(), 9)",
    "kill all": "import os; os.kill(-1, 9)",
    "kill by number": "ok(libc().syscall(62, os.getppid(), 9))",
    "stop itself": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "ptrace": "ok(libc().syscall(101, 16, os.getppid(), 0, 0))",
    "write into the parent's memory": "ok(libc().syscall(311, os.getppid(), 0, 0, 0, 0, 0))",
    "ignore termination": "import signal; signal.signal(15, signal.SIG_IGN); spin()",
    # the kernel
    "new limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "namespaces": "ok(libc().syscall(272, 0x10000000))",
    "mount": "ok(libc().syscall(165, b'a', b'/', b'tmpfs', 0, 0))",
    "another seccomp filter": "ok(libc().syscall(317, 0, 0, 0))",
    "io_uring": "ok(libc().syscall(425, 8, b'0' * 120))",
    "bpf": "ok(libc().syscall(321, 0, 0, 0))",
    "executable memory": "import mmap; mmap.mmap(-1, 4096, prot=7)",
    "machine code": "import ctypes; ctypes.CFUNCTYPE(None)(lambda: None)()",
    "environment": "import os; assert 'SECRET' in os.environ",
    # time and memory
    "endless loop": "spin()",
    "sleep": "import time; time.sleep(1000)",
    "memory bomb": "np.ones(1 << 40)",
    "list bomb": "x = [0]\n    while True: x = x * 2",
    "text bomb": "'x' * (1 << 45)",
    "number bomb": "9 ** 9 ** 9",
    "recursion": "f = lambda f: f(f)\n    f(f)",
    "segmentation fault": "import ctypes; ctypes.string_at(0)",
    "exit": "import os; os._exit(0)",
    "SystemExit": "raise SystemExit(0)",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    # answers
    "NaN": "return {'a': np.full(len(action), np.nan)}",
    "infinite": "return {'a': np.full(len(action), np.inf)}",
    "another component": "return {'b': 0.0}",
    "no dictionary": "return 5",
    "another length": "return {'a': np.zeros(len(action) + 1)}",
    "objects": "return {'a': np.array([object()] * len(action))}",
    "complex": "return {'a': np.zeros(len(action), complex)}",
    "texts": "return {'a': np.array(['x'] * len(action))}",
    "a huge memory": "memory['m'] = np.zeros((len(action), 10_000_000)); return {'a': 0.0}",
    "many memories": "memory.update({f'm{i}': action for i in range(99)}); return {'a': 0.0}",
    "a memory of objects": "memory['m'] = np.array([[]] * len(action), object); return {'a': 0.0}",
    "a memory with a strange name": "memory['../x'] = action; return {'a': 0.0}",
    "write into the observations": "obs['x'][:] = 0",
    "make them writable": "obs['x'].flags.writeable = True; obs['x'][:] = 0; spin()",
    # the channel
    "an answer of its own": "send(b'\\x08\\0\\0\\0{\"a\": 1}'); spin()",
    "a huge answer": "send(b'\\xff\\xff\\xff\\xff'); spin()",
    "no JSON": "send(b'\\x04\\0\\0\\0abcd'); spin()",
    "a flood": "while True: print('x' * 10_000)",
    "close everything": "import os; os.closerange(0, 100)",
    # Python's own machinery
    "generator frames": "g = (g.gi_frame.f_back.f_back for _ in [1]);"
    " next(g).f_globals['os'].stat('/')",
    "subclasses": "c = [c for c in ().__class__.__base__.__subclasses__() if 'Pop' in c.__name__];"
    " c[0](['touch', TARGET])",
    "break the loop": "import sys; sys.modules['__main__'].run_steps = None; spin()",
    "replace json": "import json; json.dumps = lambda m: '{\"memory\": 5}'; return {'a': 0.0}",
    "lie about the memory": "import json;"
    ' json.dumps = lambda m: \'{"memory": {"m": ["int64", [3, 99999], 0]}}\'; return {\'a\': 0.0}',
}

HEAD = """
import ctypes, os
import numpy as np
TARGET = {target!r}
RANGES = {{"a": (-1, 1)}}
def libc():
    return ctypes.CDLL(None, use_errno=True)
def ok(result):
    assert result >= 0, "refused"
def spin():
    while True:
        pass
def send(data):
    for fd in range(3, 16):
        try:
            os.write(fd, data)
        except OSError:
            pass
def reward(obs, action, next_obs, info, memory):
    {body}
"""


def source(name, target):
    return HEAD.format(target=str(target), body=BODIES[name])
