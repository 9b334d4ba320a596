"""What the machine decides about a stage: attention kernels, threads, and what doctor says of them."""

from __future__ import annotations

import json

import pytest
import torch
import train_world
from model_parts import make_model
from omnivision_cli.doctor import examine
from omnivision_train import attention, attention_speed, choices, pair_trainer, reference_log_probs
from omnivision_train.config import SftConfig

from omnivision.errors import ConfigError

BF16, FP32 = SftConfig(precision="bf16"), SftConfig(precision="fp32")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


def kernels_of(model) -> tuple[str, str]:
    return model.model.vision_tower.config._attn_implementation, model.model.language_model.config._attn_implementation


@pytest.mark.parametrize(("config", "length", "found"), [(BF16, 200, ("sdpa", "lean")), (BF16, 640, ("sdpa", "lean")), (BF16, 650, ("sdpa", "sdpa")), (FP32, 200, ("sdpa", "sdpa")),
                                                         (SftConfig(precision="bf16", attention="eager"), 600, ("eager", "eager")),
                                                         (SftConfig(precision="bf16", attention="sdpa"), 200, ("sdpa", "sdpa"))])
def test_kernels_by_precision_and_length_on_a_cpu_or_by_hand(config, length, found):
    model = make_model()
    attention.set_attention(model, config, length)
    assert kernels_of(model) == found


def test_a_gpu_keeps_what_transformers_chose(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = make_model()
    before = kernels_of(model)
    attention.set_attention(model, BF16, 200)
    assert kernels_of(model) == before


def test_a_language_model_without_sdpa_stays_eager(monkeypatch):
    model = make_model()
    monkeypatch.setattr(type(model.model.language_model), "_supports_sdpa", False)
    attention.set_attention(model, FP32)
    assert kernels_of(model) == ("sdpa", "eager")
    with pytest.raises(ConfigError, match="has no sdpa attention.*attention=eager"):
        attention.set_attention(model, SftConfig(attention="sdpa"))


def test_a_language_model_of_another_kind_has_sdpa():
    model = make_model()
    model.config.text_config.model_type = "gemma2"  # caps its scores
    attention.set_attention(model, BF16, 200)
    assert kernels_of(model) == ("sdpa", "sdpa")
    with pytest.raises(ConfigError, match="not what a model of type gemma2 does.*attention=eager"):
        attention.set_attention(model, SftConfig(attention="lean"))


def test_stages_learn_the_same_with_either_kernel(world, tmp_path, monkeypatch):
    used, chosen = [], attention.kernels
    monkeypatch.setattr(attention, "kernels", lambda config, length=0: used.append(length) or chosen(config, length))
    found = [train_world.losses(train_world.train(train_world.settings(world, tmp_path / kernel, "sft", attention=kernel), "sft")) for kernel in ("eager", "lean", "sdpa")]
    assert found[0] == pytest.approx(found[2], abs=1e-4) and found[1] == pytest.approx(found[2], abs=1e-4)
    assert used[0] == 0 and 80 < used[1] < 100  # before the data are known, and by the median row


@pytest.mark.parametrize("precompute", [True, False])
def test_the_reference_computes_with_the_policys_kernels(world, tmp_path, monkeypatch, precompute):
    monkeypatch.setattr(attention, "SHORT", 1)  # rows are long
    used, asked = [], pair_trainer.token_log_probs
    for module in (pair_trainer, reference_log_probs):
        monkeypatch.setattr(module, "token_log_probs", lambda model, *more: used.append(kernels_of(getattr(model, "module", model))) or asked(model, *more))
    train_world.train(train_world.settings(world, tmp_path, "dpo", precision="bf16", precompute_reference=precompute, max_steps=1), "dpo")
    assert len(used) > 1 and set(used) == {("sdpa", "sdpa")}


@pytest.mark.parametrize(("environment", "config", "found"), [({}, {}, 3), ({"OMP_NUM_THREADS": "5"}, {}, None),
                                                            ({"LOCAL_WORLD_SIZE": "3"}, {}, 1), ({"OMP_NUM_THREADS": "5"}, {"threads": 2}, 2)])
def test_threads_are_cores_that_may_be_used(monkeypatch, environment, config, found):
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("omnivision.data.parallel.usable_cores", lambda: 3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # torch counts the machine's
    assert choices.threads(SftConfig(**config)) == found


def test_company_is_named_where_threads_would_spin(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(choices, "busy_cores", lambda: 1.8)
    assert "others use 1.8 of" in (said := choices.crowded(2)) and "OMP_WAIT_POLICY=PASSIVE" in said
    assert choices.crowded(1) is None
    monkeypatch.setattr(choices, "busy_cores", lambda: 0.1)
    assert choices.crowded(2) is None
    monkeypatch.setattr(choices, "busy_cores", lambda: 1.8)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert choices.crowded(2) is None


def test_doctor_says_what_was_chosen_why_and_how_to_choose_otherwise(monkeypatch):
    from omnivision_cli import doctor

    monkeypatch.setattr(doctor, "_child", lambda code: (0, "1 True"))
    found = {check.name: check for check in examine()}
    for name in ("precision", "attention of the tower", "attention of the language model", "threads", "processes"):
        assert found[f"chosen: {name}"].status == "ok" and "by hand: " in found[f"chosen: {name}"].value
    assert "GFLOP/s" in found["bf16 on CPU"].value
    monkeypatch.setattr("omnivision.hardware.usable_cores", lambda: 1)  # a container's share
    assert next(check for check in doctor.processor() if check.name == "cores")[:3] == ("cores", "note", "1")
    monkeypatch.setattr(doctor, "_product_rate", lambda kind: {"float32": 100.0, "bfloat16": 10.0}[kind])
    monkeypatch.setattr("omnivision.hardware.cpu_has_bf16", lambda: True)
    check = {check.name: check for check in examine()}["bf16 on CPU"]
    assert check.status == "note" and "precision=fp32" in check.remedy
    json.dumps([check._asdict() for check in found.values()])


def test_kernels_are_measured(capsys):
    assert attention_speed.main(["--lengths", "33", "--rows", "2", "--rounds", "2", "--precision", "bf16"]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) == 8 and "language model, 33 tokens | padding" in lines[5] and "tower, trained" in lines[7]
    assert all(float(cell.split()[0]) > 0 for line in lines[4:] for cell in line.split("|")[3:6])
