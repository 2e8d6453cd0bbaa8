"""`Submodular`: marginal gains against plain loops, across rollouts, episode ends and resets."""

import copy
import dataclasses
import random
import re
import shlex
from pathlib import Path

import gymnasium
import hand_made
import hydra
import minigrid  # noqa: F401  (registers the ids)
import numpy as np
import pytest
import torch
from gymnasium import spaces

from firstlight.agents import PPO, ActorCritic, Trainer
from firstlight.envs.check import check_vec
from firstlight.envs.minigrid import make
from firstlight.envs.minigrid.map_memory import MapMemory
from firstlight.envs.minigrid.seen_map import SeenMap
from firstlight.envs.runner import RandomActor, Runner
from firstlight.envs.vector.gym import GymVec
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import Heads, RewardMixer, Submodular, Sum, Term, check_module
from firstlight.intrinsic.submodular import (
    CallableSetFunction,
    Collection,
    Coverage,
    DDesign,
    ExploredTiles,
    FacilityLocation,
    Field,
    LogDet,
    Rbf,
    RegionEntropy,
    SeenCells,
)
from firstlight.networks.encoders import MLP, Grid
from firstlight.scripts.build import make_modules
from firstlight.scripts.build_env import make_vec

TASK = "MiniGrid-DoorKey-5x5-v0"
DOCS = (Path(__file__).parents[3] / "docs/submodular.md").read_text(encoding="utf-8")
PLACES = 9
TABLE = torch.rand((PLACES, 5), generator=torch.Generator().manual_seed(0)).double()
FUNCTIONS = {
    "coverage": lambda: Coverage(5, senses=(TABLE * 5).long()),
    "collection": lambda: Collection(TABLE.T > 0.5, [2, 1, 3, 1, 1]),
    "facility": lambda: FacilityLocation(TABLE.T),
    "entropy": lambda: RegionEntropy(PLACES, horizon=30, held=True),
    "own": lambda: CallableSetFunction(lambda places: float(len(set(places)))),
}
BACKENDS = ("native", "envpool", "python", "no agent_pos")


def open_vec(backend, num_envs=4, limit=25):
    if backend == "no agent_pos":
        return GymVec([lambda: gymnasium.make(TASK, max_steps=limit)] * num_envs)
    return make(TASK, backend=backend, num_envs=num_envs, max_steps=limit)


def module_for(vec, **options):
    return Submodular(vec.obs_space, info_space=vec.info_space, **options)


def rollouts(vec, count=2, steps=60, seed=0):
    runner = Runner(vec, seed=seed)
    return [runner.collect(RandomActor(vec.act_space), steps) for _ in range(count)]


def over_states(function):
    """A module over hand-made rollouts, whose observation is the number of a place."""
    space = spaces.Dict({"obs": spaces.Discrete(PLACES)})
    return Submodular(space, function=function, items=Field("obs"))


def plain_bonus(function, rollout, sets):
    """The bonus by loops: `sets` holds each environment's list of places, and is changed."""
    bonus = torch.zeros(rollout.num_steps, rollout.num_envs)
    hidden = {(t, n): i for i, (t, n) in enumerate(rollout.final_at.tolist())}
    for n, env in enumerate(rollout.env_ids.tolist()):
        for t in range(rollout.num_steps):
            if rollout.is_first[t, n]:
                sets[env] = [rollout.obs["obs"][t, n]]
            if rollout.valid[t, n]:
                at = hidden.get((t, n))
                seen, fields = ((t + 1, n), rollout.obs) if at is None else (at, rollout.final_obs)
                have = sets.setdefault(env, [])
                grown = [*have, fields["obs"][seen]]
                whole = [torch.stack(s) if s else torch.zeros(0, dtype=int) for s in (grown, have)]
                after, before = function.value(whole).tolist()
                bonus[t, n], sets[env] = after - before, grown
    return bonus


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_bonus_equals_the_gain_by_a_plain_loop(name):
    """Over three rollouts with borders, hidden ends, holes, and environments that come and go."""
    numbers = torch.Generator().manual_seed(3)
    module, sets = over_states(FUNCTIONS[name]()), {}
    for _ in range(3):
        rollout = hand_made.random_rollout(numbers, 20, 4, PLACES)
        bonus = module.compute(rollout)
        torch.testing.assert_close(bonus, plain_bonus(FUNCTIONS[name](), rollout, sets))
        assert bonus.dtype == torch.float32
        assert (bonus > 0).any()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_bonuses_of_an_episode_add_up_to_f_minus_f_of_the_first_item(name):
    numbers = torch.Generator().manual_seed(1)
    states = torch.randint(PLACES, (31, 3), generator=numbers)
    rollout = hand_made.rollout({"obs": states})
    paid = over_states(FUNCTIONS[name]()).compute(rollout).sum(0)
    function = FUNCTIONS[name]()
    worth = function.value(list(states.T)) - function.value(list(states[:1].T))
    assert paid.tolist() == pytest.approx(worth.tolist(), rel=1e-5)


def test_invalid_rows_have_no_effect():
    """A hole in which the environment shows anything, put into a rollout, moves nothing else."""
    numbers = torch.Generator().manual_seed(2)
    states = torch.randint(PLACES, (11, 2), generator=numbers)
    plain = over_states(FUNCTIONS["facility"]()).compute(hand_made.rollout({"obs": states}))
    holed = torch.cat([states[:5], torch.full((1, 2), 8), states[5:]])
    valid = torch.ones(11, 2, dtype=torch.bool)
    valid[4] = False  # its successor is the row put in
    bonus = over_states(FUNCTIONS["facility"]()).compute(
        hand_made.rollout({"obs": holed}, valid=valid)
    )
    assert not bonus[4].any()
    assert torch.equal(torch.cat([bonus[:4], bonus[5:]]), plain)


@pytest.mark.parametrize(
    "function",
    [*FUNCTIONS.values(), lambda: LogDet(Rbf(), dim=9, noise=0.5), lambda: DDesign(9)],
    ids=[*FUNCTIONS, "logdet", "ddesign"],
)
def test_it_passes_check_module(function):
    vec, made = Chain(), function()
    items = Field("obs" if made.item_shape else "position")
    check_module(Submodular(vec.obs_space, function=made, items=items))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("features", [False, True])
def test_cells_seen_pass_check_module(backend, features):
    vec = open_vec(backend)
    check_module(module_for(vec, features=features), vec=vec)


def test_wrapped_environments_pass_check_vec():
    for backend in ("native", "no agent_pos"):
        check_vec(SeenMap(open_vec(backend)))


def world_cells(env):
    """Where in the grid the cells lie that the package's agent sees now."""
    _, visible = env.gen_obs_grid()
    found = set()
    for x in range(env.width):
        for y in range(env.height):
            place = env.get_view_coords(x, y)
            if all(0 <= p < 7 for p in place) and visible[place]:
                found.add((x, y))
    return found


@pytest.mark.parametrize("told", [True, False], ids=["agent_pos", "own moves"])
def test_cells_seen_equal_minigrids_visible_cells(told):
    """One agent walked by hand; new cells are counted from the package's grid and mask."""
    task = "MiniGrid-KeyCorridorS4R3-v0"
    env = gymnasium.make(task).unwrapped
    env.reset(seed=4)
    numbers = random.Random(0)
    seen, expected, images, places, directions = set(), [], [], [], []
    for _ in range(120):
        fresh = world_cells(env) - seen
        seen |= fresh
        expected.append(len(fresh))
        images.append(torch.from_numpy(env.gen_obs()["image"]))
        places.append(torch.tensor([int(p) for p in env.agent_pos]))
        directions.append(torch.tensor(int(env.agent_dir)))
        env.step(numbers.choice([0, 1, 2, 2, 2, 5]))
    if told:
        info = {"agent_pos": torch.stack(places)[:, None]}
    else:
        heading = torch.stack(directions)[:, None]
        moved = torch.stack(places) - places[0] + 63
        info = {"pose": torch.cat([moved, heading], 1)[:, None]}
    obs = {"image": torch.stack(images)[:, None], "direction": torch.stack(directions)[:, None]}
    vec = make(task, num_envs=1, backend="python")
    module = Submodular(vec.obs_space, info_space=vec.info_space)
    bonus = module.compute(hand_made.rollout(obs, info=info))
    assert bonus[:, 0].tolist() == expected[1:]
    assert len({*expected}) > 3
    assert module.update(hand_made.rollout(obs, info=info)) == {"value": float(len(seen))}


def test_tracking_the_agents_moves_equals_reading_its_position():
    """The same actions in the same levels, with and without the info channel `agent_pos`."""
    told, silent = open_vec("python", limit=60), open_vec("no agent_pos", limit=60)
    bonuses = []
    for vec in (told, silent):
        module = module_for(vec)
        wrapped = module.wrap(vec)
        runner = Runner(wrapped, seed=3)
        bonuses.append([module.compute(runner.collect(Forward(), 90)) for _ in range(2)])
    images = [vec.reset(7)[0]["image"] for vec in (told, silent)]
    assert torch.equal(*images), "the levels differ, so the test says nothing"
    for one, other in zip(*bonuses, strict=True):
        assert torch.equal(one, other)
        assert (one > 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_cells_seen_equal_the_new_cells_of_a_map_memory(backend):
    """`MapMemory` counts by code of its own, from moves; a cell stood on was seen before."""
    vec = open_vec(backend, limit=60)
    module = module_for(vec)
    runner = Runner(MapMemory(module.wrap(vec), show=False), seed=6)
    for _ in range(3):
        rollout = runner.collect(Forward(), 60)
        new = torch.where(rollout.valid, rollout.next_info()["new_cells"], 0)
        assert torch.equal(module.compute(rollout), new.float())
        assert (new > 0).any()


class Forward(RandomActor):
    """Random, and mostly going on."""

    def __init__(self):
        super().__init__(spaces.Discrete(7))

    def __call__(self, obs, state, is_first):
        out = super().__call__(obs, state, is_first)
        sample = out.dist.sample
        out.dist.sample = lambda generator: torch.tensor([0, 1, 2, 2, 2, 3, 5])[sample(generator)]
        return out


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_field_seen_counts_the_observations_of_the_episode(backend):
    """The field, from the rows as they came: every view placed again by loops."""
    vec = SeenMap(open_vec(backend, limit=40), size=9)
    assert vec.obs_space["seen"] == spaces.Box(0, 1, (9, 9), np.float32)
    rollout = Runner(vec, seed=1).collect(Forward(), 100)
    hidden = {(t, n): i for i, (t, n) in enumerate(rollout.final_at.tolist())}
    step = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    checked = 0
    for n in range(rollout.num_envs):
        counts = {}
        for t in range(101):
            at = hidden.get((t - 1, n))
            moments = [] if at is None else [(at, rollout.final_obs, rollout.final_info, False)]
            moments.append(((t, n), rollout.obs, rollout.info, bool(rollout.is_first[t, n])))
            for where, obs, info, first in moments:
                counts = {} if first else counts
                x, y, heading = info["pose"][where].tolist()
                ahead, right = step[heading], step[(heading + 1) % 4]

                def cell(i, j, back, x=x, y=y, ahead=ahead, right=right, side=3):
                    forward, aside = back - j, i - side
                    return tuple(
                        p + forward * a + aside * r
                        for p, a, r in zip((x, y), ahead, right, strict=True)
                    )

                image = obs["image"][where]
                for i in range(7):
                    for j in range(7):
                        if image[i, j, 0] > 0:
                            counts[cell(i, j, 6)] = counts.get(cell(i, j, 6), 0) + 1
                shown = obs["seen"][where]
                wanted = [
                    [np.log2(1 + counts.get(cell(i, j, 4, side=4), 0)) / 8 for j in range(9)]
                    for i in range(9)
                ]
                assert shown.tolist() == [pytest.approx(row, abs=1e-6) for row in wanted]
                checked += 1
    assert checked > 400
    assert rollout.is_first[1:].any()


@pytest.mark.parametrize("backend", ["native", "no agent_pos"])
@pytest.mark.parametrize("show", [True, False])
def test_seen_cells_are_restored_from_a_checkpoint(backend, show):
    first, second = (SeenMap(open_vec(backend), show=show) for _ in range(2))
    runner = Runner(first, seed=5)
    runner.collect(Forward(), 40)
    state = copy.deepcopy(runner.state_dict())
    again = Runner(second, seed=5)
    assert not len(again.load_state_dict(state))
    one, other = (each.collect(Forward(), 40) for each in (runner, again))
    for name, field in one.obs.items():
        assert torch.equal(field, other.obs[name])
    assert torch.equal(one.info["pose"], other.info["pose"])
    points = first.snapshots()
    _, _, lost = second.restore(torch.tensor([1, 3]), [points[2], points[0]])
    assert not lost.any()
    assert second._xy[[1, 3]].tolist() == first._xy[[2, 0]].tolist()
    with pytest.raises(ValueError, match="no arrays of a map of seen cells"):
        second.restore(torch.tensor([0]), [dataclasses.replace(points[0], arrays={})])


def test_the_items_of_a_shown_map_are_the_cells_it_shows():
    """Cells of the drawn map cover what the plain view covers, step by step."""
    plain = open_vec("native", limit=60)
    mapped = MapMemory(open_vec("native", limit=60))
    bonus = []
    for vec in (plain, mapped):
        module = module_for(vec)
        assert module.wrap(vec) is vec
        runner = Runner(vec, seed=2)
        bonus.append(torch.cat([module.compute(runner.collect(Forward(), 50)) for _ in range(2)]))
    assert torch.equal(*bonus)
    with pytest.raises(ValueError, match="the map shows what was seen already"):
        module_for(mapped, features=True)
    inner = MapMemory(open_vec("no agent_pos"))
    with pytest.raises(ValueError, match="needs MiniGrid's view") as error:
        module_for(inner)
    assert "agent_pos" in str(error.value.__cause__)


def test_nethack_tiles_are_numbered_by_dungeon_level_and_position():
    space = spaces.Dict(
        {
            "glyphs": spaces.Box(0, 5976, (21, 79), np.int16),
            "blstats": spaces.Box(-(2**31), 2**31 - 1, (27,), np.int64),
        }
    )
    glyphs = torch.full((5, 1, 21, 79), 2359, dtype=torch.int16)
    blstats = torch.zeros((5, 1, 27), dtype=torch.int64)
    blstats[:, 0, 24] = torch.tensor([1, 1, 2, 1, 1])
    blstats[4, 0, 23] = 2  # the first level of another dungeon
    glyphs[0, 0, 3, 4:9] = 2378
    glyphs[1, 0, 3, 4:12] = 2378
    glyphs[2, 0, 3, 4:12] = 2378
    glyphs[3, 0, 3, 4:13] = 2378
    glyphs[3, 0, 0, 0] = 5976  # no glyph at all
    glyphs[4, 0, 20, 78] = 333
    module = Submodular(space)
    bonus = module.compute(hand_made.rollout({"glyphs": glyphs, "blstats": blstats}))
    assert bonus[:, 0].tolist() == [3.0, 8.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="glyphs"):
        ExploredTiles(spaces.Dict({"glyphs": space["glyphs"]}))


def test_nethack_tiles_equal_the_environments_own_count():
    """`explored` counts what is not blank now, so it may only fall behind what was ever shown."""
    pytest.importorskip("nle")
    from firstlight.envs.nethack import make as make_nethack

    vec = make_nethack("staircase_4", num_envs=4, max_episode_steps=100)
    module = module_for(vec)
    runner = Runner(vec, seed=2)
    for _ in range(2):
        rollout = runner.collect(RandomActor(vec.act_space), 80)
        module.compute(rollout)
        going = ~rollout.is_first[-1]
        explored = rollout.info["explored"][-1][going].double()
        total = module.function.total[going]
        assert (total >= explored).all()
        assert total.sum() <= 1.02 * explored.sum()
        assert (explored > 10).any()
    vec.close()


def test_wrap_adds_only_what_is_missing():
    vec, silent = open_vec("native"), open_vec("no agent_pos")
    assert module_for(vec).wrap(vec) is vec
    placed = module_for(silent).wrap(silent)
    assert placed.obs_space == silent.obs_space
    assert set(placed.info_space) - set(silent.info_space) == {"pose"}
    module = module_for(vec, features=True)
    shown = module.wrap(vec)
    assert set(shown.obs_space) - set(vec.obs_space) == {"seen"}
    assert module.wrap(shown) is shown
    chain = Chain()
    own = Submodular(chain.obs_space, function=Coverage(9, senses=[[0]] * 9), items=Field("obs"))
    assert own.wrap(chain) is chain
    with pytest.raises(ValueError, match="has 'pose' already"):
        SeenMap(placed)
    with pytest.raises(ValueError, match="size is 4"):
        SeenMap(vec, size=4)
    with pytest.raises(ValueError, match=r"info has no 'pose'.*wrap"):
        module_for(silent).compute(rollouts(silent, count=1, steps=3)[0])


def test_missing_arguments_and_fields_are_reported():
    chain = Chain()
    with pytest.raises(ValueError, match=r"needs MiniGrid's view .* has obs: pass function"):
        Submodular(chain.obs_space)
    for half in ({"function": Coverage(9)}, {"items": Field("obs")}):
        with pytest.raises(ValueError, match="required together"):
            Submodular(chain.obs_space, **half)
    with pytest.raises(ValueError, match="MiniGrid's view"):
        Submodular(chain.obs_space, function=Coverage(9), items=Field("obs"), features=True)
    with pytest.raises(ValueError, match=r"no field 'place'; there are \['obs'\]"):
        Field("place")({"obs": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="no position in a grid"):
        Field("at", sizes=(3, 2))({"at": torch.tensor([[0, 2]])}, {})
    assert Field("at", sizes=(3, 2, 5))({"at": torch.tensor([[2, 1, 3]])}, {}).tolist() == [28]
    assert SeenCells(open_vec("native").obs_space).num_cells == 127**2


def trained(vec, modules, mixer, encoder):
    torch.manual_seed(0)
    policy = ActorCritic(
        vec.obs_space,
        vec.act_space,
        encoder=encoder(vec.obs_space),
        num_streams=mixer.num_streams,
    )
    learner = PPO(policy, minibatch_size=64, num_epochs=2)
    trainer = Trainer(vec, learner, modules, mixer, num_steps=32, seed=0)
    for _ in range(3):
        trainer.iterate(10**6)
    return policy.state_dict()


@pytest.mark.parametrize("features", [False, True])
def test_weight_0_equals_no_module(features):
    """Bit for bit; with features, of a run whose policy sees the same field."""
    runs = []
    for weight in (None, 0.0, 1.0):
        vec = open_vec("native", num_envs=8)
        module = module_for(vec, features=features)
        vec = module.wrap(vec)
        modules = {} if weight is None else {"submodular": module}
        terms = {"reward": Term(), **{n: Term(weight=weight or 0.0) for n in modules}}
        runs.append(trained(vec, modules, RewardMixer(terms, Sum()), Grid))
    without, silent, loud = runs
    assert all(torch.equal(without[name], silent[name]) for name in without)
    assert any(not torch.equal(without[name], loud[name]) for name in without)


def test_a_separate_stream_trains():
    vec = Chain(num_envs=8)
    module = Submodular(
        vec.obs_space,
        function=CallableSetFunction(lambda s: float(len(set(s)))),
        items=Field("position"),
    )
    mixer = RewardMixer({"reward": Term(), "submodular": Submodular.default_term()}, Heads())
    state = trained(vec, {"submodular": module}, mixer, MLP)
    assert all(value.isfinite().all() for value in state.values())
    assert Submodular.default_term() == Term(weight=0.002, gamma=0.99, episodic=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_modular_baseline_rewards_each_step_by_itself(name):
    numbers = torch.Generator().manual_seed(4)
    rollout = hand_made.random_rollout(numbers, 20, 4, PLACES)
    space = spaces.Dict({"obs": spaces.Discrete(PLACES)})
    function = FUNCTIONS[name]()
    module = Submodular(space, function=function, items=Field("obs"), modular=True)
    bonus, reached = module.compute(rollout), rollout.next_obs()["obs"]
    worth = FUNCTIONS[name]().value([torch.tensor([place]) for place in range(PLACES)]).float()
    torch.testing.assert_close(bonus, torch.where(rollout.valid, worth[reached], 0.0))
    vec = Chain()
    senses = [[i, i + 1] for i in range(8)] + [[8, -1]]
    pairs = Coverage(9, senses=senses)
    check_module(Submodular(vec.obs_space, function=pairs, items=Field("position"), modular=True))


def test_update_returns_the_mean_value_and_reset_empties_the_sets():
    module = over_states(FUNCTIONS["own"]())
    states = torch.tensor([[0, 1], [2, 1], [2, 1], [3, 1]])
    rollout = hand_made.rollout({"obs": states}, env_ids=torch.tensor([4, 1]))
    assert module.update(rollout) == {"value": 0.0}
    module.compute(rollout)
    assert module.update(rollout) == {"value": 2.0}  # of 3 places and of 1
    module.reset(torch.tensor([4]))
    assert module.function.total[[4, 1]].tolist() == [0.0, 1.0]
    module.reset()
    assert len(module.function.total) == 0


def test_the_examples_in_the_docs_run():
    """They run as they stand, and the user's own function takes 15 lines or fewer."""
    first, second = re.findall(r"^```python\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
    assert sum(bool(line.strip()) for line in first.splitlines()) <= 15
    names = {"__name__": "example"}
    exec(first, names)
    vec, module = names["vec"], names["module"]
    check_module(module)
    (rollout,) = rollouts(vec, count=1)
    paid = module.compute(rollout)
    assert {*paid.unique().tolist()} <= {0.0, 1.0, 6.0}
    assert (paid == 1).any()
    exec(second, names)
    numbers = torch.randint(9, (20,), generator=torch.Generator().manual_seed(0))
    assert names["Distinct"](9).value([numbers]).item() == len(set(numbers.tolist()))


def landmarks(places):
    return 2.0 * len(set(places))


def test_the_commands_in_the_docs_run():
    """They compose, and the last one makes the user's own function, with `mine` as this file."""
    lines = "\n".join(re.findall(r"^```sh\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE))
    lines = lines.replace("\\\n", " ").replace("mine.landmarks", f"{__name__}.landmarks")
    commands = [shlex.split(line, comments=True)[1:] for line in lines.splitlines() if line]
    assert len(commands) == 3
    made = []
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        for arguments in commands:
            config = hydra.compose("train", [*arguments, "env.num_envs=2"])
            vec = make_vec(config.env)
            made.append(make_modules(config.intrinsic, vec, 0))
    assert [module["submodular"].features for module, _ in made] == [False, True, False]
    assert ["seen" in vec.obs_space.spaces for _, vec in made] == [False, True, False]
    modules, vec = made[-1]
    (rollout,) = rollouts(vec, count=1, steps=20)
    assert {*modules["submodular"].compute(rollout).unique().tolist()} == {0.0, 2.0}
