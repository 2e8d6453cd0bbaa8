"""Which fields reward modules read by default: no texts, and the last of stacked frames."""

import functools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sentences import Relation

from firstlight.envs import FrameStack, GymVec, RandomActor, Runner
from firstlight.envs.text import TextBytes
from firstlight.intrinsic.bonuses import RND
from firstlight.intrinsic.memory import StateKeys

SMALL = {"embedding_dim": 8, "hidden": 16}


def rollout_of(vec, steps=12):
    return Runner(vec, seed=0).collect(RandomActor(vec.act_space), steps)


def with_other_text(rollout):
    rollout.obs["sentence"].random_(1, 127)
    rollout.final_obs["sentence"].random_(1, 127)
    return rollout


@pytest.mark.parametrize("make", [StateKeys, functools.partial(RND, **SMALL)])
def test_texts_are_read_only_where_keys_name_them(make):
    vec = GymVec([Relation] * 3, observe_text=True)
    without, reading = make(vec.obs_space), make(vec.obs_space, keys=["sentence", "sign"])
    assert without.names == ("sign",)
    assert reading.names == ("sentence", "sign")
    for module, same in ((without, True), (reading, False)):
        outputs = []
        for change in (lambda rollout: rollout, with_other_text):
            rollout = change(rollout_of(vec))
            keys = module(rollout)[1] if isinstance(module, StateKeys) else module.compute(rollout)
            outputs.append(keys)
            vec = GymVec([Relation] * 3, observe_text=True)
        assert torch.equal(*outputs) is same


def test_a_text_does_not_hide_a_picture():
    camera = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    module = RND(spaces.Dict({"camera": camera, "mission": TextBytes(9)}), **SMALL)
    assert module.pixels
    assert module.names == ("camera",)


class Screen:
    """A space of pictures of one layout."""

    def __init__(self, shape):
        self.obs_space = spaces.Dict({"obs": spaces.Box(0, 255, shape, np.uint8)})
        self.act_space, self.info_space = spaces.Discrete(2), spaces.Dict({})
        self.num_envs, self.success_threshold, self.resume = 1, None, "dropped"
        self.text_table, self.left_out, self.max_steps = None, {}, None


@pytest.mark.parametrize("shape", [(3, 40, 44), (40, 44, 3), (40, 44)])
def test_rnd_reads_the_last_frame_of_a_stack(shape):
    stacked = FrameStack(Screen(shape), 4).obs_space
    frames = torch.randint(0, 256, (5, 4, *shape), dtype=torch.uint8)
    alone = shape if len(shape) == 3 else (1, *shape)
    module = RND(stacked, seed=3, **SMALL)
    expected = RND(spaces.Dict({"obs": spaces.Box(0, 255, alone, np.uint8)}), seed=3, **SMALL)
    assert module.pixels
    seen = module._view({"obs": frames})
    assert torch.equal(seen, expected._view({"obs": frames[:, -1].reshape(5, *alone)}))
    for network, same in ((module.target, expected.target), (module.predictor, expected.predictor)):
        found = module.apply_network(network, {"x": seen})
        assert torch.equal(found, expected.apply_network(same, {"x": seen}))
