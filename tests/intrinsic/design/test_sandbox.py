"""A program in the sandbox can compute and nothing else, whatever it tries."""

import contextlib
import os
import sys

import numpy as np
import pytest
from hostile_programs import BODIES, source

from firstlight.intrinsic.design.execution import InProcess, Sandbox
from firstlight.intrinsic.design.lint import ProgramError, lint
from firstlight.intrinsic.design.program import RewardProgram

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")

GOOD = """
import numpy as np
RANGES = {"moved": (0, 0.5), "age": (0, 100)}
def reward(obs, action, next_obs, info, memory):
    age = memory.get("age", np.zeros(len(action), np.int64)) + 1
    memory["age"] = age
    return {"moved": np.abs(next_obs["x"] - obs["x"]).sum(-1), "age": age}
"""
T, N = 5, 3
FEW = (  # one of each kind; all of them by `make soak`
    *("open a file", "fork", "kill the parent", "socket", "truncate the shared memory"),
    *("endless loop", "memory bomb", "NaN", "a huge memory", "an answer of its own"),
    *("segmentation fault", "lie about the memory", "machine code", "KeyboardInterrupt"),
)


def fields(seed=0):
    g = np.random.default_rng(seed)
    x = g.random((T + 1, N, 2)).astype(np.float32)
    return {
        "obs/x": x[:-1],
        "next_obs/x": x[1:],
        "action": g.integers(0, 4, (T, N)),
        "is_first": g.random((T, N)) < 0.3,
        "valid": np.ones((T, N), bool),
    }


def program(text):
    """A program that was not linted, so that the sandbox alone stands against it."""
    return RewardProgram(text, {"a": (-1.0, 1.0)})


def children():
    """Numbers of the children of this process."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return {int(number) for number in file.read().split()}


def test_it_returns_what_the_program_computes_as_a_plain_loop_does():
    data, parsed = fields(), RewardProgram.parse(GOOD)
    age = np.zeros(N)
    with contextlib.closing(Sandbox(parsed)) as sandbox:
        out, memory = sandbox.run(data, {})
        again, _ = sandbox.run(data, memory)
    trusted, trusted_memory = InProcess(parsed).run(data, {})
    for t in range(T):
        age = np.where(data["is_first"][t], 0, age) + 1
        moved = np.abs(data["next_obs/x"][t] - data["obs/x"][t]).sum(-1)
        np.testing.assert_allclose(out[0, t], np.minimum(moved, 0.5), rtol=1e-6)
        np.testing.assert_array_equal(out[1, t], age)
    np.testing.assert_array_equal(memory["age"], age)
    np.testing.assert_array_equal(again[1, 0], np.where(data["is_first"][0], 0, age) + 1)
    np.testing.assert_array_equal(out, trusted)
    np.testing.assert_array_equal(memory["age"], trusted_memory["age"])


def test_a_row_that_is_not_valid_has_no_reward_and_leaves_no_trace():
    data = fields()
    data["valid"][2, 1] = False
    data["is_first"][:] = False
    with contextlib.closing(Sandbox(RewardProgram.parse(GOOD))) as sandbox:
        out, memory = sandbox.run(data, {})
    assert out[:, 2, 1].tolist() == [0, 0]
    assert memory["age"].tolist() == [T, T - 1, T]


def attack(name, folder):
    target = folder / "target"
    target.mkdir() if name == "remove a file" else None
    before, fds = children(), len(os.listdir("/proc/self/fd"))
    os.environ["SECRET"] = "key"
    data = fields()
    kept = {key: value.copy() for key, value in data.items()}
    sandbox = Sandbox(program(source(name, target)), timeout_seconds=1.0)
    try:
        with pytest.raises(ProgramError) as error:
            sandbox.run(data, {})
        message = str(error.value)
        del error  # its traceback holds views of the shared memory
    finally:
        del os.environ["SECRET"]
    assert message.strip()
    assert children() == before, "a process is left"
    assert len(os.listdir("/proc/self/fd")) == fds, "a descriptor is left"
    assert not any(folder.iterdir()) or name == "remove a file"
    assert all(np.array_equal(value, kept[key]) for key, value in data.items())


@pytest.mark.parametrize("name", FEW)
def test_a_hostile_program_is_refused_or_killed_with_a_message(name, tmp_path):
    attack(name, tmp_path)


def test_all_hostile_programs(soak, tmp_path):
    names = [*BODIES]
    assert len(names) >= 60
    for i in soak.times(0, len(names)):
        folder = tmp_path / str(i)
        folder.mkdir()
        attack(names[i], folder)


def test_after_a_program_was_killed_the_next_call_goes_on_with_its_memory():
    text = GOOD.replace("return", "while action[0] == 9: pass\n    return")
    data = fields()
    with contextlib.closing(
        Sandbox(RewardProgram(text, {"moved": (0, 1), "age": (0, 100)}), timeout_seconds=2)
    ) as sandbox:
        _, memory = sandbox.run(data, {})
        with pytest.raises(ProgramError, match="longer than 2 seconds"):
            sandbox.run({**data, "action": np.full((T, N), 9)}, memory)
        out, _ = sandbox.run({**data, "is_first": np.zeros((T, N), bool)}, memory)
    np.testing.assert_array_equal(out[1, 0], memory["age"] + 1)


@pytest.mark.parametrize("part", ["landlock", "seccomp"])
def test_a_system_that_cannot_confine_is_refused(part, monkeypatch):
    from firstlight.intrinsic.design import execution

    read = execution._Process.read

    def lacking(self, seconds):
        message = read(self, seconds)
        if "confined" in message:
            message["confined"][part] = False
        return message

    monkeypatch.setattr(execution._Process, "read", lacking)
    with pytest.raises(ProgramError, match=f"{part} is missing.*allow_unsandboxed=true"):
        Sandbox(RewardProgram.parse(GOOD)).run(fields(), {})
    with contextlib.closing(Sandbox(RewardProgram.parse(GOOD), allow_unsandboxed=True)) as sandbox:
        assert sandbox.run(fields(), {})[0].shape == (2, T, N)


# a batched numpy function needs none of these, so a language model gets the message at once
LINTED = {
    "import os": "imports os",
    "from numpy import load": "imports load",
    "x = ().__class__": "attribute __class__",
    "x = np.load('x')": "attribute load",
    "x = (1).real.gi_frame": "attribute gi_frame",
    "x = '{0.x}'.format(1)": "attribute format",
    "x = eval('1')": "name eval",
    "x = __builtins__": "name __builtins__",
    "class A: pass": "a class",
    "while True: pass": "a while loop",
    "def f(:": "not valid Python",
    "x = " + "(" * 500 + ")" * 500: "not valid Python",
    "x = '" + "x" * 70_000 + "'": "more than 65,536 bytes",
}


@pytest.mark.parametrize("text", LINTED, ids=LINTED.get)
def test_the_lint_names_what_it_refuses(text):
    with pytest.raises(ProgramError, match=LINTED[text]):
        lint(text)


WRONG = {
    "RANGES = {'a': (0, 1)}": "no function reward",
    "def reward(obs, action, next_obs, info, memory): return {}": "no RANGES",
    "RANGES = {'a': (0, 1)}\ndef reward(obs): return {}": r"takes \(obs\), expected \(obs, action",
    "RANGES = {'a': (1, 0)}\ndef reward(obs, action, next_obs, info, memory): return {}": "'a'",
    "RANGES = f()\ndef reward(obs, action, next_obs, info, memory): return {}": "plain numbers",
}


@pytest.mark.parametrize("text", WRONG, ids=WRONG.get)
def test_a_source_that_is_no_program_is_refused(text):
    with pytest.raises(ProgramError, match=WRONG[text]):
        RewardProgram.parse(text)
