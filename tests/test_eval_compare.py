"""Compare reads run folders, pairs questions, and draws the chart."""

import io
import json
import shutil

import pytest
from eval_world import random_model, write_world
from omnivision_eval import bars, compare
from omnivision_eval.ours import Ours
from omnivision_eval.run import evaluate
from PIL import Image

from omnivision.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    world, model = write_world(folder / "world", images=6), Ours(*random_model())
    evaluate(model, world, ["pope", "chartqa"], folder / "sft" / "eval")
    shutil.copytree(folder / "sft", folder / "dpo")
    samples = folder / "dpo" / "eval" / "chartqa" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row in rows:  # the second run answers every chart question rightly
        row["official"]["score"] = 1.0
    samples.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows[:5])))  # in another order, one unanswered
    return folder


def test_differences_are_paired_by_question(runs, capsys):
    assert compare.main([str(runs / "sft"), str(runs / "dpo" / "eval"), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert list(found["runs"]) == ["sft", "dpo"] and "published" in err
    pair = found["differences"]["dpo"]["chartqa"]
    assert pair["n"] == 5 and pair["difference"] == 100 and pair["low"] == 100
    same = found["differences"]["dpo"]["pope_random"]
    assert same["difference"] == 0 and same["stderr"] == 0
    assert found["published"]["rows"]["OmniVision v1"]["pope"] == 89.4 and "not measured" in found["published"]["note"]


def test_runs_that_share_no_question_are_not_compared_in_silence(runs, tmp_path, capsys):
    shutil.copytree(runs / "sft", tmp_path / "other")
    for file in (tmp_path / "other" / "eval").glob("*/samples.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row | {"question_id": f"x{row['question_id']}"}) + "\n" for row in rows))
    assert compare.main([str(runs / "sft"), str(tmp_path / "other")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "other and sft answered no question in common" in said and "cannot be compared in" in said and "In brackets" not in said
    compare.main([str(runs / "sft"), str(runs / "dpo")])
    said = " ".join(capsys.readouterr().err.split())
    assert "In brackets" in said and "cannot be compared" not in said


def test_bar_chart(runs, tmp_path):
    """A bar reaches as high as its score, and a missing score leaves its place white."""
    file = tmp_path / "a" / "bars.png"
    bars.draw({"sft": {"pope": (80.0, 1.0), "chartqa": (None, None)}, "dpo": {"pope": (40.0, None)}}, file)
    with Image.open(file) as picture:
        heights = [sum(pixel == color for pixel in picture.crop((0, 66, picture.width, picture.height)).getdata())
                   for color in ((0x48, 0x78, 0xA8), (0xD9, 0x82, 0x2B))]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.05)
    assert compare.main([str(runs / "sft"), "--plot", str(tmp_path / "run.png")]) == 0 and (tmp_path / "run.png").is_file()


def test_what_is_missing_is_named(runs, tmp_path):
    with pytest.raises(DataError, match="results.json"):
        compare.main([str(tmp_path)])
    with pytest.raises(ConfigError, match="twice"):
        compare.main([str(runs / "sft"), str(runs / "sft" / "eval")])


@pytest.mark.parametrize("broken", ["[]", "{", "{}", '{"task": "chartqa"}'])
def test_broken_results_are_named(runs, tmp_path, broken):
    shutil.copytree(runs / "sft", tmp_path / "sft")
    (tmp_path / "sft" / "eval" / "chartqa" / "results.json").write_text(broken)
    with pytest.raises(DataError, match="The results .*chartqa"):
        compare.main([str(tmp_path / "sft")])


@pytest.mark.parametrize("judge, compared", [("gpt-4 (7), other (1)", True), ("gpt-5 (7), other (1)", False), ("gpt-4 (8)", False)])
def test_a_judge_that_gave_fewer_grades_is_the_same_judge(tmp_path, judge, compared):
    from omnivision_eval import mmvet, results

    for name, graded in (("a", "gpt-4 (8), other (1)"), ("b", judge)):
        rows = [{"question_id": str(at), "image": f"{at}.png", "text": "?", "capability": [], "grades": [0.5]} for at in range(8)]
        samples = results.samples_of(mmvet, rows, ["yes"] * 8)
        results.write(tmp_path / name / "mmvet", samples, results.results_of("mmvet", mmvet, samples, {"notes": {"judge": graded}}))
    assert ("mmvet" in compare.compare([tmp_path / "a", tmp_path / "b"])["differences"]["b"]) == compared


def test_the_mean_of_popes_splits_is_paired_too(tmp_path):
    """By hand: run B loses one true yes of ten in one split of three, on the second image."""
    from omnivision_eval import pope, results
    from omnivision_eval.benchmarks import POPE_SPLITS
    from omnivision_eval.pope_splits import mean_of_pope

    for name, wrong in (("a", None), ("b", ("pope_random", 7))):
        found, samples = {}, {}
        for split in POPE_SPLITS:
            rows = [{"question_id": str(at), "image": f"{at % 5}.png", "text": "?", "label": "yes" if at < 10 else "no"} for at in range(20)]
            answers = ["no" if (split, int(row["question_id"])) == wrong else row["label"] for row in rows]
            samples[split] = results.samples_of(pope, rows, answers)
            found[split] = results.results_of(split, pope, samples[split], {"model": name, "data_hash": "", "settings": {}, "version": "", "notes": {}})
            results.write(tmp_path / name / split, samples[split], found[split])
        results.write(tmp_path / name / "pope", [], mean_of_pope(found, samples))
    pair = compare.compare([tmp_path / "a", tmp_path / "b"])["differences"]["b"]["pope"]
    f1 = 100 * 2 * 9 / (2 * 9 + 1)
    assert pair["n"] == 60 and pair["difference"] == pytest.approx((f1 - 100) / 3) and pair["low"] < 0 == pair["high"]


def test_a_split_without_any_answer_has_no_mean():
    from omnivision_eval import main, pope, results
    from omnivision_eval.benchmarks import POPE_SPLITS
    from omnivision_eval.pope_splits import mean_of_pope

    rows = [{"question_id": str(at), "image": f"{at}.png", "text": "?", "label": "yes"} for at in range(4)]
    samples = {split: results.samples_of(pope, rows, ["yes" if at else None] * 4) for at, split in enumerate(POPE_SPLITS)}
    found = {split: results.results_of(split, pope, samples[split], {"model": "m", "data_hash": "", "settings": {}, "version": ""}) for split in POPE_SPLITS}
    one = found["pope"] = mean_of_pope(found, samples)
    assert (one["n"], one["missing"], one["score"], one["stderr"], one["metrics"], one["valid_rate"]) == (12, 4, None, None, {}, None)
    main.show(found, "nothing breaks")
    assert main._tell_missing(found) == 3


def test_a_score_that_is_not_there_has_no_error(tmp_path, capsys):
    from omnivision_eval import mmvet, results

    rows = [{"question_id": f"v1_{at}", "image": f"{at}.png", "text": "?", "label": "x", "grades": [], "capability": ["ocr"]} for at in range(4)]
    one = results.results_of("mmvet", mmvet, results.samples_of(mmvet, rows, ["x"] * 4), {"model": "m"})
    assert (one["missing"], one["score"], one["stderr"], one["by"]["capability"]["ocr"]["stderr"]) == (4, None, None, None)
    results.write(tmp_path / "a" / "mmvet", [], one)
    compare.main([str(tmp_path / "a")])
    assert "±" not in next(line for line in capsys.readouterr().err.splitlines() if line.startswith("│ mmvet "))


def many_runs(folder, count, models=("m",)):
    """Runs with a line a model."""
    from omnivision_eval import results

    for at in range(count):
        for model in models:
            one = {"task": "open", "variant": "official", "score": 100.0, "stderr": 12.5, "n": 900, "model": model, "notes": {"part": ""}}
            results.write(folder / f"long_name_{at:02}" / model, [], one)
    return [str(one) for one in sorted(folder.iterdir())]


def test_a_file_has_every_number_of_many_runs(tmp_path, capsys):
    compare.main(many_runs(tmp_path, 20))
    said = capsys.readouterr().err
    assert all(f"long_name_{at:02}" in said for at in range(20)) and said.count("100.0 ± 12.5") == 20 and "…" not in said and "89.4" in said


@pytest.mark.parametrize(("columns", "published", "whole"), [(200, True, True), (100, True, True), (60, False, True), (30, False, False)])
def test_a_narrow_screen_loses_published_columns_before_numbers(tmp_path, monkeypatch, columns, published, whole):
    from rich.console import Console

    screen = Console(force_terminal=True, width=columns, color_system=None, file=io.StringIO())
    monkeypatch.setattr(compare, "screen", lambda: screen)
    compare.main(many_runs(tmp_path, 2))
    said = screen.file.getvalue()
    assert ("89.4" in said, said.count("100.0 ± 12.5") == 2) == (published, whole) and "…" not in said


def test_a_folder_with_two_models_results_says_so(tmp_path, capsys):
    compare.main(many_runs(tmp_path, 1, ("a", "b")))
    assert "long_name_00 holds results of 2 models: a, b." in capsys.readouterr().err


def test_published_figures_stand_beside_the_same_benchmark_only(tmp_path, runs, capsys):
    from omnivision_eval import results

    one = {"task": "mmmu", "variant": "official", "score": 33.3, "stderr": 1.5, "n": 900, "notes": {}}
    results.write(tmp_path / "a" / "mmmu", [], one)
    compare.main([str(tmp_path / "a")])
    lines = capsys.readouterr().err.splitlines()
    measured = next(line for line in lines if "33.3 ± 1.5" in line)
    assert "39.9" in measured and "30.4" in measured and not any("mmmu_val" in line for line in lines)
    compare.main([str(runs / "sft")])
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("│ pope ") and "89.4" not in line for line in lines) and any("pope †" in line and "89.4" in line for line in lines)


def write_runs(folder, task, abouts, changes=({}, {})):
    """Two runs of the same four requests, whose results and rows differ in what is given."""
    from omnivision_eval import results
    from omnivision_eval.answer import Answer
    from omnivision_eval.benchmarks import MODULES

    call = {"name": "order", "arguments": {"item": "cat"}}
    facts = {"actions": {"calls": [call]}, "mmmu": {"label": "A", "parsed": True, "question_type": "multiple-choice"}}.get(task, {"label": "yes"})
    for name, about, change in zip("ab", abouts, changes, strict=True):
        rows = [{"question_id": f"validation_Art_{at}", "image": f"{at}.png", "text": "?"} | facts | change for at in range(4)]
        answers = [Answer("", calls=[call]) if task == "actions" else "A" if task == "mmmu" else "yes" for _ in rows]
        samples = results.samples_of(MODULES[task], rows, answers)
        results.write(folder / name / task, samples, results.results_of(task, MODULES[task], samples, {"model": name} | about))
    return [folder / "a", folder / "b"]


def told(capsys, folders):
    """What stands below the table, and what --json has of it."""
    assert compare.main([*map(str, folders), "--json"]) == 0
    out, err = capsys.readouterr()
    return " ".join(err.split()).partition("In brackets")[2], json.loads(out)["measured_otherwise"]["b"]


@pytest.mark.parametrize(("calls", "same"), [
    ([{"name": "order", "arguments": {"item": "dog"}}], False), ([], False), ([{"name": "buy", "arguments": {"item": "cat"}}], False),
    ([{"name": "order", "arguments": {"item": "cat"}, "nested": {}}], True)])
def test_requests_with_other_true_calls_are_other_questions(tmp_path, calls, same):
    runs = write_runs(tmp_path, "actions", ({}, {}), ({}, {"calls": calls}))
    if same:
        assert compare.compare(runs)["differences"]["b"]["actions"]["n"] == 4
    else:
        with pytest.raises(DataError, match="validation_Art_0 is another in the two runs"):
            compare.compare(runs)


@pytest.mark.parametrize(("true", "other", "same"), [(1, True, False), (1, 1.0, True)])
def test_true_calls_are_the_same_where_they_are_graded_alike(tmp_path, true, other, same):
    runs = write_runs(tmp_path, "actions", ({}, {}), [{"calls": [{"name": "order", "arguments": {"item": one}}]} for one in (true, other)])
    if same:
        assert compare.compare(runs)["differences"]["b"]["actions"]["n"] == 4
        return
    with pytest.raises(DataError, match="another in the two runs"):
        compare.compare(runs)


def test_no_call_and_irrelevant_are_one_truth(tmp_path):
    runs = write_runs(tmp_path, "actions", ({}, {}), ({"calls": []}, {"calls": [{"name": "irrelevant", "arguments": {}}]}))
    assert compare.compare(runs)["differences"]["b"]["actions"]["difference"] == 0


@pytest.mark.parametrize(("first", "other", "differ"), [
    ({"coco_pope_random.json": "1"}, {"coco_pope_random.json": "2"}, True), ({"a.parquet": "1"}, {"b.parquet": "1"}, False), ("1", "2", True),
    (None, "2", False)])
def test_different_data_files_are_named(tmp_path, capsys, first, other, differ):
    said, found = told(capsys, write_runs(tmp_path, "pope_random", ({"data_hash": first}, {"data_hash": other})))
    assert ("a and b read different data files in pope_random" in said) == differ
    assert found == ({"pope_random": {"data_hash": [first, other]}} if differ else {})


@pytest.mark.parametrize(("key", "pair", "words"), [
    ("pictures", ("first", "all"), "first | all"), ("max_new_tokens", (10, 512), "10 | 512"), ("constrain", (None, True), "– | yes"),
    ("request_fields", (None, {"seed": 1}), '– | {"seed": 1}'), ("prepared", ({"image_size": 2}, {"image_size": 4}), '{"image_size": 2} | {"image_size": 4}'),
    ("blank", (False, True), "no | yes")])
def test_settings_that_change_what_is_asked_are_named(tmp_path, capsys, key, pair, words):
    settings = [{"batch_size": at, "dtype": f"{at}", "limit": at} | ({} if value is None else {key: value}) for at, value in enumerate(pair)]
    said, found = told(capsys, write_runs(tmp_path, "mmmu", [{"settings": one, "notes": {}} for one in settings]))
    assert said.endswith(f"mmmu was measured otherwise, a | b: {key} ({words}).") and found == {"mmmu": {"settings": {key: list(pair)}}}


@pytest.mark.parametrize(("task", "key", "pair"), [
    ("chartqa", "pictures", ("first", "all")), ("mmmu", "batch_size", (1, 32)), ("mmmu", "dtype", ("float32", None)), ("mmmu", "limit", (None, 4)),
    ("mmmu", "constrain", (False, None)), ("mmmu", "max_new_tokens", (10, 10))])
def test_settings_that_change_no_question_are_not(tmp_path, capsys, task, key, pair):
    assert told(capsys, write_runs(tmp_path, task, [{"settings": {key: value}} for value in pair]))[1] == {}


def test_notes_on_what_was_read_are_named_and_notes_on_answers_are_not(tmp_path, capsys):
    parsed = "parsed by other code; random options may be among them"
    notes = {"answers": parsed, "cut off": "3 answers", "empty": "1", "without an answer": "1; no", "part": "4 of 900", "pictures": "all of several"}
    said, found = told(capsys, write_runs(tmp_path, "mmmu", ({"notes": {}}, {"notes": notes})))
    assert said.endswith(f"mmmu was measured otherwise, a | b: answers (– | {parsed}).") and found == {"mmmu": {"notes": {"answers": [None, parsed]}}}
    lines = [{"notes": {"questions": f"{name}, {count} lines", "grades": f"{name}, 5 runs"}} for name, count in (("a.json", "2,910"), ("b.json", "3,000"))]
    assert told(capsys, write_runs(tmp_path, "pope_random", lines))[1]["pope_random"] == {"notes": {"questions": ["2,910 lines", "3,000 lines"]}}


def test_how_saved_answers_were_asked_for_is_not_known(tmp_path, capsys):
    ours = {"max_new_tokens": 10, "pictures": "first"}
    saved = [{"predictions": name, "answers": at, "beside": {}, "predictions_sha256": name} for at, name in enumerate("xy")]
    said, found = told(capsys, write_runs(tmp_path, "mmmu", [{"settings": ours}, {"settings": saved[0]}]))
    assert said.endswith("a | b: saved answers (no | yes).") and found["mmmu"]["settings"] == {"saved answers": [False, True]}
    assert told(capsys, write_runs(tmp_path, "mmmu", [{"settings": one} for one in saved]))[1] == {}


def test_a_line_a_task_names_every_run(tmp_path, capsys):
    runs = write_runs(tmp_path, "mmmu", [{"settings": {"pictures": "first"}}, {"settings": {"pictures": "all"}}])
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    said, _ = told(capsys, [*runs, tmp_path / "c"])
    assert said.endswith("mmmu was measured otherwise, a | b: pictures (first | all); a | c: pictures (first | all).")
