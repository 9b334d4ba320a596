"""LayerSkip's training: weights of the exits, dropped layers, and a stage that leaves an early exit behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import train_world
from model_parts import make_config, make_model
from omnivision_train import throughput
from omnivision_train import meters
from omnivision_train.activations import Batch, activation_bytes
from omnivision_train.config import SftConfig
from omnivision_train.data import Collator, Conversations
from omnivision_train.early_exit import check_early_exit, drop_layers, drop_rates, exit_weights, most_exits
from omnivision_train.memory import on_meta
from omnivision_train.stages import set_trainable
from test_train_memory import kept
from test_train_resume import Killed, die, interrupt, same_weights
from transformers import AutoConfig, AutoModelForCausalLM

from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
from omnivision.errors import ConfigError
from omnivision.model.build import build_model
from omnivision.runs import write_hand_over

EXITS = {"exit_layer": 2, "exit_loss": 0.2, "exit_every": 2, "layer_dropout": 0.5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def start(world, tmp_path_factory):
    """What sft may start from, with a language model of three layers."""
    folder = tmp_path_factory.mktemp("deep")
    shape = AutoConfig.from_pretrained(world.language).to_dict() | {"num_hidden_layers": 3}
    shape.pop("layer_types", None)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape)).save_pretrained(folder / "language")
    for part in build_model("tiny", world.vision, str(folder / "language"), tokenizer=build_model("tiny", world.vision, world.language)[1].tokenizer):
        part.save_pretrained(folder / "final")
    write_hand_over(folder / "final", "align", None)
    return folder / "final"


def test_weights_of_exits_by_hand():
    rotational = SftConfig(exit_loss=0.2, exit_every=2)
    whole = 3 + 0.2 * (0 + 1 + 2)
    assert exit_weights(rotational, 4, 0, 100) == pytest.approx({3: 0.6 / (0.6 + whole), 4: whole / (0.6 + whole)})  # layers 0, of weight 0, and 2
    assert exit_weights(rotational, 4, 7, 100) == pytest.approx({2: 0.2 / (0.2 + whole), 4: whole / (0.2 + whole)})
    gradual = replace(rotational, exit_curriculum="gradual")
    assert [sorted(exit_weights(gradual, 4, step, 80)) for step in (0, 9, 10, 19, 20, 80)] == [[4], [4], [3, 4], [3, 4], [2, 3, 4], [2, 3, 4]]


def test_the_loss_is_the_weighted_sum_of_the_exits():
    torch.manual_seed(0)
    model = make_model()
    ids = torch.randint(0, 260, (2, 9))
    hidden = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    early = torch.nn.functional.cross_entropy(model.lm_head(model.model.language_model.norm(hidden[1]))[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    plain = model(input_ids=ids, labels=ids).loss
    found = model(input_ids=ids, labels=ids, early_exits={1: 0.25, 2: 0.75}).loss
    torch.testing.assert_close(found, 0.25 * early + 0.75 * plain)
    assert not torch.isclose(early, plain)


def test_layers_are_dropped_for_rows_and_only_in_training():
    assert drop_rates(0.4, 3) == pytest.approx([0, 0.4 * (2**0.5 - 1), 0.4]) and drop_rates(0.4, 1) == [0]
    model = make_model(text_config=make_config().text_config.to_dict() | {"num_hidden_layers": 2, "layer_types": None})
    ids = torch.randint(0, 260, (1, 9)).expand(64, -1)
    whole, first = (model.model(input_ids=ids, output_hidden_states=True).hidden_states[number] for number in (-1, 1))
    drop_layers(model.model.language_model.layers, 0.5)
    assert torch.equal(model.model(input_ids=ids).last_hidden_state, whole)
    torch.manual_seed(1)
    rows = model.train().model.language_model(input_ids=ids).last_hidden_state
    without = model.model.language_model.norm(first)
    kept = sum(torch.allclose(row, other, atol=1e-5) for row, other in zip(rows, whole))
    dropped = sum(torch.allclose(row, other, atol=1e-5) for row, other in zip(rows, without))
    assert kept + dropped == 64 and 16 < dropped < 48


@pytest.mark.parametrize("loaders", [{}, {"max_steps": 14, "save_steps": 6, "workers": 1}])  # 6 steps are an epoch: at its end loaders start again
def test_a_stage_leaves_its_exit_and_resumes_to_the_same_weights(world, start, tmp_path, monkeypatch, loaders):
    config = train_world.settings(world, tmp_path / "whole", "sft", start, **{"max_steps": 4, "save_steps": 2, **EXITS, **loaders})
    whole = train_world.train(config, "sft")
    assert OmniVisionForConditionalGeneration.from_pretrained(whole).config.early_exit_layer == 2
    plain = train_world.train(train_world.settings(world, tmp_path / "plain", "sft", start, max_steps=1), "sft")
    assert train_world.losses(plain)[0] != train_world.losses(whole)[0]
    killed = replace(config, out=str(tmp_path / "killed"))
    with monkeypatch.context() as patch:
        interrupt(patch, config.save_steps + 1, die)
        with pytest.raises(Killed):
            train_world.train(killed, "sft")
    again = train_world.train(killed, "sft")
    assert same_weights(whole, again) and train_world.losses(whole) == train_world.losses(again)


def test_gradient_checkpointing_drops_the_same_layers_twice(world, start, tmp_path):
    runs = [train_world.train(train_world.settings(world, tmp_path / str(checkpointing), "sft", start, gradient_checkpointing=checkpointing, **EXITS), "sft")
            for checkpointing in (False, True)]
    assert train_world.losses(runs[0]) == pytest.approx(train_world.losses(runs[1]), abs=1e-6)


@pytest.mark.parametrize("changes", [{"exit_every": 1}, {"exit_curriculum": "gradual"}, {"exit_every": 2}])
def test_the_plan_counts_what_every_exit_keeps(world, start, changes):
    config = SftConfig(exit_layer=2, exit_loss=0.2, **changes)
    model, processor = (cls.from_pretrained(start, **more) for cls, more in ((OmniVisionForConditionalGeneration, {"attn_implementation": "eager"}),
                                                                             (OmniVisionProcessor, {})))
    set_trainable(model.train(), "sft", main=False)
    rows = Conversations([row for row in world.rows("sft") if not row.images], processor, world.folder, 256)
    batch = Collator(processor)(rows.samples)
    weights = max((exit_weights(config, 3, step, 4) for step in range(5)), key=len)
    counted = activation_bytes(on_meta(model.config), config, "sft", "fp32", rows.largest(len(rows)), fused=False)
    assert sum(counted.values()) == pytest.approx(kept(model, {**batch, "early_exits": weights}), rel=0.02)
    assert most_exits(config, 3) == sorted(weights) and most_exits(SftConfig(), 3) == [3]


@pytest.mark.parametrize("changes, message", [({"layer_dropout": 1.0}, "layer_dropout"), ({"exit_loss": -1.0}, "exit_loss"), ({"exit_layer": 2}, "go together"),
                                              ({"exit_loss": 0.1}, "go together"), ({**EXITS, "exit_every": 0}, "exit_every")])
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_early_exit(SftConfig(**changes))


@pytest.mark.parametrize("layer", [1, 3])
def test_an_exit_that_would_not_train_is_refused(world, start, tmp_path, layer):
    """Beyond the layers, or after the first, whose loss weighs nothing."""
    with pytest.raises(ConfigError, match="has 3 layers.*Give 2 to 2"):
        train_world.train(train_world.settings(world, tmp_path, "sft", start, **{**EXITS, "exit_layer": layer}), "sft")


def test_every_exit_that_is_on_counts_as_a_head(world, start, tmp_path, monkeypatch):
    counted, of = [], throughput.Flops.of
    monkeypatch.setattr(throughput.Flops, "of", lambda self, **seen: counted.append(seen["supervised"]) or of(self, **seen))
    monkeypatch.setattr(meters, "device_peak", lambda: 1e6)
    for name, exits in (("plain", {}), ("exits", {"exit_layer": 2, "exit_loss": 0.2, "exit_every": 1})):
        train_world.train(train_world.settings(world, tmp_path / name, "sft", start, batch_size=12, max_steps=1, **exits), "sft")
    assert counted[1] == 2 * counted[0] > 0  # of three layers: the exit after the first has weight 0


def test_the_plan_refuses_an_exit_of_another_family():
    config = make_config(text_config={"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 4, "vocab_size": 448})
    for changes in ({"exit_layer": 2, "exit_loss": 0.2}, {"exit_loss": 0.2}):
        with pytest.raises(ConfigError, match="GPT2Model has no `layers` and `norm`"):
            activation_bytes(on_meta(config), SftConfig(**changes), "sft", "fp32", Batch(1, 128, 4))
