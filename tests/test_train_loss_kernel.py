"""The loss by liger-kernel: asked for by a key, refused where it cannot run, and then the one that the model takes."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import train_world
from omnivision_train import loss_speed
from omnivision_train.config import DpoConfig, FunctionsConfig, SftConfig
from omnivision_train.loss_kernel import check_loss_kernel, loss_kernel, set_loss_kernel

from omnivision.errors import ConfigError
from omnivision.model import modeling


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.mark.parametrize("gpu, package, config, told", [
    (False, True, SftConfig(), "there is none"),
    (True, False, SftConfig(), "not installed"),
    (True, True, SftConfig(zero_stage=3), "ZeRO-3 parts the head"),
    (True, True, FunctionsConfig(lora_rank=4), "Under adapters"),
    (True, True, SftConfig(zero_stage=2), None),
    (True, True, DpoConfig(), None),  # keys that all stages of a chain share
])
def test_where_it_cannot_run_the_stage_says_so_before_it_starts(monkeypatch, gpu, package, config, told):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: package or None)
    check_loss_kernel(config)  # not asked for
    assert loss_kernel(config) == ("liger" if told is None else "chunked")
    object.__setattr__(config, "loss_kernel", "liger")
    if told is None:
        check_loss_kernel(config)
    else:
        with pytest.raises(ConfigError, match=told):
            check_loss_kernel(config)


def test_the_model_takes_the_loss_that_was_asked_for(world, monkeypatch):
    model, _ = train_world.build(world)
    seen = []

    def liger(head, hidden_SD, targets_S):
        seen.append((tuple(hidden_SD.shape), targets_S.tolist()))
        return torch.tensor(6.0)

    monkeypatch.setattr(modeling, "liger_cross_entropy", liger)
    ids = torch.tensor([[1, 2, 3, 4]])
    labels = torch.tensor([[-100, -100, 3, 4]])
    plain = model(input_ids=ids, labels=labels).loss
    set_loss_kernel(model, SftConfig(loss_kernel="liger"))
    assert model(input_ids=ids, labels=labels).loss == 3.0  # of two supervised tokens
    assert seen == [((2, model.config.text_config.hidden_size), [3, 4])]
    set_loss_kernel(model, SftConfig())
    assert model(input_ids=ids, labels=labels).loss == plain and len(seen) == 1


def test_what_is_timed_is_one_loss_in_several_ways(capsys):
    torch.manual_seed(0)
    head, hidden, targets = torch.nn.Linear(8, 50, bias=False), torch.randn(12, 8), torch.randint(50, (12,))
    targets[:5] = -100
    values = [loss(head, hidden, targets).item() for loss in loss_speed.ways(50).values()]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-5)
    assert loss_speed.main(["--preset", "tiny", "--positions", "64", "--rounds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tiny, 64 positions, 50% supervised") and lines[4].startswith("| all logits | ") and "1.00 (1.00 to 1.00)" in lines[4]
