"""A search without episodes: the first two genes say where a genome ends."""

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from firstlight.agents.search.controller import GenomePolicy
from firstlight.agents.search.evaluators.base import Evaluations, Evaluator

POLICY = {
    "obs_space": spaces.Dict({"obs": spaces.Box(-1, 1, (1,))}),
    "act_space": spaces.Box(-1, 1, (1,)),
}
GOALS = ((0.6, 0.6, 0.3), (-0.7, 0.2, 0.2))
"""x, y and radius of the reward areas."""


class Toy(Evaluator):
    """Ends at the tanh of the first two genes; each of the samples is a share of the way.

    Rewards are as in the worlds: 1 - distance / radius, inside of a goal. Its pictures are black
    with a white square where the genome ends.

    Attributes:
        calls: sizes of the batches so far.
    """

    draws = True

    def __init__(self, hidden=1, num_layers=1, goals=GOALS, gain=1.0):
        self.policy = GenomePolicy(**POLICY, hidden=hidden, num_layers=num_layers)
        self.low, self.high = np.full(2, -1.0), np.full(2, 1.0)
        self.goals, self.num_areas, self.calls = goals, len(goals), []
        self.gain = gain  # of the genes: the smaller, the nearer to the middle random genomes end

    def evaluate(self, genomes, samples=1):
        self.calls.append(len(genomes))
        end = np.tanh(self.gain * genomes[:, :2])
        way = np.arange(1, samples + 1) / samples
        position = end[:, None] * way[:, None]
        ret, area = np.zeros(len(end)), np.zeros(len(end), np.int64)
        for k, (x, y, r) in enumerate(self.goals):
            share = 1 - np.hypot(end[:, 0] - x, end[:, 1] - y) / r
            ret[share > 0], area[share > 0] = share[share > 0], k + 1
        steps = np.full(len(end), 10)
        success = (area > 0).astype(np.int8)
        return Evaluations(genomes.copy(), position, position.copy(), ret, area, steps, success)

    def draw(self, scenes):
        pictures = np.zeros((*scenes.shape[:2], 64, 64, 3), np.uint8)
        for b, s in np.ndindex(scenes.shape[:2]):
            column, row = ((scenes[b, s] + 1) * 28).astype(int)
            pictures[b, s, row : row + 8, column : column + 8] = 255
        return pictures


class TinyAutoencoder(nn.Module):
    """Linear autoencoder of 8 x 8 cells, in place of `Autoencoder`, which takes seconds."""

    def __init__(self, latent):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, latent), nn.Linear(latent, 64)

    def forward(self, pictures):
        cells = torch.nn.functional.avg_pool2d(pictures.mean(1), 8).flatten(1)
        code = self.encoder(cells)
        return code, (self.decoder(code) - cells).square().mean(1)


def advance(search, evaluations):
    """Let a search ask and tell until it has this number of evaluations."""
    while search.evaluated < evaluations:
        search.tell(search.evaluator.evaluate(search.ask(), search.samples))
    return search


def use_plain_ribs(monkeypatch):
    """Let ribs' CMA-ES run without its compiled loops, which take seconds to compile."""
    from ribs.emitters.opt import CMAEvolutionStrategy

    for name in ("_transform_and_check_sol", "_calc_cov_update"):
        plain = vars(CMAEvolutionStrategy)[name].__func__.py_func
        monkeypatch.setattr(CMAEvolutionStrategy, name, staticmethod(plain))
