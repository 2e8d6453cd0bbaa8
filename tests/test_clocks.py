"""No test asserts how long something takes: it would fail on a slower or busier machine."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent
CLOCKS = {
    *("perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time_ns"),
    *("process_time", "process_time_ns", "thread_time", "thread_time_ns"),
    *("default_timer", "clock_gettime", "getrusage"),
}
DOTTED = ("time.time", "datetime.now")
RULE = "an assertion about a time; assert what is behind it, or wait with `wait_until`"


def reads_a_clock(node: ast.AST, readings: set[str]) -> bool:
    """Whether an expression reads a clock, or a variable that holds what was read from one."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and (part.id in readings or part.id in CLOCKS):
            return True
        if isinstance(part, ast.Attribute):
            owner = part.value.id if isinstance(part.value, ast.Name) else ""
            if part.attr in CLOCKS or f"{owner}.{part.attr}" in DOTTED:
                return True
    return False


def targets_of(node: ast.Assign | ast.AugAssign | ast.AnnAssign | ast.NamedExpr) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target]


def names_in(target: ast.expr) -> list[ast.expr]:
    return target.elts if isinstance(target, ast.Tuple | ast.List) else [target]


def readings_of(function: ast.AST) -> set[str]:
    """Names of variables that hold a time or something computed from one."""
    readings: set[str] = set()
    kinds = (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.NamedExpr)
    assignments = [node for node in ast.walk(function) if isinstance(node, kinds)]
    while True:  # until nothing is added: an assignment may come before what it depends on
        before = len(readings)
        for node in assignments:
            for target in targets_of(node):
                pairs = [(name, node.value) for name in names_in(target)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = [*zip(target.elts, node.value.elts, strict=False)]
                for name, value in pairs:
                    held = isinstance(name, ast.Name) and value is not None
                    if held and reads_a_clock(value, readings):
                        readings.add(name.id)
        if len(readings) == before:
            return readings


def asserted_times(source: str) -> list[int]:
    """Line of each assertion that depends on a clock."""
    if not any(word in source for word in (*CLOCKS, *DOTTED)):
        return []  # most files, and walking their trees takes a while
    tree = ast.parse(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    scopes = [tree.body, *(node.body for node in ast.walk(tree) if isinstance(node, kinds))]
    found = set()
    for body in scopes:
        scope = ast.Module(body, [])
        readings = readings_of(scope) if body is not tree.body else set()
        for node in ast.walk(scope):
            if isinstance(node, ast.Assert) and reads_a_clock(node.test, readings):
                found.add(node.lineno)
    return sorted(found)


def test_no_test_asserts_a_time():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 100
    found = {
        f"{file.relative_to(ROOT)}:{line}": RULE
        for file in files
        for line in asserted_times(file.read_text(encoding="utf-8"))
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "assert time.monotonic() - began < 2",
        "began = time.monotonic()\nact()\nassert 4 < time.monotonic() - began",
        "began = perf_counter()\ntook = perf_counter() - began\nassert took < 2",
        "start, workers = time.time(), 3\nassert start + 3 > time.time()",
        "start, workers = time.time(), 3\nassert start > 9",
        "spent = 0\nspent += time.process_time()\nassert round(spent) == 0",
        "assert all(t < 2 for t in (timeit.default_timer(),))",
        "if (took := datetime.now() - began):\n    assert took.seconds < 2",
    ],
)
def test_the_rule_can_fail(source):
    inside = "def test():\n" + "\n".join(f"    {line}" for line in source.splitlines())
    assert len(asserted_times(inside)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "def test():\n    start, workers = time.time(), 3\n    assert workers == 3",
        "def wait():\n    if time.monotonic() > deadline:\n        raise TimeoutError",
        "def test():\n    step.time = 3\n    assert step.time == 3",
        "def test():\n    clock = [4]\n    assert clock[0] < 9",
        "def one():\n    began = time.monotonic()\ndef other(began):\n    assert began == 2",
    ],
)
def test_what_is_allowed(source):
    assert asserted_times(source) == []
