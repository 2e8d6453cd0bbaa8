"""`Walks` equals a plain loop: walls, horizon, slips, and snapshots."""

import pytest
import torch

from firstlight.envs import check_vec
from firstlight.envs.types import Step
from firstlight.envs.worlds.walks import Walks

MODES = ("same_step", "next_step")
PLAN = ("..#.", ".#..", "....")
MOVE = {0: (0, 0), 1: (0, 1), 2: (1, 0), 3: (0, -1), 4: (-1, 0)}


def random_actions(vec, steps, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 5, (vec.num_envs,), generator=g) for _ in range(steps)]


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("slip", [0.0, 0.4])
@pytest.mark.parametrize("history", [False, True])
def test_check_vec_passes(autoreset, slip, history):
    options = {"slip": slip, "history": history, "autoreset": autoreset}
    check_vec(Walks(4, plan=PLAN, horizon=7, start=4, **options), random=slip > 0)


class Plain:
    """One environment in plain Python."""

    def __init__(self, plan, start, horizon, next_step):
        self.plan, self.begin, self.horizon, self.next_step = plan, start, horizon, next_step
        self.open()

    def open(self):
        self.at, self.time, self.over, self.been = self.begin, 0, False, {self.begin}

    def shown(self):
        return self.at, self.time, sorted(self.been)

    def step(self, action):
        """Return observation, ended, valid, is_first, hidden last observation."""
        if self.over:
            self.open()
            return self.shown(), False, False, True, None
        x, y = self.at[0] + MOVE[action][0], self.at[1] + MOVE[action][1]
        if 0 <= x < len(self.plan) and 0 <= y < len(self.plan[0]) and self.plan[x][y] == ".":
            self.at = (x, y)
        self.time += 1
        self.been.add(self.at)
        ended, hidden = self.time == self.horizon, None
        if ended and self.next_step:
            self.over = True
        elif ended:
            hidden = self.shown()
            self.open()
        return self.shown(), ended, True, ended and not self.next_step, hidden


def shown_by(obs, info, height):
    """Observations in the form of `Plain.shown`."""
    places = [tuple(place) for place in info["position"].tolist()]
    assert obs["cell"].tolist() == info["cell"].tolist() == [x * height + y for x, y in places]
    been = [[divmod(c, height) for c in row.nonzero()[:, 0].tolist()] for row in obs["visited"]]
    return list(zip(places, obs["time"].tolist(), been, strict=True))


@pytest.mark.parametrize("autoreset", MODES)
def test_steps_equal_a_plain_loop(autoreset):
    vec = Walks(6, plan=PLAN, horizon=9, start=4, history=True, autoreset=autoreset)
    plain = [Plain(PLAN, (1, 0), 9, autoreset == "next_step") for _ in range(6)]
    assert shown_by(*vec.reset(), 4) == [walk.shown() for walk in plain]
    ends, blocked = 0, 0
    for action in random_actions(vec, 60):
        before = [walk.at for walk in plain]
        step = vec.step(action)
        rows = [walk.step(int(a)) for walk, a in zip(plain, action, strict=True)]
        shown, ended, valid, is_first, hidden = zip(*rows, strict=True)
        assert shown_by(step.obs, step.info, 4) == list(shown)
        assert step.terminated.tolist() == list(ended)
        assert step.valid.tolist() == list(valid)
        assert step.is_first.tolist() == list(is_first)
        ids = [i for i, last in enumerate(hidden) if last is not None]
        assert step.final_ids.tolist() == ids
        assert shown_by(step.final_obs, step.final_info, 4) == [hidden[i] for i in ids]
        assert not step.reward.any()
        assert not step.truncated.any()
        ends += sum(ended)
        moves = zip(before, (row[0] for row in shown), action.tolist(), valid, ended, strict=True)
        blocked += sum(a == b and m > 0 and v and not e for a, b, m, v, e in moves)
    assert ends >= 30
    assert blocked > 30


def test_walls_are_never_entered_and_every_free_cell_is_reached():
    """A random walk reaches every free cell of two rooms joined by a passage."""
    plan = ("..#..", ".....", "..#..")
    vec = Walks(8, plan=plan, horizon=3000, start=0)
    been = torch.stack([vec.step(a).info["cell"] for a in random_actions(vec, 1500)])
    free = [i for i, character in enumerate("".join(plan)) if character == "."]
    assert been.unique().tolist() == free


@pytest.mark.parametrize("slip", [0.3, 1.0])
def test_slips_have_the_given_probability(slip):
    """Away from walls "right" leads right with probability 1 - slip + slip / 5."""
    vec = Walks(500, width=41, height=41, horizon=20, start=20 * 41 + 20, slip=slip)
    before = vec.reset(3)[1]["position"]
    moves, steps = [], 19
    for _ in range(steps):
        after = vec.step(torch.ones(500, dtype=torch.int64)).info["position"]
        moves += (after - before).tolist()
        before = after
    for move in MOVE.values():
        expected = slip / 5 + (1 - slip) * (move == (0, 1))
        seen = moves.count(list(move)) / len(moves)
        error = (expected * (1 - expected) / len(moves)) ** 0.5
        assert abs(seen - expected) < 4 * error


def test_slips_differ_between_environments_and_episodes():
    vec = Walks(3, width=9, height=9, horizon=12, start=40, slip=0.9)
    stay = torch.zeros(3, dtype=torch.int64)
    walks = [[vec.step(stay).obs["cell"] for _ in range(12)] for _ in range(2)]
    paths = torch.stack([torch.stack(walk[:-1]).T for walk in walks]).flatten(0, 1)  # [6, 11]
    assert len(paths.unique(dim=0)) == 6


def test_the_default_start_is_that_of_the_paper():
    """Cell 34 is in row 1 of a grid with 30 columns, and in row 2 with 15."""
    assert Walks(1).reset()[1]["position"].tolist() == [[1, 4]]
    assert Walks(1, width=7, height=15).reset()[1]["position"].tolist() == [[2, 4]]


@pytest.mark.parametrize("autoreset", MODES)
@pytest.mark.parametrize("between", ["nothing", "steps", "reset", "restore of others"])
def test_restored_walks_continue_with_the_same_steps_and_slips(autoreset, between):
    options = {"slip": 0.5, "history": True, "autoreset": autoreset}
    vec = Walks(5, plan=PLAN, horizon=6, start=0, **options)
    vec.reset(1)
    play(vec, random_actions(vec, 4))
    snapshots, actions = vec.snapshots(), random_actions(vec, 20, seed=2)
    expected = play(vec, actions)
    if between == "steps":
        play(vec, actions[:4])
    if between in ("reset", "restore of others"):
        vec.reset(7)
    if between == "restore of others":
        vec.restore(torch.tensor([3, 1]), [snapshots[0], snapshots[2]])
    obs, _, lost = vec.restore(torch.arange(5), snapshots)
    assert not lost.any()
    assert obs["time"].tolist() == [4] * 5
    assert play(vec, actions) == expected


def play(vec, actions):
    """Steps as nested lists."""

    def plain(part):
        return {k: plain(v) for k, v in part.items()} if isinstance(part, dict) else part.tolist()

    steps = [vec.step(action) for action in actions]
    return [[plain(getattr(step, name)) for name in Step.__slots__] for step in steps]


def test_render_shows_walls_and_agent():
    picture = Walks(1, plan=PLAN, start=4).render()
    assert picture.shape == (4 * 12, 3 * 12, 3)
    cells = picture[::12, ::12]  # [y, x, 3]
    walls = {(x, y) for x in range(3) for y in range(4) if cells[y, x].tolist() == [110] * 3}
    assert walls == {(0, 2), (1, 1)}
    assert cells[0, 1].tolist() == [250, 210, 80]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 900}, "not a free cell"),
        ({"plan": PLAN, "start": 2}, "not a free cell"),
        ({"plan": ["..", "."]}, "strings of one length"),
        ({"plan": [".x"]}, "of # and . only"),
        ({"plan": []}, "strings of one length"),
        ({"slip": 1.5}, "slip 1.5 from 0 to 1"),
        ({"horizon": 0}, "horizon 0 must be at least 1"),
        ({"autoreset": "never"}, "'same_step' or 'next_step'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Walks(2, **options)
