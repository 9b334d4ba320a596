"""DeepSpeed's settings: derived, or a JSON of one's own, which is refused before anything loads where DeepSpeed would not take it."""

from __future__ import annotations

import json

import pytest
import train_world
from omnivision_train import precision
from omnivision_train.config import SftConfig
from omnivision_train.deepspeed_config import check_own, deepspeed_config, zero_settings
from omnivision_train.trainer_arguments import training_arguments

from omnivision.errors import ConfigError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


def test_a_deepspeed_file_of_ones_own(tmp_path):
    file = tmp_path / "ds.json"
    file.write_text('{"zero_optimization": {"stage": 2}}')
    assert deepspeed_config(SftConfig(deepspeed=str(file))) == {
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "zero_optimization": {"stage": 2}}
    file.write_text("{")
    for name in (file, tmp_path / "none.json"):
        with pytest.raises(ConfigError, match="DeepSpeed file cannot be read"):
            deepspeed_config(SftConfig(deepspeed=str(name)))
    made = deepspeed_config(SftConfig(zero_stage=3, offload_optimizer=True))
    assert made["zero_optimization"]["stage"] == 3
    assert made["zero_optimization"]["offload_optimizer"] == {"device": "cpu"}


@pytest.mark.parametrize("settings", [{"zero_optimization": "two"}, {"zero_optimization": {"stage": "two"}}, {"zero_optimization": {"stage": 4}},
                                      {"zero_optimization": {"stage": 2, "offload_optimizer": "cpu"}}, [], 7])
def test_deepspeed_settings_of_another_shape_are_refused(settings, tmp_path):
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="ZeRO stage is|not an object"):
        zero_settings(SftConfig(deepspeed=str(file)))


@pytest.mark.parametrize(("own", "said"), [({"train_micro_batch_size_per_gpu": 4}, "`batch_size` is 8"), ({"gradient_accumulation_steps": 2}, "`accumulation` is 1"),
                                           ({"gradient_clipping": 0.5}, "`max_grad_norm` is 1"), ({"fp16": {"enabled": True}}, "fp16")])
def test_deepspeed_numbers_that_say_something_else_than_the_stage_are_refused(own, said):
    with pytest.raises(ConfigError, match=said):
        deepspeed_config(SftConfig(deepspeed=own))


def test_deepspeed_numbers_that_say_the_same_are_fine():
    own = {"train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0, "fp16": {"enabled": "auto"},
           "zero_optimization": {"stage": 1}}
    assert deepspeed_config(SftConfig(deepspeed=own)) == own


@pytest.mark.parametrize("own, said", [
    ({"zero_optimization": {"stage": 1, "bogus": 3}}, r"Extra inputs.*deepspeed: zero_optimization\.bogus"),
    ({"zero_optimization": {"stage": 1, "offload_optimizer": {"divice": "cpu"}}}, r"deepspeed: zero_optimization\.offload_optimizer\.divice"),
    ({"zero_optimization": {"stage": 2, "reduce_bucket_size": -1}}, r"greater than 0.*zero_optimization\.reduce_bucket_size"),
    ({"zero_optimisation": {"stage": 2}}, "`zero_optimisation` is no key.*Write zero_optimization"),
    ({"bf16": {"enabled": True}}, "have True as bf16.enabled, and by `precision` it is False"), ({"bf16": 1}, "int, not an object"),
])  # fmt: skip
def test_deepspeed_settings_that_deepspeed_would_not_take_are_refused_before_anything_loads(own, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        training_arguments(SftConfig(deepspeed=own | {"gradient_clipping": "auto"}, precision="bf16"), tmp_path)


def test_bf16_of_deepspeed_is_what_precision_says(monkeypatch):
    for on, other in ((False, True), (True, False)):
        monkeypatch.setattr(precision, "deepspeed_bf16", lambda config, on=on: on)
        for own in ({}, {"bf16": None}, {"bf16": {"enabled": "auto"}}, {"bf16": {"enabled": on}}):
            check_own(SftConfig(deepspeed=own | {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "offload_optimizer": {"device": "auto"}}}))
        with pytest.raises(ConfigError, match=f"have {other} as bf16.enabled"):
            check_own(SftConfig(deepspeed={"bf16": {"enabled": other}}))


def test_settings_of_one_s_own_train_without_a_part_about_zero(world, tmp_path):
    clipping = {"gradient_clipping": "auto"}
    ours, missing, null = (train_world.losses(train_world.train(train_world.settings(world, tmp_path / name, "align", **changes), "align")) for name, changes in (
        ("ours", {"zero_stage": 0}), ("missing", {"deepspeed": clipping}), ("null", {"deepspeed": {**clipping, "zero_optimization": None, "bf16": None}})))
    assert ours == missing == null


def test_deepspeed_settings_may_leave_things_out():
    assert zero_settings(SftConfig(deepspeed={"zero_optimization": None})) == (0, False)
    assert zero_settings(SftConfig(deepspeed={"zero_optimization": {"stage": 1, "offload_optimizer": None}})) == (1, False)
    assert zero_settings(SftConfig(deepspeed={"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}})) == (3, True)


@pytest.mark.parametrize("changes", [{"zero_stage": 0, "offload_optimizer": True}, {"deepspeed": {"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}}}])
def test_an_offload_that_deepspeed_would_ignore_is_refused(changes):
    with pytest.raises(ConfigError, match="leaves the optimizer's state on the device"):
        zero_settings(SftConfig(**changes))
