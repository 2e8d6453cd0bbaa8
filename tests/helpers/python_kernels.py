"""Replace numba kernels by plain Python functions in this process."""

import pytest
from numba.core.dispatcher import Dispatcher


def use_python_kernels(monkeypatch: pytest.MonkeyPatch, module) -> None:
    """Replace every numba kernel of `module` by the Python function that it was compiled from."""
    for name, function in list(vars(module).items()):
        if isinstance(function, Dispatcher):
            monkeypatch.setattr(module, name, function.py_func)
