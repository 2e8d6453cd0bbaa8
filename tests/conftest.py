"""One torch thread, shortcuts, and `--soak`: repeated tests in full, a line of results for each."""

import json
import time

import pytest
import shortcuts  # noqa: F401
import torch

# tests must not slow down when another process wants the second core
torch.set_num_threads(1)


def pytest_addoption(parser):
    parser.addoption(
        "--soak", help="run repeated tests in full and add a line for each to this file"
    )


def pytest_collection_modifyitems(config, items):
    if config.getoption("--soak"):
        items[:] = [item for item in items if "soak" in item.fixturenames]


@pytest.fixture
def restored_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


class Soak:
    """How often a test repeats, and the measurements to record."""

    def __init__(self, full):
        self.full, self.repeats, self.found = full, 0, {}

    def times(self, few, many):
        """Return a range of `many` in a soak, else of `few`."""
        self.repeats = many if self.full else few
        return range(self.repeats)


@pytest.fixture
def soak(request):
    path = request.config.getoption("--soak")
    this = Soak(full=bool(path))
    began = time.perf_counter()
    yield this
    if path:
        from firstlight.scripts.benchmarks.results import commit, hardware

        line = {
            "test": request.node.nodeid.partition("/")[2],
            "repeats": this.repeats,
            "passed": request.node.stash.get(PASSED, False),
            "seconds": round(time.perf_counter() - began, 1),
            **this.found,
            "commit": commit(),
            "hardware": hardware(),
        }
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report
