"""Stand-ins for the processes of a sweep's trainings, and a sweep whose trainings are forked."""

import os
import signal
import sys
import traceback

from command_line import command

from firstlight.scripts import sweep, train
from firstlight.scripts.sweeps import runner
from firstlight.scripts.sweeps.runner import Ended


class AtOnce:
    """A training that ends at once, without doing anything."""

    def __init__(self, training):
        self.training = training

    def send_signal(self, number):
        pass

    def stop(self):
        pass

    def poll(self):
        return Ended(seconds=1.0)

    def wait(self):
        pass


class InProcess(AtOnce):
    """A training in this process, which saves the start of one."""

    def __init__(self, training):
        super().__init__(training)
        self._done = command(train.main, *training.arguments)

    def poll(self):
        last = (self._done.lines() or [""])[-1].removeprefix("firstlight: ")
        return Ended(seconds=1.0, error=last if self._done.status else None, output=self._done.err)


class ForkedProcess:
    """The part of `subprocess.Popen` that the runner uses, for a fork that trains."""

    def __init__(self, words, stdout, **_):
        self._status = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setsid()
                for number in runner.SIGNALS:  # as after an exec
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.dup2(stdout.fileno(), 1)
                os.dup2(stdout.fileno(), 2)
                sys.argv = list(words)[len(runner.TRAIN) - 1 :]
                train.main()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def poll(self):
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self):
        while self.poll() is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


def forking_sweep():
    """``firstlight-sweep``, whose trainings are forks: each saves the import of torch."""
    runner.Popen = ForkedProcess
    sweep.main()
