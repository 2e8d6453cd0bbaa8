"""Episode statistics against a loop; the same scalars in metrics.jsonl and TensorBoard."""

import json
import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from firstlight.agents.session.episodes import Episode, EpisodeStatistics
from firstlight.agents.session.run_directory import metrics_writer as metrics
from firstlight.agents.session.run_directory.metrics_writer import MetricsWriter
from firstlight.envs.types import Rollout

NUM_ENVS = 5


def random_rollout(rng, num_steps, columns=NUM_ENVS, channel=True, env_ids=None):
    """Draw rewards and ends, also in invalid rows, and hidden as well as visible ends."""
    T, N = num_steps, columns
    valid = rng.random((T, N)) < 0.8
    terminated = rng.random((T, N)) < 0.15
    truncated = ~terminated & (rng.random((T, N)) < 0.1)
    hidden = np.argwhere((terminated | truncated) & valid & (rng.random((T, N)) < 0.5))
    success = torch.tensor(rng.integers(-1, 2, (T + 1, N)), dtype=torch.int8)
    final_success = torch.tensor(rng.integers(-1, 2, len(hidden)), dtype=torch.int8)
    reward = rng.choice([0.0, 0.1, -0.1, 1.0], (T, N)).astype(np.float32)
    reward[~valid] = rng.choice([5.0, np.nan], (~valid).sum())
    return Rollout(
        obs={},
        info={"success": success} if channel else {},
        action=torch.zeros(T, N, dtype=torch.int64),
        log_prob=torch.zeros(T, N),
        value=torch.zeros(T + 1, N, 1),
        dist_params=None,
        reward=torch.tensor(reward),
        terminated=torch.tensor(terminated),
        truncated=torch.tensor(truncated),
        valid=torch.tensor(valid),
        is_first=torch.zeros(T + 1, N, dtype=torch.bool),
        final_at=torch.tensor(hidden, dtype=torch.int64).reshape(-1, 2),
        final_obs={},
        final_info={"success": final_success} if channel else {},
        final_state={},
        state={},
        env_ids=torch.arange(N) if env_ids is None else torch.tensor(env_ids),
    )


def plain_loop(rollouts, threshold, num_envs=NUM_ENVS):
    """Return the episodes of each rollout, by a loop over environments and steps."""
    return [episodes for episodes, _, _ in plain_cohorts(rollouts, threshold, num_envs)]


def plain_cohorts(rollouts, threshold, num_envs=NUM_ENVS):
    """Return of each rollout the episodes, the rollouts in which they and the open ones began."""
    ret, length, began = [0.0] * num_envs, [0] * num_envs, [0] * num_envs
    for number, rollout in enumerate(rollouts):
        hidden = {tuple(at): i for i, at in enumerate(rollout.final_at.tolist())}
        episodes, cohorts = [], []
        for t in range(rollout.num_steps):
            for column, env in enumerate(rollout.env_ids.tolist()):
                if not rollout.valid[t, column]:
                    continue
                if length[env] == 0:
                    began[env] = number
                ret[env] += float(rollout.reward[t, column])
                length[env] += 1
                if not (rollout.terminated[t, column] or rollout.truncated[t, column]):
                    continue
                told = -1
                if "success" in rollout.info:
                    told = int(rollout.info["success"][t + 1, column])
                    if (t, column) in hidden:
                        told = int(rollout.final_info["success"][hidden[t, column]])
                success = bool(told) if told >= 0 else None
                if told < 0 and threshold is not None:
                    success = ret[env] > threshold
                episodes.append(Episode(ret[env], length[env], success))
                cohorts.append(began[env])
                ret[env], length[env] = 0.0, 0
        yield episodes, cohorts, [at for at, steps in zip(began, length, strict=True) if steps]


def newest_whole_cohorts(ended, window):
    """Return the episodes of the newest whole cohorts that hold `window` episodes together."""
    episodes = [episode for rollout in ended for episode in rollout[0]]
    cohorts = [cohort for rollout in ended for cohort in rollout[1]]
    first_open = min(ended[-1][2], default=len(ended))
    recent = []
    for cohort in reversed(range(first_open)):
        if len(recent) < window:
            recent += [e for e, c in zip(episodes, cohorts, strict=True) if c == cohort]
    return recent


@pytest.mark.parametrize("channel", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.0, 0.5])
def test_statistics_equal_a_loop_over_steps(channel, threshold):
    rng = np.random.default_rng(0)
    rollouts = [random_rollout(rng, T, channel=channel) for T in (1, 7, 30, 2, 16)]
    statistics = EpisodeStatistics(NUM_ENVS, threshold, window=11)
    ended = [*plain_cohorts(rollouts, threshold)]
    for rollout, (episodes, _, _) in zip(rollouts, ended, strict=True):
        statistics.update(rollout)
        assert statistics.last == episodes
    every = [episode for episodes, _, _ in ended for episode in episodes]
    recent = newest_whole_cohorts(ended, 11)
    assert len(every) > 30
    known = [episode.success for episode in recent if episode.success is not None]
    wanted = {
        "rollout/episodes": len(every),
        "rollout/episodes_counted": statistics.counted,
        "rollout/return_mean": np.mean([episode.ret for episode in recent]),
        "rollout/return_std": np.std([episode.ret for episode in recent]),
        "rollout/length_mean": np.mean([episode.length for episode in recent]),
    }
    if known:
        wanted["rollout/success_rate"] = np.mean(known)
    assert statistics.metrics() == pytest.approx(wanted)
    assert ("rollout/success_rate" in statistics.metrics()) == (channel or threshold is not None)


def test_columns_may_hold_different_environments_in_each_rollout():
    rng = np.random.default_rng(1)
    rollouts = [
        random_rollout(rng, 9, columns=3, env_ids=rng.permutation(NUM_ENVS)[:3]) for _ in range(8)
    ]
    statistics = EpisodeStatistics(NUM_ENVS, 0.0)
    for rollout, episodes in zip(rollouts, plain_loop(rollouts, 0.0), strict=True):
        statistics.update(rollout)
        assert statistics.last == episodes


def test_splitting_a_rollout_changes_nothing():
    rollout = random_rollout(np.random.default_rng(2), 40, channel=False)
    rollout.reward[-1] = 1.0
    rollout.terminated[-1], rollout.truncated[-1], rollout.valid[-1] = True, False, True
    whole, parts = EpisodeStatistics(NUM_ENVS, 0.0), EpisodeStatistics(NUM_ENVS, 0.0)
    whole.update(rollout)
    closed = []
    for start, stop in ((0, 13), (13, 14), (14, 40)):
        parts.update(rollout.slice(start, stop))
        closed += parts.last
    assert closed == whole.last
    assert parts.metrics() == pytest.approx(whole.metrics())  # all have ended


def test_a_loaded_state_continues_exactly():
    rng = np.random.default_rng(3)
    first, second = random_rollout(rng, 25), random_rollout(rng, 25)
    unbroken, resumed = EpisodeStatistics(NUM_ENVS, 0.0, 7), EpisodeStatistics(NUM_ENVS, 0.0, 7)
    unbroken.update(first)
    resumed.load_state_dict(unbroken.state_dict())
    for statistics in (unbroken, resumed):
        statistics.update(second)
    assert resumed.last == unbroken.last
    assert resumed.metrics() == unbroken.metrics()
    with pytest.raises(ValueError, match="5 environments, expected 4"):
        EpisodeStatistics(4, 0.0).load_state_dict(unbroken.state_dict())


def test_saved_state_is_a_copy():
    rng = np.random.default_rng(4)
    statistics = EpisodeStatistics(NUM_ENVS, 0.0)
    statistics.update(random_rollout(rng, 5))
    state = statistics.state_dict()
    before = state["open_return"].clone()
    statistics.update(random_rollout(rng, 5))
    assert torch.equal(state["open_return"], before)


def test_environment_infos_are_read_at_the_end_of_each_episode():
    """With next-step autoreset it is in the row after, with same-step in the final info."""
    rng = np.random.default_rng(6)
    rollouts = [random_rollout(rng, T) for T in (9, 1, 25)]
    rollouts[-1].terminated[-1], rollouts[-1].truncated[-1] = True, False
    rollouts[-1].valid[-1], rollouts[-1].reward[-1] = True, 1.0  # so that all have ended
    statistics = EpisodeStatistics(NUM_ENVS, 0.0, reported=("depth",))
    ends, told = [], []
    for rollout in rollouts:
        rollout.info["depth"] = torch.randint(9, rollout.is_first.shape)
        rollout.final_info["depth"] = torch.randint(9, (len(rollout.final_at),))
        hidden = {(t, n): i for i, (t, n) in enumerate(rollout.final_at.tolist())}
        done = (rollout.terminated | rollout.truncated) & rollout.valid
        for t, n in done.nonzero().tolist():
            deep = rollout.info["depth"][t + 1, n]
            if (t, n) in hidden:
                deep = rollout.final_info["depth"][hidden[t, n]]
            ends.append({"depth": float(deep)})
        statistics.update(rollout)
        told += [episode.numbers for episode in statistics.last]
    assert told == ends
    assert statistics.metrics()["rollout/depth_mean"] == np.mean([e["depth"] for e in ends])
    again = EpisodeStatistics(NUM_ENVS, 0.0, reported=("depth",))
    again.load_state_dict(statistics.state_dict())
    assert again.metrics() == statistics.metrics()


def test_dropped_episodes_are_counted_from_zero():
    statistics = EpisodeStatistics(2, None)
    rollout = random_rollout(np.random.default_rng(5), 3, columns=2, channel=False)
    rollout.valid[:], rollout.reward[:] = True, 1.0
    rollout.terminated[:], rollout.truncated[:] = False, False
    statistics.update(rollout)
    statistics.drop(torch.tensor([1]))
    rollout.terminated[-1] = True
    statistics.update(rollout)
    assert statistics.last == [Episode(6.0, 6, None), Episode(3.0, 3, None)]


def test_a_sum_of_many_small_rewards_is_exact_enough():
    statistics = EpisodeStatistics(1, None)
    rollout = random_rollout(np.random.default_rng(6), 1000, columns=1, channel=False)
    rollout.valid[:], rollout.reward[:] = True, 0.1
    rollout.terminated[:], rollout.truncated[:] = False, False
    for _ in range(20):
        statistics.update(rollout)
    rollout.terminated[-1] = True
    statistics.update(rollout)
    assert statistics.last[0].ret == pytest.approx(21_000 * float(np.float32(0.1)), abs=1e-6)


def test_there_are_no_statistics_before_the_first_episode():
    counts = {"rollout/episodes": 0.0, "rollout/episodes_counted": 0.0}
    assert EpisodeStatistics(2, 0.0).metrics() == counts


def lines_of(folder):
    text = (folder / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def board_of(folder):
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    board.Reload()
    return {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }


def assert_alike(folder):
    board, wanted = board_of(folder), {}
    for line in lines_of(folder):
        for tag in line.keys() - {"step", "time"}:
            value = math.nan if line[tag] is None else float(np.float32(line[tag]))
            wanted.setdefault(tag, []).append((line["step"], value))
    assert board.keys() == wanted.keys()
    for tag in wanted:
        assert np.array_equal(board[tag], wanted[tag], equal_nan=True), tag


def test_both_files_hold_the_same_scalars(tmp_path):
    writer = MetricsWriter(tmp_path / "run")
    for step in range(0, 50, 10):
        scalars = {"rollout/return_mean": step / 7, "train/loss": np.float32(0.1) * step}
        writer.write(step, scalars | ({"eval/return_mean": 1} if step == 30 else {}))
    writer.write(50, {"train/loss": math.nan, "train/grad": torch.tensor(2.5)})
    writer.close()
    writer.close()
    lines = lines_of(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 40, 50]
    assert lines[-1]["train/loss"] is None
    assert lines[-1]["train/grad"] == 2.5
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert_alike(tmp_path / "run")


def test_resuming_drops_metrics_written_after_the_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (10, 20, 30, 40):
        writer.write(step, {"a": float(step)})
    writer.close()
    for purge_step, steps in ((20, (30, 35)), (30, (31,))):
        writer = MetricsWriter(tmp_path, purge_step=purge_step)
        for step in steps:
            writer.write(step, {"a": step + 0.5})
        writer.close()
    assert [(line["step"], line["a"]) for line in lines_of(tmp_path)] == [
        (10, 10.0),
        (20, 20.0),
        (30, 30.5),
        (31, 31.5),
    ]
    assert_alike(tmp_path)


def test_elapsed_time_excludes_the_pause_before_resuming(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: clock[0])
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3):
        clock[0] += 4
        writer.write(step, {})
    writer.close()
    clock[0] += 500
    writer = MetricsWriter(tmp_path, purge_step=2)
    clock[0] += 1
    writer.write(3, {})
    writer.close()
    assert [line["time"] for line in lines_of(tmp_path)] == [4, 8, 9]


def test_an_incomplete_last_line_is_dropped(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"a": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 2, "time": 0.1, "ü'.encode()[:-1])
    writer = MetricsWriter(tmp_path)
    writer.write(2, {"a": 2.0})
    writer.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [1, 2]
