"""DeepSpeed's engines on two processes: every ZeRO stage, bf16 beside fp32 weights as on a GPU, the optimizer in the CPU's memory."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
import train_world
import workers
from omnivision_train import flat_gradients, pair_trainer, precision, trainer
from omnivision_train.config import SftConfig
from omnivision_train.deepspeed_config import deepspeed_config
from safetensors.torch import load_file

STEPS = {"max_steps": 6, "save_steps": 2, "keep_checkpoints": 1, "batch_size": 2, "log_steps": 1}
ENGINES = {
    "bf16, ZeRO 1": (True, {"zero_stage": 1, "batch_size": 1, "accumulation": 2}), "bf16, ZeRO 3": (True, {"zero_stage": 3}),
    "offload, ZeRO 2": (False, {"zero_stage": 2, "offload_optimizer": True}),
}  # fmt: skip
OWN_JSON = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto", "gradient_clipping": "auto",
                "bf16": {"enabled": "auto"}, "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True}
OTHERS = {
    "bf16, ZeRO 2": (True, {"zero_stage": 2}), "bf16, DeepSpeed's ZeRO 1 by a JSON": (True, {"deepspeed": OWN_JSON}),
    "offload, ZeRO 1": (False, {"zero_stage": 1, "offload_optimizer": True}), "offload, ZeRO 3": (False, {"zero_stage": 3, "offload_optimizer": True}),
    "offload and bf16, ZeRO 2": (True, {"zero_stage": 2, "offload_optimizer": True}),
    "offload and bf16, ZeRO 3": (True, {"zero_stage": 3, "offload_optimizer": True}),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory):
    """One process, fp32, no ZeRO, the same global batch."""
    changes = {**STEPS, "batch_size": 4, "zero_stage": 0}
    return workers.run(train_world.settings(world, tmp_path_factory.mktemp("plain") / "out", "sft", **changes), "sft")


@pytest.mark.parametrize("engine", [*ENGINES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_an_engine_learns_the_same_and_a_killed_run_goes_on(world, plain, tmp_path, engine):
    bf16, changes = {**ENGINES, **OTHERS}[engine]
    whole = workers.run(train_world.settings(world, tmp_path / "whole" / "out", "sft", **{**STEPS, **changes}), "sft", 2, bf16=bf16)
    assert train_world.losses(whole) == pytest.approx(train_world.losses(plain), abs=0.15 if bf16 else 1e-4)
    assert train_world.losses(whole)[-1] < train_world.losses(whole)[0]
    norm, other = (train_world.read_lines(final.parent / "metrics.jsonl")[0]["grad_norm"] for final in (whole, plain))
    assert norm == pytest.approx(other, rel=0.01 if bf16 else 1e-4)  # of all processes' rows, not of one's own

    config = train_world.settings(world, tmp_path / "killed" / "out", "sft", **{**STEPS, **changes})
    checkpoints = Path(config.out) / "sft" / "checkpoints"
    processes = workers.start(config, "sft", 2, workers.Sabotage("kill", checkpoints / ".step-6", 0, tmp_path / "unused"), bf16)
    processes[0].join(workers.WATCHDOG)
    processes[1].kill()
    assert workers.finish(processes)[0] == -signal.SIGKILL
    saved = load_file(checkpoints / "step-4" / "model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    final = workers.run(config, "sft", 2, bf16=bf16)
    begun = train_world.weights(world.start("sft"))
    tower = [name for name in begun if "vision_tower" in name]
    assert tower and all(torch.equal(train_world.weights(final)[name], begun[name]) for name in tower)  # bf16 has not rounded it
    assert {weight.dtype for weight in train_world.weights(final).values()} == {torch.float32}
    assert train_world.losses(final) == train_world.losses(whole)
    one, other = train_world.weights(final), train_world.weights(whole)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_process_sums_bf16_gradients_in_fp32_and_a_killed_run_goes_on(world, plain, tmp_path):
    changes = {**STEPS, "batch_size": 2, "accumulation": 2, "zero_stage": 1}
    whole = workers.run(train_world.settings(world, tmp_path / "whole" / "out", "sft", **changes), "sft", bf16=True)
    assert train_world.losses(whole) == pytest.approx(train_world.losses(plain), abs=0.15)
    config = train_world.settings(world, tmp_path / "killed" / "out", "sft", **changes)
    checkpoints = Path(config.out) / "sft" / "checkpoints"
    assert workers.finish(workers.start(config, "sft", 1, workers.Sabotage("kill", checkpoints / ".step-6", 0, tmp_path / "unused"), True)) == [-signal.SIGKILL]
    final = workers.run(config, "sft", bf16=True)
    assert train_world.losses(final) == train_world.losses(whole)
    one, other = train_world.weights(final), train_world.weights(whole)
    assert all(torch.equal(one[name], other[name]) for name in one) and {weight.dtype for weight in one.values()} == {torch.float32}


@pytest.mark.parametrize("changes, in_fp32", [({}, True), ({"zero_stage": 2}, False), ({"offload_optimizer": True}, False), ({"zero_stage": 0}, False)])
def test_which_gradients_are_summed_in_fp32(monkeypatch, changes, in_fp32):
    monkeypatch.setattr(precision, "deepspeed_bf16", lambda config: True)
    assert deepspeed_config(SftConfig(**changes)).get("data_types") == ({"grad_accum_dtype": "fp32"} if in_fp32 else None)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("offload", [False, True])
def test_gradients_reach_the_optimizer_whatever_a_json_of_ones_own_makes_deepspeed_choose(world, plain, tmp_path, bf16, offload):
    """fp32 sums with ZeRO 1 are its bf16 optimizer, which adds gradients itself, only beside bf16 weights and without offload (0.19.8)."""
    own = {"gradient_clipping": "auto", "zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True, "data_types": {"grad_accum_dtype": "fp32"},
           "zero_optimization": {"stage": 1} | ({"offload_optimizer": {"device": "cpu"}} if offload else {})} | ({"bf16": {"enabled": "auto"}} if bf16 else {})
    final = workers.run(train_world.settings(world, tmp_path / "out", "sft", **{**STEPS, "batch_size": 2, "accumulation": 2, "deepspeed": own}), "sft", bf16=bf16)
    assert train_world.losses(final) == pytest.approx(train_world.losses(plain), abs=0.15)


def test_numbers_of_a_batch_are_not_rounded_to_the_engines_type(world, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "deepspeed_bf16", lambda config: True)
    seen, real = [], pair_trainer.pair_loss

    def noted(log_probs, batch, reference, *rest):
        seen.append((batch["weights"], reference, batch["image_features"].dtype))
        return real(log_probs, batch, reference, *rest)

    monkeypatch.setattr(pair_trainer, "pair_loss", noted)
    train_world.train(train_world.settings(world, tmp_path, "dpo", edit_weight=1.2345678, feature_cache=str(tmp_path / "features"), max_steps=2, zero_stage=1), "dpo")
    weights, references, kinds = zip(*seen, strict=True)
    assert set(torch.cat(weights).tolist()) == {1.0, torch.tensor(1.2345678).item()}
    assert any(reference.dtype == torch.float32 and not torch.equal(reference, reference.bfloat16().float()) for reference in references)
    assert set(kinds) == {torch.bfloat16}  # pictures are


def test_flat_gradients_train_as_deepspeeds_own(world, tmp_path, monkeypatch):
    """Over two batches a step, with a gradient clipped to a tenth."""
    monkeypatch.setattr(precision, "deepspeed_bf16", lambda config: True)
    used, summed = [], flat_gradients.sum_gradients
    monkeypatch.setattr(flat_gradients, "sum_gradients", lambda optimizer, **how: used.append(1) or summed(optimizer, **how))
    finals = []
    for name in ("flat", "own"):
        if name == "own":
            monkeypatch.setattr(trainer, "flatten_gradients", lambda optimizer: None)
        changes = {**STEPS, "accumulation": 2, "zero_stage": 1, "max_grad_norm": 0.1}
        finals.append(train_world.train(train_world.settings(world, tmp_path / name, "sft", **changes), "sft"))
    assert len(used) == 2 * STEPS["max_steps"]
    one, other = (train_world.read_lines(final.parent / "metrics.jsonl") for final in finals)
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in one] == pytest.approx([line[key] for line in other], rel=2e-3)
    first, second = map(train_world.weights, finals)
    apart = torch.cat([(first[name] - second[name]).abs().flatten() for name in first])  # bf16 lets a last bit of the norm move single weights by an update
    assert apart.mean() < 2e-5 and apart.max() < 5e-3
