"""Draws the learning curves."""

from __future__ import annotations

from typing import Any

from firstlight.scripts.results import RESULTS

Groups = dict[tuple[str, str, int], list[dict[str, Any]]]
"""Task, method and cap to the lines of their seeds."""


def curves(table: str, groups: Groups) -> str:
    """Draw return against steps, a panel for each task. Returns the path beside the page."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(task for task, _, _ in groups))
    colours = {m: f"C{i}" for i, m in enumerate(dict.fromkeys(m for _, m, _ in groups))}
    figure, axes = plt.subplots(1, len(tasks), figsize=(3.4 * len(tasks), 2.8), squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=True):
        for (name, method, _), runs in groups.items():
            for i, run in enumerate(runs if name == task else []):
                steps, returns = zip(*run["curve"], strict=True)
                label = method if i == 0 else None
                millions = [step / 1e6 for step in steps]
                axis.plot(millions, returns, color=colours[method], label=label, lw=1.2, alpha=0.8)
        axis.axhline(
            next(r[0]["threshold"] for k, r in groups.items() if k[0] == task), ls=":", c="gray"
        )
        axis.set(title=task, xlabel="million environment steps", ylim=(-0.02, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("mean return, training")
    handles = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
    chosen = [method for method in colours if method in handles]
    axes[0][-1].legend([handles[m] for m in chosen], chosen, frameon=False, fontsize=8)
    figure.tight_layout()
    path = RESULTS / f"{table}.png"
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return f"results/{path.name}"
