"""The presets of published constants, `conf/intrinsic/*_paper.yaml`, hold them."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

INTRINSIC = Path(__file__).resolve().parents[2] / "conf/intrinsic"
PUBLISHED = {
    "rnd": {  # Burda et al. 2018, appendix, and their code
        **{"network": "published", "embedding_dim": 512, "lr": 1e-4, "num_epochs": 4},
        **{"num_minibatches": 4, "warmup_steps": 128 * 50, "distance": "mse"},
        "term": {"weight": 1.0, "gamma": 0.99, "episodic": False},
        "scale": "firstlight.intrinsic.ReturnScale",
    },
    "drnd": {  # Yang et al. 2024, and their online code
        **{"num_targets": 10, "alpha": 0.9, "shared": False, "reduction": "sum", "least": 1e-3},
        **{"embedding_dim": 512, "lr": 1e-4, "num_epochs": 4, "update_proportion": 0.25},
        "term": {"weight": 1.0, "gamma": 0.99, "episodic": False},
        "scale": "firstlight.intrinsic.ReturnScale",
    },
    "icm": {  # Pathak et al. 2017, and their code: 288 numbers, learning rate 1e-4 times 10
        **{"embedding": "inverse", "width": 288, "hidden": 256, "beta": 0.2, "lr": 1e-3},
        "stop_gradient": False,
        "term": {"weight": 0.01, "gamma": 0.99, "episodic": True},
        "scale": None,
    },
    "disagreement": {  # Pathak et al. 2019, and their code
        **{"embedding": "random", "width": 512, "hidden": 512, "num_blocks": 4, "num_models": 5},
        **{"member_proportion": 0.8, "lr": 1e-4, "num_epochs": 3, "num_minibatches": 8},
        "term": {"weight": 1.0, "gamma": 0.99, "episodic": False},
        "scale": "firstlight.intrinsic.ReturnScale",
    },
    "re3": {  # Seo et al. 2021, their code for MiniGrid
        **{"k": 5, "average": True, "log": True, "normalize": True, "capacity": 10_000},
        "term": {"weight": 0.005, "gamma": 0.99, "episodic": True},
        "scale": None,
    },
    "pseudo_counts": {  # Badia et al. 2020, table of hyperparameters
        **{"k": 10, "kernel_epsilon": 1e-3, "cluster_distance": 8e-3, "pseudo_count": 1e-3},
        **{"max_similarity": 8.0, "capacity": 30_000, "width": 32, "hidden": 128, "lr": 5e-4},
        "term": {"weight": 0.3, "gamma": 0.99, "episodic": True},
        "scale": None,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_holds_the_published_constants(name):
    config = OmegaConf.to_container(OmegaConf.load(INTRINSIC / f"{name}_paper.yaml"))
    options, term = config["intrinsic"][f"{name}_paper"], config["mixer"]["terms"][f"{name}_paper"]
    expected = dict(PUBLISHED[name])
    scale = (term.pop("transform") or {}).get("_target_")
    assert term == expected.pop("term")
    assert scale == expected.pop("scale")
    assert {key: options[key] for key in expected} == expected


def test_every_preset_has_a_default_beside_it():
    for path in INTRINSIC.glob("*_paper.yaml"):
        assert path.with_stem(path.stem.removesuffix("_paper")).exists()
