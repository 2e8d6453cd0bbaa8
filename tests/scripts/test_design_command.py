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
from PIL import Image
from processes import fork, wait_until
from trainings import InProcess

from firstlight.intrinsic.design.design_search import TrainedProgram
from firstlight.intrinsic.design.designers.base import Proposal
from firstlight.intrinsic.design.program import RewardProgram
from firstlight.scripts import design, train
from firstlight.scripts.programs.final_check import FinalCheck, compare
from firstlight.scripts.programs.finalists import Finalist, choose_finalists
from firstlight.scripts.programs.preference_page import PreferenceServer
from firstlight.scripts.programs.program_cells import curves_of
from firstlight.scripts.programs.session import parse_value
from firstlight.scripts.sweeps import runner

pytestmark = pytest.mark.skipif(os.uname().sysname != "Linux", reason="the sandbox is Linux's")

TINY = (
    *("env=chain", "env.length=3", "env.num_envs=2", "trainer.num_steps=8", "eval_episodes=2"),
    *("learner.num_epochs=1", "num_threads=1", "checkpoint.every=160", "device=cpu"),
)
SEARCH = (  # with this seed the first program passes the screening
    *("seed=5", "task=reach the end", "steps=32", "final_steps=64", "seeds=1", "probe_steps=64"),
    *("finalist_seeds=1", "dir=out"),
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
    assert len(trained) == 2
    searched, again, last = in_process[:2], in_process[2:4], in_process[4:]
    assert all(re.fullmatch(r"search-[0-9a-f]{16}-s5-32", name) for name in searched)
    assert all(re.fullmatch(r"finalists-[0-9a-f]{16}-s1005-32", name) for name in again)
    assert done.out.count("\nfinalist ") == 2
    assert sorted(name.partition("-")[2].rsplit("-", 2)[1] for name in last) == [
        *("s6", "s6", "s7", "s7")
    ]
    assert sum("without" in name for name in last) == 2
    text = (folder / "report.html").read_text()
    assert "reach the end" in text
    assert "<script" not in text
    assert text.count("<article>") == len(trained)
    assert "Finalists, trained with further seeds" in text
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


MOVES = """
RANGES = {"moves": (0, 1)}
def reward(obs, action, next_obs, info, memory):
    return {"moves": NUMBER * (action == 2)}
"""


def test_a_person_chooses_on_a_page_with_videos_and_is_asked_once(empty, in_process, monkeypatch):
    shown = []

    def choose(server, poll_interval):
        shown.append([Path(video) for video in server.videos])
        server.choice = (1, 0)

    monkeypatch.setattr(PreferenceServer, "serve_forever", choose)
    answers = [fenced(MOVES.replace("NUMBER", f"0.0{i}")) for i in range(1, 5)]
    Path("answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    words = [word for word in (*TINY, *SEARCH) if not word.startswith("env")]
    words += ["env=minigrid/doorkey_5x5", "env.num_envs=2", "env.num_threads=1", "designer=icpl"]
    words += ["designer.by=person", "answers=answers.jsonl", "finalists=1", "designer.rounds=2"]
    done = run(*words)
    assert "choose the best and the worst agent at http://127.0.0.1:" in done.out
    assert len(shown) == 2
    with Image.open(shown[0][0]) as video:
        assert video.n_frames > 10
        assert max(video.size) <= 256
    results = elites(empty / "out")
    assert {r["proposal"]["parent"] for r in results[2:]} == {shown[0][1].stem}
    run(*words)
    assert len(shown) == 2


def test_a_finished_search_goes_on_in_another_folder_and_with_other_rights(empty, in_process):
    run(*TINY, *SEARCH, "finalists=1")
    begun = len(in_process)
    (empty / "out").rename(empty / "moved")
    again = (*TINY, *SEARCH, "finalists=1", f"dir={empty / 'moved'}")
    run(*again, "allow_unsandboxed=true")
    assert len(in_process) == begun
    run(*again, "seeds=2")  # one further training with the program and one without
    assert len(in_process) == begun + 2
    (line,) = run(*again, "learner.lr=0.5", status=2).lines()
    assert "other options" in line


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
    """Trainings that are made up: 0.5 with a program, 0.25 without; or `score` of the source."""

    def __init__(self, lost=0):
        self.asked, self._lost = [], lost
        self.score = lambda source, seed: 0.25 if source is None else 0.5

    def train(self, programs, *, task, seeds, steps):
        self.asked.append((task, [*seeds], steps))
        names = [(name, seed) for name in programs for seed in seeds]
        scores = {
            (name, seed): self.score(programs[name] and programs[name].source, seed)
            for name, seed in names[: len(names) - self._lost]
        }
        return {
            key: trained(score, error="out of memory" if score is None else "")
            for key, score in scores.items()
        }


def test_a_winner_is_a_file_that_says_where_it_comes_from(tmp_path):
    options = {"seed": 3, "seeds": 2, "steps": 100, "final_steps": None}
    best = designs.result(good(), 0.125, steps=100)
    cells = Cells()
    final = FinalCheck(cells, options, tmp_path).run(Finalist(best, [trained(0.25)]))
    assert cells.asked == [("final", [4, 5], 300)]  # seeds that the search has not seen
    assert final.accepted
    text = (tmp_path / "winner.py").read_text()
    assert text.endswith(good())
    assert "# search: task return 0.125, 0.25 after 100 steps" in text
    assert "# final: task return 0.5 with the program, 0.25 without" in text
    program = RewardProgram.read(tmp_path / "winner.py")
    assert dict(program.ranges) == {"forward": (-100, 100)}


def test_a_final_check_without_time_has_no_verdict(tmp_path):
    options = {"seed": 0, "seeds": 2, "steps": 100, "final_steps": 200}
    best = designs.result(good(), 0.125, steps=100)
    assert FinalCheck(Cells(lost=1), options, tmp_path).run(Finalist(best)) is None
    assert [*tmp_path.iterdir()] == []


def made_finalists(scores, lost=0, results=None):
    """The finalists among programs with these task returns of further seeds, by source."""
    results = results or [designs.result(good(i), 0.5 - i / 10) for i in range(4)]
    cells = Cells(lost)
    cells.score = lambda source, seed: scores[source][seed - 1007]
    options = {"seed": 7, "steps": 100, "finalists": 3, "finalist_seeds": 2}
    return choose_finalists(results, cells, options), cells


def test_the_best_program_is_the_best_over_all_seeds_and_not_of_the_luckiest():
    scores = {good(0): (0.0, 0.0), good(1): (0.4, 0.5), good(2): (0.9, 0.0)}
    finalists, cells = made_finalists(scores)
    assert cells.asked == [("finalists", [1007, 1008], 100)]
    assert [f.result.proposal.source for f in finalists] == [good(1), good(2), good(0)]
    assert finalists[0].scores == [0.4, 0.4, 0.5]


def test_a_finalist_whose_training_fails_is_the_last():
    scores = {good(0): (None, 0.9), good(1): (0.1, 0.1), good(2): (0.2, 0.2)}
    finalists, _ = made_finalists(scores)
    assert [f.result.proposal.source for f in finalists] == [good(2), good(1), good(0)]
    assert finalists[-1].error == "out of memory"


def test_finalists_without_time_are_not_chosen_and_a_single_one_is_not_trained():
    scores = dict.fromkeys((good(0), good(1), good(2)), (0.1, 0.1))
    assert made_finalists(scores, lost=1)[0] is None
    finalists, cells = made_finalists(scores, results=[designs.result(good(0), 0.2)] * 2)
    assert [f.scores for f in finalists] == [[0.2]]
    assert cells.asked == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("3", 3), ("-0.5", -0.5), ("1e-3", 1e-3), ("true", True), ("null", None), ("", "")),
        *(("[1, 2]", [1, 2]), ("{image: a view}", {"image": "a view"}), ("'3'", "3")),
        *(("door: open, closed", "door: open, closed"), ("3 keys # or more", "3 keys # or more")),
        *(("[x, y] of the agent, in [0, 1]", "[x, y] of the agent, in [0, 1]"), ("12:30", "12:30")),
        *(("- a", "- a"), ("*", "*"), ("2026-11-29", "2026-11-29"), ("a.b.C", "a.b.C")),
    ],
)
def test_options_of_a_designer_are_texts_unless_they_are_clearly_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


def test_curves_are_means_over_equal_parts_of_the_training():
    metrics = [
        {"rollout/return_mean": i, "program/a": -i, "program/failures": 0} for i in range(40)
    ]
    curves = curves_of([{"rollout/length_mean": 5.0}, *metrics])
    assert curves["task return"] == [1.5 + 4 * i for i in range(10)]
    assert curves["a"] == [-1.5 - 4 * i for i in range(10)]
    assert curves["episode length"] == [5.0]
    assert set(curves) == {"task return", "a", "episode length"}
