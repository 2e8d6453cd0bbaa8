"""Repeat tests of numba kernels as plain Python."""

import os
import re
import subprocess
import sys

import pytest

compiled = pytest.mark.skipif(
    "NUMBA_DISABLE_JIT" in os.environ, reason="already runs without compilation"
)


def passes_uncompiled(file, chosen, count):
    """Assert that the `count` tests that `-k chosen` selects in `file` pass without compiling."""
    options = ("-q", "-p", "no:cacheprovider", "-W", "ignore:overflow:RuntimeWarning")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *options, "-k", chosen, file],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"\b{count} passed", done.stdout), done.stdout
