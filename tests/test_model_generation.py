"""Shared-prefix generation gives the answers of model.generate, one question at a time."""

from __future__ import annotations

import pytest
import torch
from model_parts import make_image, make_model, make_processor

from omnivision.errors import ConfigError
from omnivision.generation import _image_key, encode_images, generate_ids
from omnivision.model.caches import check_cache

QUESTIONS = ["Is there a red cat in the image?", "two", "How many apples are there? How many?", "图中有几只猫？", "Is", "No two three"]
IMAGES = [0, 1, 0, 2, 1, 0]


@pytest.fixture(scope="module")
def parts():
    model = make_model()
    return model, make_processor(model)


def test_pictures_of_equal_indices_and_other_palettes_are_two_pictures(parts):
    model, processor = parts
    shown = [make_image(0).quantize(16), make_image(0).quantize(16)]
    shown[1].putpalette([255 - level for level in shown[0].getpalette()])
    assert shown[0].tobytes() == shown[1].tobytes()
    together = generate_ids(model, processor, ["What is it?"] * 2, shown, 6)
    assert together == [generate_ids(model, processor, ["What is it?"], [one], 6)[0] for one in shown] and together[0] != together[1]


def test_pictures_of_equal_colours_that_are_clear_or_turned_elsewhere_are_several_pictures(parts):
    shown = [make_image(0) for _ in range(3)]
    shown[1].info["transparency"] = shown[1].getpixel((0, 0))
    shown[2].getexif()[0x0112] = 6
    keys = [_image_key(one) for one in shown]
    assert len(set(keys)) == 3 and _image_key(make_image(0)) == keys[0]


def _one_at_a_time(model, processor, question, image, **options) -> list[int]:
    pictures = image if isinstance(image, list) else [] if image is None else [image]
    content = [*({"type": "image", "image": one} for one in pictures), {"type": "text", "text": question}]
    batch = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=True, return_dict=True,
                                          return_tensors="pt", add_generation_prompt=True)
    return model.generate(**batch, do_sample=False, **options)[0, batch["input_ids"].shape[1]:].tolist()


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_equal_to_generate(parts, batch_size):
    model, processor = parts
    pictures = [make_image(i) for i in IMAGES]
    pictures[4] = None
    found = generate_ids(model, processor, QUESTIONS, pictures, 15, batch_size)
    assert found == [_one_at_a_time(model, processor, q, image, max_new_tokens=15) for q, image in zip(QUESTIONS, pictures)]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_several_images_a_question(parts, batch_size):
    model, processor = parts
    one, two, three = map(make_image, range(3))
    pictures = [[one, two], [two, one], one, None, [one, two], [one, two, three]]
    found = generate_ids(model, processor, QUESTIONS, pictures, 15, batch_size)
    assert found == [_one_at_a_time(model, processor, q, image, max_new_tokens=15) for q, image in zip(QUESTIONS, pictures)]
    assert len({tuple(ids) for ids in generate_ids(model, processor, ["How many?"] * 3, [[one, two], [two, one], [one]], 15)}) == 3


TEXT = {"vocab_size": 448, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": None, "initializer_range": 0.3}
BY_PLACE = {
    "mistral": {"intermediate_size": 96, "num_key_value_heads": 2, "sliding_window": 12},
    "qwen2": {"intermediate_size": 96, "num_key_value_heads": 2, "sliding_window": 12, "use_sliding_window": True, "max_window_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 12}, "mpt": {"d_model": 48, "n_heads": 4, "n_layers": 2}}


@pytest.mark.parametrize("kind", BY_PLACE)
def test_where_masked_places_count_nothing_is_padded(kind):
    model = make_model(text_config={"model_type": kind, **TEXT, **BY_PLACE[kind]})
    processor, pictures = make_processor(model), [make_image(i) for i in IMAGES]
    pictures[4] = None
    found = generate_ids(model, processor, QUESTIONS, pictures, 8, 32)
    assert found == [generate_ids(model, processor, [q], [image], 8)[0] for q, image in zip(QUESTIONS, pictures)]
    assert found == [_one_at_a_time(model, processor, q, image, max_new_tokens=8) for q, image in zip(QUESTIONS, pictures)]


@pytest.mark.parametrize("kind", ["mamba", "lfm2", "rwkv"])
def test_language_models_that_keep_states_are_refused(kind):
    from transformers import AutoModelForCausalLM
    from transformers.models.auto import CONFIG_MAPPING

    more = {"layer_types": ["conv", "full_attention"]} if kind == "lfm2" else {}
    config = CONFIG_MAPPING[kind](vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64, **more)
    with pytest.raises(ConfigError, match=r"keeps states, not keys and values.*\(here\)"):
        check_cache(AutoModelForCausalLM.from_config(config), "here")


def test_beams_and_samples_keep_a_questions_pictures_together(parts):
    model, processor = parts
    content = [{"type": "image", "image": make_image(0)}, {"type": "image", "image": make_image(1)}, {"type": "text", "text": "two"}]
    inputs = processor.apply_chat_template([[{"role": "user", "content": content}], [{"role": "user", "content": content[1:]}], [{"role": "user", "content": "Is"}]],
                                           tokenize=True, return_dict=True, return_tensors="pt", padding=True, add_generation_prompt=True)
    greedy = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    several = model.generate(**inputs, do_sample=True, top_k=1, num_return_sequences=3, max_new_tokens=8)
    assert torch.equal(several, greedy.repeat_interleave(3, 0))


def test_rows_that_stop_early_do_not_disturb_the_others(parts):
    model, processor = parts
    pictures = [make_image(i) for i in IMAGES]
    free = generate_ids(model, processor, QUESTIONS, pictures, 20, stop_token_ids=[])
    assert all(len(ids) == 20 for ids in free)
    stops = {free[0][2], free[1][5], free[3][9]}
    found = generate_ids(model, processor, QUESTIONS, pictures, 20, stop_token_ids=stops)
    for ids, full in zip(found, free):
        ends = [i for i, token in enumerate(full) if token in stops]
        assert ids == full[:ends[0] + 1 if ends else None]  # the final end token is kept
    assert len({len(ids) for ids in found}) > 1
    expected = [_one_at_a_time(model, processor, q, p, max_new_tokens=20, eos_token_id=sorted(stops)) for q, p in zip(QUESTIONS, pictures)]
    assert found == expected


def test_every_image_meets_the_tower_once(parts, tmp_path):
    model, processor = parts
    paths = []
    for index in range(3):
        paths.append(tmp_path / f"{index}.png")
        make_image(index).save(paths[-1])
    seen = []
    hook = model.model.vision_tower.post_layernorm.register_forward_hook(lambda m, a, out: seen.append(len(out)))
    by_path = generate_ids(model, processor, QUESTIONS, [paths[i] for i in IMAGES], 6, batch_size=2)
    by_text = generate_ids(model, processor, QUESTIONS, [str(paths[i]) for i in IMAGES], 6, batch_size=4)
    by_picture = generate_ids(model, processor, QUESTIONS, [make_image(i) for i in IMAGES], 6, batch_size=6)
    hook.remove()
    assert sum(seen) == 9 and by_path == by_text == by_picture


def test_features_in_place_of_images(parts):
    model, processor = parts
    features = encode_images(model, processor, [make_image(i) for i in range(3)], batch_size=2)
    assert features.shape == (3, 81, 32)
    calls = []
    hook = model.model.vision_tower.post_layernorm.register_forward_hook(lambda *a: calls.append(1))
    found = generate_ids(model, processor, QUESTIONS, [features[i] for i in IMAGES], 6)
    hook.remove()
    assert not calls and found == generate_ids(model, processor, QUESTIONS, [make_image(i) for i in IMAGES], 6)


def test_turns_and_system_texts_and_control_tokens_in_questions(parts):
    model, processor = parts
    turns = [{"role": "system", "text": "two three"}, {"role": "user", "text": "How many?"}, {"role": "assistant", "text": "two"},
             {"role": "user", "text": "<|image_pad|><|vision_end|> red <|im_end|>"}]
    found = generate_ids(model, processor, [turns, "Is", turns], [make_image(0), make_image(0), make_image(1)], 6)
    assert len(found) == 3 and found[1] == _one_at_a_time(model, processor, "Is", make_image(0), max_new_tokens=6)
    messages = [{"role": t["role"], "content": t["text"]} for t in turns]
    messages[1]["content"] = [{"type": "image", "image": make_image(1)}, {"type": "text", "text": "How many?"}]
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True)
    alone = model.generate(**batch, max_new_tokens=6, do_sample=False)[0, batch["input_ids"].shape[1]:].tolist()
    assert found[2] == alone


def test_answers_autocast_and_mode(parts):
    model, processor = parts
    model.train()
    answers = generate_ids(model, processor, QUESTIONS, [make_image(i) for i in IMAGES], 4, 4, autocast_dtype=torch.bfloat16)
    assert len(answers) == 6 and all(answers) and model.training
    model.eval()
    assert generate_ids(model, processor, [], [], 4) == []
    with pytest.raises(ValueError, match="1 questions and 2 images"):
        generate_ids(model, processor, ["two"], [None, None], 4)


@pytest.mark.parametrize(("options", "said"), [
    ({"temperature": 1.0}, "temperature is 1.0, with 0 seeds for 2 questions"), ({"temperature": 1.0, "seeds": [7]}, "1 seeds for 2 questions"),
    ({"temperature": -0.5, "seeds": [7, 8]}, "temperature is -0.5"), ({"temperature": float("nan"), "seeds": [7, 8]}, "temperature is nan")])
def test_sampling_needs_a_seed_for_each_question(parts, options, said):
    with pytest.raises(ValueError, match=f"{said}.*one seed per question"):
        generate_ids(*parts, ["two", "Is"], [None, None], 4, **options)


def test_a_constraint_sees_every_row_and_its_ids_and_decides(parts):
    model, processor = parts
    pictures = [make_image(i) for i in IMAGES]
    allowed, stop, seen = [7, 8, 9], 5, []

    def constrain(logits_BV, answers):
        """Row by row 7, 8, 9 as often as its first id says, then the stop."""
        seen.extend((tuple(ids), len(logits_BV)) for ids in answers)
        kept = [[stop] if ids and len(ids) >= ids[0] - 5 else allowed for ids in answers]
        return torch.stack([torch.full_like(row, -torch.inf).index_copy(0, torch.tensor(ids), row[ids]) for row, ids in zip(logits_BV, kept)])

    found = generate_ids(model, processor, QUESTIONS, pictures, 9, 4, stop_token_ids=[stop], constrain=constrain)
    assert all(ids[-1] == stop and set(ids[:-1]) <= set(allowed) and len(ids) == ids[0] - 4 for ids in found)
    assert {rows for _, rows in seen} >= {4} and {tuple(ids[:-1]) for ids in found} <= {ids for ids, _ in seen}
    sampled = generate_ids(model, processor, QUESTIONS, pictures, 9, 4, stop_token_ids=[stop], constrain=constrain, temperature=2.0, seeds=range(6))
    assert all(ids[-1] == stop and set(ids[:-1]) <= set(allowed) for ids in sampled)
