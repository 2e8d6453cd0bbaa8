"""What the Makefile's targets must and must not do."""

from pathlib import Path


def test_tensorboard_listens_on_this_machine_only():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    recipe = makefile.partition("\ntensorboard:")[2].partition("\n\n")[0]
    assert recipe.count("bin/tensorboard") + recipe.count("$(BIN)/tensorboard") == 1
    assert "--host 127.0.0.1" in recipe
    assert "--bind_all" not in recipe
