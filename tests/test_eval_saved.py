"""Saved answers: everything wrong with a file is named, counted and never scored; missing answers; the command."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import pytest
from omnivision_eval import chartqa, mmmu, mmvet, pope, scienceqa
from omnivision_eval.saved import score_saved
from omnivision_eval.task_data import part_of

from omnivision.errors import ConfigError, DataError
from omnivision.runs import RunLock
from omnivision_cli.main import main

SPLITS = ("random", "popular", "adversarial")


def write(path, rows):
    """JSON lines for a list, else one JSON value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(rows, str):
        rows = "".join(json.dumps(row) + "\n" for row in rows) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_text(rows, encoding="utf-8")
    return path


def pope_questions(split, count=20):
    return [{"question_id": at + 1, "image": f"{at // 4}.jpg", "text": f"Is there a {split} {at} in the image?",
             "label": "no" if at % 2 else "yes"} for at in range(count)]


@pytest.fixture
def popes(tmp_path):
    """Three official files (JSON lines named .json, as published) and LLaVA's question file over them."""
    folder, asked = tmp_path / "pope", []
    for at, split in enumerate(SPLITS):
        rows = pope_questions(split)
        write(folder / f"coco_pope_{split}.json", "".join(json.dumps(row) + "\n" for row in rows))
        asked += [{"question_id": at * 1000 + row["question_id"], "image": row["image"], "text": row["text"] + "\nAnswer.",
                   "category": split} for row in rows]
    write(folder / "llava_pope_test.jsonl", asked)
    return folder


def truth(split, numbering=0):
    return [{"question_id": numbering + row["question_id"], "text": row["label"].capitalize(), "prompt": row["text"] + "\nAnswer."}
            for row in pope_questions(split)]


def refused(task, file, folder, grades=None) -> str:
    with pytest.raises(DataError) as caught:
        score_saved([task], file, folder, grades)
    return str(caught.value)


# --- POPE

def test_pope_one_file_in_llavas_numbering(popes, tmp_path):
    file = write(tmp_path / "a.jsonl", [row for at, split in enumerate(SPLITS) for row in truth(split, 1000 * at)])
    found = score_saved(["pope"], file, popes)
    assert {task: one["score"] for task, one in found.items()} == {**{f"pope_{split}": 100 for split in SPLITS}, "pope": 100}
    assert found["pope_random"]["settings"]["beside"] == {"popular": 20, "adversarial": 20}


def test_pope_a_folder_of_one_file_a_split_in_the_official_numbering(popes, tmp_path):
    (popes / "llava_pope_test.jsonl").unlink()
    for split in SPLITS:
        write(tmp_path / "answers" / f"m_{split}.jsonl", truth(split))
    assert score_saved(["pope"], tmp_path / "answers", popes)["pope"]["score"] == 100
    write(tmp_path / "answers" / "again_random.jsonl", truth("random"))
    assert "2 files of `random`" in refused("pope_random", tmp_path / "answers", popes)


def test_pope_answers_of_another_split_are_noticed(popes, tmp_path):
    file = write(tmp_path / "popular.jsonl", truth("popular", 1000))
    assert "answer none of the 20 questions: 20 belong to popular" in refused("pope_random", file, popes)
    file = write(tmp_path / "same_numbers.jsonl", truth("popular"))  # ids fit, prompts do not
    assert "answer to another question: 20, the first '1'" in refused("pope_random", file, popes)


def test_pope_llavas_ids_of_other_splits_hide_no_unknown_id(popes, tmp_path):
    """In the official numbering 2001 is no id, though it is one of LLaVA's."""
    file = write(tmp_path / "popular.jsonl", [*truth("popular"), {"question_id": 2001, "text": "Yes"}])
    assert "answer to an unknown id: 1, the first '2001'" in refused("pope_popular", file, popes)


def bare(split, numbering=0, **more):
    """Answers whose records carry no prompt."""
    return [{"question_id": numbering + row["question_id"], "text": row["label"]} | more for row in pope_questions(split)]


@pytest.mark.parametrize("llavas_questions", [True, False])
@pytest.mark.parametrize("tasks", [["pope"], ["pope_adversarial", "pope_popular"]])
def test_pope_one_splits_answers_are_not_all_three(popes, tmp_path, tasks, llavas_questions):
    if not llavas_questions:
        (popes / "llava_pope_test.jsonl").unlink()
    file = write(tmp_path / "a.jsonl", bare("adversarial"))
    with pytest.raises(DataError, match="the file holds one split, and . are to be scored"):
        score_saved(tasks, file, popes, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert score_saved(["pope_adversarial"], file, popes)["pope_adversarial"]["score"] == 100


@pytest.mark.parametrize("missing", [5, 1005, 2005])
def test_pope_a_missing_answer_leaves_llavas_numbering_readable(popes, tmp_path, missing):
    rows = [row for at, split in enumerate(SPLITS) for row in truth(split, 1000 * at) if row["question_id"] != missing]
    found = score_saved(["pope"], write(tmp_path / "a.jsonl", rows), popes)
    assert {split: found[f"pope_{split}"]["missing"] for split in SPLITS} == {split: int(at == missing // 1000) for at, split in enumerate(SPLITS)}


def test_pope_labels_and_llavas_questions_must_be_the_official_ones(popes, tmp_path):
    file = write(tmp_path / "a.jsonl", truth("random"))
    asked = [json.loads(line) for line in (popes / "llava_pope_test.jsonl").read_text().splitlines()]
    asked[3]["image"] = "other.jpg"
    write(popes / "llava_pope_test.jsonl", asked)
    assert "not the 20 official ones" in refused("pope_random", file, popes)
    rows = pope_questions("popular")
    rows[2]["label"] = "maybe"
    write(popes / "coco_pope_popular.json", "".join(json.dumps(row) + "\n" for row in rows))
    assert "1 labels are neither yes nor no, the first of question 3" in refused("pope_popular", file, popes)


def test_pope_standard_error_is_over_images(popes, tmp_path):
    rows = truth("adversarial", 2000)
    for row in rows[:8]:  # two images of four questions wrong together
        row["text"] = "No" if row["text"] == "Yes" else "Yes"
    one = score_saved(["pope_adversarial"], write(tmp_path / "a.jsonl", rows), popes)["pope_adversarial"]
    assert one["stderr"] > 15  # over questions it would be about 11


# --- other tools' files

def by_lmms_eval(split, start=0):
    return [{"doc_id": start + at, "doc": {"question_id": str(row["question_id"]), "question": row["text"], "answer": row["label"], "category": split},
             "target": row["label"], "resps": [[row["label"]]], "filtered_resps": [row["label"]], "pope_f1_score": {"prediction": row["label"]}}
            for at, row in enumerate(pope_questions(split))]


def by_vlmevalkit(split, start=0):
    return [{"index": start + at, "question": row["text"], "answer": row["label"].capitalize(), "category": split, "prediction": f"{row['label']}, I think"}
            for at, row in enumerate(pope_questions(split))]


def as_table(rows, separator=","):
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("form", ["lmms-eval", "csv", "tsv"])
def test_one_file_of_lmms_eval_or_vlmevalkit_holds_all_splits(popes, tmp_path, form):
    rows = [row for at, split in enumerate(reversed(SPLITS)) for row in (by_lmms_eval if form == "lmms-eval" else by_vlmevalkit)(split, 20 * at)]
    path = tmp_path / f"a.{'jsonl' if form == 'lmms-eval' else form}"
    write(path, rows if form == "lmms-eval" else as_table(rows, "," if form == "csv" else "\t"))
    found = score_saved(["pope"], path, popes)
    assert {task: (one["score"], one["missing"]) for task, one in found.items()} == {**{f"pope_{split}": (100, 0) for split in SPLITS}, "pope": (100, 0)}
    assert found["pope_random"]["settings"]["beside"] == {"popular": 20, "adversarial": 20}
    write(path, rows[:20] if form == "lmms-eval" else as_table(rows[:20], "," if form == "csv" else "\t"))
    assert "20 belong to adversarial" in refused("pope_random", path, popes)


def test_answers_of_popes_own_code_are_in_the_order_of_the_questions(popes, tmp_path):
    rows = [{"question": row["text"], "answer": row["label"]} for row in pope_questions("random")]
    assert score_saved(["pope_random"], write(tmp_path / "a.json", "".join(json.dumps(row) + "\n" for row in rows)), popes)["pope_random"]["score"] == 100
    with_ids = [{"question_id": at, **row} for at, row in enumerate(rows, 1)]
    assert score_saved(["pope_random"], write(tmp_path / "b.jsonl", list(reversed(with_ids))), popes)["pope_random"]["score"] == 100
    said = refused("pope_random", write(tmp_path / "c.jsonl", [rows[1], rows[0], *rows[2:]]), popes)
    assert "answer to another question: 2, the first '1'" in said
    assert "answer to another question: 15" in refused("pope_random", write(tmp_path / "d.jsonl", [*rows[:4], *rows[5:]]), popes)
    gold = [{"question_id": at, "question": row["question"], "answer": row["answer"], "category": "random"} for at, row in enumerate(rows, 1)]
    assert "answer that is no text: 20" in refused("pope_random", write(tmp_path / "e.jsonl", gold), popes), "the true answers are no model's"


def test_charts_are_matched_by_order_where_records_have_no_ids(charts, tmp_path):
    asked = [(f"How many {at}?", str(at + 1)) for _ in chartqa.SOURCES for at in range(150)]
    rows = [{"doc_id": at, "doc": {"question": question, "answer": answer}, "filtered_resps": [[answer]]} for at, (question, answer) in enumerate(asked)]
    one = score_saved(["chartqa"], write(tmp_path / "a.jsonl", rows[1:]), charts)["chartqa"]
    assert (one["score"], one["missing"]) == (100, 1)


def test_a_harness_record_is_matched_by_an_id_of_zero_or_by_a_question_that_can_be_compared(charts, tmp_path):
    from omnivision_eval.saved_forms import key_of, plain

    assert key_of(plain({"doc_id": 7, "doc": {"id": 0, "question": "How many?"}, "filtered_resps": ["5"]}), 3) == "0"
    assert key_of(plain({"doc_id": 7, "doc": {"question": "How many?"}, "filtered_resps": ["5"]}), 3) == "#7"
    rows = [{"doc_id": at, "doc": {"image": "x"}, "filtered_resps": ["5"]} for at in range(300)]
    with pytest.raises(DataError, match="record without an id: 300"):
        score_saved(["chartqa"], write(tmp_path / "a.jsonl", rows), charts)


def test_ids_that_pandas_has_made_fractions(popes, tmp_path):
    rows = [row | {"question_id": float(row["question_id"])} for row in truth("random")]
    assert score_saved(["pope_random"], write(tmp_path / "a.jsonl", rows), popes)["pope_random"]["score"] == 100
    assert score_saved(["pope_random"], write(tmp_path / "a.csv", as_table(rows)), popes)["pope_random"]["score"] == 100


@pytest.mark.parametrize(("record", "said"), [
    ({"answer": "5", "annotation": "5"}, "record without an id: 1, the first FILE[0], which has answer, annotation, not question_id or id"),
    ({"question_id": 1, "output": "5"}, "answer that is no text: 1, the first '1' at FILE[0], which has question_id, output, not text, response or prediction")])
def test_keys_that_are_wanted_and_those_that_are_there_are_named(popes, tmp_path, record, said):
    file = write(tmp_path / "a.json", [record])
    assert said.replace("FILE", str(file)) in refused("pope_random", file, popes)


def test_a_table_that_cannot_be_read_says_what_to_do(popes, tmp_path):
    text = as_table(by_vlmevalkit("random"))
    assert "more or fewer cells" in refused("pope_random", write(tmp_path / "a.csv", text.replace("\n1,", "\n1,x,", 1)), popes)
    for name, workbook in (("a.xlsx", "x"), ("a", "xl/workbook.xml")):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr(workbook, "")
        assert "an Excel table" in (said := refused("pope_random", tmp_path / name, popes)) and "to_csv" in said
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    assert "packed (zip)" in refused("pope_random", tmp_path / "b.zip", popes)


# --- faults and missing answers

def test_every_fault_is_named_and_counted_at_once(popes, tmp_path):
    lines = [json.dumps(row) for row in truth("random")]
    lines[4] = lines[4][:-5]
    lines[6] = json.dumps({"question_id": 7, "text": None})
    lines += [lines[0], lines[1], json.dumps({"question_id": 99, "text": "yes"}), json.dumps({"text": "yes"}), json.dumps([1])]
    said = refused("pope_random", write(tmp_path / "a.jsonl", "\n".join(lines) + "\n"), popes)
    for part in ("broken line: 1, the first", "a.jsonl:5", "id twice: 2, the first '1'", "answer to an unknown id: 1, the first '99'",
                 "record without an id: 2", "answer that is no text: 1, the first '7'"):
        assert part in said, said


@pytest.mark.parametrize("key", ["response", "prediction"])
def test_a_prompt_beside_the_answer_is_not_scored_for_it(popes, tmp_path, key):
    rows = [{"question_id": row["question_id"], "text": f"<image>\n{row['text']}", key: row["label"]} for row in pope_questions("random")]
    said = refused("pope_random", write(tmp_path / "a.jsonl", rows), popes)
    assert f"record with several texts: {len(rows)}, the first '1' at" in said and f"text and {key}" in said
    for row in rows:
        row[key] = row["text"]
    assert "holds the questions, not the answers" in refused("pope_random", write(tmp_path / "b.jsonl", rows), popes)


def test_faults_are_told_also_where_no_id_fits(popes, tmp_path):
    file = write(tmp_path / "a.jsonl", '{"question_id": 77, "text": "yes"}\n{broken\n')
    said = refused("pope_random", file, popes)
    assert "broken line: 1" in said and "answer to an unknown id: 1, the first '77'" in said


def test_two_models_answers_are_not_scored_as_one(popes, tmp_path):
    rows = bare("random", model_id="a")
    for model in (None, "b"):
        rows[3]["model_id"] = model
        file = write(tmp_path / "answers" / "m_random.jsonl", rows)
        if model is None:
            assert score_saved(["pope_random"], file, popes)["pope_random"]["model"] == "a"
    assert "answer of another model than 'a': 1, the first 'b' at" in refused("pope_random", file, popes)
    write(file, bare("random", model_id="a"))
    write(tmp_path / "answers" / "m_popular.jsonl", bare("popular", model_id="b"))
    with pytest.raises(DataError, match="The answers are of 2 models: a, b"):
        score_saved(["pope_random", "pope_popular"], tmp_path / "answers", popes)


def test_half_a_character_can_be_written(popes, tmp_path):
    rows = truth("random")
    rows[0] |= {"text": "Yes \ud83d", "model_id": "\ud83d"}
    one = score_saved(["pope_random"], write(tmp_path / "a.jsonl", rows), popes, out=tmp_path / "out")["pope_random"]
    assert one["score"] == 100 and "Yes ?" in (tmp_path / "out" / "pope_random" / "samples.jsonl").read_text()


@pytest.mark.parametrize("text", ["", "\n", "[]", "{}", '{"question_id": 1, "text": "yes"', "\x00\x01", '{"a": {"a"', "[" * 5000])
def test_files_without_answers_are_refused(popes, tmp_path, text):
    assert refused("pope_random", write(tmp_path / "a.jsonl", text), popes)


def test_a_predictions_file_that_is_not_there(popes, tmp_path):
    assert "does not exist" in refused("pope_random", tmp_path / "none.jsonl", popes)


@pytest.fixture
def charts(tmp_path):
    """ChartQA's archive with 300 questions."""
    for half in chartqa.SOURCES:
        rows = [{"imgname": f"{at}.png", "query": f"How many {at}?", "label": str(at + 1)} for at in range(150)]
        write(tmp_path / "charts" / "test" / f"test_{half}.json", rows)
    return tmp_path / "charts"


def chart_answers(left_out=()):
    return [{"question_id": f"{half}_{at}", "text": str(at + 1) if half == "human" else "no"} for half in chartqa.SOURCES for at in range(150)
            if f"{half}_{at}" not in left_out]


def test_missing_answers_are_neither_wrong_nor_right(charts, tmp_path):
    left_out = ("augmented_1", "augmented_2", "augmented_3")
    one = score_saved(["chartqa"], write(tmp_path / "a.jsonl", chart_answers(left_out)), charts, out=tmp_path / "out")["chartqa"]
    assert one["missing"] == 3 and one["n"] == 300 and one["score"] == pytest.approx(100 * 150 / 297)  # exactly 1 %: the run goes on
    assert one["by"]["source"]["human"] == {**one["by"]["source"]["human"], "n": 150, "missing": 0, "score": 100}
    assert one["by"]["source"]["augmented"]["score"] is None  # 3 of 150 is more than 1 %
    samples = [json.loads(line) for line in (tmp_path / "out" / "chartqa" / "samples.jsonl").read_text().splitlines()]
    assert [s["question_id"] for s in samples if s["answer"] is None] == list(left_out) and samples[151]["official"]["score"] is None


def test_the_standard_error_is_over_questions_but_for_pope(charts, tmp_path):
    """Of each picture's two questions one is right: over pictures the error would be 0."""
    one = score_saved(["chartqa"], write(tmp_path / "a.jsonl", chart_answers()), charts)["chartqa"]
    assert one["score"] == 50 and one["stderr"] == pytest.approx(100 * (0.25 / 300) ** 0.5, rel=0.1)


def test_above_one_percent_missing_there_is_no_headline_and_exit_3(charts, tmp_path, capsys):
    file = write(tmp_path / "a.jsonl", chart_answers([f"human_{at}" for at in range(4)]))
    assert main(["eval", "chartqa", "--predictions", str(file), "--data", str(charts), "--out", str(tmp_path / "out"), "--json"]) == 3
    out, err = capsys.readouterr()
    one = json.loads(out)["tasks"]["chartqa"]
    assert one["score"] is None and one["missing"] == 4 and one["variants"]["normalised"]["score"] is None
    assert "4 of 300 answers or grades are missing, above 1 %" in err
    assert json.loads((tmp_path / "out" / "chartqa" / "results.json").read_text())["score"] is None
    file = write(tmp_path / "b.jsonl", chart_answers(["human_0"]))
    assert main(["eval", "chartqa", "--predictions", str(file), "--data", str(charts), "--json"]) == 0
    assert "1 of 300 answers or grades are missing, left out of the score" in capsys.readouterr().err


def test_refused_splits_refuse_the_mean(popes, tmp_path):
    rows = [row for at, split in enumerate(SPLITS) for row in truth(split, 1000 * at)]
    found = score_saved(["pope"], write(tmp_path / "a.jsonl", rows[1:]), popes)
    assert found["pope"]["score"] is None and found["pope"]["missing"] == 1 and found["pope_popular"]["score"] == 100


def test_a_folder_belongs_to_the_saved_answers_of_one_model(charts, popes, tmp_path):
    out, rows = tmp_path / "out", chart_answers()
    first = score_saved(["chartqa"], write(tmp_path / "a.jsonl", rows), charts, out=out)
    assert score_saved(["chartqa"], tmp_path / "a.jsonl", charts, out=out) == first
    assert score_saved(["chartqa"], write(tmp_path / "b.jsonl", rows), charts, out=tmp_path / "out")["chartqa"]["model"] == "b", "the same answers under another name"
    score_saved(["chartqa"], tmp_path / "a.jsonl", charts, out=out)
    for name, answers, said in (("c", [row | {"model_id": "x"} for row in rows], "another model"),
                                ("deeper/a", chart_answers(["human_0"]), "another file of saved answers")):
        with pytest.raises(ConfigError, match=said):
            score_saved(["chartqa"], write(tmp_path / f"{name}.jsonl", answers), charts, out=out)
    for split in SPLITS:
        write(tmp_path / "a" / f"{split}.jsonl", bare(split))
    for _ in range(2):
        assert score_saved(["pope"], tmp_path / "a", popes, out=out)["pope"]["score"] == 100, "the folder's name is the model's"
    assert json.loads((out / "chartqa" / "results.json").read_text()) == first["chartqa"]


def test_a_folder_that_another_run_writes_is_left_alone(charts, tmp_path):
    file = write(tmp_path / "a.jsonl", chart_answers())
    with RunLock(tmp_path / "out"), pytest.raises(ConfigError, match="in use by process"):
        score_saved(["chartqa"], file, charts, out=tmp_path / "out")
    assert score_saved(["chartqa"], file, charts, out=tmp_path / "out")["chartqa"]["missing"] == 0


def test_a_piece_of_a_benchmark_is_called_one(charts, popes, tmp_path, capsys):
    from omnivision_eval import compare

    found = score_saved(["chartqa"], write(tmp_path / "a.jsonl", chart_answers()), charts, out=tmp_path / "out")
    assert found["chartqa"]["notes"]["part"] == "300 of 2,500 questions: not comparable with published scores"
    compare.main([str(tmp_path / "out")])
    assert not any("50.0 ±" in line and "59.2" in line for line in capsys.readouterr().err.splitlines())
    rows = [row for at, split in enumerate(SPLITS) for row in truth(split, 1000 * at)]
    assert "part" in score_saved(["pope"], write(tmp_path / "a.jsonl", rows), popes)["pope"]["notes"]


@pytest.mark.parametrize(("split", "count", "whole"), [("random", 2910, True), ("random", 3000, True), ("popular", 2910, False), ("adversarial", 3000, True)])
def test_only_the_random_file_of_pope_has_2910_questions(split, count, whole):
    assert (part_of(f"pope_{split}", count) == {}) is whole


def test_thoughts_are_left_out_of_saved_answers_too(popes, tmp_path):
    rows = truth("random")
    plain = score_saved(["pope_random"], write(tmp_path / "a.jsonl", rows), popes)["pope_random"]
    thinking = [{**row, "text": f"<think>There is no doubt.</think>\n{row['text']}"} for row in rows]
    found = score_saved(["pope_random"], write(tmp_path / "b.jsonl", thinking), popes)["pope_random"]
    assert found["score"] == plain["score"] == 100 and found["notes"]["thoughts"] == "in 20 answers, left out" and "thoughts" not in plain["notes"]
    thinking[3]["text"] = "<think>No"  # no end
    assert score_saved(["pope_random"], write(tmp_path / "c.jsonl", thinking), popes)["pope_random"]["missing"] == 1


def test_two_runs_of_saved_answers_compare_on_what_both_answered(charts, tmp_path):
    from omnivision_eval.compare import compare

    for name, left_out in (("a", ["human_0"]), ("b", ["human_1"])):
        score_saved(["chartqa"], write(tmp_path / f"{name}.jsonl", chart_answers(left_out)), charts, out=tmp_path / name)
    pair = compare([tmp_path / "a", tmp_path / "b"])["differences"]["b"]["chartqa"]
    assert pair["n"] == 298 and pair["difference"] == 0


# --- the command

@pytest.mark.parametrize("flags", [
    [], ["--model", "m", "--predictions", "p"], ["--predictions", "p", "--limit", "3"], ["--predictions", "p", "--blank"],
    ["--predictions", "p", "--split", "eval"], ["--model", "m", "--grades", "g"], ["--predictions", "p", "--grades", "g"]])
def test_flags_that_do_not_belong_together_are_usage_errors(flags, tmp_path, capsys):
    assert main(["eval", "chartqa", "--data", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(("task", "flag"), [("open", "--predictions"), ("actions", "--predictions"), ("vqa", "--predictions")])
def test_tasks_that_cannot_be_scored_this_way(task, flag, tmp_path, capsys):
    assert main(["eval", task, flag, str(tmp_path), "--data", str(tmp_path)]) == 2
    assert f"no benchmark `{task}`" in capsys.readouterr().err


def test_loaders_name_the_file_that_is_missing(tmp_path):
    for module, task, name in ((pope, "pope_random", "coco_pope_random.json"), (mmvet, "mmvet", "mm-vet.json"),
                               (mmmu, "mmmu", "answer_dict_val.json"), (scienceqa, "scienceqa", "problems.json"),
                               (chartqa, "chartqa", "test/test_human.json")):
        with pytest.raises(DataError, match=name):
            module.load(tmp_path, task)
