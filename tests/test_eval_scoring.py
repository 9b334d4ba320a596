"""Scoring is pure: tables of awkward answers, and figures that can be checked by hand."""

import numpy as np
import pytest
from omnivision_eval import actions, chartqa, open_ended, pope, results
from omnivision_eval.answer import Answer
from omnivision_eval.benchmarks import WORLD, expand
from omnivision_eval.bootstrap import paired_difference, standard_error, sum_by_image

from omnivision.errors import ConfigError, DataError

POPE_ANSWERS = [  # answer, official, normalised
    ("Yes", "yes", "yes"),
    ("No", "no", "no"),
    ("No.", "no", "no"),
    ("no, there is none", "no", "no"),
    ("Yes, there is no doubt", "no", "yes"),  # the official reader looks for the token "no" anywhere
    ("There is not. Yes", "no", "yes"),
    ("Yes. No", "yes", "yes"),
    ("", "yes", None),
    ("NO", "yes", "no"),
    ("No!", "yes", "no"),
    ("Nope", "yes", None),
    ("I can't tell", "yes", None),
    ("cannot", "yes", None),
    ("Not at all", "yes", None),  # "Not" is none of the three tokens
    ("\"No\"", "yes", "no"),
    ("No\n", "yes", "no"),  # split on single spaces only
    ("是的", "yes", "yes"),
    ("没有", "yes", "no"),
    ("不是。", "yes", "no"),
    ("Yes—there is one.", "yes", "yes"),
    ("No…", "yes", "no"),
    ("No\u200b", "yes", "no"),
    ("¡Yes!", "yes", "yes"),
    ("不太清楚", "yes", None),
    ("a no-smoking sign", "yes", None),
]


@pytest.mark.parametrize(("answer", "official", "normalised"), POPE_ANSWERS)
def test_pope_reads_awkward_answers(answer, official, normalised):
    graded = pope.grade({"label": "yes"}, answer)
    assert (graded["official"]["said"], graded["normalised"]["said"]) == (official, normalised)
    assert graded["normalised"]["valid"] == (normalised is not None)


CHART_ANSWERS = [  # answer, target, official, normalised
    ("100", "100", 1, 1),
    ("105", "100", 1, 1),  # exactly 5 %
    ("105.1", "100", 0, 0),
    ("95", "100", 1, 1),
    ("2100", "2020", 1, 1),  # years have the slack too
    ("0", "0", 1, 1),
    ("0.0", "0", 0, 0),  # a target of 0 needs the same string
    ("0.001", "0", 0, 0),
    ("-5", "5", 0, 0),
    ("25%", "0.25", 1, 1),
    ("25%", "25", 0, 0),
    ("25", "25%", 0, 0),
    ("1,000", "1000", 0, 1),
    ("1,00", "100", 0, 0),  # a comma that is no thousands comma stays
    ("$5", "5", 0, 1),
    ("-$5", "-5", 0, 1),
    ("5 cm", "5", 0, 1),
    ("5.", "5", 1, 1),  # Python reads "5." as a number
    ("Yes.", "Yes", 0, 1),
    ("yes", "Yes", 1, 1),
    ("France ", "France", 0, 1),
    ("", "5", 0, 0),
    ("nan", "5", 0, 0),
    ("inf", "5", 0, 0),
    ("1e2", "100", 1, 1),
    ("about 5", "5", 0, 0),
    ("2019年", "2019", 0, 1),
]


@pytest.mark.parametrize(("answer", "target", "official", "normalised"), CHART_ANSWERS)
def test_chartqa_reads_awkward_answers(answer, target, official, normalised):
    graded = chartqa.grade({"label": target}, answer)
    assert (graded["official"]["score"], graded["normalised"]["score"]) == (official, normalised)


def test_chartqa_takes_the_best_target_and_adds_its_suffix_once():
    assert chartqa.grade({"label": ["7", "9"]}, "9")["official"]["score"] == 1
    asked = chartqa.prompt({"text": "How many?"})
    assert asked == "How many?\nAnswer the question with a single word." == chartqa.prompt({"text": asked})


def pope_samples(pairs):
    rows = [{"question_id": i, "image": f"{i // 2}.png", "text": "?", "label": label} for i, (label, _) in enumerate(pairs)]
    return results.samples_of(pope, rows, [answer for _, answer in pairs])


def test_pope_figures_by_hand():
    samples = pope_samples([("Yes", "Yes"), ("no", "yes"), ("yes", "No"), ("no", "No"), ("yes", "Yes"), ("no", "hm")])
    found = results.summary(pope, samples, "official")
    # tp 2, fp 2 ("yes" and "hm"), fn 1, tn 1
    assert found["score"] == pytest.approx(100 * 4 / 7)
    figures = found["metrics"]
    assert figures["accuracy"] == pytest.approx(50) and figures["precision"] == pytest.approx(50)
    assert figures["recall"] == pytest.approx(200 / 3) and figures["yes_ratio"] == pytest.approx(400 / 6)
    assert figures["false_yes"] == 2 and figures["false_yes_rate"] == pytest.approx(200 / 3)
    strict = results.summary(pope, samples, "normalised")
    assert strict["valid_rate"] == pytest.approx(500 / 6)
    assert strict["metrics"]["accuracy"] == pytest.approx(50)  # "hm" is wrong, not a no
    assert strict["metrics"]["false_yes"] == 1 and strict["metrics"]["yes_ratio"] == pytest.approx(50)


def test_pope_without_any_yes_is_zero_not_an_error():
    found = results.summary(pope, pope_samples([("yes", "No"), ("no", "No")]), "official")
    assert found["score"] == 0 and found["metrics"]["precision"] == 0 and found["metrics"]["accuracy"] == 50


def test_answering_always_yes_gives_two_thirds():
    found = results.summary(pope, pope_samples([("yes", "Yes"), ("no", "Yes")] * 4), "official")
    assert found["score"] == pytest.approx(200 / 3)


def test_a_missing_judgement_is_missing_and_never_zero():
    rows = [{"question_id": i, "image": f"{i}.png", "text": "What?", "truth": {"say": judged}, "label": "x"}
            for i, judged in enumerate([1.0, 0.5] + [None])]
    samples = [r | open_ended.grade(r, "words", judge=lambda truth, *_: truth["say"]) for r in rows]
    found = results.summary(open_ended, samples, "official")
    assert found["missing"] == 1 and found["score"] is None  # a third missing: the headline is refused
    assert results.summary(open_ended, samples[:2], "official")["score"] == pytest.approx(75)
    many = [dict(samples[0]) for _ in range(199)] + samples[2:]
    assert results.summary(open_ended, many, "official")["score"] == pytest.approx(100)  # 1 of 200 missing


def call(name, **arguments):
    return {"name": name, "arguments": arguments}


FUNCTIONS = [{"type": "function", "function": {"name": "order", "parameters": {"properties": {
    "item": {"type": "string", "synonyms": {"sofa": ["couch"]}}, "count": {"type": "integer"}}}}}]

ACTION_ANSWERS = [  # true calls, made calls, fault, function, strict, lenient, over, missed
    ([call("order", item="sofa", count=2)], [call("order", item="sofa", count=2)], None, 1, 1, 1, 0, 0),
    ([call("order", item="sofa", count=2)], [call("order", item=" Sofa", count=2)], None, 1, 0, 1, 0, 0),
    ([call("order", item="sofa", count=2)], [call("order", item="Couch", count="2")], None, 1, 0, 1, 0, 0),
    ([call("order", item="sofa", count=10**16)], [call("order", item="sofa", count=1e16)], None, 1, 1, 1, 0, 0),
    ([call("order", item="sofa", count=0)], [call("order", item="sofa", count=-0.0)], None, 1, 1, 1, 0, 0),
    ([call("order", item="sofa", count=2)], [call("order", item="sofa")], None, 1, 0, 0, 0, 0),
    ([call("order", item="sofa")], [call("order", item="bed")], None, 1, 0, 0, 0, 0),
    ([call("order", item="sofa")], [call("buy", item="sofa")], None, 0, 0, 0, 0, 0),
    ([call("order", item="sofa")], [], None, 0, 0, 0, 0, 1),
    ([call("order", item="sofa")], [call("irrelevant")], None, 0, 0, 0, 0, 1),
    ([call("order", item="sofa")], [call("order", item="sofa")], "unclosed: a second call", 0, 0, 0, 0, 0),
    ([call("order", item="sofa")], [call("order", item="sofa")] * 2, None, 0, 0, 0, 0, 0),
    ([call("irrelevant")], [call("irrelevant")], None, 1, 1, 1, 0, 0),
    ([call("irrelevant")], [], None, 1, 1, 1, 0, 0),
    ([], [call("order", item="sofa")], None, 0, 0, 0, 1, 0),
]


@pytest.mark.parametrize(("true", "made", "fault", "function", "strict", "lenient", "over", "missed"), ACTION_ANSWERS)
def test_actions(true, made, fault, function, strict, lenient, over, missed):
    graded = actions.grade({"calls": true, "functions": FUNCTIONS}, Answer("", (1,), calls=made, fault=fault))
    official = graded["official"]
    assert [official[k] for k in ("function", "strict", "lenient", "over", "missed")] == [function, strict, lenient, over, missed]
    assert (official["score"], graded["normalised"]["score"]) == (strict, lenient)
    assert official["valid"] == (fault is None)


def test_synonyms_that_are_no_lists_are_refused():
    with pytest.raises(DataError, match="synonyms of color are no lists"):
        actions.synonyms_of([{"name": "paint", "parameters": {"properties": {"color": {"type": "string", "synonyms": {"red": "crimson"}}}}}])


def test_actions_rates_are_over_the_requests_they_concern_and_by_language():
    rows = [{"question_id": i, "image": f"{i}.png", "text": "", "language": "zh" if i % 2 else "en", "calls": calls}
            for i, calls in enumerate([[call("order")], [call("order")], [call("order")], [call("irrelevant")]])]
    answers = [Answer("", calls=made) for made in ([call("order")], [], [call("order")], [call("order")])]
    found = results.results_of("actions", actions, results.samples_of(actions, rows, answers), {})
    assert found["metrics"]["over_call"] == 100 and found["metrics"]["missed_call"] == pytest.approx(100 / 3)
    assert found["score"] == 50 and found["by"]["language"]["en"]["score"] == 100 and found["by"]["language"]["zh"]["score"] == 0


def test_actions_refuse_an_answer_that_is_only_text():
    with pytest.raises(DataError, match="generated ids"):
        actions.grade({"calls": [], "question_id": "q"}, "<nexa_0>()<nexa_end>")


def test_resampling_images_is_wider_than_resampling_questions():
    # ten images, six questions each, all right or all wrong together
    columns = [(float(image % 2), 1.0, 1.0) for image in range(10) for _ in range(6)]
    _, by_image = sum_by_image([str(i // 6) for i in range(60)], columns)
    _, by_question = sum_by_image([str(i) for i in range(60)], columns)
    wide, narrow = (standard_error(counts, chartqa.headline) for counts in (by_image, by_question))
    assert wide == pytest.approx(100 * (0.25 / 10) ** 0.5, rel=0.1)
    assert wide > 2 * narrow
    assert standard_error(by_image[:1], chartqa.headline) is None


def test_paired_difference_is_sharper_than_two_separate_errors():
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:20]] = True  # B is right on 20 more and wrong on none more
    a, b = (np.stack([r.astype(float), np.ones(400), np.ones(400)], axis=1) for r in (right, better))
    found = paired_difference(a, b, chartqa.headline)
    assert found["difference"] == pytest.approx(5) and found["low"] > 0 and found["p"] < 0.01
    assert found["stderr"] < standard_error(a, chartqa.headline)
    assert paired_difference(a, a, chartqa.headline)["p"] == 1


def test_names_on_the_command_line():
    assert expand(["pope", "chartqa", "pope_random"], WORLD, "here") == ["pope_random", "pope_popular", "pope_adversarial", "chartqa"]
    with pytest.raises(ConfigError, match="Known: pope"):
        expand(["mmlu"], WORLD, "here")
