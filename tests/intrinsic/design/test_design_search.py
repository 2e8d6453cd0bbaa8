"""A search checks before it trains, repeats nothing after any death, and keeps all results."""

import json

import pytest
from designs import IMPORTS, NO_PYTHON, PROSE, WRONG_SIGNATURE, good, made_up, passes, record

from firstlight.intrinsic.design.design_search import (
    STATE,
    TABLE,
    DesignSearch,
    ProgramCheck,
    TrainedProgram,
)
from firstlight.intrinsic.design.designers.base import (
    FAILED,
    REFUSED,
    SCREENED_OUT,
    TRAINED,
    Designer,
    Proposal,
    best_of,
)
from firstlight.intrinsic.design.elite_table import EliteTable


@pytest.fixture(scope="module")
def task():
    return record()[0]


class Counting(Designer):
    """Proposes two programs a round, three rounds long; each follows from what was observed."""

    def __init__(self, log):
        self.log, self.total, self.rounds = log, 0, 0

    def propose(self, state):
        self.log.append(("propose", state.round))
        if self.rounds == 3:
            return []
        return [Proposal(good(10 * self.rounds + self.total + i), "count") for i in range(2)]

    def observe(self, results):
        self.log.append(("observe", [result.score for result in results]))
        self.rounds, self.total = self.rounds + 1, self.total + len(results)

    def state_dict(self):
        return {"total": self.total, "rounds": self.rounds}

    def load_state_dict(self, state):
        self.total, self.rounds = state["total"], state["rounds"]


class Fixed(Designer):
    """Proposes these rounds of sources."""

    def __init__(self, *rounds):
        self.rounds, self.seen = list(rounds), []

    def propose(self, state):
        sources = self.rounds[state.round] if state.round < len(self.rounds) else []
        return [Proposal(source, "fixed") for source in sources]

    def observe(self, results):
        self.seen.append([*results])


def test_each_bad_program_has_its_reason_and_is_not_trained(task, tmp_path):
    trained = []
    sources = [NO_PYTHON, PROSE, WRONG_SIGNATURE, IMPORTS, good()]
    designer = Fixed(sources)
    search = DesignSearch(
        designer, task, tmp_path, check=passes, train=made_up(lambda _: 1.0, trained)
    )
    assert search.run()
    (round,) = designer.seen
    assert [r.verdict for r in round] == [REFUSED] * 4 + [TRAINED]
    reasons = [r.reason for r in round]
    assert "not valid Python" in reasons[0]
    assert "not valid Python" in reasons[1]
    assert (
        "reward takes (obs, action), expected (obs, action, next_obs, info, memory)" in (reasons[2])
    )
    assert "imports os" in reasons[3]
    assert trained == [round[-1].proposal.hash]
    assert round[-1].checks == {"components": 1.0}


def test_a_program_that_is_screened_out_is_not_trained(task, tmp_path):
    trained = []

    def check(program):
        return ProgramCheck("it pays for waiting" if "2.0" in program.source else "", {"rank": 0.5})

    designer = Fixed([good(1), good(2)])
    train = made_up(lambda _: 1.0, trained)
    assert DesignSearch(designer, task, tmp_path, check=check, train=train).run()
    kept, out = designer.seen[0]
    assert (kept.verdict, out.verdict) == (TRAINED, SCREENED_OUT)
    assert (out.reason, out.checks) == ("it pays for waiting", {"rank": 0.5})
    assert trained == [kept.proposal.hash]


def test_the_best_is_the_one_with_the_highest_task_return_whatever_it_pays_itself(task, tmp_path):
    def train(programs):
        rich, poor = programs
        curves = {"forward": [1e6]}
        return {
            rich: TrainedProgram(score=0.1, training_return=0.9, curves=curves),
            poor: TrainedProgram(score=0.2, training_return=0.0),
        }

    search = DesignSearch(Fixed([good(1), good(2)]), task, tmp_path, check=passes, train=train)
    search.run()
    assert search.best.score == 0.2


def test_equal_returns_are_told_apart_by_those_during_training(task, tmp_path):
    def train(programs):
        return {
            name: TrainedProgram(score=0.0, training_return=0.1 * i)
            for i, name in enumerate(programs)
        }

    search = DesignSearch(Fixed([good(1), good(2)]), task, tmp_path, check=passes, train=train)
    search.run()
    assert search.best.proposal.source == good(2)


def test_a_program_that_came_before_is_not_trained_again_and_is_observed_again(task, tmp_path):
    trained = []
    designer = Fixed([good(1), good(1)], [good(1), good(2)])
    train = made_up(lambda _: 0.5, trained)
    DesignSearch(designer, task, tmp_path, check=passes, train=train).run()
    assert len(trained) == 2
    assert [len(round) for round in designer.seen] == [1, 2]
    assert designer.seen[1][0].round == 1


def test_failed_trainings_are_results(task, tmp_path):
    def train(programs):
        return {name: TrainedProgram(error="killed by SIGKILL") for name in programs}

    designer = Fixed([good(1)])
    search = DesignSearch(designer, task, tmp_path, check=passes, train=train)
    assert search.run()
    assert search.best is None
    assert (designer.seen[0][0].verdict, designer.seen[0][0].reason) == (
        FAILED,
        "killed by SIGKILL",
    )


def test_a_search_without_time_left_says_so_and_goes_on_later(task, tmp_path):
    designer = Fixed([good(1), good(2)])
    train = made_up(lambda _: 0.5)

    def out_of_time(programs):
        return dict([*train(programs).items()][:1])

    search = DesignSearch(designer, task, tmp_path, check=passes, train=out_of_time)
    assert not search.run()
    assert designer.seen == []
    again, trained = Fixed([good(1), good(2)]), []
    train = made_up(lambda _: 0.5, trained)
    assert DesignSearch(again, task, tmp_path, check=passes, train=train).run()
    assert len(trained) == 1
    assert [r.proposal.source for r in again.seen[0]] == [good(1), good(2)]


class Died(BaseException):
    """A process that is killed at a point of the test's choice."""


def unbroken(task, folder):
    log, trained = [], []
    search = DesignSearch(
        Counting(log), task, folder, check=passes, train=made_up(lambda s: len(s), trained)
    )
    assert search.run()
    return log, trained, (folder / TABLE).read_text(), (folder / STATE).read_text()


def test_a_search_that_is_killed_at_any_write_ends_with_the_same_files(task, tmp_path, monkeypatch):
    """A death just before or just after each change of a file, at every one of them."""
    _, expected, table, state = unbroken(task, tmp_path / "whole")
    append, save = EliteTable.append, DesignSearch._save
    points = 0
    for after in (False, True):
        death = 0
        while True:
            folder, count, trained = tmp_path / f"{after}{death}", [0], []

            def die(count=count, death=death):
                count[0] += 1
                if count[0] == death + 1:
                    raise Died

            def dying(change, after=after, die=die):
                def changed(self, *args):
                    if not after:
                        die()
                    change(self, *args)
                    if after:
                        die()

                return changed

            def search(folder=folder, trained=trained):
                train = made_up(lambda s: len(s), trained)
                return DesignSearch(Counting([]), task, folder, check=passes, train=train)

            with monkeypatch.context() as patch:
                patch.setattr(EliteTable, "append", dying(append))
                patch.setattr(DesignSearch, "_save", dying(save))
                try:
                    search().run()
                    break  # no point is left
                except Died:
                    pass
            assert search().run()
            assert (folder / TABLE).read_text() == table
            assert (folder / STATE).read_text() == state
            assert list(dict.fromkeys(trained)) == expected
            death, points = death + 1, points + 1
    assert points == 2 * (6 + 3 + 3 + 1)  # results, proposals, rounds, and the end


def test_results_survive_a_line_that_was_cut_off(tmp_path):
    whole = EliteTable(tmp_path / TABLE)
    for i in range(3):
        from designs import result

        whole.append(result(good(i), score=float(i)))
    data = (tmp_path / TABLE).read_bytes()
    (tmp_path / TABLE).write_bytes(data[:-7])
    cut = EliteTable(tmp_path / TABLE)
    assert cut.results == whole.results[:2]
    cut.append(whole.results[2])
    assert (tmp_path / TABLE).read_bytes() == data
    assert best_of(cut.results).score == 2.0


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / TABLE).write_text(json.dumps({"score": 1}) + "\n")
    with pytest.raises(ValueError, match="line 1: no result"):
        EliteTable(tmp_path / TABLE)
