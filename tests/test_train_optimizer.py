"""One optimizer of two: each parameter takes the step that torch's own Muon or AdamW would take."""

from __future__ import annotations

import pytest
import torch
from omnivision_train.config import FOLLOWS, SftConfig
from omnivision_train.main import config_class
from omnivision_train.optimizer import MuonAdamW, inner_matrix
from omnivision_train.precision import resolved
from omnivision_train.trainer_arguments import check_clipping, check_optimizer
from torch import nn

from omnivision.config_files import load_config
from omnivision.errors import ConfigError


def network() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"embed_tokens": nn.Embedding(6, 4), "inner": nn.Linear(4, 8), "norm": nn.LayerNorm(8)})


def descend(model: nn.ModuleDict, optimizers: list[torch.optim.Optimizer], steps: int) -> None:
    ids = torch.arange(6)
    for _ in range(steps):
        model["norm"](model["inner"](model["embed_tokens"](ids))).square().sum().add(model["inner"].weight.pow(3).sum()).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def reference(model: nn.ModuleDict) -> list[torch.optim.Optimizer]:
    muon = torch.optim.Muon([model["inner"].weight], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    rest = [p for name, p in model.named_parameters() if name != "inner.weight"]
    return [muon, torch.optim.AdamW(rest, lr=0.01, weight_decay=0.0, betas=(0.9, 0.98))]


def test_it_takes_the_steps_of_torchs_own_optimizers():
    one, two, untouched = network(), network(), network()
    descend(one, [MuonAdamW(one.named_parameters(), 0.02, 0.01, 0.1)], 5)
    descend(two, reference(two), 5)
    for (name, a), b, start in zip(one.named_parameters(), two.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, start), name


def test_a_saved_optimizer_goes_on_as_if_nothing_had_happened():
    whole, halves = network(), network()
    descend(whole, [MuonAdamW(whole.named_parameters(), 0.02)], 6)
    first = MuonAdamW(halves.named_parameters(), 0.02)
    descend(halves, [first], 3)
    second = MuonAdamW(halves.named_parameters(), 0.02)
    second.load_state_dict(first.state_dict())
    descend(halves, [second], 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_a_schedule_reaches_both():
    model = network()
    optimizer = MuonAdamW(model.named_parameters(), 0.02)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    descend(model, [optimizer], 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_tables_and_vectors_are_no_inner_matrices():
    names = [name for name, parameter in network().named_parameters() if inner_matrix(name, parameter)]
    assert names == ["inner.weight"]


def test_a_part_may_be_empty():
    linear = nn.Linear(3, 3, bias=False)
    MuonAdamW(linear.named_parameters(), 0.02).step()  # nothing for AdamW
    norm = nn.LayerNorm(3)
    MuonAdamW(norm.named_parameters(), 0.02).step()  # nothing for Muon


def test_muon_under_zero_is_refused_before_anything_loads():
    with pytest.raises(ConfigError, match="zero_stage 1 hands it flat pieces.*zero_stage=0"):
        check_optimizer(SftConfig(optimizer="muon"))
    with pytest.raises(ConfigError, match="zero_stage 2"):
        check_optimizer(SftConfig(optimizer="muon", zero_stage=0, deepspeed={"zero_optimization": {"stage": 2}}))
    check_optimizer(SftConfig(optimizer="muon", zero_stage=0, precision="fp32"))
    check_optimizer(SftConfig())


def test_the_tiny_recipes_train_on_a_gpu_as_they_are(root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    for stage in FOLLOWS:
        config = load_config(config_class(stage), root / "train" / "configs" / "tiny" / f"{stage}.yaml")
        check_optimizer(config)
        assert resolved(config) == ("fp32" if config.optimizer == "muon" else "bf16")
    with pytest.raises(ConfigError, match="Muon needs whole matrices, and DeepSpeed's bf16"):
        check_optimizer(SftConfig(optimizer="muon", zero_stage=0, precision="bf16"))


def test_bf16_weights_without_fp32_ones_are_refused(monkeypatch):
    from omnivision_train import precision

    check_optimizer(SftConfig(zero_stage=0))
    monkeypatch.setattr(precision, "deepspeed_bf16", lambda config: True)
    for config in (SftConfig(zero_stage=0), SftConfig(deepspeed={"bf16": {"enabled": True}})):
        with pytest.raises(ConfigError, match="small steps would be lost.*zero_stage=1"):
            check_optimizer(config)
    check_optimizer(SftConfig(zero_stage=1))


def test_a_deepspeed_file_with_an_optimizer_of_its_own_is_refused():
    with pytest.raises(ConfigError, match="The DeepSpeed settings have optimizer and scheduler of their own"):
        check_optimizer(SftConfig(deepspeed={"optimizer": {"type": "AdamW"}, "scheduler": {"type": "WarmupLR"}}))


def test_settings_of_one_s_own_that_do_not_clip_are_not_taken_for_such_that_do():
    own = {"zero_optimization": {"stage": 2}}
    with pytest.raises(ConfigError, match="do not clip gradients, and max_grad_norm is 1.*gradient_clipping"):
        check_clipping(SftConfig(deepspeed=own))
    for config in (SftConfig(), SftConfig(deepspeed=own, max_grad_norm=0.0), SftConfig(deepspeed={**own, "gradient_clipping": "auto"})):
        check_clipping(config)
