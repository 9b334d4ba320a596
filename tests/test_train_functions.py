"""Functional tokens: the weight of their loss by hand, and only spare rows of the table used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import train_world
from accelerate import Accelerator
from omnivision_train.data import Collator, Conversations
from omnivision_train.functions import FunctionsTrainer, call_rows, only_tokens
from omnivision_train.trainer_arguments import training_arguments

from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor, runs
from omnivision.constants import IGNORE_INDEX
from omnivision.errors import ConfigError, DataError
from omnivision.functions import Function, FunctionSet, functional_tokens, install_tokens, parse_calls

WEIGHT = 2.5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def parts(world):
    """(model, processor, function set, samples) with the tokens installed."""
    model, processor = train_world.build(world)
    function_set = FunctionSet.from_json(world.folder / "functions.json")
    install_tokens(model, processor.tokenizer, function_set)
    return model, processor, function_set, Conversations(
        call_rows(world.rows("functions"), processor.tokenizer, function_set), processor, world.folder, 256)


@pytest.fixture(scope="module")
def batch(parts):
    return Collator(parts[1])([parts[3][i] for i in range(3)])


def loss_of(world, parts, batch, folder, weight, count=None):
    config = train_world.settings(world, folder, "functions", token_weight=weight)
    with train_world.one_process():
        from omnivision_train.run_folder import single_process_defaults

        single_process_defaults()
        trainer = FunctionsTrainer(model=parts[0], args=training_arguments(config, folder), train_dataset=parts[3],
                                   data_collator=Collator(parts[1]))
        trainer.stage_config = config
        tokens = functional_tokens(parts[1].tokenizer, parts[2])
        trainer.token_ids = (*tokens.functions, tokens.end)
        with torch.no_grad():
            return float(trainer.compute_loss(parts[0].eval(), batch, num_items_in_batch=count)), trainer.token_ids


def by_hand(parts, batch, special, weight):
    """(sum of weighted negative log-probabilities, supervised tokens)."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    with torch.no_grad():
        rows = F.log_softmax(parts[0](**inputs).logits.float(), -1)
    total, count = 0.0, 0
    for row, labels in zip(rows, batch["labels"].tolist(), strict=True):
        for at, label in enumerate(labels):
            if label != IGNORE_INDEX:
                total -= (weight if label in special else 1.0) * float(row[at - 1, label])
                count += 1
    return total, count


def test_weight_one_is_the_plain_loss(world, parts, batch, tmp_path):
    loss, _ = loss_of(world, parts, batch, tmp_path, 1.0)
    with torch.no_grad():
        assert loss == float(parts[0](**batch).loss)


@pytest.mark.parametrize("given", [None, 40])
def test_the_weighted_loss_by_hand(world, parts, batch, tmp_path, given):
    loss, special = loss_of(world, parts, batch, tmp_path, WEIGHT, None if given is None else torch.tensor(given))
    total, count = by_hand(parts, batch, special, WEIGHT)
    plain, _ = by_hand(parts, batch, special, 1.0)
    assert loss == pytest.approx(total / (given or count), rel=1e-5)
    assert total > 1.05 * plain  # functional tokens are there and carry weight


def test_a_held_out_loss_is_the_same_on_any_number_of_processes(world, parts, batch, tmp_path, monkeypatch):
    alone, _ = loss_of(world, parts, batch, tmp_path, WEIGHT)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 8))
    assert loss_of(world, parts, batch, tmp_path, WEIGHT)[0] == alone


def test_only_the_named_tokens_stay_supervised():
    labels = torch.tensor([[IGNORE_INDEX, 7, 8, 9], [9, 8, IGNORE_INDEX, 7]])
    assert only_tokens(labels, (7, 9)).tolist() == [[-100, 7, -100, 9], [9, -100, -100, 7]]


def test_targets_are_one_token_and_its_arguments(parts):
    model, processor, function_set, samples = parts
    target = [label for label in samples[0].labels if label != IGNORE_INDEX]
    tokens = functional_tokens(processor.tokenizer, function_set)
    assert target[0] == tokens.functions[0] and target[-2] == tokens.end
    assert processor.tokenizer.decode(target[1:-2]) == "(item='cat')"
    assert [(call.name, call.arguments) for call in parse_calls(target, processor.tokenizer, function_set)] == [("order", {"item": "cat"})]


def test_requests_about_one_picture_share_a_row(world, parts):
    _, processor, function_set, _ = parts
    first, second = world.rows("functions")[:2]
    rows = [replace(row, images=(image,)) for row, image in ((first, "a.png"), (second, "a.png"), (first, "a.png"), (second, "b.png"))]
    joined = call_rows(rows, processor.tokenizer, function_set, 2)
    assert [(row.images, len(row.turns)) for row in joined] == [(("a.png",), 4), (("a.png",), 2), (("b.png",), 2)]
    alone = call_rows(rows, processor.tokenizer, function_set)
    assert [turn for row in joined for turn in row.turns] == [turn for row in alone for turn in row.turns] and len(alone) == 4
    supervised = [sum(label != IGNORE_INDEX for label in sample.labels) for sample in Conversations(joined, processor, world.folder, 512).samples]
    single = [sum(label != IGNORE_INDEX for label in sample.labels) for sample in Conversations(alone, processor, world.folder, 512).samples]
    assert supervised == [single[0] + single[1], single[2], single[3]]


def test_requests_without_a_picture_share_nothing(world, parts):
    _, processor, function_set, _ = parts
    rows = [replace(row, images=()) for row in world.rows("functions")[:3]]
    assert [len(row.turns) for row in call_rows(rows, processor.tokenizer, function_set, 3)] == [2, 2, 2]


def test_conversations_among_the_requests_stay_as_they_are(world, parts):
    _, processor, function_set, _ = parts
    request, conversation = world.rows("functions")[0], world.rows("sft")[0]
    rows = [request, replace(conversation, images=request.images), request, request]
    joined = call_rows(rows, processor.tokenizer, function_set, 2)
    assert [len(row.turns) for row in joined] == [2, len(conversation.turns), 4] and joined[1] == rows[1]


def test_rows_of_calls_need_functions(world, parts):
    with pytest.raises(DataError, match=r"is no conversation \(.*calls to functions"):
        Conversations(world.rows("functions"), parts[1], world.folder, 256)


def test_tokens_lie_in_spare_rows_and_the_table_keeps_its_size(tmp_path_factory):
    road = train_world.road(tmp_path_factory)
    before = OmniVisionProcessor.from_pretrained(road["dpo"]).tokenizer
    after = OmniVisionProcessor.from_pretrained(road["functions"]).tokenizer
    table = "model.language_model.embed_tokens.weight"
    shapes = {stage: train_world.weights(road[stage])[table].shape for stage in ("align", "dpo", "functions")}
    assert len(set(shapes.values())) == 1
    tokens = functional_tokens(after, FunctionSet.load(road["functions"]))
    assert (*tokens.functions, tokens.end) == tuple(range(len(before), len(before) + 4)) and len(after) <= shapes["dpo"][0]


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_the_tables_other_rows_can_be_held(world, tmp_path, zero_stage):
    final = train_world.train(train_world.settings(world, tmp_path, "functions", train_table=False, zero_stage=zero_stage), "functions")
    model, processor = (kind.from_pretrained(world.start("functions")) for kind in (OmniVisionForConditionalGeneration, OmniVisionProcessor))
    tokens = install_tokens(model, processor.tokenizer, FunctionSet.from_json(world.folder / "functions.json")).tokens
    before, after, table = model.state_dict(), train_world.weights(final), "model.language_model.embed_tokens.weight"
    assert after[table].ne(before[table]).any(1).nonzero().flatten().tolist() == sorted((*tokens.functions, tokens.end))
    inner = [name for name in after if "language_model.layers" in name and name.endswith("proj.weight")]
    assert inner and all(not torch.equal(after[name], before[name]) for name in inner)


def test_rows_that_are_held_cannot_decay(world, tmp_path):
    with pytest.raises(ConfigError, match="decays rows that are to stay"):
        train_world.train(train_world.settings(world, tmp_path, "functions", train_table=False, weight_decay=0.1), "functions")


def test_earlier_rows_are_mixed_in(world, tmp_path):
    changes = {"replay": [world.file("sft")], "replay_limit": 5, "limit": 4, "token_weight": 2.0, "max_steps": 2}
    final = train_world.train(train_world.settings(world, tmp_path, "functions", **changes), "functions")
    manifest = json.loads((final.parent / "data_manifest.json").read_text())
    assert {name: entry["rows"] for name, entry in manifest.items() if "rows" in entry} == {world.file("functions"): 4, world.file("sft"): 5}


def test_checkpoints_have_their_functions(world, tmp_path, monkeypatch):
    """One of a stage that still runs can be called, too."""
    sealed = []
    monkeypatch.setattr("omnivision_train.checkpoint.seal", lambda partial, folder: (sealed.append(FunctionSet.load(partial)), runs.seal(partial, folder)))
    final = train_world.train(train_world.settings(world, tmp_path, "functions", max_steps=2, save_steps=1), "functions")
    assert [one.functions for one in sealed] == [FunctionSet.load(final).functions] * 2


def test_more_functions_for_a_trained_set(world, tmp_path):
    """The stage goes on from itself; the trained rows are where they were, and a set that moves them is refused."""
    first = train_world.train(train_world.settings(world, tmp_path / "first", "functions"), "functions")
    tools = json.loads((world.folder / "functions.json").read_text())
    more = {"name": "sing", "description": "Sing.", "parameters": {"type": "object", "properties": {}}}
    changes = {"start": first, "max_steps": 1, "lr": 0.0}
    trained = FunctionSet.load(first)
    (tmp_path / "moved.json").write_text(json.dumps([more, *tools]))
    with pytest.raises(ConfigError, match="<nexa_0> was"):
        train_world.train(train_world.settings(world, tmp_path / "moved", "functions", functions=str(tmp_path / "moved.json"), **changes), "functions")
    (tmp_path / "more.json").write_text(json.dumps([one.to_tool() for one in trained.extended([Function("sing", "Sing.")]).functions]))
    second = train_world.train(train_world.settings(world, tmp_path / "second", "functions", functions=str(tmp_path / "more.json"), **changes), "functions")
    assert FunctionSet.load(second).token("sing") == f"<nexa_{len(trained)}>"
    rows = []
    for final in (first, second):
        ids = functional_tokens(OmniVisionProcessor.from_pretrained(final).tokenizer, trained).functions
        rows.append((ids, OmniVisionForConditionalGeneration.from_pretrained(final).get_input_embeddings().weight[list(ids)]))
    assert rows[0][0] == rows[1][0] and torch.equal(rows[0][1], rows[1][1])
