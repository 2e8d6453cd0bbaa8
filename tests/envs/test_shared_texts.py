"""A run has one table of texts: training and evaluation give a sentence the same id."""

import pytest
import torch

from firstlight.envs import minigrid

TASK = "MiniGrid-DoorKey-5x5-v0"


@pytest.mark.parametrize("view", ["partial", "map"])
def test_environments_that_share_texts_give_a_sentence_one_id(view):
    one, two = (
        minigrid.make(TASK, num_envs=4, backend="native", view=view, text=True) for _ in range(2)
    )
    one.text_table.intern("a sentence that only training met")
    two.share_texts(one.text_table)
    ids = [vec.reset(seed)[1]["mission_id"] for seed, vec in enumerate((one, two))]
    assert two.text_table is one.text_table
    assert torch.equal(ids[0], ids[1])
    assert one.text_table.text(int(ids[1][0])).startswith("use the key")


def test_sharing_texts_changes_nothing_for_environments_without_text():
    vec = minigrid.make(TASK, num_envs=2, backend="native")
    other = minigrid.make(TASK, num_envs=2, backend="native", text=True)
    vec.share_texts(other.text_table)
    assert vec.text_table is None
