"""Self-speculative decoding: plain greedy answers, whatever the first layers draft."""

from __future__ import annotations

import pytest
import torch
from model_parts import make_config, make_image, make_model, make_processor

from omnivision import OmniVisionForConditionalGeneration
from omnivision.early_exit import depth, exit_layer_of, generate_speculatively
from omnivision.errors import ConfigError

DEPTH = 4


def deep_model(seed: int, **changes):
    text = make_config().text_config.to_dict() | {"num_hidden_layers": DEPTH}
    text.pop("layer_types", None)
    text |= changes
    return make_model(seed, text_config=text)


@pytest.fixture(scope="module")
def model():
    return deep_model(1)


def prompt(model, question: str, image: int | None = 0):
    content = [{"type": "image", "image": make_image(image)}] * (image is not None) + [{"type": "text", "text": question}]
    return make_processor(model).apply_chat_template([{"role": "user", "content": content}], tokenize=True, return_dict=True,
                                                     return_tensors="pt", add_generation_prompt=True)


def greedy(model, inputs, new_tokens: int) -> list[int]:
    return model.generate(**inputs, do_sample=False, max_new_tokens=new_tokens)[0, inputs["input_ids"].shape[1]:].tolist()


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("draft", [0, 1, 4, 50])
def test_answers_are_the_greedy_ones(layer, draft):
    for seed in range(4):
        model = deep_model(seed)
        inputs = prompt(model, "Is there a red cat?", None if seed == 3 else seed)
        for length in (1, 2, 17):
            found = generate_speculatively(model, inputs, length, layer, draft)
            assert found.ids == greedy(model, inputs, length)
            assert found.accepted <= found.drafted


@pytest.mark.parametrize("layer", [1, 3])
def test_drafts_beyond_a_sliding_window_are_taken_back(layer):
    model = deep_model(1, use_sliding_window=True, sliding_window=6, layer_types=["sliding_attention", "full_attention"] * 2)
    inputs = prompt(model, "Is there a red cat?")
    found = generate_speculatively(model, inputs, 17, layer, 4)
    assert found.ids == greedy(model, inputs, 17) and found.accepted < found.drafted


def test_layers_that_add_nothing_make_every_draft_right():
    model = deep_model(2)
    for layer in model.model.language_model.layers[2:]:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    inputs = prompt(model, "How many apples?")
    found = generate_speculatively(model, inputs, 21, 2, 4, stop_token_ids=())
    assert found.drafted == found.accepted == 16 and len(found.ids) == 21  # a first token, then 4 of 4 and one more, four times


def test_padding_is_no_part_of_a_prompt(model):
    inputs = prompt(model, "two")
    padded = {"input_ids": torch.nn.functional.pad(inputs["input_ids"], (9, 0)), "attention_mask": torch.nn.functional.pad(inputs["attention_mask"], (9, 0))}
    assert generate_speculatively(model, {**inputs, **padded}, 12, 1) == generate_speculatively(model, inputs, 12, 1)


def test_a_language_model_that_always_runs_all_layers_cannot_be_left(model):
    gpt2 = make_model(text_config={"model_type": "gpt2", "vocab_size": 448, "n_embd": 48, "n_layer": 3, "n_head": 4, "bos_token_id": None, "eos_token_id": None})
    with pytest.raises(ConfigError, match="GPT2Model cannot be left early"):
        exit_layer_of(gpt2, 1)


def test_an_answer_ends_where_the_greedy_one_does(model):
    inputs = prompt(model, "two")
    whole = greedy(model, inputs, 12)
    for place in range(len(whole)):
        stop = whole[place]
        found = generate_speculatively(model, inputs, 12, 2, 4, stop_token_ids=[stop])
        assert found.ids == whole[: whole.index(stop) + 1]


def test_the_vision_tower_runs_once(model):
    calls = []
    hook = model.model.vision_tower.post_layernorm.register_forward_hook(lambda *_: calls.append(1))
    generate_speculatively(model, prompt(model, "two"), 12, 1)
    hook.remove()
    assert calls == [1]


def test_the_mode_comes_back(model, monkeypatch):
    inputs = prompt(model, "two")
    model.train()
    try:
        assert generate_speculatively(model, inputs, 3, 1).ids == greedy(model.eval(), inputs, 3)
        model.train()
        generate_speculatively(model, inputs, 3, 1)
        assert model.training
        monkeypatch.setattr("omnivision.early_exit._draft", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            generate_speculatively(model, inputs, 3, 1)
        assert model.training
    finally:
        model.eval()


def test_the_whole_depth_comes_back_after_an_error(model):
    with pytest.raises(RuntimeError), depth(model, 1):
        raise RuntimeError
    assert model.model.language_model.config.num_hidden_layers == DEPTH


def test_the_exit_is_the_configs_and_travels_with_the_checkpoint(model, tmp_path):
    with pytest.raises(ConfigError, match="names no layer"):
        exit_layer_of(model)
    with pytest.raises(ConfigError, match="no early exit of 4"):
        exit_layer_of(model, 4)
    model.config.early_exit_layer = 3
    model.save_pretrained(tmp_path)
    model.config.early_exit_layer = None
    again = OmniVisionForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert exit_layer_of(again) == 3
    inputs = prompt(again, "No")
    assert generate_speculatively(again, inputs, 9).ids == generate_speculatively(again, inputs, 9, 3).ids


@pytest.mark.parametrize("rows, new_tokens, draft, message", [(2, 5, 1, "2 prompts"), (1, 0, 1, " 0 new tokens"), (1, 5, -1, "drafts of -1")])
def test_several_prompts_and_no_tokens_are_refused(model, rows, new_tokens, draft, message):
    with pytest.raises(ConfigError, match=message):
        generate_speculatively(model, {"input_ids": torch.zeros(rows, 5, dtype=torch.long)}, new_tokens, 1, draft)
