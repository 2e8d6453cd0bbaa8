"""What refactoring must not change: parameters after ten iterations, and runs of version 0.1.

``python -P tests/frozen/test_frozen.py`` writes `hashes.json` anew. A change that is meant to alter
training does so and says why; every other change leaves the file alone.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hydra import compose, initialize_config_module

from firstlight.scripts.benchmarks.results import hardware
from firstlight.scripts.build import build
from firstlight.scripts.build_env import make_vec
from firstlight.scripts.evaluate import main as evaluate
from firstlight.scripts.train import main as train

HERE = Path(__file__).parent
HASHES = HERE / "hashes.json"
RUN = HERE / "run_0_1"
ITERATIONS = 10
COMMON = ("trainer.num_steps=64", "env.num_envs=8", "device=cpu", "seed=5", "run_dir=unused")
RND = (  # the defaults of version 0.1
    *("intrinsic.rnd.network=published", "intrinsic.rnd.embedding_dim=512"),
    *(
        "intrinsic.rnd.lr=1e-4",
        "intrinsic.rnd.num_epochs=4",
        *("intrinsic.rnd.num_minibatches=4", "intrinsic.rnd.minibatch_size=null"),
        "intrinsic.rnd.update_proportion=1.0",
        "mixer.terms.rnd.weight=1.0",
    ),
    "+mixer.terms.rnd.transform={_target_: firstlight.intrinsic.ReturnScale}",
)
CASES = {
    "chain": ("env=chain", "intrinsic=[rnd]", *RND, "intrinsic.rnd.warmup_steps=16"),
    "envpool_doorkey": (
        *("env=minigrid/doorkey_8x8", "env.backend=envpool", "intrinsic=[count,rnd]"),
        *(*RND, "intrinsic.rnd.warmup_steps=6400"),
    ),
    "doorkey": ("env=minigrid/doorkey_8x8", "intrinsic=[count]"),
    "multiroom_with_map": (
        *("env=minigrid/multiroom_n4_s5", "env.backend=native", "env.view=map"),
        *("intrinsic=[map_change,submodular]", "mixer=sum"),
    ),
    "walks_by_subpo": ("experiment=subrl_two_rooms", "learner=subpo"),
    "minihack": ("env=minihack/keyroom_s5", "intrinsic=[count]"),
}


def fingerprint(state: dict[str, torch.Tensor]) -> tuple[str, float]:
    """Hash of some tensors and the sum of their norms; the latter is about the same anywhere."""
    total, norms = hashlib.sha256(), 0.0
    for name, tensor in sorted(state.items()):
        total.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
        norms += tensor.double().norm().item()
    return total.hexdigest()[:16], norms


def trained(*overrides: str) -> tuple[str, float]:
    """Train for ten iterations; the policy's fingerprint."""
    with initialize_config_module("firstlight.conf", version_base="1.3"):
        config = compose("train", overrides=[*COMMON, *overrides])
    config.run_dir, config.checkpoint.every = None, None
    before = torch.get_rng_state()
    vec = make_vec(config.env)
    try:
        trainer = build(config, vec)
        warm = max((module.warmup_steps for module in trainer.modules.values()), default=0)
        steps = warm + ITERATIONS * trainer.num_steps
        trainer.run(steps * vec.num_envs)
        return fingerprint(trainer.policy.state_dict())
    finally:
        vec.close()
        torch.set_rng_state(before)


def machine() -> dict[str, str]:
    """What decides over the last bit of a float."""
    hardware_name, instructions = (
        hardware().partition(",")[0],
        torch.backends.cpu.get_cpu_capability(),
    )
    return {"torch": torch.__version__, "hardware": hardware_name, "instructions": instructions}


def same(found: tuple[str, float], wanted: list) -> None:
    """Compare bit for bit on the machine that the hashes are of, elsewhere roughly."""
    if json.loads(HASHES.read_text())["machine"] == machine():
        assert found[0] == wanted[0]
    assert found[1] == pytest.approx(wanted[1], rel=1e-2)


@pytest.mark.parametrize("case", CASES)
def test_ten_iterations_end_in_the_same_parameters(case):
    if case == "minihack":
        pytest.importorskip("minihack")
    same(trained(*CASES[case]), json.loads(HASHES.read_text())["cases"][case])


def test_a_run_of_version_0_1_is_evaluated(tmp_path, capsys, monkeypatch):
    run = shutil.copytree(RUN, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["firstlight-evaluate", f"run={run}", "episodes=8"])
    evaluate()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["step"], told["episodes"]) == (1024, 8)


def test_a_run_of_version_0_1_goes_on_as_it_would_have(tmp_path, monkeypatch):
    run = shutil.copytree(RUN, tmp_path / "run")
    words = json.loads((RUN / "command.json").read_text())
    monkeypatch.setattr(sys, "argv", ["firstlight-train", *words, f"run_dir={run}", "resume=auto"])
    train()
    saved = safetensors.torch.load_file(
        run / "checkpoints" / "step_000000002048" / "tensors.safetensors"
    )
    policy = {name: t for name, t in saved.items() if name.startswith("learner/policy/")}
    same(fingerprint(policy), json.loads(HASHES.read_text())["resumed"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    before = json.loads(HASHES.read_text()) if HASHES.exists() else {}
    cases = {case: trained(*words) for case, words in CASES.items()}
    found = {**before, "machine": machine(), "cases": cases}
    HASHES.write_text(json.dumps(found, indent=1) + "\n")
