"""The training loop: its order, files, stopping, resuming and callbacks."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from nested import leaves
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.agents.algorithms.ppo import PPO
from firstlight.agents.evaluation import Evaluation
from firstlight.agents.policy import ActorCritic
from firstlight.agents.session.callbacks import Evaluate, StopAt
from firstlight.agents.session.run_directory import checkpoint
from firstlight.agents.session.run_directory.status import read_status
from firstlight.agents.trainer import Trainer
from firstlight.envs.worlds.chain import Chain
from firstlight.intrinsic import HashCount, Heads, Linear, ReturnScale, RewardMixer, Sum, Term
from firstlight.intrinsic.base import IntrinsicModule
from firstlight.networks.cores import GRU
from firstlight.networks.encoders import MLP

N, T = 4, 8
ROUND = N * T  # environment steps of an iteration, with no idle rows


class Constant(IntrinsicModule):
    """A bonus of 1 for every step that records its calls."""

    def __init__(self, name="constant", warmup_steps=0, diary=None):
        super().__init__()
        self.name, self.warmup_steps = name, warmup_steps
        self.diary = [] if diary is None else diary
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def compute(self, rollout):
        self.diary.append((self.name, "compute", rollout.num_steps))
        return rollout.valid.float()

    def update(self, rollout):
        self.diary.append((self.name, "update", rollout.num_steps))
        self.seen += rollout.valid.sum()
        return {"seen": float(self.seen)}

    def warmup(self, rollout):
        self.diary.append((self.name, "warmup", rollout.num_steps))

    def reset(self, env_ids=None):
        self.diary.append((self.name, "reset", env_ids))


class Idle:
    """A learner that changes nothing and records its arguments."""

    def __init__(self, policy, diary=None):
        self.policy, self.given = policy, []
        self.diary = [] if diary is None else diary

    def update(self, rollout, rewards, progress):
        self.diary.append(("learner", "update", rollout.num_steps))
        self.given.append((rollout, rewards, progress))
        return {"train/updates": float(len(self.given))}

    def state_dict(self):
        return {"policy": self.policy.state_dict()}

    def load_state_dict(self, state):
        self.policy.load_state_dict(state["policy"])


def make_policy(vec, num_streams=1, seed=0):
    torch.manual_seed(seed)
    encoder = MLP(vec.obs_space, hidden=(8,))
    return ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, num_streams=num_streams)


def make(modules=None, mixer=None, *, idle=False, seed=0, autoreset="same_step", **options):
    """Make a small trainer; its learner is PPO unless `idle`."""
    vec = Chain(N, length=3, autoreset=autoreset)
    policy = make_policy(vec, 1 + len(modules or {}) if mixer is None else mixer.num_streams, seed)
    learner = Idle(policy) if idle else PPO(policy, minibatch_size=16, num_epochs=2, seed=seed)
    return Trainer(vec, learner, modules, mixer, num_steps=T, seed=seed, **options)


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def steps_saved(path):
    return sorted(int(p.name.removeprefix("step_")) for p in path.glob("checkpoints/step_*"))


# --- state


def counting(**options):
    """Make a trainer with a module and a mixer that both have a state."""
    count = HashCount(Chain(N, length=3).obs_space)
    mixer = RewardMixer({"count": Term(transform=ReturnScale(0.9))}, Heads())
    return make({"count": count}, mixer, **options)


def trained(path=None):
    trainer = counting(run_dir=path)
    trainer.run(5 * ROUND)
    return trainer


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize(("core", "inside"), [(False, 1), (True, 2)], ids=["fused", "memory"])
def test_a_fused_actor_has_one_thread_of_torch_and_learning_has_all(core, inside):
    vec, seen = Chain(4, length=3), {"collect": set(), "learn": set()}
    step, memory = vec.step, {"core": GRU(8)} if core else {}
    encoder = MLP(vec.obs_space, hidden=(8,))
    learner = PPO(ActorCritic(vec.obs_space, vec.act_space, encoder=encoder, **memory))
    update = learner.update
    vec.step = lambda action: seen["collect"].add(torch.get_num_threads()) or step(action)
    learner.update = lambda *a: seen["learn"].add(torch.get_num_threads()) or update(*a)
    torch.set_num_threads(2)
    Trainer(vec, learner, num_steps=16).iterate(100)
    assert seen == {"collect": {inside}, "learn": {2}}


def test_a_loaded_state_makes_an_equal_trainer():
    first = trained()
    state = first.session.state_dict()
    other = counting(seed=9)
    before = leaves(other.session.state_dict()["learner"]["policy"])
    assert before != leaves(state["learner"]["policy"])
    other.session.load_state_dict(state)
    assert other.session.steps == first.session.steps == 5 * ROUND
    after, wanted = leaves(other.session.state_dict()), leaves(first.session.state_dict())
    assert after.keys() == wanted.keys()
    assert {path for path in after if after[path] != wanted[path]} == set()
    assert other.session.episodes.metrics() == first.session.episodes.metrics()
    assert other.modules["count"].table.used == first.modules["count"].table.used > 0


def test_two_trainers_from_one_state_continue_alike():
    state = trained().session.state_dict()
    metrics, states = [], []
    for seed in (1, 2):
        trainer = counting(seed=seed)
        torch.manual_seed(seed)
        trainer.session.load_state_dict(
            copy.deepcopy(state)
        )  # torch's optimisers write into theirs
        metrics.append([trainer.iterate(100 * ROUND) for _ in range(2)])
        states.append(leaves(trainer.session.state_dict()))
    assert repr(metrics[0]) == repr(metrics[1])
    assert states[0] == states[1]


def test_unfinished_episodes_that_cannot_be_restored_start_again(monkeypatch):
    monkeypatch.setattr(Chain, "resume", "dropped")
    module = Constant()
    trainer = make({"constant": module}, idle=True)
    trainer.iterate(10 * ROUND)
    module.diary.clear()
    trainer.session.load_state_dict(trainer.session.state_dict())
    assert [(*entry[:2], entry[2].tolist()) for entry in module.diary] == [
        ("constant", "reset", [*range(N)])
    ]
    trainer.iterate(10 * ROUND)
    rollout = trainer.learner.given[-1][0]
    assert rollout.is_first[0].all()
    assert trainer.session.episodes.last
    lengths = [episode.length for episode in trainer.session.episodes.last]
    assert max(lengths) <= trainer.vec.horizon


# --- the loop


def test_an_iteration_computes_mixes_updates_the_learner_and_then_the_modules():
    diary = []
    modules = {name: Constant(name, diary=diary) for name in ("a", "b")}
    trainer = make(modules, idle=True)
    trainer.learner.diary = diary
    trainer.run(2 * ROUND)
    once = [
        ("a", "compute", T),
        ("b", "compute", T),
        ("learner", "update", T),
        ("a", "update", T),
        ("b", "update", T),
    ]
    assert diary == once * 2
    rollout, rewards, _ = trainer.learner.given[0]
    assert rewards.streams == ("reward", "a", "b")
    assert torch.equal(rewards.reward[..., 1], torch.ones(T, N))
    assert torch.equal(rewards.reward[..., 0], rollout.reward)
    assert [progress for *_, progress in trainer.learner.given] == [0.5, 1.0]


def test_metrics_of_all_parts_are_joined():
    trainer = make({"extra": Constant()}, idle=True)
    seen = []
    trainer.run(3 * ROUND, [lambda run, metrics: seen.append(dict(metrics))])
    assert [m["train/updates"] for m in seen] == [1, 2, 3]
    assert [m["extra/seen"] for m in seen] == [ROUND, 2 * ROUND, 3 * ROUND]
    assert all(m["reward/extra/raw"] == 1 for m in seen)
    assert all(m["perf/steps_per_second"] > 0 for m in seen)
    assert seen[-1]["rollout/episodes"] == trainer.session.episodes.episodes > 0


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_only_valid_rows_count_as_steps(autoreset):
    """Rows in which an environment only reset itself are not steps."""
    trainer = make(idle=True, autoreset=autoreset)
    trainer.run(10 * ROUND)
    valid = [int(rollout.valid.sum()) for rollout, *_ in trainer.learner.given]
    assert trainer.session.steps == sum(valid)
    assert trainer.session.steps - valid[-1] < 10 * ROUND <= trainer.session.steps
    assert (min(valid) < ROUND) == (autoreset == "next_step")


def test_a_module_of_weight_zero_is_never_called():
    diary = []
    modules = {name: Constant(name, diary=diary) for name in ("off", "fades", "on")}
    terms = {
        "off": Term(weight=0.0),
        "fades": Term(weight=Linear(1.0, 0.0, finish=0.5)),
        "on": Term(),
    }
    trainer = make(modules, RewardMixer(terms, Heads()), idle=True)
    trainer.run(4 * ROUND)  # progress 0.25, 0.5, 0.75, 1
    counts = {name: sum(entry[0] == name for entry in diary) for name in modules}
    assert counts == {"off": 0, "fades": 2, "on": 8}


def test_run_can_be_called_again(tmp_path):
    """The second call continues after the first, also in its files."""
    once, twice = make(idle=True, run_dir=tmp_path / "a"), make(idle=True, run_dir=tmp_path / "b")
    once.run(6 * ROUND)
    twice.run(2 * ROUND)
    twice.run(6 * ROUND)
    for first, second in zip(once.learner.given, twice.learner.given, strict=True):
        assert torch.equal(first[0].action, second[0].action)
    steps = [[line["step"] for line in lines(tmp_path / name)] for name in "ab"]
    assert steps[0] == steps[1] == [ROUND * i for i in range(1, 7)]
    assert read_status(tmp_path / "b").step == 6 * ROUND


def test_nothing_is_written_without_a_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make(checkpoint_every=1)
    assert trainer.session.directory is None
    vec = Chain(2, length=3)
    trainer.run(ROUND, [Evaluate(vec, every=1, episodes=2, seed=0)])
    assert list(tmp_path.iterdir()) == []


# --- construction


def test_a_missing_term_raises_with_its_name():
    mixer = RewardMixer({"reward": Term(), "a": Term()}, Sum())
    with pytest.raises(ValueError, match=r"no term for \['b', 'c'\]"):
        make({name: Constant() for name in "abc"}, mixer)


@pytest.mark.parametrize(("heads", "combine"), [(1, Heads()), (3, Heads()), (2, Sum())])
def test_a_policy_with_another_number_of_streams_than_the_mixer_raises(heads, combine, tmp_path):
    vec, mixer = Chain(N), RewardMixer({"reward": Term(), "a": Term()}, combine)
    learner = Idle(make_policy(vec, heads))
    wanted = rf"num_streams={heads}\b.* {mixer.num_streams} reward stream"
    with pytest.raises(ValueError, match=wanted):
        Trainer(vec, learner, {"a": Constant()}, mixer, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_a_mixer_every_module_has_its_default_term():
    trainer = make({"a": HashCount(Chain(N, length=3).obs_space)}, idle=True)
    assert list(trainer.mixer.terms) == ["reward", "a"]
    assert trainer.mixer.terms["a"] == HashCount.default_term()


# --- warm-up


def test_warm_up_gives_active_modules_steps_of_a_random_agent_that_count():
    diary = []
    needs = {"short": T // 2, "long": 2 * T + 3, "none": 0, "off": 99}
    modules = {name: Constant(name, steps, diary) for name, steps in needs.items()}
    terms = {name: Term(weight=float(name != "off")) for name in modules}
    trainer = make(modules, RewardMixer(terms, Heads()), idle=True)
    trainer.run(N * (2 * T + 3))
    warm = [entry for entry in diary if entry[1] == "warmup"]
    assert warm == [
        ("short", "warmup", T),
        ("long", "warmup", T),
        ("long", "warmup", T),
        ("long", "warmup", 3),
    ]
    assert trainer.session.steps == N * (2 * T + 3)
    assert trainer.learner.given == []
    assert trainer.session.episodes.episodes > 0
    trainer.run(trainer.session.steps + ROUND)
    assert [entry for entry in diary if entry[1] == "warmup"] == warm  # only at the very beginning
    assert len(trainer.learner.given) == 1


def test_a_resumed_run_does_not_warm_up(tmp_path):
    make({"a": Constant(warmup_steps=T)}, idle=True, run_dir=tmp_path).run(3 * ROUND)
    module = Constant(warmup_steps=T)
    trainer = make({"a": module}, idle=True, run_dir=tmp_path, resume=True)
    trainer.run(5 * ROUND)
    assert trainer.session.steps == 5 * ROUND
    assert not [entry for entry in module.diary if entry[1] == "warmup"]
    assert module.seen == 4 * ROUND  # the warm-up is a round that was not learnt from


# --- files of a run


def test_both_files_hold_the_same_metrics(tmp_path):
    make({"count": HashCount(Chain(N, length=3).obs_space)}, run_dir=tmp_path).run(4 * ROUND)
    written = lines(tmp_path)
    assert [line["step"] for line in written] == [ROUND * i for i in range(1, 5)]
    board = EventAccumulator(str(tmp_path), size_guidance={"scalars": 0})
    board.Reload()
    tags = {tag for line in written for tag in line} - {"step", "time"}
    assert set(board.Tags()["scalars"]) == tags
    groups = {tag.partition("/")[0] for tag in tags}
    assert groups == {"train", "value", "reward", "rollout", "perf", "count"}
    for tag in tags:
        values = [(line["step"], line[tag]) for line in written if line.get(tag) is not None]
        shown = [(e.step, e.value) for e in board.Scalars(tag) if e.value == e.value]
        assert [step for step, _ in shown] == [step for step, _ in values]
        assert [v for _, v in shown] == pytest.approx([v for _, v in values], rel=1e-6)


def test_the_status_is_written_during_and_after_the_run(tmp_path):
    seen = []
    trainer = make(idle=True, run_dir=tmp_path)
    assert read_status(tmp_path) is None
    trainer.run(2 * ROUND, [lambda run, metrics: seen.append(read_status(tmp_path))])
    assert [(s.status, s.step) for s in seen] == [("running", 0)] * 2
    done = read_status(tmp_path)
    assert (done.status, done.step, done.error) == ("finished", 2 * ROUND, None)
    assert steps_saved(tmp_path) == [2 * ROUND]


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (RuntimeError("out of luck"), "failed", "RuntimeError: out of luck"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(3), "interrupted", "SystemExit: 3"),
    ],
)
def test_the_status_records_how_the_run_ended(tmp_path, error, status, text):
    def breaks(run, metrics):
        if run.steps >= 2 * ROUND:
            raise error

    with pytest.raises(type(error)):
        make(idle=True, run_dir=tmp_path, checkpoint_every=ROUND).run(5 * ROUND, [breaks])
    left = read_status(tmp_path)
    assert (left.status, left.step) == (status, ROUND)  # the step that is saved
    assert left.error.startswith(text)
    assert [line["step"] for line in lines(tmp_path)] == [ROUND]
    assert steps_saved(tmp_path) == [ROUND]  # and it can be resumed from there
    trainer = make(idle=True, run_dir=tmp_path, resume=True)
    assert trainer.session.steps == ROUND
    trainer.run(3 * ROUND)
    assert read_status(tmp_path).status == "finished"


def test_a_used_directory_raises_unless_resumed(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")  # may lie there before
    make(idle=True, run_dir=tmp_path).run(ROUND)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match="already holds a run"):
        make(idle=True, run_dir=tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="other"):
        make(idle=True, run_dir=other)


def test_resuming_continues_steps_parameters_and_metrics(tmp_path):
    first = trained(tmp_path)
    again = counting(run_dir=tmp_path, resume=True, seed=3)
    assert again.session.steps == 5 * ROUND
    assert leaves(again.learner.state_dict()) == leaves(first.learner.state_dict())
    assert again.modules["count"].table.used == first.modules["count"].table.used
    assert leaves(again.mixer.state_dict()) == leaves(first.mixer.state_dict()) != {}
    again.run(5 * ROUND)  # no step is left
    assert len(lines(tmp_path)) == 5
    again.run(8 * ROUND)
    assert [line["step"] for line in lines(tmp_path)] == [ROUND * i for i in range(1, 9)]
    assert read_status(tmp_path).step == 8 * ROUND
    times = [line["time"] for line in lines(tmp_path)]
    assert times == sorted(times)
    episodes = [line["rollout/episodes"] for line in lines(tmp_path)]
    assert episodes == sorted(episodes)


def test_resuming_drops_metrics_written_after_the_checkpoint(tmp_path):
    def breaks(run, metrics):
        if run.steps == 5 * ROUND:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        make(run_dir=tmp_path, checkpoint_every=2 * ROUND).run(9 * ROUND, [breaks])
    assert [line["step"] for line in lines(tmp_path)] == [ROUND * i for i in range(1, 5)]
    (newest,) = [p for p in tmp_path.glob("checkpoints/step_*") if str(4 * ROUND) in p.name]
    (newest / "manifest.json").unlink()  # so an older one is the newest complete one
    trainer = make(run_dir=tmp_path, resume=True)
    assert trainer.session.steps == 2 * ROUND
    trainer.run(3 * ROUND)
    assert [line["step"] for line in lines(tmp_path)] == [ROUND, 2 * ROUND, 3 * ROUND]


def test_resuming_without_a_checkpoint_starts_a_new_run(tmp_path):
    trainer = make(idle=True, run_dir=tmp_path / "new", resume=True)
    assert trainer.session.steps == 0
    trainer.run(ROUND)
    assert steps_saved(tmp_path / "new") == [ROUND]


# --- callbacks


def test_a_callback_may_stop_and_all_are_called(tmp_path):
    called = []

    def stops(run, metrics):
        called.append(("stops", run.steps))
        return run.steps >= 2 * ROUND

    def after(run, metrics):
        called.append(("after", run.steps))
        metrics["mine/number"] = run.steps / 2

    trainer = make(idle=True, run_dir=tmp_path)
    trainer.run(50 * ROUND, [stops, after])
    assert trainer.session.steps == 2 * ROUND
    assert called == [(who, i * ROUND) for i in (1, 2) for who in ("stops", "after")]
    assert [line["mine/number"] for line in lines(tmp_path)] == [ROUND / 2, ROUND]
    assert read_status(tmp_path).status == "finished"
    assert steps_saved(tmp_path) == [2 * ROUND]


def test_checkpoints_are_saved_regularly_and_at_the_end(tmp_path):
    saved = []

    def watch(run, metrics):
        saved.append(steps_saved(tmp_path))

    every = ROUND * 2 + 1  # due at steps 65, 130, 195, ...; an iteration is 32
    make(idle=True, run_dir=tmp_path, checkpoint_every=every).run(7 * ROUND, [watch])
    newest = [steps[-1] // ROUND if steps else 0 for steps in saved]
    assert newest == [0, 0, 0, 3, 3, 5, 5]  # callbacks come first
    assert steps_saved(tmp_path) == [3 * ROUND, 5 * ROUND, 7 * ROUND]


def test_a_checkpoint_holds_the_policy_at_the_time_of_saving(tmp_path):
    parameters = {}

    def watch(run, metrics):
        parameters[run.steps] = leaves(run.policy.state_dict())

    make(run_dir=tmp_path, checkpoint_every=ROUND).run(3 * ROUND, [watch])
    for steps, wanted in parameters.items():
        state = checkpoint.load(tmp_path / "checkpoints" / f"step_{steps:012d}")
        assert state["steps"] == steps
        assert leaves(state["learner"]["policy"]) == wanted
    assert len({str(p) for p in parameters.values()}) == 3


class Scripted:
    """Replaces `evaluate` and returns these mean returns in order."""

    def __init__(self, monkeypatch, returns):
        self.returns, self.seeds, self.steps = list(returns), [], []
        monkeypatch.setattr("firstlight.agents.session.callbacks.evaluate", self)

    def __call__(self, policy, vec, *, episodes, seed, **options):
        self.seeds.append(seed)
        mean = self.returns.pop(0)
        return Evaluation(mean, 0.5, None, 3, 3.0, returns=[])


def best(path):
    found = checkpoint.best(path / "checkpoints")
    return None if found is None else checkpoint.load(found)


def test_evaluation_runs_regularly_and_at_the_end_and_the_best_is_saved(tmp_path, monkeypatch):
    scripted = Scripted(monkeypatch, [0.2, 0.6, 0.4, 0.6])
    evaluate = Evaluate(Chain(2, length=3), every=2 * ROUND, episodes=3, seed=17)
    parameters = {}

    def watch(run, metrics):
        parameters[run.steps] = leaves(run.policy.state_dict())

    make(run_dir=tmp_path).run(7 * ROUND, [watch, evaluate])
    shown = {line["step"] // ROUND: line.get("eval/return_mean") for line in lines(tmp_path)}
    assert shown == {1: None, 2: 0.2, 3: None, 4: 0.6, 5: None, 6: 0.4, 7: 0.6}
    assert scripted.seeds == [17] * 4
    assert "eval/success_rate" not in lines(tmp_path)[-1]
    assert best(tmp_path)["steps"] == 7 * ROUND  # the latest of equals
    assert leaves(best(tmp_path)["learner"]["policy"]) == parameters[7 * ROUND]
    assert evaluate.last.return_mean == 0.6


def test_a_resumed_run_keeps_a_better_earlier_policy(tmp_path, monkeypatch):
    def part(total, returns):
        Scripted(monkeypatch, returns)
        trainer = make(run_dir=tmp_path, resume=True)
        evaluate = Evaluate(Chain(2, length=3), every=ROUND, seed=0)
        trainer.run(total * ROUND, [evaluate])
        return best(tmp_path)["steps"] // ROUND

    assert part(2, [0.1, 0.7]) == 2
    assert part(4, [0.3, 0.5]) == 2
    assert part(6, [0.8, 0.2]) == 5


def test_evaluation_does_not_affect_the_training_environments(tmp_path):
    alone = make()
    alone.run(4 * ROUND)
    evaluate = Evaluate(Chain(3, length=3), every=ROUND, episodes=5, seed=1)
    watched = make(run_dir=tmp_path)
    watched.run(4 * ROUND, [evaluate])
    assert leaves(watched.policy.state_dict()) == leaves(alone.policy.state_dict())
    assert watched.session.episodes.metrics() == alone.session.episodes.metrics()
    assert len(evaluate.last.returns) == 5
    line = lines(tmp_path)[-1]
    assert line["eval/success_rate"] == line["eval/return_mean"]  # the reward of a solved lock is 1


def test_stop_at_waits_for_enough_episodes():
    stop = StopAt(0.5, metric="rollout/return_mean", episodes=10)
    run = SimpleNamespace(steps=100)
    assert not stop(run, {})
    assert not stop(run, {"rollout/episodes": 50, "rollout/return_mean": 1.0})  # ended, but wait
    assert not stop(run, {"rollout/episodes_counted": 9, "rollout/return_mean": 1.0})
    assert not stop(run, {"rollout/episodes_counted": 10, "rollout/return_mean": 0.4})
    assert stop.reached_at is None
    assert stop(run, {"rollout/episodes_counted": 10, "rollout/return_mean": 0.5})
    assert stop.reached_at == 100


def test_a_run_that_stops_early_is_evaluated_at_its_end(tmp_path, monkeypatch):
    Scripted(monkeypatch, [0.9])
    evaluate = Evaluate(Chain(2, length=3), every=100 * ROUND, seed=0)
    stop = StopAt(3.0, metric="train/updates", episodes=0)
    trainer = make(idle=True, run_dir=tmp_path)
    trainer.run(50 * ROUND, [stop, evaluate])
    assert trainer.session.steps == 3 * ROUND == stop.reached_at
    assert lines(tmp_path)[-1]["eval/return_mean"] == 0.9
    assert best(tmp_path)["steps"] == 3 * ROUND
