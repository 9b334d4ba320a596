"""Fusion, cache, loss, invariance: what the model computes."""

from __future__ import annotations

import pytest
import torch
from model_parts import make_image, make_model, make_processor
from transformers import AutoModelForCausalLM, LlamaConfig

from omnivision import OmniVisionForConditionalGeneration
from omnivision.constants import IGNORE_INDEX
from omnivision.model.conversation import encode_conversation


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor(model):
    return make_processor(model)


def _prompt(processor, *questions, image_seed=1, **options):
    rows = [[{"role": "user", "content": [{"type": "image", "image": make_image(image_seed + i)}, {"type": "text", "text": q}]}]
            for i, q in enumerate(questions)]
    return processor.apply_chat_template(rows, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
                                         **options)


@torch.no_grad()
def test_no_image_logits_equal_the_bare_language_model(model):
    bare = AutoModelForCausalLM.from_config(model.config.text_config).eval()
    bare.model.load_state_dict(model.model.language_model.state_dict())
    bare.tie_weights()
    ids = torch.randint(0, 260, (2, 17))
    assert torch.equal(model(input_ids=ids).logits, bare(input_ids=ids).logits)


@torch.no_grad()
def test_pixels_and_cached_features_give_the_same_logits(model, processor):
    batch = _prompt(processor, "How many?", "two three red cat")
    features = model.model.get_vision_features(batch["pixel_values"])
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    assert torch.equal(model(**batch).logits, model(**text, image_features=features).logits)
    swapped = model(**text, image_features=features.flip(0)).logits
    assert not torch.allclose(model(**batch).logits, swapped)


@torch.no_grad()
def test_image_tokens_stand_in_their_places_in_order(model, processor):
    batch = _prompt(processor, "How many?", "two")
    seen = {}
    hook = model.model.language_model.register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
    model(**batch)
    hook.remove()
    tokens = model.get_image_features(batch["pixel_values"])
    places = batch["input_ids"] == model.config.image_token_id
    assert torch.equal(seen["inputs_embeds"][places], tokens.flatten(0, 1))
    assert torch.equal(seen["inputs_embeds"][~places], model.get_input_embeddings()(batch["input_ids"])[~places])


def test_a_mismatch_names_both_counts(model, processor):
    batch = _prompt(processor, "How many?")
    with pytest.raises(ValueError, match="holds 9 image placeholders.*give 18 image tokens"):
        model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"].repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match="holds 4 image placeholders.*give 9 image tokens"):
        start = (batch["input_ids"][0] == model.config.image_token_id).nonzero()[0]
        model(input_ids=batch["input_ids"][:, :start + 4], pixel_values=batch["pixel_values"])


def test_cached_and_uncached_generation_are_equal(model, processor):
    batch = _prompt(processor, "How many apples?")
    with_cache = model.generate(**batch, max_new_tokens=12, do_sample=False, use_cache=True)
    assert torch.equal(with_cache, model.generate(**batch, max_new_tokens=12, do_sample=False, use_cache=False))
    other = {**batch, "pixel_values": torch.zeros_like(batch["pixel_values"])}
    assert not torch.equal(with_cache, model.generate(**other, max_new_tokens=12, do_sample=False))


def test_the_tower_runs_with_the_prompt_only(model, processor):
    batch, calls = _prompt(processor, "How many apples?"), []
    hook = model.model.vision_tower.post_layernorm.register_forward_hook(lambda *a: calls.append(1))
    model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    features = model.model.get_vision_features(batch.pop("pixel_values"))
    model.generate(**batch, image_features=features, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    hook.remove()
    assert len(calls) == 2  # one generate, one call by hand


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_padded_batch_equals_single_rows(model, processor, attention):
    model.set_attn_implementation(attention)
    questions = ["two", "Is there a red cat in the image? Is there?", "How many apples are there?"]
    together = model.generate(**_prompt(processor, *questions), max_new_tokens=10, do_sample=False)
    logits = model(**_prompt(processor, *questions)).logits[:, -1]
    for row, question in enumerate(questions):
        alone = _prompt(processor, question, image_seed=1 + row)
        torch.testing.assert_close(logits[row], model(**alone).logits[0, -1], atol=2e-4, rtol=1e-4)
        new = model.generate(**alone, max_new_tokens=10, do_sample=False)[0, alone["input_ids"].shape[1]:]
        assert together[row, -10:].tolist()[:len(new)] == new.tolist()
    model.set_attn_implementation("sdpa")


@torch.no_grad()
def test_padding_side_does_not_change_the_answer(model, processor):
    left = _prompt(processor, "two", "How many apples are there?", processor_kwargs={"padding_side": "left"})
    right = _prompt(processor, "two", "How many apples are there?", processor_kwargs={"padding_side": "right"})
    assert left["attention_mask"][0, 0] == 0 and right["attention_mask"][0, -1] == 0
    end = int(right["attention_mask"][0].sum()) - 1
    torch.testing.assert_close(model(**left).logits[0, -1], model(**right).logits[0, end], atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_loss_is_the_sum_over_supervised_tokens_by_their_number(model, processor):
    rows = [encode_conversation(processor.tokenizer, [{"role": "user", "text": "How many?"}, {"role": "assistant", "text": answer}],
                                1, 9) for answer in ("two", "three red cats")]
    width = max(len(r.input_ids) for r in rows)
    ids = torch.tensor([r.input_ids + [0] * (width - len(r.input_ids)) for r in rows])
    labels = torch.tensor([r.labels + [IGNORE_INDEX] * (width - len(r.labels)) for r in rows])
    pixels = processor.pixels([make_image(1), make_image(2)])
    out = model(input_ids=ids, pixel_values=pixels, labels=labels)
    log_probs = model(input_ids=ids, pixel_values=pixels).logits.log_softmax(-1)
    by_hand = [-log_probs[b, t - 1, labels[b, t]] for b in range(2) for t in range(1, width) if labels[b, t] != IGNORE_INDEX]
    assert out.logits is None
    torch.testing.assert_close(out.loss, torch.stack(by_hand).mean(), atol=1e-5, rtol=1e-5)
    halves = [model(input_ids=ids[b:b + 1], pixel_values=pixels[b:b + 1], labels=labels[b:b + 1],
                    num_items_in_batch=torch.tensor(len(by_hand))).loss for b in range(2)]
    torch.testing.assert_close(sum(halves), out.loss, atol=1e-5, rtol=1e-5)  # batch split does not matter


def test_nothing_supervised_gives_zero_with_a_gradient(model):
    out = model(input_ids=torch.arange(8)[None], labels=torch.full((1, 8), IGNORE_INDEX))
    assert out.loss.item() == 0 and out.loss.requires_grad


@pytest.mark.parametrize("features", [None, (0, 81, 32)])
def test_text_only_training_still_uses_tower_and_projector(features):
    model = make_model().train()
    ids = torch.arange(20)[None]
    extra = {} if features is None else {"image_features": torch.zeros(features)}
    model(input_ids=ids, labels=ids, **extra).loss.backward()
    used = [p.grad is not None for p in model.model.projector.parameters()]
    tower_used = model.model.vision_tower.post_layernorm.weight.grad is not None
    assert all(used) and tower_used == (features is None)
    assert all(p.grad.abs().sum() == 0 for p in model.model.projector.parameters())
    loss = model(input_ids=ids, labels=ids, **extra).loss
    torch.testing.assert_close(loss, model.eval()(input_ids=ids, labels=ids).loss)


def test_gradient_checkpointing_changes_no_gradient(processor):
    grads = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert model.is_gradient_checkpointing
        batch = _prompt(processor, "How many?")
        model(**batch, labels=batch["input_ids"]).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(grads[1]) > 40
    for one, two in zip(*grads):
        torch.testing.assert_close(one, two)


def test_what_trainers_ask_of_the_class(model):
    kinds = OmniVisionForConditionalGeneration
    assert kinds.base_model_prefix == "model" and kinds.input_modalities == ("image", "text")
    assert set(model.config.sub_configs) == {"text_config", "vision_config"}
    assert model.base_model is model.model and model.get_output_embeddings() is model.lm_head
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert {"SiglipEncoderLayer", "Qwen2DecoderLayer"} <= set(model._no_split_modules)
    for config in (model.config, model.config.text_config, model.config.vision_config):
        assert config._attn_implementation == "sdpa"
    ids = torch.arange(6)[None]
    assert model.model(input_ids=ids).last_hidden_state.shape == (1, 6, 48)
    assert model(input_ids=ids, logits_to_keep=1).logits.shape[1] == 1
    assert isinstance(model(input_ids=ids, return_dict=False), tuple)


def test_log_probs_of_tokens_are_those_of_their_logits(model):
    ids = torch.arange(12).view(2, 6)
    logits_at, at, tokens = torch.tensor([1, 4, 8]), torch.tensor([2, 0, 2, 1]), torch.tensor([5, 9, 7, 5])
    logits = model(input_ids=ids, logits_at=logits_at).logits
    torch.testing.assert_close(logits, model(input_ids=ids).logits[[0, 0, 1], [1, 4, 2]])
    found = model(input_ids=ids, logits_at=logits_at, log_probs_of=(at, tokens))
    assert found.logits is None and found.loss is None
    torch.testing.assert_close(found.log_probs, logits.log_softmax(-1)[at, tokens])
    for wrong in ({}, {"logits_at": logits_at, "labels": ids}):
        with pytest.raises(ValueError, match="needs logits_at"):
            model(input_ids=ids, log_probs_of=(at, tokens), **wrong)


def test_resizing_keeps_the_head_tied():
    model = make_model()
    model.resize_token_embeddings(460)
    assert model.lm_head.weight is model.get_input_embeddings().weight and model.config.text_config.vocab_size == 460
    assert model(input_ids=torch.tensor([[459]])).logits.shape[-1] == 460


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("gpt2", True)])
def test_other_language_models(kind, tied, tmp_path):
    shape = {"vocab_size": 448, "bos_token_id": None, "eos_token_id": None, "tie_word_embeddings": tied, "model_type": kind}
    small = {"n_embd": 48, "n_layer": 2, "n_head": 4} if kind == "gpt2" else LlamaConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4).to_diff_dict()
    model = make_model(text_config={**small, **shape})
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    model.save_pretrained(tmp_path)
    again = OmniVisionForConditionalGeneration.from_pretrained(tmp_path)
    ids = torch.arange(9)[None]
    assert torch.equal(model(input_ids=ids).logits, again(input_ids=ids).logits)


@torch.no_grad()
def test_half_precision_parts_fit_together(processor):
    model = make_model().to(torch.bfloat16)
    out = model(**_prompt(processor, "How many?"))  # float32 pixels
    assert out.logits.dtype == torch.bfloat16 and out.logits.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("training, zero3, runs", [(True, False, 1), (False, False, 0), (False, True, 1)])
def test_texts_alone_run_the_projector_where_other_ranks_need_it(model, monkeypatch, training, zero3, runs):
    """In training, and under ZeRO-3 whenever loss is computed: there weights are gathered as modules run."""
    from omnivision.model import modeling

    monkeypatch.setattr(modeling, "is_deepspeed_zero3_enabled", lambda: zero3)
    calls = []
    hook = model.model.projector.register_forward_hook(lambda *_: calls.append(1))
    ids = torch.randint(0, 260, (1, 7))
    try:
        loss = model.train(training)(input_ids=ids, labels=ids).loss
    finally:
        hook.remove()
        model.eval()
    assert len(calls) == runs and torch.isclose(loss, model(input_ids=ids, labels=ids).loss)
