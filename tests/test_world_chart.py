"""Charts and signs: their truth, their drawing, and the questions about them."""

import random
import re

import pytest

from omnivision.errors import DataError
from omnivision.world import fonts
from omnivision.world.chart import FORMS, draw_chart, make_chart, show
from omnivision.world.chart_questions import SUFFIX, chart_caption, chart_questions
from omnivision.world.sign import draw_sign, make_sign
from omnivision.world.sign_questions import sign_questions
from omnivision.world.tables import slice_split, tables
from omnivision.world.truth import Chart

HAND = Chart("bars", "Life", ("Peru", "Cuba", "Iran"), ("1952",), ((4.5, 7, 2),), ("red",))
PAIR = Chart("grouped bars", "Life", ("Peru", "Cuba"), ("1952", "1957"), ((4, 7), (5, 5)), ("red", "blue"))


def charts(split, language, count=150):
    rng = random.Random(f"{split}{language}")
    return [make_chart(rng, split, language) for _ in range(count)]


def answers(chart, count=100):
    asked = chart_questions(chart, random.Random(0), count)
    return {qa.question.removesuffix(SUFFIX[chart.language]): qa.answer for qa in asked}


def test_answers_by_hand():
    found = answers(HAND)
    assert found["What is the value of Peru?"] == "4.5"
    assert found["Which category has the highest value?"] == "Cuba"
    assert found["Which category has the lowest value?"] == "Iran"
    assert found["Is the value of Peru greater than the value of Iran?"] == "Yes"
    assert found["Is the value of Peru greater than the value of Cuba?"] == "No"
    assert found["What is the sum of Peru and Cuba?"] == "11.5"
    assert found["What is the difference between Cuba and Iran?"] == "5"
    assert found["What is the color of the bars?"] == "red"
    assert found["How many bars are there?"] == "3"
    assert chart_caption(HAND) == "A bar chart titled Life. Peru 4.5, Cuba 7, Iran 2."


def test_two_series_name_their_series_and_ties_are_not_asked():
    found = answers(PAIR)
    assert found["What is the value of Cuba for 1957?"] == "5"
    assert found["Which category has the highest value for 1952?"] == "Cuba"
    assert "Which category has the highest value for 1957?" not in found  # both are 5
    assert found["What color is used for 1957?"] == "blue"
    assert found["How many bars are there?"] == "4"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_form_is_drawn_inside_the_picture(language):
    seen = set()
    for chart in charts("sft", language):
        seen.add(chart.form)
        image, regions = draw_chart(chart)
        assert image.size == (216, 216) and image.mode == "RGB"
        texts = [region for region in regions if region.kind == "text"]
        written = {region.label for region in texts}
        percent = chart.form == "pie"
        assert set(chart.labels) <= written and chart.title in written
        assert {show(value, percent) for row in chart.values for value in row} <= written
        assert sum(region.kind == "mark" for region in regions) == len(chart.labels) * len(chart.series)
        for region in regions:
            x0, y0, x1, y1 = region.box
            assert -1 <= x0 < x1 <= 217 and -1 <= y0 < y1 <= 217, (chart, region)
        assert all(region.box[3] - region.box[1] >= 7 for region in texts if region.label.isdigit())
    assert seen == set(FORMS)


def test_values_of_a_chart_do_not_overlap():
    for chart in charts("sft", "en"):
        if chart.form in ("line", "two lines"):
            continue  # a label may touch its own line
        boxes = [region.box for region in draw_chart(chart)[1] if region.kind == "text"]
        for number, a in enumerate(boxes):
            for b in boxes[number + 1 :]:
                wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                assert wide <= 0 or tall <= 3, (chart, a, b)


def test_training_and_evaluation_never_share_a_slice():
    train = {chart.slice_id for language in ("en", "zh") for chart in charts("sft", language, 600)}
    evaluation = {chart.slice_id for language in ("en", "zh") for chart in charts("eval", language, 600)}
    assert len(evaluation) > 400 and not train & evaluation
    assert all(slice_split(name) == "eval" for name in evaluation)


def test_pies_add_up_and_values_are_short():
    for chart in charts("sft", "en", 400):
        if chart.form == "pie":
            assert sum(chart.values[0]) == 100
        digits = [len(re.sub(r"[^0-9]", "", show(value).lstrip("0."))) for row in chart.values for value in row]
        assert max(digits) <= 6 and len(chart.labels) <= 6


def test_the_tables_are_many_and_their_words_few():
    assert len({table.source for table in tables()}) >= 8
    words = {word for chart in charts("sft", "en", 1500) for word in chart.labels + chart.series}
    assert len(words) < 260 and all(len(word) <= 12 for word in words)


def test_truth_and_drawing_repeat_from_the_seed():
    one, two = (make_chart(random.Random("7/sft/3"), "sft") for _ in range(2))
    assert one == two and draw_chart(one)[0].tobytes() == draw_chart(two)[0].tobytes()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_signs_are_legible_and_inside(language):
    rng = random.Random(5)
    for _ in range(200):
        sign = make_sign(rng, language)
        image, (text, board) = draw_sign(sign)
        assert text.label == sign.text and image.size == (216, 216)
        assert text.box[3] - text.box[1] >= 9 and text.box[2] <= 216 and text.box[3] <= 216  # "sum" has no tall letter
        assert board.box[0] <= text.box[0] and board.box[3] >= min(215, text.box[3])
        asked = sign_questions(sign, rng, count=4)
        assert [qa.answer for qa in asked].count(sign.text) == 3 and len({qa.question for qa in asked}) == 4


def test_chinese_letters_are_really_drawn():
    face = fonts.font_for("阿根廷", 20)
    boxes = {bytes(face.getmask(char)) for char in "阿根廷一"}
    assert len(boxes) == 4  # a font without the characters draws the same empty box for each


def test_a_missing_package_says_what_to_do():
    with pytest.raises(DataError, match="no_such_fonts.*quickstart"):
        fonts.package_file("no_such_fonts", "a.ttf")
