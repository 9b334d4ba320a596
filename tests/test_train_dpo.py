"""Minimal-edit DPO: the loss by hand and beside TRL's, rows that share what they can, the pairs that are refused."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
import train_world
from omnivision_train import stages
from omnivision_train.config import DpoConfig
from omnivision_train.pair_loss import branch_mask, check_share, pair_loss, summed, token_log_probs
from omnivision_train.pair_trainer import PairTrainer
from omnivision_train.pair_trie import Pair, edit_weights, lay_out
from omnivision_train.pairs import PairCollator, Pairs, encode_pair
from omnivision_train.trainer_arguments import training_arguments
from transformers import AutoModel, BloomConfig, FalconConfig, GPTJConfig, MistralConfig, MptConfig, StableLmConfig

from omnivision.data.features import FeatureCache
from omnivision.data.rows import read_rows
from omnivision.errors import ConfigError, DataError
from omnivision.model.chunked_loss import SHAPES

BETA = 0.3
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 32}
SHARES = ("edit", "prompt", "none")
ANSWERS = [("a red cat", "a red dog"), ("a cat", "a big red cat"), ("two cats and a dog", "cats and a dog"), ("cat", "kite"), ("a cup", "a cup.")]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return train_world.world(tmp_path_factory)


@pytest.fixture(scope="module")
def parts(world):
    """(model, reference, processor): the reference has drifted away, so that the log-ratios are not zero."""
    model, processor = train_world.build(world)
    reference = copy.deepcopy(model).requires_grad_(False).eval()
    with torch.no_grad():
        for weight in reference.model.projector.parameters():
            weight.mul_(1.5)
        reference.model.language_model.norm.weight.mul_(1.1)  # for the row without a picture
    return model, reference, processor


@pytest.fixture(scope="module")
def pairs(world, parts, tmp_path_factory):
    """Replaced, inserted and removed words, at the beginning, inside and at the end; the last row has no picture."""
    rows = [{"id": f"p{at}", "images": [f"images/{at}.png"] if at < 4 else [], "prompt": "What is it?", "chosen": chosen, "rejected": rejected}
            for at, (chosen, rejected) in enumerate(ANSWERS)]
    file = train_world.write_lines(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)
    return Pairs(read_rows(file), parts[2], world.folder, 256).samples


def plain_log_probs(model, processor, pairs) -> list[torch.Tensor]:
    """The log-probs of every answer's tokens, chosen ones first, each sequence alone in a plain forward pass."""
    found = []
    for side in (0, 1):
        for pair in pairs:
            ids = torch.tensor([pair.prompt + pair.sides[side]])
            pictures = PairCollator(processor).pictures([pair])
            rows = F.log_softmax(model(input_ids=ids, **pictures).logits[0].float(), -1)
            found.append(rows[len(pair.prompt) - 1 : -1].gather(-1, ids[0, len(pair.prompt) :, None])[:, 0])
    return found


def read(model, processor, pairs, share, **changes):
    """(log-probs of the tokens read, the batch)."""
    batch = PairCollator(processor, share=share, **changes)(pairs)
    return token_log_probs(model, batch, share), batch


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kernel", ["eager", "lean", "sdpa"])
def test_shared_rows_give_the_log_probs_of_rows_alone(parts, pairs, share, kernel):
    model, _, processor = parts
    model = copy.deepcopy(model)
    model.set_attn_implementation(kernel)
    with torch.no_grad():
        found, batch = read(model, processor, pairs, share)
        alone = plain_log_probs(model, processor, pairs)
    expected = [log_probs[pair.edit :] for pair, log_probs in zip(pairs * 2, alone, strict=True)]
    for slot, values in enumerate(expected):
        assert torch.allclose(found[batch["slots"] == slot], values, atol=1e-5)
    chosen, rejected = summed(found, batch, len(pairs)).chunk(2)
    whole = torch.stack([log_probs.sum() for log_probs in alone])
    assert torch.allclose(chosen - rejected, whole[: len(pairs)] - whole[len(pairs) :], atol=1e-5)  # what comes before the edit cancels


def test_rejected_does_not_see_chosen(parts, pairs):
    """Another chosen answer of the same first edit leaves the rejected one's log-probs as they are."""
    model, _, processor = parts
    pair = pairs[0]
    other = Pair(pair.prompt, pair.chosen[: pair.edit] + [7, 8, 9] + pair.chosen[-1:], pair.rejected, pair.images)
    assert other.edit == pair.edit
    with torch.no_grad():
        values = [read(model, processor, [one], "edit") for one in (pair, other)]
    (first, second) = (found[batch["slots"] == 1] for found, batch in values)
    assert torch.allclose(first, second, atol=1e-6)


def test_the_mask_of_a_small_row(parts):
    model = copy.deepcopy(parts[0])
    model.set_attn_implementation("sdpa")
    seen = branch_mask(torch.tensor([[0, 0, 1, 2, 2, -1]]), model)[0, 0].int().tolist()
    assert seen == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 1]]


def test_a_layout_by_hand():
    pair = Pair([1, 2], [5, 6, 7, 9], [5, 8, 9])
    (row,), tokens = lay_out(pair, "edit", edit_weight=3.0)
    assert row == ([1, 2, 5, 6, 7, 8], [0, 0, 0, 1, 1, 2], [0, 1, 2, 3, 4, 3])
    assert tokens == [(0, 2, 6, 0, 3.0), (0, 3, 7, 0, 3.0), (0, 4, 9, 0, 1.0), (0, 2, 8, 1, 3.0), (0, 5, 9, 1, 1.0)]
    (row,), tokens = lay_out(pair, "prompt", whole_chosen=True)
    assert row == ([1, 2, 5, 6, 7, 5, 8], [0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 3, 4, 2, 3])
    assert tokens[0] == (0, 1, 5, 0, 0.0) and tokens[-2:] == [(0, 5, 8, 1, 1.0), (0, 6, 9, 1, 1.0)]
    rows, tokens = lay_out(pair, "none")
    assert [row.ids for row in rows] == [[1, 2, 5, 6, 7], [1, 2, 5, 8]] and tokens[-1] == (1, 3, 9, 1, 1.0)


@pytest.mark.parametrize(("chosen", "rejected", "expected"), [
    ([1, 2, 3, 9], [1, 5, 3, 9], ([1, 4, 1, 1], [1, 4, 1, 1])),  # replaced
    ([1, 2, 9], [1, 5, 6, 2, 9], ([1, 1, 1], [1, 4, 4, 1, 1])),  # inserted
    ([1, 2, 3, 4, 5, 9], [1, 7, 3, 4, 8, 9], ([1, 4, 1, 1, 4, 1], [1, 4, 1, 1, 4, 1])),  # two edits
    ([1, 2, 1, 2, 1, 9], [1, 2, 9], ([1, 1, 4, 4, 4, 1], [1, 1, 1])),  # what they begin with alike weighs 1 on both sides
    ([1, 5, 6, 1, 2, 9], [1, 2, 9], ([1, 4, 4, 4, 1, 1], [1, 1, 1])),  # also where the other answer's beginning recurs before its end
    ([1, 9], [2, 3, 9], ([4, 1], [4, 4, 1])),
])
def test_edits_are_found_by_ids(chosen, rejected, expected):
    assert edit_weights(chosen, rejected, 4.0) == expected


def test_the_loss_by_hand(parts, pairs):
    """Weighted sums, log-ratios and the sigmoid, token by token in Python's own numbers."""
    model, reference, processor = parts
    losses = []
    for weight in (1.0, 3.0):
        with torch.no_grad():
            log_probs, batch = read(model, processor, pairs, "edit", edit_weight=weight)
            known, _ = read(reference, processor, pairs, "edit", edit_weight=weight)
        found = pair_loss(log_probs, batch, summed(known, batch, len(pairs)), BETA)
        policy_alone, reference_alone = ([row.tolist() for row in plain_log_probs(one, processor, pairs)] for one in (model, reference))
        terms = []
        for at, pair in enumerate(pairs):
            ratios = []
            for side in (0, 1):
                row = at + side * len(pairs)
                weights = edit_weights(pair.chosen, pair.rejected, weight)[side]
                ratios.append(sum(w * (p - r) for w, p, r in zip(weights, policy_alone[row], reference_alone[row], strict=True)))
            terms.append(torch.tensor(BETA * (ratios[0] - ratios[1])))
        by_hand = -F.logsigmoid(torch.stack(terms)).mean()
        assert float(found.loss) == pytest.approx(float(by_hand), rel=1e-5)
        assert abs(float(by_hand) - 0.6931) > 1e-3  # the reference differs: this is not the loss of two equal models
        losses.append(float(found.loss))
    assert abs(losses[1] - losses[0]) > 1e-3  # the weight changes it


def stock(parts, folder, sft_weight):
    """TRL's DPOTrainer as it is, with the drifted reference."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    model, reference, processor = parts
    arguments = DPOConfig(output_dir=str(folder), beta=BETA, loss_type=["sigmoid", "sft"], loss_weights=[1.0, sft_weight], max_length=None,
                          use_cpu=True, report_to="none", gradient_checkpointing=False, bf16=False)
    rows = Dataset.from_list([{"prompt": "", "chosen": "", "rejected": "", "images": []}])  # batches are made below
    return DPOTrainer(model=copy.deepcopy(model), ref_model=copy.deepcopy(reference), args=arguments, train_dataset=rows, processing_class=processor)


def stock_batch(processor, pairs):
    """A batch as TRL's collator makes it: whole sequences, all chosen ones first."""
    sequences = [pair.prompt + pair.sides[side] for side in (0, 1) for pair in pairs]
    longest = max(map(len, sequences))
    masks = [[0] * len(pair.prompt) + [1] * len(pair.sides[side]) for side in (0, 1) for pair in pairs]
    padded = {"input_ids": sequences, "attention_mask": [[1] * len(ids) for ids in sequences], "completion_mask": masks}
    batch = {key: torch.tensor([row + [0] * (longest - len(row)) for row in rows]) for key, rows in padded.items()}
    return {**batch, **PairCollator(processor).pictures(pairs * 2)}


def gradients(trainer, batch):
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return float(loss), {name: weight.grad for name, weight in trainer.model.named_parameters() if weight.grad is not None}


@pytest.fixture(scope="module")
def oracle(world, parts, pairs, tmp_path_factory):
    """Loss and gradients of TRL's trainer, and its meters."""
    folder = tmp_path_factory.mktemp("stock")
    with train_world.one_process():
        trainer = stock(parts, folder, sft_weight=0.2)
        trainer.model.train()
        return *gradients(trainer, stock_batch(parts[2], pairs)), dict(trainer._metrics["train"])


@pytest.mark.parametrize("changes", [*({"share": share} for share in SHARES), {"needed_logits_only": False}, {"precompute_reference": False}])
def test_trl_is_the_oracle(world, parts, pairs, oracle, tmp_path, changes):
    from omnivision_train.reference_log_probs import reference_log_probs
    from omnivision_train.run_folder import single_process_defaults

    model, reference, processor = parts
    config = train_world.settings(world, tmp_path, "dpo", beta=BETA, sft_weight=0.2, **changes)
    collator = PairCollator(processor, share=config.share, whole_chosen=True)
    with train_world.one_process():
        single_process_defaults()
        arguments = training_arguments(config, tmp_path)
        known = Pairs([], processor, world.folder, 256)
        known.samples = list(pairs)
        if config.precompute_reference:
            known.with_reference(reference_log_probs(config, reference, collator, pairs, torch.device("cpu")))
        ours = PairTrainer(model=copy.deepcopy(model), args=arguments, train_dataset=known, data_collator=collator, config=config,
                           reference=None if config.precompute_reference else copy.deepcopy(reference))
        ours.model.train()
        loss, grads = gradients(ours, collator(known.samples))
    expected_loss, expected_grads, meters = oracle
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    norms = [torch.stack([grad.norm() for grad in found.values()]).norm() for found in (grads, expected_grads)]
    assert float(norms[0]) == pytest.approx(float(norms[1]), rel=1e-5)
    assert set(grads) == set(expected_grads)
    assert all(torch.allclose(grad, expected_grads[name], atol=1e-5) for name, grad in grads.items())
    for name in ("rewards/margins", "rewards/accuracies"):
        assert ours._metrics["train"][name] == pytest.approx(meters[name], abs=1e-5)


def test_what_runs_once(parts, pairs, monkeypatch):
    """Pictures through the tower, tokens through the language model, places through the head."""
    model, _, processor = parts
    seen = {}
    monkeypatch.setattr(type(model.model), "get_vision_features", lambda self, pixels: seen.update(pictures=len(pixels)) or torch.zeros(len(pixels), 81, 32))
    hook = model.lm_head.register_forward_hook(lambda module, inputs, output: seen.update(places=inputs[0].shape[:-1].numel()))
    counted = {}
    for share in SHARES:
        batch = PairCollator(processor, share=share)(pairs[:4])
        with torch.no_grad():
            token_log_probs(model, batch, share)
        counted[share] = (seen["pictures"], batch["num_tokens"], batch["num_supervised"])
        assert seen["places"] == -(-batch["num_supervised"] // SHAPES) * SHAPES
    hook.remove()
    both = sum(len(side) - pair.edit for pair in pairs[:4] for side in pair.sides)
    assert [counted[share][0] for share in SHARES] == [4, 4, 8]
    assert counted["edit"][1] < counted["prompt"][1] < counted["none"][1] - 4 * processor.image_seq_length
    assert (counted["edit"][2], counted["none"][2]) == (both - 4, both)  # the first tokens after the edit come from one place


def test_cached_features_and_pixels_give_the_same_log_probs(parts, pairs, tmp_path):
    model, _, processor = parts
    cache = FeatureCache(tmp_path / "features", model, processor)
    cache.fill([image for pair in pairs for image in pair.images])
    with torch.no_grad():
        pixels, _ = read(model, processor, pairs, "edit")
        cached, batch = read(model, processor, pairs, "edit", cache=cache)
    assert batch["image_features"].shape == (4, *cache.shape) and torch.allclose(pixels, cached, atol=5e-2)


def test_the_largest_batch(parts, pairs):
    collator = PairCollator(parts[2])
    largest, batch = collator.largest(pairs, len(pairs)), collator(pairs)
    assert (largest.rows, largest.length, largest.supervised, largest.pictures) == (*batch["input_ids"].shape, batch["num_supervised"], 4)


@pytest.mark.parametrize(("change", "said"), [({"rejected": "same"}, "Row p9 is no preference"), ({"prompt": ""}, "a question is empty")])
def test_a_pair_that_teaches_nothing_is_refused(parts, tmp_path, change, said):
    pair = {"id": "p9", "images": [], "prompt": "What is it?", "chosen": "same", "rejected": "other", **change}
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(pair) + "\n")
    with pytest.raises(DataError, match=rf"{said}.*{file.name}:1"):
        encode_pair(read_rows(file)[0], parts[2], tmp_path, 256)


def test_answers_of_the_same_tokens_are_refused(parts, tmp_path, monkeypatch):
    row = read_rows(train_world.write_lines(tmp_path / "pairs.jsonl", [
        {"id": "p9", "images": [], "prompt": "What is it?", "chosen": "a ﬁg", "rejected": "a fig"}]))[0]
    assert encode_pair(row, parts[2], tmp_path, 256).edit > 0  # a tokenizer that normalises would make both the same
    monkeypatch.setattr("omnivision.model.conversation.encode_text", lambda tokenizer, text: [5, 6])
    with pytest.raises(DataError, match="Row p9: chosen .* are the same tokens"):
        encode_pair(row, parts[2], tmp_path, 256)


def test_a_pair_that_is_too_long_is_refused_and_never_cut(world, parts):
    row = world.rows("dpo")[0]
    pair = encode_pair(row, parts[2], world.folder, 256)
    longest = len(pair.prompt) + max(map(len, pair.sides))
    encode_pair(row, parts[2], world.folder, longest)
    with pytest.raises(DataError, match=rf"Row d0 has {longest} tokens with its longer answer, more than max_length {longest - 1}"):
        encode_pair(row, parts[2], world.folder, longest - 1)


@pytest.mark.parametrize(("kernel", "layers", "said"), [("flash_attention_2", ["full_attention"], "flash_attention_2.*share=none"),
                                                        ("sdpa", ["full_attention", "sliding_attention"], "layers of sliding_attention.*share=none")])
def test_attention_that_cannot_keep_branches_apart_is_refused(parts, kernel, layers, said):
    language = copy.deepcopy(parts[0].model.language_model)
    language.config._attn_implementation_internal, language.config.layer_types = kernel, layers
    with pytest.raises(ConfigError, match=said):
        check_share(language, "edit")
    check_share(language, "none")


@pytest.mark.parametrize(("config", "said"), [
    (MistralConfig(**SMALL, sliding_window=8), "sees back 8 tokens"), (MptConfig(d_model=16, n_heads=2, n_layers=1, vocab_size=32), "MptModel takes no mask or positions"),
    (BloomConfig(hidden_size=16, n_head=2, n_layer=1, vocab_size=32), "BloomModel takes no mask or positions")])
def test_windows_and_distances_by_place_in_the_row_are_refused(config, said):
    language = AutoModel.from_config(config)
    with pytest.raises(ConfigError, match=said):
        check_share(language, "prompt")
    check_share(language, "none")


@pytest.mark.parametrize("config", [MistralConfig(**SMALL, sliding_window=None), StableLmConfig(**SMALL), GPTJConfig(n_embd=16, n_head=2, n_layer=2, rotary_dim=4, vocab_size=32),
                                    FalconConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2, vocab_size=32, alibi=False)], ids=lambda one: one.model_type)
def test_families_whose_branches_are_those_of_rows_of_their_own_may_share(config):
    check_share(AutoModel.from_config(config), "edit")


@pytest.mark.parametrize(("key", "value"), [("edit_weight", 0.0), ("edit_weight", float("nan")), ("beta", -0.1), ("sft_weight", -1.0)])
def test_weights_that_are_none_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"`{key}` is"):
        DpoConfig(**{key: value})


def test_a_policy_that_has_not_moved_prefers_nothing_though_its_attention_could_drop(world, tmp_path, monkeypatch):
    real = stages.open_model

    def dropping(*args):
        model, processor = real(*args)
        for layer in model.model.language_model.layers:
            layer.self_attn.attention_dropout = 0.5
        return model, processor

    monkeypatch.setattr(stages, "open_model", dropping)
    final = train_world.train(train_world.settings(world, tmp_path / "out", "dpo", lr=0.0), "dpo")
    assert train_world.losses(final) == pytest.approx([math.log(2)] * 3, abs=1e-5)


def test_preferences_prefer(world, tmp_path):
    final = train_world.train(train_world.settings(world, tmp_path, "dpo", max_steps=12, batch_size=6, lr=1e-2, edit_weight=2.0), "dpo")
    lines = train_world.read_lines(final.parent / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # the model is its own reference at first
    assert lines[-1]["loss"] < 0.5 and lines[-1]["rewards/accuracies"] > lines[0]["rewards/accuracies"]
    assert lines[-1]["rewards/margins"] == pytest.approx(lines[-1]["rewards/chosen"] - lines[-1]["rewards/rejected"], abs=1e-4)
