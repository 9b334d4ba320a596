"""What the stand-ins are trained on: plans of pictures for the language model, parts of regions for the tower."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from omnivision_train.language import blurred, matching_heads, plan_embeddings
from omnivision_train.language_text import counting_drill
from omnivision_train.strip_plans import COLUMNS, FADING, LEAST, ROWS, STRIPS, plan, taken_for
from omnivision_train.vision import VisionConfig, build, save, sine_positions
from omnivision_train.vision_pairs import FINE, PLACES, SIDE, SQUARES, STRIP, THIRD, Window, WindowBatches, _bare, _named, part_of, place_of, windows_of
from transformers import Qwen2Config, Qwen2ForCausalLM

from omnivision.model.build import WEIGHTS
from omnivision.world.truth import Region

TOWER = WEIGHTS / "tiny-vision"

WORDS = {" left": [1], " right": [2], " top": [3], " bottom": [4], " center": [5], " cat": [10], " red cat": [20, 10], "42": [30, 31], "24": [31, 30]}
WORDS |= {letter: [ord(letter)] for letter in COLUMNS + ROWS}
# rows 3 and 4 of patches, columns 2 to 10: seven patches of strip 0 and two of strip 1 in each row
BOX = (2 * 8, 3 * 8, 11 * 8, 5 * 8)


def words_of(found, strip: int) -> dict[int, float]:
    table: dict[int, float] = {}
    for word, weight in zip(found.ids_SK[strip].tolist(), found.weights_SK[strip].tolist(), strict=True):
        if weight > 0:
            table[word] = table.get(word, 0.0) + weight
    return table


def test_a_strip_says_what_it_shows_and_how_much_of_it():
    found = plan([Region(BOX, "red cat", "object")], WORDS.__getitem__, random.Random(0))
    much, little = words_of(found, 9), words_of(found, 10)
    weights = np.array([1, FADING]) / (1 + FADING)
    for got, share in ((much, 7 / STRIP), (little, 2 / STRIP)):
        whole = LEAST + (1 - LEAST) * share
        assert np.allclose([got[20], got[10]], whole * weights)
    assert all(10 not in words_of(found, strip) for strip in range(STRIPS) if strip not in (9, 10, 12, 13))


def test_a_strip_says_where_its_content_lies():
    found = plan([Region(BOX, "cat", "object")], WORDS.__getitem__, random.Random(0))
    x, y = ((2 + 8) / 2 + 0.5) / SIDE, 3.5 / SIDE  # columns 2 to 8 of row 3
    said = words_of(found, 9)
    assert said[1] == said[3] == THIRD and 2 not in said and 4 not in said  # the top left third
    column, row = 9 * x - 0.5, 9 * y - 0.5  # 1.33 and 0.67: between b and c, between j and k
    expected = {"b": 2 - column, "c": column - 1, "j": 1 - row, "k": row}
    assert {letter: said[ord(letter)] for letter in expected} == pytest.approx({k: FINE * v for k, v in expected.items()})
    assert sum(said.get(ord(letter), 0) for letter in COLUMNS + ROWS) == pytest.approx(2 * FINE)
    middle = plan([Region((80, 88, 136, 128), "cat", "object")], WORDS.__getitem__, random.Random(0))
    assert words_of(middle, 40)[5] == 2 * THIRD  # in both directions
    assert not words_of(found, 0) and not words_of(found, STRIPS - 1)  # what shows nothing says nothing


def test_the_order_of_digits_shows():
    table = torch.nn.Embedding(128, 8)
    plans = [plan([Region(BOX, text, "text")], WORDS.__getitem__, random.Random(0)) for text in ("42", "24")]
    one, two = (plan_embeddings(table.weight, torch.from_numpy(p.ids_SK)[None], torch.from_numpy(p.weights_SK)[None]) for p in plans)
    assert not torch.allclose(one[0, 9], two[0, 9], atol=1e-3)
    by_hand = sum(weight * table.weight[word] for word, weight in words_of(plans[0], 9).items())
    assert torch.allclose(one[0, 9], by_hand, atol=1e-6)


def test_missed_regions_leave_nothing():
    found = plan([Region(BOX, "cat", "object")], WORDS.__getitem__, random.Random(0), missed=1.0)
    assert not found.weights_SK.any()


def test_a_mistaken_strip_says_another_thing_of_the_same_kind():
    regions = [Region(BOX, "red cat", "object"), Region(BOX, "Anna", "text"), Region(BOX, "red bar", "mark")]
    rng = random.Random(0)
    others = [{taken_for(rng, region, regions[:1]) for _ in range(200)} for region in regions]
    assert "red cat" not in others[0] and all(label.startswith("red ") for label in others[0]) and len(others[0]) > 10
    assert len(others[1]) > 10 and others[2] == {"red bar"}
    ids = {}
    tokenize = lambda text: [ids.setdefault(word, 200 + len(ids)) for word in text.split()]  # noqa: E731
    clear = plan(regions[:1], tokenize, random.Random(1))
    wrong = plan(regions[:1], tokenize, random.Random(1), mistaken=1.0)
    assert np.allclose(clear.weights_SK.sum(1), wrong.weights_SK.sum(1))  # as much is said, of other things
    said = {word for strip in range(STRIPS) for word in words_of(wrong, strip)} - {word for strip in range(STRIPS) for word in words_of(clear, strip)}
    assert 1 <= len(said) <= 2  # one region is taken for two other things at most


def test_a_window_says_where_its_parts_lie_and_that_bare_ground_lies_nowhere():
    batch = WindowBatches(3, "train", 13, 8, 1)[0]
    named = len(batch["texts"])
    assert batch["place_RK"].shape == (batch["pool_RT"].shape[0], PLACES)
    assert torch.allclose(batch["place_RK"][:named].sum(1), torch.tensor(2 * (THIRD + FINE)))
    assert len(batch["place_RK"]) > named and not batch["place_RK"][named:].any()
    drawn, rng = [], random.Random("3/train/13/0")  # the batch's own windows
    while len(drawn) < 8:
        drawn += windows_of(rng, "train", 13, 4)
    pooled = batch["pool_RT"].to_dense()
    for part, row in enumerate(pooled):
        at = row.nonzero().flatten()
        window, patches = drawn[int(at[0]) // 13**2], (at % 13**2).numpy()
        if part < named:
            assert any(set(patches) <= set(covered.tolist()) for covered, words in window.regions if words == batch["texts"][part])
            assert np.allclose(place_of(patches, window, 13), batch["place_RK"][part])
        else:
            assert set(patches) <= set(window.bare)
    window = Window(np.zeros((3, 104, 104)), 9, 0, [], [])  # its first row is the picture's tenth
    found = place_of(np.array([2 * 13 + 4]), window, 13)  # row 11, column 4
    assert found[: 3 + SQUARES].tolist() == pytest.approx([THIRD, 0, 0, 0, FINE, *[0] * 7])  # 9 * 4.5 / 27 - 0.5 is 1
    assert found[3 + SQUARES :].tolist() == pytest.approx([0, THIRD, 0, 0, 0, 0, FINE * 2 / 3, FINE / 3, *[0] * 4])  # 9 * 11.5 / 27 - 0.5 is 3.33


def test_a_drill_of_counts_asks_for_one_above_one():
    """Also where the scene has several of a kind that is not asked for: trees of a forest."""
    for seed in range(400):
        answers = [qa.answer for qa in counting_drill(random.Random(seed)).dialogue if qa.kind == "count"]
        assert set(answers) - {"1"}, (seed, answers)


def test_blur_differs_from_sequence_to_sequence_and_can_be_off():
    torch.manual_seed(0)
    plans = torch.zeros(6, STRIPS, 32)
    assert torch.equal(blurred(plans, 0.0), plans)
    stds = blurred(plans, 0.1).std(dim=(1, 2))
    assert stds.max() <= 0.11 and stds.max() > 2 * stds.min()


def test_a_pair_of_the_tower_shows_a_strip_of_the_region_or_a_third_of_it():
    window = Window(np.zeros((3, 104, 104), dtype=np.uint8), row=5, column=7, regions=[], bare=[])
    patches = np.array([row * 13 + column for row in range(2, 8) for column in range(1, 8)])  # columns 8 to 14 of the picture
    rng, sizes = random.Random(0), set()
    for _ in range(200):
        part = part_of(rng, patches, window, 13)
        assert set(part) <= set(patches.tolist())
        sizes.add(len(part))
        strips = {((p // 13 + 5) * SIDE + p % 13 + 7) // STRIP for p in part}
        assert len(strips) == 1 or len(part) == len(patches) // 3
    assert sizes == {1, 6, 14}  # column 8 belongs to the first strip of a row, 9 to 14 to the second; a third of 42


@torch.inference_mode()
def test_matching_heads_look_for_the_words_of_a_question():
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=600, hidden_size=256, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, tie_word_embeddings=True, attn_implementation="eager",
    )).eval()  # fmt: skip
    picture = torch.randperm(600)[:40]
    ids = torch.cat([picture, picture[[7]]])[None]  # forty words, then one of them

    def looked_at() -> float:
        attention = model(input_ids=ids, output_attentions=True).attentions[0][0, -1, -1]  # the last head, the last word
        return float(attention[7] / attention[:40].sum())

    assert looked_at() < 0.1  # chance is 1 of 40
    matching_heads(model, [0])
    assert looked_at() > 0.3


def test_sine_positions_tell_column_and_row_apart():
    found = sine_positions(16).view(SIDE, SIDE, 16)
    assert torch.equal(found[0, :, :8], found[5, :, :8]) and torch.equal(found[:, 0, 8:], found[:, 7, 8:])
    assert found[3, 2, :8].tolist() == pytest.approx([np.sin(2 / 10_000 ** (k / 3)) for k in range(4)] + [np.cos(2 / 10_000 ** (k / 3)) for k in range(4)], abs=1e-6)
    assert len({tuple(row) for row in found.view(-1, 16).tolist()}) == SIDE * SIDE


def test_bare_ground_holds_nothing_that_reaches_into_the_window():
    region = Region((0, 0, 30 * 8, 27 * 8), "cat", "object")  # the whole picture, of which the window shows a part
    assert not _bare([region], 7, 7, 13) and not _named([region], 7, 7, 13)
    assert len(_bare([], 7, 7, 13)) == 169


@pytest.mark.parametrize("newest", [False, True])
def test_sine_positions_are_added_at_the_start_only(tmp_path, newest):
    config = VisionConfig(start=str(TOWER), sincos=0.5)
    plain = build(replace(config, sincos=0.0))[0]
    table = plain.clip.visual.trunk.pos_embed
    save(plain, 1024, config, tmp_path, torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((TOWER / name).read_bytes())
    made = build(config, tmp_path if newest else None)[0]
    expected = table if newest else table + 0.5 * sine_positions(table.shape[-1])
    assert torch.equal(made.clip.visual.trunk.pos_embed, expected)
    assert torch.equal(made.place_map.weight, plain.place_map.weight) and plain.place_map.weight.any()
