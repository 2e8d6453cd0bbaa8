"""The learning tables that the project keeps: their cells can be run."""

import hydra
import pytest

from firstlight.scripts.benchmarks import learning


@pytest.mark.parametrize("table", learning.tables())
def test_every_override_and_trial_of_a_table_composes(table):
    cells, known = list(learning.cells(table)), {""}
    assert len({cell.name for cell in cells}) == len(cells)
    with hydra.initialize_config_module("firstlight.conf", version_base="1.3"):
        for cell in cells:
            parts = {*cell.overrides, cell.trial}
            if parts <= known:
                continue
            known |= parts
            config = hydra.compose("train", [*cell.overrides, *filter(None, [cell.trial])])
            assert {"env", "learner", "mixer"} <= config.keys()


@pytest.mark.parametrize("table", learning.tables())
def test_every_task_and_method_of_a_table_has_a_cell(table):
    said, cells = learning.spec(table), list(learning.cells(table))
    assert {cell.task for cell in cells} == set(said.tasks)
    assert {cell.method for cell in cells} == set(said.methods)
