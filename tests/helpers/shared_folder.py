"""Folders that one worker of a test run makes, and the others use as well."""

import os
import shutil

from filelock import FileLock


def shared_folder(tmp_path_factory, name, make):
    """Return the folder `name` of this test run, which the first caller fills by `make(folder)`."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers
    folder, complete = base / name, base / f"{name}.complete"
    with FileLock(base / f"{name}.lock"):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a call that failed
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder
