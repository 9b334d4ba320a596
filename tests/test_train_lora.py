"""LoRA of the stage `functions`: what trains, what does not, and that the merged model answers as the adapted one."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
import train_world
import workers
from omnivision_train import lora, stages
from omnivision_train.activations import activation_bytes
from omnivision_train.config import FunctionsConfig
from omnivision_train.data import Collator, Conversations
from omnivision_train.functions import call_rows
from omnivision_train.last_layer import narrow_last_layer
from omnivision_train.memory import count_parts, on_meta
from omnivision_train.throughput import Flops
from peft import PeftModel
from test_train_memory import kept
from test_train_resume import Killed, die, interrupt

from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
from omnivision.errors import ConfigError
from omnivision.functions import FunctionSet, install_tokens
from omnivision.presets import preset_config
from omnivision_cli.main import main

RANK = {"lora_rank": 4, "lora_alpha": 8}
STEPS = {**RANK, "max_steps": 6, "save_steps": 2, "keep_checkpoints": 1}
TABLE = "model.language_model.embed_tokens.weight"
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
ENGINES = {"ZeRO 2": (False, {"zero_stage": 2}), "ZeRO 3": (False, {"zero_stage": 3}), "bf16, ZeRO 1": (True, {"zero_stage": 1}),
           "bf16, ZeRO 3, offload": (True, {"zero_stage": 3, "offload_optimizer": True})}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def final(world, tmp_path_factory):
    return train_world.train(train_world.settings(world, tmp_path_factory.mktemp("lora"), "functions", **STEPS), "functions")


def begun(world, tied: bool = True):
    """(model as the stage begins with it, processor, ids of the functional tokens)."""
    model = OmniVisionForConditionalGeneration.from_pretrained(world.start("functions"), attn_implementation="eager")
    if not tied:
        model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    processor = OmniVisionProcessor.from_pretrained(world.start("functions"))
    tokens = install_tokens(model, processor.tokenizer, FunctionSet.from_json(world.folder / "functions.json")).tokens
    return model.eval(), processor, (*tokens.functions, tokens.end)


def batch_of(world, processor) -> dict:
    rows = call_rows(world.rows("functions")[:4], processor.tokenizer, FunctionSet.from_json(world.folder / "functions.json"))
    return Collator(processor)([sample for sample in Conversations(rows, processor, world.folder, 256).samples])


@torch.no_grad()
def logits(model, batch) -> torch.Tensor:
    return model.eval()(**{key: batch[key] for key in ("input_ids", "pixel_values")}).logits


def test_only_targets_and_rows_of_functional_tokens_change(world, final):
    model, _, ids = begun(world)
    before, after = {**model.state_dict()}, train_world.weights(final)
    del before["lm_head.weight"]
    assert set(after) == set(before)
    rows = after[TABLE].ne(before[TABLE]).any(1).nonzero().flatten().tolist()
    assert rows == sorted(ids)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {TABLE} | {name for name in after if "language_model" in name and name.split(".")[-2] in TARGETS and name.endswith("weight")}
    merged = OmniVisionForConditionalGeneration.from_pretrained(final)
    assert merged.lm_head.weight is merged.get_input_embeddings().weight


def test_adapters_begin_as_the_model_without(world):
    model, processor, ids = begun(world)
    batch = batch_of(world, processor)
    before = logits(model, batch)
    lora.add_adapters(model, FunctionsConfig(**RANK), ids)
    after = logits(model, batch)
    others = [column for column in range(before.shape[-1]) if column not in ids]
    assert torch.equal(after[..., others], before[..., others]) and torch.allclose(after, before, atol=1e-5)  # own columns: a product of another shape


def test_peft_reads_the_adapter_and_answers_as_the_merged_model(world, final):
    model, processor, _ = begun(world)
    batch = batch_of(world, processor)
    merged = logits(OmniVisionForConditionalGeneration.from_pretrained(final, attn_implementation="eager"), batch)
    assert not torch.allclose(logits(model, batch), merged, atol=0.1)
    plain = OmniVisionForConditionalGeneration.from_pretrained(world.start("functions"), attn_implementation="eager")
    assert torch.allclose(logits(PeftModel.from_pretrained(plain, final / "adapter"), batch), merged, atol=1e-4)


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_reads_the_trained_rows(world, tied):
    model, processor, ids = begun(world, tied)
    lora.add_adapters(model, FunctionsConfig(**RANK), ids)
    stages.set_trainable(model, "functions", main=False)
    batch = batch_of(world, processor)
    gradients = {name: p for name, p in model.named_parameters() if "trainable_tokens" in name}
    assert len(gradients) == (1 if tied else 2)
    with torch.no_grad():
        for rows in gradients.values():
            rows.add_(torch.randn_like(rows))
    merged = begun(world, tied)[0]
    plain = lora.merged(model, dict(model.named_parameters()))
    assert ("lm_head.weight" in plain) is not tied
    missing, unexpected = merged.load_state_dict(plain, strict=False)
    assert not unexpected and missing == (["lm_head.weight"] if tied else [])
    assert torch.allclose(logits(model, batch), logits(merged, batch), atol=1e-4)
    asked = {**batch, "input_ids": batch["input_ids"].masked_fill(torch.isin(batch["input_ids"], torch.tensor(ids)), 0)}  # only the head sees them
    model(**{key: asked[key] for key in ("input_ids", "pixel_values", "labels")}).loss.backward()
    of_head = list(gradients.values())[-1].grad
    assert of_head[sorted(ids).index(ids[0])].abs().sum() > 0


def same_weights(one, other) -> bool:
    """Of the merged models and of the adapters beside them."""
    pairs = [(train_world.weights(one / folder), train_world.weights(other / folder)) for folder in ("", "adapter")]
    return all(set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def test_a_killed_run_ends_as_if_nothing_had_happened(world, final, tmp_path, monkeypatch, capsys):
    config = train_world.settings(world, tmp_path, "functions", **STEPS)
    with monkeypatch.context() as patch:
        interrupt(patch, 5, die)
        with pytest.raises(Killed):
            train_world.train(config, "functions")
    capsys.readouterr()
    resumed = train_world.train(config, "functions")
    assert "functions 4/6" not in capsys.readouterr().err
    assert train_world.losses(resumed) == train_world.losses(final) and same_weights(resumed, final)


def test_rows_read_apart_are_as_pefts_own(world):
    """The same answers, and the same gradients, as with the whole table copied."""
    found = []
    for own in (True, False):
        model, processor, ids = begun(world)
        torch.manual_seed(0)
        lora.add_adapters(model, FunctionsConfig(**RANK), ids)
        stages.set_trainable(model, "functions", main=False)
        for name, parameter in lora.adapter_parameters(model).items():
            torch.nn.init.normal_(parameter, std=0.1)
        for module in model.modules():
            if not own and "forward_adapters" in vars(module):
                del module.forward_adapters
        batch = batch_of(world, processor)
        model(**{key: batch[key] for key in ("input_ids", "pixel_values", "labels")}).loss.backward()
        found.append([logits(model, batch), *(p.grad for p in lora.adapter_parameters(model).values())])
    assert len(found[0]) == 14 and all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_learn_the_same_and_a_killed_run_goes_on(world, tmp_path, engine):
    bf16, changes = ENGINES[engine]
    changes = {**STEPS, **changes}
    whole = workers.run(train_world.settings(world, tmp_path / "whole" / "out", "functions", **changes), "functions", 2, bf16=bf16)
    plain = workers.run(train_world.settings(world, tmp_path / "plain" / "out", "functions", **{**STEPS, "batch_size": 4, "zero_stage": 0}), "functions")
    assert train_world.losses(whole) == pytest.approx(train_world.losses(plain), abs=0.15 if bf16 else 1e-4)
    config = train_world.settings(world, tmp_path / "killed" / "out", "functions", **changes)
    checkpoints = Path(config.out) / "functions" / "checkpoints"
    processes = workers.start(config, "functions", 2, workers.Sabotage("kill", checkpoints / ".step-6", 0, tmp_path / "unused"), bf16)
    processes[0].join(workers.WATCHDOG)
    processes[1].kill()
    assert workers.finish(processes)[0] == -signal.SIGKILL
    assert [path.name for path in checkpoints.glob("step-*")] == ["step-4"]
    final = workers.run(config, "functions", 2, bf16=bf16)
    assert train_world.losses(final) == train_world.losses(whole)
    assert same_weights(final, whole)


@pytest.mark.parametrize("changes, message", [
    ({"lora_targets": ["q_proj", "w_proj"]}, "no matrix w_proj.*Name some of q_proj"), ({"lora_targets": []}, "No matrices are named"),
    ({"lora_targets": ["input_layernorm"]}, "no matrix input_layernorm"), ({"lora_rank": 17}, "rank is 17, and k_proj has 16"), ({"lora_rank": -1}, "rank is -1"),
    ({"lora_dropout": 1.0}, "dropout is 1.0"), ({"lora_alpha": 0}, "lora_alpha is 0")])
def test_settings_that_cannot_be(world, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as refused:
        train_world.train(train_world.settings(world, tmp_path, "functions", **{**RANK, **changes}), "functions")
    assert next(iter(changes)) in str(refused.value) and not list(tmp_path.rglob("metrics.jsonl"))


def test_the_plan_counts_what_trains(world):
    model, processor, ids = begun(world)
    config = FunctionsConfig(**RANK, functions=str(world.folder / "functions.json"), batch_size=4)
    planned = on_meta(model.config, config)
    lora.add_adapters(model, config, ids)
    narrow_last_layer(model, config)
    table = stages.set_trainable(model.train(), "functions", main=False)
    counted = {part.name: part.parameters for part in count_parts(planned)}
    assert counted["adapter"] == table["adapter"][1] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert table["language_model"] == (False, counted["language model"])
    samples = Conversations(call_rows(world.rows("functions"), processor.tokenizer, FunctionSet.from_json(config.functions)), processor, world.folder, 256)
    batch = Collator(processor)(samples.samples[:4])
    shape = samples.largest(4)
    assert shape.length == batch["input_ids"].shape[1]
    with torch.no_grad():
        batch["image_features"] = model.model.get_vision_features(batch.pop("pixel_values"))
    counted = activation_bytes(planned, config, "functions", "fp32", shape, fused=False)
    assert sum(counted.values()) == pytest.approx(kept(model, batch), rel=0.02)


@pytest.mark.parametrize("table", [True, False])
def test_omnivision_plan_of_adapters(world, capsys, table):
    text = preset_config("968m").text_config
    functions = str(world.folder / "functions.json") if table else "nowhere.json"
    assert main(["plan", "--stage", "functions", "--zero", "2", "--json", "lora_rank=16", f"functions={functions}"]) == 0
    said = json.loads(capsys.readouterr().out)
    width, inner, keys = text.hidden_size, text.intermediate_size, text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    sides = 2 * (width + width) + 2 * (width + keys) + 2 * (width + inner)
    trained = 16 * sides * text.num_hidden_layers + 4 * width * table  # two functions, `irrelevant` and the end
    assert said["parameters"]["adapter"] == trained and said["parameters"]["total"] == 968_400_704 + trained
    held = said["training_bytes"]
    assert [name for name in held if held[name]["trained"]] == ["adapter"]
    assert held["adapter"]["optimizer"] == 12 * trained and not any(held[name]["optimizer"] or held[name]["gradients"] for name in held if name != "adapter")


def test_operations_of_adapters_by_hand(world):
    model, _, ids = begun(world)
    frozen = Flops(model.requires_grad_(False), encoded=True)
    lora.add_adapters(model, FunctionsConfig(**RANK), ids)
    stages.set_trainable(model, "functions", main=False)
    factors = sum(p.numel() for name, p in lora.adapter_parameters(model).items() if ".lora_" in name)
    adapted = Flops(model, encoded=True)
    assert adapted.per_token == frozen.per_token + 6 * factors  # forward and backward through what is frozen; of adapters all three
    assert (adapted.per_supervised, adapted.per_picture) == (frozen.per_supervised, frozen.per_picture)
