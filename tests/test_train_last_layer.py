"""A last layer that runs behind its attention where something is read: numbers and gradients are those of the whole layer."""

from __future__ import annotations

import copy

import pytest
import torch
import train_world
from omnivision_train import stages
from omnivision_train.config import AlignConfig, DpoConfig, FunctionsConfig, SftConfig
from omnivision_train.data import Collator, Conversations
from omnivision_train.last_layer import narrow_last_layer
from omnivision_train.lean_norm import LEAN_NORMS
from omnivision_train.pair_loss import token_log_probs
from omnivision_train.pairs import PairCollator, Pairs
from omnivision_train.throughput import Flops
from torch import nn
from transformers import AutoModel, GPT2Config

from omnivision import OmniVisionForConditionalGeneration
from omnivision.constants import IGNORE_INDEX


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.written(tmp_path_factory.mktemp("last_layer"), layers=2)


@pytest.fixture(scope="module")
def both(world):
    """(the model as it is, the same with a narrow last layer, its processor)."""
    model, processor = train_world.build(world)
    narrow = copy.deepcopy(model)
    narrow_last_layer(narrow, SftConfig())
    assert narrow.narrow_last_layer and not model.narrow_last_layer
    return model.train(), narrow.train(), processor


@pytest.fixture
def batch(world, both):
    samples = Conversations(world.rows("sft"), both[2], world.folder, 256).samples[:4]
    made = Collator(both[2])(samples)
    return {key: value for key, value in made.items() if key not in ("row_ids", "num_tokens", "num_supervised")}


def learnt(model: nn.Module, loss: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss and its gradients by name."""
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def assert_same(found, expected) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def positions_of_mlp(model: nn.Module, run) -> list[int]:
    """At how many positions each layer's MLP runs."""
    seen, hooks = [], []
    for layer in model.model.language_model.layers:
        hooks.append(layer.mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[:-1].numel())))
    run()
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("kernel", ["eager", "lean", "sdpa"])
@pytest.mark.parametrize("places", ["given", "looked for"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_are_the_whole_layers(both, batch, kernel, places, checkpointing):
    found = []
    if places == "looked for":
        batch["supervised_at"] = None
    for model in both[:2]:
        model = copy.deepcopy(model)
        model.set_attn_implementation(kernel)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        found.append(learnt(model, model(**batch).loss))
    assert_same(found[1], found[0])


def test_under_gradient_checkpointing_it_runs_again_as_the_others(both, batch):
    model = copy.deepcopy(both[1])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    runs = []
    for at, layer in enumerate(model.model.language_model.layers):
        layer.self_attn.q_proj.register_forward_pre_hook(lambda module, inputs, at=at: runs.append(at))
    model(**batch).loss.backward()
    assert sorted(runs) == [0, 0, 1, 1]


def test_it_runs_where_something_is_supervised(both, batch):
    whole, narrow = (positions_of_mlp(model, lambda model=model: model(**batch)) for model in both[:2])
    tokens, read = batch["input_ids"].numel(), len(batch["supervised_at"])
    assert whole == [tokens, tokens] and narrow == [tokens, -(-read // 32) * 32] and read < tokens


@pytest.mark.parametrize("shown", ["one", "none"])
def test_few_supervised_tokens_or_none(both, batch, shown):
    labels = torch.full_like(batch["labels"], IGNORE_INDEX)
    labels[0, -1] = 5 if shown == "one" else IGNORE_INDEX
    found = [learnt(model, model(**{**batch, "labels": labels, "supervised_at": None}).loss) for model in both[:2]]
    assert_same(found[1], found[0])
    assert (found[1][0] > 0) == (shown == "one")


@pytest.mark.parametrize("share", ["none", "prompt", "edit"])
def test_log_probs_of_pairs_are_the_whole_layers(world, both, share):
    model, narrow, processor = both
    samples = Pairs(world.rows("dpo"), processor, world.folder, 256).samples[:4]
    batch = PairCollator(processor, share=share)(samples)
    found, read = [token_log_probs(one, batch, share) for one in (model, narrow)], -(-len(batch["logits_at"]) // 32) * 32
    assert positions_of_mlp(narrow, lambda: token_log_probs(narrow, batch, share)) == [batch["input_ids"].numel(), read]
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    assert_same(*(learnt(one, (values * batch["weights"]).sum()) for one, values in zip((narrow, model), found[::-1], strict=True)))


def test_whoever_asks_for_more_gets_all_of_it(both, batch):
    model, narrow = both[:2]
    given = {key: value for key, value in batch.items() if key not in ("labels", "supervised_at")}
    with torch.no_grad():
        torch.testing.assert_close(narrow(**given).logits, model(**given).logits)
        states = [one(**batch, output_hidden_states=True).hidden_states for one in (model, narrow)]
        assert [one.shape for one in states[1]] == [one.shape for one in states[0]]
        exits = [one(**batch, early_exits={1: 0.5, 2: 0.5}).loss for one in (model, narrow)]
        torch.testing.assert_close(*exits)
        written = [one.eval().generate(**{**given, "input_ids": given["input_ids"][:1], "pixel_values": given["pixel_values"][:1], "image_at": None}, max_new_tokens=4, do_sample=False)
                   for one in (model, narrow)]
    model.train(), narrow.train()
    assert torch.equal(*written)


@pytest.mark.parametrize("config", [SftConfig(exit_layer=2, exit_loss=0.2), SftConfig(layer_dropout=0.1), DpoConfig(needed_logits_only=False)])
def test_a_stage_that_reads_layers_in_other_ways_keeps_it_whole(both, config):
    model = copy.deepcopy(both[0])
    narrow_last_layer(model, config)
    assert not model.narrow_last_layer and type(model.model.language_model.layers[-1]) is type(model.model.language_model.layers[0])


def test_a_language_model_of_another_form_keeps_it_whole(both):
    model = copy.deepcopy(both[0])
    model.model.language_model = AutoModel.from_config(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64))
    narrow_last_layer(model, SftConfig())
    assert not model.narrow_last_layer


@pytest.mark.parametrize("stage, config", [("align", AlignConfig), ("sft", SftConfig), ("dpo", DpoConfig), ("functions", FunctionsConfig)])
def test_every_stage_opens_such_a_model(world, tmp_path, stage, config):
    start = world.start(stage)
    first = {"start": str(start)} if start else {"preset": "tiny", "vision": world.vision, "language": world.language}
    settings = config(out=str(tmp_path), data=[world.file(stage)], **first)
    model, _ = stages.open_model(settings, stage)
    assert model.narrow_last_layer and type(model.model.language_model.norm) in LEAN_NORMS.values()
    plain, _ = stages.plain_model(settings, stage)
    assert not plain.narrow_last_layer and type(plain.model.language_model.norm) in LEAN_NORMS


def test_it_is_saved_and_copied_as_any_model(both, batch, tmp_path):
    _, narrow, _ = both
    narrow.save_pretrained(tmp_path)
    again = OmniVisionForConditionalGeneration.from_pretrained(tmp_path).train()
    assert not again.narrow_last_layer
    twin = copy.deepcopy(narrow)
    with torch.no_grad():
        twin.model.language_model.layers[-1].mlp.down_proj.weight.zero_()  # the copy's own layer, not the first one's
        before, after, loaded = (one(**batch).loss for one in (narrow, twin, again))
    assert before != after and before == pytest.approx(float(loaded), abs=1e-6)


def test_operations_are_counted_where_it_runs(both):
    model, narrow = both[:2]
    weights = sum(weight.numel() for weight in model.model.language_model.layers[-1].mlp.parameters())
    whole, less = Flops(model, encoded=True), Flops(narrow, encoded=True)
    assert whole.of(tokens=100) - less.of(tokens=100) == less.of(supervised=100) - whole.of(supervised=100) == 6 * 100 * weights
    assert whole.of(tokens=7, supervised=7) == less.of(tokens=7, supervised=7)
