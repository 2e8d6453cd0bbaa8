"""Processes of peers: their environment, their results, their failures."""

import sys

from command_line import command

from firstlight.scripts import bench
from firstlight.scripts.benchmarks import peer_process, results


def test_peers_are_installed_once_and_torch_by_its_pin(here, monkeypatch):
    calls = []

    def run(words):
        calls.append(list(words))
        if words[1:3] == ["-m", "venv"]:
            (here / "venv" / "bin").mkdir(parents=True)
            (here / "venv" / "bin" / "python").touch()

    monkeypatch.setattr(peer_process, "_run", run)
    python = peer_process.peer_python("venv")
    installs = [words for words in calls if "install" in words]
    assert python == "venv/bin/python"
    assert installs[0][-1] == "torch"
    assert all(words[words.index("-c") + 1] == str(peer_process.CONSTRAINTS) for words in installs)
    assert any(
        line.startswith("torch==") for line in peer_process.CONSTRAINTS.read_text().splitlines()
    )
    assert all("--no-deps" in words for words in installs if "rllte" in " ".join(words))
    number = len(calls)
    assert peer_process.peer_python("venv") == python
    assert len(calls) == number


def test_the_result_of_a_script_is_its_last_line():
    code = "import json; print('hello'); print(json.dumps({'us': 3.5}))"
    assert peer_process.run_script([sys.executable, "-c", code]) == {"us": 3.5}


def test_peers_that_cannot_be_installed_end_the_command_with_the_output(here):
    (here / "file").touch()
    done = command(bench.main, "throughput", "peers=file")
    assert done.status == 1
    assert "Unable to create directory" in done.err
    assert "Traceback" not in done.err
    assert not results.read("throughput")
