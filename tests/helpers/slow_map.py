"""The map memory in plain loops, and recorded episodes to compare it on."""

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium import spaces

from firstlight.envs.types import Step, map_obs
from firstlight.envs.vec import VecEnv
from firstlight.envs.vector.envpool import EnvPoolVec

EMPTY, DOOR = 1, 4
THINGS = (5, 6, 7)  # key, ball, box
NORTH = 3


class SlowMap:
    """Map of one agent in dicts and sets keyed by complex numbers; south is +1j."""

    def __init__(self, image, direction, reach=63):
        self.at, self.way, self.reach = 0j, 1j**direction, reach
        self.cells, self.visits = {0j: (EMPTY, 0, 0)}, {}
        self.changes, self.places, self.looked = set(), set(), set()
        self._see(image)
        self.counts = (0, 0, 0)

    def act(self, action, image):
        """Apply `action`, then write the view `image` [7, 7, 3] into the map."""
        kind, _, state = self.ahead
        if action in (0, 1):
            self.way *= (-1j, 1j)[action]
        elif action == 2 and (kind in (1, 3, 8, 9) or (kind == DOOR and state == 0)):
            self.at += self.way
        self._see(image)

    def _near(self, at):
        return max(abs(at.real), abs(at.imag)) <= self.reach

    def _see(self, image):
        image = image.tolist()
        self.carried, self.ahead = tuple(image[3][6]), tuple(image[3][5])
        new, changes = 0, set()
        for i in range(7):
            for j in range(7):
                at, cell = (
                    self.at + self.way * (6 - j) + self.way * 1j * (i - 3),
                    tuple(image[i][j]),
                )
                if (i, j) == (3, 6) or cell[0] == 0 or not self._near(at):
                    continue
                if at not in self.cells:
                    new += 1
                elif self.cells[at] != cell and (at != 0 or 0j in self.looked):
                    changes.add((self.cells[at], cell))
                self.cells[at] = cell
                self.looked.add(at)
        place = (self.at, self.carried)
        first = self._near(self.at) and place not in self.places
        self.counts = (new, len(changes - self.changes), int(first))
        self.changes |= changes
        if self._near(self.at):
            self.places.add(place)
            self.visits[self.at] = self.visits.get(self.at, 0) + 1

    def chart(self, margin=63):
        """Map, north up, with the start in the middle."""
        chart = np.zeros((2 * margin + 1, 2 * margin + 1, 3), np.uint8)
        for at, cell in self.cells.items():
            chart[int(at.real) + margin, int(at.imag) + margin] = cell
        return chart

    def shown(self, size):
        """All fields and channels that a `MapMemory` adds, as numpy arrays."""
        middle, margin = size // 2, 63 + 50 + size
        x, y = int(self.at.real) + margin, int(self.at.imag) + margin
        around = self.chart(margin)[x - middle : x + middle + 1, y - middle : y + middle + 1]
        heading = {1: 0, 1j: 1, -1: 2, -1j: 3}[self.way]
        here = self.visits.get(self.at, 0)
        return {
            "image": np.rot90(around, NORTH - heading),
            "carrying": np.array(self.carried[:2]),
            "visits": np.array(sum(here > bound for bound in (1, 2, 4, 8, 16, 32))),
            "visited": np.array([self.at + self.way * 1j**k in self.visits for k in range(4)]),
            **dict(zip(("new_cells", "new_changes", "new_place"), self.counts, strict=True)),
        }


@dataclass
class Episode:
    """Views [L+1, 7, 7, 3], directions [L+1], and the actions [L] between."""

    image: np.ndarray
    direction: np.ndarray
    action: np.ndarray

    def slow(self, size):
        """Fields and channels after each observation."""
        memory = SlowMap(self.image[0], int(self.direction[0]))
        shown = [memory.shown(size)]
        for action, image in zip(self.action, self.image[1:], strict=True):
            memory.act(action, image)
            shown.append(memory.shown(size))
        return shown


def busy(image, numbers):
    """Random actions that often take, open or enter the object ahead.

    Args:
        image: [N, S, S, 3], a view or a map.
        numbers: generator.
    """
    size = image.shape[1]
    kind = np.asarray(image)[:, size // 2, 5 if size == 7 else size // 2 - 1, 0]  # ahead
    actions = numbers.choice(7, len(kind), p=[0.14, 0.14, 0.5, 0.06, 0.08, 0.06, 0.02])
    lucky = numbers.random(len(kind)) < 0.6
    actions[(kind == DOOR) & lucky] = 5
    takes = np.isin(kind, THINGS) & lucky
    actions[takes] = numbers.choice([3, 3, 3, 5], takes.sum())
    return torch.from_numpy(actions)


def envpool_of(task, **options):
    """Create EnvPool environments with the view, the direction and the true position."""
    keys = {"obs_keys": ("image", "direction"), "info_keys": ("agent_pos",)}
    return EnvPoolVec(task, num_threads=1, **keys, **options)


def episodes_of(task, *, num_envs=4, steps=150, seed=0, **options):
    """Record whole episodes of `busy` actions in EnvPool, a list for each environment."""
    vec = envpool_of(task, num_envs=num_envs, **options)
    obs, _ = vec.reset(seed)
    numbers = np.random.default_rng(seed)
    rows, out = [([], [], []) for _ in range(num_envs)], [[] for _ in range(num_envs)]
    for _ in range(steps):
        before, action = obs, busy(obs["image"], numbers)
        step = vec.step(action)
        obs = step.obs
        for n in step.valid.nonzero()[:, 0].tolist():
            for row, fields in zip(
                rows[n], (before["image"], before["direction"], action), strict=True
            ):
                row.append(fields[n].numpy())
            if step.terminated[n] or step.truncated[n]:
                images, ways, actions = rows[n]
                images.append(obs["image"][n].numpy())
                ways.append(obs["direction"][n].numpy())
                out[n].append(Episode(*map(np.stack, (images, ways, actions))))
                rows[n] = ([], [], [])
    assert all(out)
    return out


class Played(VecEnv):
    """Replays recorded episodes, one list for each environment, for any actions.

    Attributes:
        actions: [T, N] int64, recorded actions; random where the environment only reset itself.
        index: [T, N, 2] int64, (episode, step) of the observation after each step.
    """

    obs_space = spaces.Dict(
        {"image": spaces.Box(0, 255, (7, 7, 3), np.uint8), "direction": spaces.Discrete(4)}
    )
    info_space = spaces.Dict({})
    act_space = spaces.Discrete(7)

    def __init__(self, episodes, *, same_step):
        self.episodes, self.num_envs, self.same_step = episodes, len(episodes), same_step
        numbers = np.random.default_rng(7)
        columns = []
        for own in episodes:
            column = []
            for e, episode in enumerate(own):
                column += [(e, t + 1, int(a)) for t, a in enumerate(episode.action)]
                if not same_step and e + 1 < len(own):
                    column.append((e + 1, 0, int(numbers.integers(7))))
            columns.append(column)
        length = min(map(len, columns)) - same_step  # there is no episode after the last
        rows = torch.tensor([column[:length] for column in columns]).transpose(0, 1)  # [T, N, 3]
        self.actions, self.index = rows[..., 2].contiguous(), rows[..., :2]

    def reset(self, seed=None):
        self.now = 0
        return self._obs([(n, 0, 0) for n in range(self.num_envs)]), {}

    def step(self, action):
        at = [(n, *row) for n, row in enumerate(self.index[self.now].tolist())]
        self.now += 1
        ends = [t == len(self.episodes[n][e].action) for n, e, t in at]
        valid = torch.tensor([t > 0 for _, _, t in at])
        finals = [row for row, end in zip(at, ends, strict=True) if end and self.same_step]
        shown = [(n, e + 1, 0) if (n, e, t) in finals else (n, e, t) for n, e, t in at]
        return Step(
            obs=self._obs(shown),
            info={},
            reward=torch.zeros(self.num_envs),
            terminated=torch.tensor(ends),
            truncated=torch.zeros(self.num_envs, dtype=torch.bool),
            valid=valid,
            is_first=torch.tensor([t == 0 for _, _, t in shown]),
            final_ids=torch.tensor([n for n, _, _ in finals], dtype=torch.int64),
            final_obs=self._obs(finals),
            final_info={},
        )

    def _obs(self, at):
        seen = [(self.episodes[n][e], t) for n, e, t in at]
        images = [episode.image[t] for episode, t in seen]
        fields = {
            "image": np.array(images, np.uint8).reshape(-1, 7, 7, 3),
            "direction": np.array([episode.direction[t] for episode, t in seen], np.int64),
        }
        return map_obs(lambda field: torch.from_numpy(field), fields)
