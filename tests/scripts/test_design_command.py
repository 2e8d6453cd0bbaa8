"""``firstlight-design``: from a task to a winner and a page, through every kind of interruption."""

import json
import os
import re
import signal
from pathlib import Path

import designs
import pytest
from command_line import checked, command, contents
from designs import NO_PYTHON, WRONG_SIGNATURE, fenced, good
from processes import fork, wait_until
from trainings import InProcess

from firstlight.intrinsic.design.design_search import TrainedProgram
from firstlight.intrinsic.design.designers.base import Proposal
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.scripts import design, train
from firstlight.scripts.programs.final_check import FinalCheck, compare
from firstlight.scripts.programs.program_cells import curves_of
from firstlight.scripts.sweeps import runner

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the sandbox is Linux's")

TINY = (
    *("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "eval_episodes=2"),
    *("learner.num_epochs=1", "num_threads=1", "checkpoint.every=160", "device=cpu"),
)
SEARCH = (  # with this seed the first program passes the screening
    *("seed=5", "task=reach the end", "steps=32", "final_steps=64", "seeds=1", "probe_steps=64"),
    "dir=out",
    *("designer.samples=2", "designer.rounds=1"),
)
HELPERS = Path(designs.__file__).parent


@pytest.fixture
def in_process(monkeypatch):
    """Trainings run in this process, which saves the start of one."""
    started = []

    class Noted(InProcess):
        def __init__(self, training):
            started.append(training.name)
            super().__init__(training)

    monkeypatch.setattr(runner, "TrainingProcess", Noted)
    return started


def run(*words, status=0):
    return checked(design.main, *words, status=status)


def elites(folder):
    return [json.loads(line) for line in (folder / "elites.jsonl").read_text().splitlines()]


def test_a_search_ends_with_results_a_page_and_a_winner_that_trains(empty, in_process):
    words = (*TINY, *SEARCH, "seeds=2", "designer.rounds=2", "designer.samples=1")
    done = run(*words)
    folder = empty / "out"
    results = elites(folder)
    assert len(results) == 2
    assert results[0]["verdict"] == "trained"
    trained = [r for r in results if r["verdict"] == "trained"]  # others were screened out
    assert all(r["curves"]["task return"] for r in trained)
    searched, last = in_process[: len(trained)], in_process[len(trained) :]
    assert all(re.fullmatch(r"search-[0-9a-f]{16}-s5-32", name) for name in searched)
    assert sorted(name.partition("-")[2].rsplit("-", 2)[1] for name in last) == [
        *("s6", "s6", "s7", "s7")
    ]
    assert sum("without" in name for name in last) == 2
    text = (folder / "report.html").read_text()
    assert "reach the end" in text
    assert "<script" not in text
    assert text.count("<article>") == len(trained)
    for result in results:
        assert result["proposal"]["source"].splitlines()[3].split('"')[1] in text
    begun = len(in_process)
    again = run(*words)  # nothing is left to do
    assert in_process[begun:] == []
    assert done.out.endswith(again.out)
    winner = folder / "winner.py"
    assert winner.exists() == ("\nwinner: " in done.out)
    if winner.exists():
        RewardProgram.read(winner)
    file = winner if winner.exists() else next((folder / "programs").glob("*.py"))
    program = ["intrinsic=[program]", f"intrinsic.program.file={file}"]
    assert command(train.main, *TINY, *program, "total_steps=32", "run_dir=after").status == 0


def test_eureka_with_recorded_answers_shows_what_was_rejected_and_why(empty, in_process):
    answers = [fenced(NO_PYTHON), fenced(WRONG_SIGNATURE), fenced(good(1))]
    hostile = good(3).replace("    return", "    a = '<b>&'\n    return missing or")
    answers += [fenced(hostile), fenced(good(4))]
    Path("answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    words = ("designer=eureka", "designer.rounds=2", "designer.samples=3", "answers=answers.jsonl")
    done = run(*TINY, *SEARCH, *words)
    results = elites(empty / "out")
    assert [r["verdict"] for r in results] == [
        *("refused", "refused", "trained", "screened out", "trained")
    ]
    assert "2 refused, 1 screened out" in done.out
    assert "NameError" in results[3]["reason"]
    made = {Proposal(**r["proposal"]).hash: r for r in results}
    assert made[results[4]["proposal"]["parent"]]["verdict"] == "trained"
    text = (empty / "out" / "report.html").read_text()
    assert "not valid Python" in text
    assert "&lt;b&gt;&amp;" in text
    assert "<b>" not in text


def test_a_search_without_time_begins_nothing_and_goes_on_later(empty, in_process):
    words = (*TINY, *SEARCH, "designer.samples=1", "intrinsic=[count]")
    done = run(*words, "budget=0.000001")
    assert "the budget is spent; run the command again to continue" in done.out
    assert in_process == []
    assert (empty / "out" / "report.html").exists()
    run(*words)
    assert len(elites(empty / "out")) == 1
    for path in (empty / "out").glob("*/config.yaml"):  # the bonus stays beside the program
        text = path.read_text()
        assert "HashCount" in text
        assert ("ProgramReward" in text) == ("without" not in path.parent.name)


def start(folder, *words):
    return fork(
        "designs:forking_design", *TINY, *SEARCH[:-3], f"dir={folder}", *words, path=[HELPERS]
    )


def test_a_search_that_is_killed_goes_on_to_the_same_results(tmp_path, soak):
    """SIGKILL while trainings run, several times; the trainings go on by themselves."""
    size = 2 if soak.full else 1
    words = (f"designer.samples={size}", f"designer.rounds={size}", "jobs=2")

    def finish(folder):
        process = start(folder, *words)
        out, _ = process.communicate()
        assert process.returncode == 0, out
        return [{k: v for k, v in r.items()} for r in elites(folder)]

    whole = finish(tmp_path / "whole")
    folder = tmp_path / "killed"
    for kill in soak.times(1, 8):
        process = start(folder, *words)
        count = 1 + kill

        def begun(process=process, count=count):
            ended = process.poll() is not None
            return ended or len([*folder.glob("*/config.yaml")]) >= count

        wait_until(begun)
        process.kill()
        wait_until(lambda process=process: process.poll() is not None)
    killed = finish(folder)

    def key(result):
        return result["round"], result["proposal"]["source"]

    assert sorted(killed, key=key) == sorted(whole, key=key)
    assert (folder / "report.html").exists()


def test_ctrl_c_saves_the_trainings_and_ends(tmp_path):
    process = start(tmp_path / "out", "steps=100_000_000", "designer.samples=1")
    wait_until(lambda: any((tmp_path / "out").glob("*/checkpoints/step_*")))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert process.returncode == 130, out
    (status,) = (tmp_path / "out").glob("*/status.json")
    assert json.loads(status.read_text())["status"] == "interrupted"
    assert not (tmp_path / "out" / "elites.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["env=chain"], 'needs a task: give task="what the agent is to do"'),
        (["task=a", "env=chian"], "there is no env=chian; did you mean 'chain'?"),
        (["task=a"], "choose an environment"),
        (["task=a", "env=chain", "designer=template2"], "did you mean 'template'?"),
        (["task=a", "env=chain", "designer.sample=3"], "takes no 'sample'; did you mean 'samples'"),
        (["task=a", "env=chain", "designer.samples=0"], "samples is 0, expected at least 1"),
        (["task=a", "env=chain", "steps=many"], "steps=many: expected a whole number"),
        (["task=a", "env=chain", "run_dir=x"], "sets run_dir"),
        (["task=a", "env=chain", "intrinsic.program.trusted=true"], "intrinsic.program itself"),
        (["task=a", "env=chain", "wrong=1"], "wrong"),
        (["task=a", "env=chain", "word"], "takes KEY=VALUE, and got 'word'"),
        (["task=a", "env=chain", "designer=eureka", "answers=none"], "cannot read the recorded"),
        (["task=a", "env=chain", "designer=eureka", "url=http://x"], "the name of a model there"),
        (["task=a", "env=walks/two_rooms"], "needs a grid of MiniGrid or a vector"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_one_line_and_writes_nothing(words, part, empty):
    (line,) = run(*words, status=2).lines()
    assert line.startswith("firstlight: ")
    assert part in line
    assert not [path for path in empty.rglob("*") if path.is_file() and path.name != "design.json"]


def test_a_folder_of_another_search_is_refused(empty, in_process):
    run(*TINY, *SEARCH, "budget=0.000001")
    before = contents(empty)
    (line,) = run(*TINY, *SEARCH, "seed=4", status=2).lines()
    assert "out holds a search with other options: seed=5 is now 4; give another dir" in line
    assert contents(empty) == before
    Path("other").mkdir()
    Path("other/file").touch()
    (line,) = run(*TINY, *SEARCH[:-3], "dir=other", status=2).lines()
    assert "other holds something else" in line


def test_a_dry_run_shows_the_conversation_and_writes_nothing(empty):
    done = run(*TINY, *SEARCH, "designer=eureka", "answers=/dev/null", "dry_run=true")
    assert done.out.strip() == "the designer sends nothing"
    pytest.importorskip("openai")
    done = run(
        *TINY, *SEARCH, "designer=eureka", "llm=m", "url=http://127.0.0.1:9/v1", "dry_run=true"
    )
    assert "reach the end" in done.out
    assert "1 rounds of 2 programs: 2 requests" in done.out
    assert [*empty.iterdir()] == []


def test_help_lists_the_designers():
    done = run("--help")
    assert "auto_mc_reward, eureka, icpl, template, text2reward" in done.out


def trained(score, over=0.0, error=""):
    return TrainedProgram(score=score, training_return=over, error=error)


@pytest.mark.parametrize(
    ("own", "without", "accepted"),
    [
        ([trained(0.5), trained(0.7)], [trained(0.5), trained(0.6)], True),
        ([trained(0.5)], [trained(0.6)], False),
        ([trained(0.5, 0.3)], [trained(0.5, 0.2)], True),
        ([trained(0.5, 0.2)], [trained(0.5, 0.2)], False),
        ([trained(0.9), trained(None, error="out of memory")], [trained(0.0), trained(0.0)], False),
        ([trained(0.5)], [trained(None, error="out of memory")], False),
    ],
)
def test_a_winner_is_better_than_no_program(own, without, accepted):
    verdict, reason = compare(own, without)
    assert verdict == accepted
    assert reason


class Cells:
    """Trainings that are made up: 0.5 with a program, 0.25 without."""

    def __init__(self, lost=0):
        self.asked, self._lost = [], lost

    def train(self, programs, *, task, seeds, steps):
        self.asked.append((task, seeds, steps))
        names = [(name, seed) for name in programs for seed in seeds]
        kept = names[: len(names) - self._lost]
        return {
            (name, seed): trained(0.25 if programs[name] is None else 0.5) for name, seed in kept
        }


def test_a_winner_is_a_file_that_says_where_it_comes_from(tmp_path):
    options = {"seed": 3, "seeds": 2, "steps": 100, "final_steps": None}
    best = designs.result(good(), 0.125, steps=100)
    cells = Cells()
    final = FinalCheck(cells, options, tmp_path).run(best)
    assert cells.asked == [("final", [4, 5], 300)]  # seeds that the search has not seen
    assert final.accepted
    text = (tmp_path / "winner.py").read_text()
    assert text.endswith(good())
    assert "# search: task return 0.125 after 100 steps" in text
    assert "# final: task return 0.5 with the program, 0.25 without" in text
    program = RewardProgram.read(tmp_path / "winner.py")
    assert dict(program.ranges) == {"forward": (-100, 100)}


def test_a_final_check_without_time_has_no_verdict(tmp_path):
    options = {"seed": 0, "seeds": 2, "steps": 100, "final_steps": 200}
    best = designs.result(good(), 0.125, steps=100)
    assert FinalCheck(Cells(lost=1), options, tmp_path).run(best) is None
    assert [*tmp_path.iterdir()] == []


def test_curves_are_means_over_equal_parts_of_the_training():
    metrics = [
        {"rollout/return_mean": i, "program/a": -i, "program/failures": 0} for i in range(40)
    ]
    curves = curves_of([{"rollout/length_mean": 5.0}, *metrics])
    assert curves["task return"] == [1.5 + 4 * i for i in range(10)]
    assert curves["a"] == [-1.5 - 4 * i for i in range(10)]
    assert curves["episode length"] == [5.0]
    assert set(curves) == {"task return", "a", "episode length"}
