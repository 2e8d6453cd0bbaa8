"""The notebook of the documents runs, and shows what its text says."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).parents[1] / "docs/examples/first_steps.ipynb"


def test_the_notebook_runs_and_the_bonus_helps(tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert all(cell.get("outputs", []) == [] for cell in book.cells)
    nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [cell.outputs[-1]["data"]["text/plain"] for cell in book.cells if cell.get("outputs")]
    results = eval(shown[0], {"__builtins__": {}})
    assert results["with counts"] > 0.9
    assert results["plain PPO"] < 0.1
    assert list(tmp_path.rglob("report.html"))
