"""The published layouts of ChartQA, MM-Vet, MMMU and ScienceQA: each is read, scored, and refused where it is wrong."""

from __future__ import annotations

import io
import json
import random

import pytest
from omnivision_eval import chartqa, mmmu, mmvet, pope, scienceqa
from omnivision_eval.saved import score_saved
from PIL import Image
from test_eval_saved import charts, refused, write  # noqa: F401 - charts is a fixture

from omnivision.errors import ConfigError, DataError


# --- ChartQA's layouts

def test_chartqa_both_halves_or_none(charts, tmp_path):
    (charts / "test" / "test_human.json").unlink()
    assert "human half" in refused("chartqa", tmp_path / "a.jsonl", charts)
    assert "test/test_human.json" in refused("chartqa", tmp_path / "a.jsonl", tmp_path)


def test_labels_that_are_no_text_are_refused(charts, tmp_path):
    write(charts / "test" / "test_human.json", [{"imgname": "0.png", "query": "How many?", "label": 5}])
    assert "label 5 is no text" in refused("chartqa", tmp_path / "a.jsonl", charts)
    predictions, folder = mmmu_folder(tmp_path, {})
    write(folder / "answer_dict_val.json", {"validation_Art_1": {"question_type": "open", "ground_truth": [5]}})
    assert "'validation_Art_1' lacks" in refused("mmmu", predictions, folder)


def test_chartqa_from_the_hub(tmp_path):
    import datasets

    pixels = io.BytesIO()
    Image.new("RGB", (8, 8)).save(pixels, "PNG")
    text, halves = datasets.Value("string"), datasets.ClassLabel(names=["human", "machine"])
    features = datasets.Features({"image": datasets.Image(), "query": text, "label": datasets.List(text), "human_or_machine": halves})
    (tmp_path / "data").mkdir()
    rows = {"image": [{"bytes": pixels.getvalue(), "path": None}] * 2, "query": ["How many?", "Who?"], "label": [["14"], ["Ann", "Bob"]],
            "human_or_machine": [0, 1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    file = write(tmp_path / "a.jsonl", [{"question_id": 0, "text": "14.5"}, {"question_id": 1, "text": "bob"}])
    one = score_saved(["chartqa"], file, tmp_path)["chartqa"]
    assert one["score"] == 100 and {name: part["n"] for name, part in one["by"]["source"].items()} == {"human": 1, "augmented": 1}


def test_chartqa_of_lmms_lab(tmp_path):
    import datasets

    (tmp_path / "data").mkdir()
    table(tmp_path / "data", {"type": ["human_test", "augmented_test"], "question": ["How many?", "Who?"], "answer": ["14", "Ann"], "image": shown(2)}, image=datasets.Image())
    first, second = chartqa.load(tmp_path).rows
    assert (first["text"], first["label"], first["source"], second["source"]) == ("How many?", "14", "human", "augmented")
    assert second["pictures"][0].read() == shown(2)[1]["bytes"] and [first["question_id"], second["question_id"]] == ["0", "1"]
    (tmp_path / "other").mkdir()
    table(tmp_path / "other", {"type": ["human"], "question": ["How many?"], "answer": ["14"], "image": shown(1)}, image=datasets.Image())
    with pytest.raises(DataError, match="neither 0 nor 1, the first 'human'"):
        chartqa.load(tmp_path / "other")


def test_columns_of_another_layout_are_named(tmp_path):
    (tmp_path / "data").mkdir()
    table(tmp_path / "data", {"ask": ["How many?"] * 2, "query": ["a", "b"]})
    with pytest.raises(DataError, match="The questions have no human_or_machine, image, label; they have ask, query"):
        chartqa.load(tmp_path)


# --- MM-Vet

@pytest.fixture
def vet(tmp_path):
    """200 questions of two capability sets, their answers and a grades file of two runs."""
    questions = {f"v1_{at}": {"imagename": f"{at}.png", "question": f"What is {at}?", "answer": "x",
                              "capability": ["ocr", "rec"] if at % 2 else ["math"]} for at in range(200)}
    write(tmp_path / "vet" / "mm-vet.json", questions)
    write(tmp_path / "answers.json", {key: "It is x." for key in questions})
    grades = {key: {"model": ["gpt-4", "gpt-4"], "content": ["1.0", "0.5"], "score": [1.0, 0.5]} for key in questions}
    return tmp_path / "vet", tmp_path / "answers.json", grades


def vet_score(vet, grades, tmp_path):
    return score_saved(["mmvet"], vet[1], vet[0], write(tmp_path / "grades.json", grades))["mmvet"]


def test_mmvet_mean_and_deviation_over_runs(vet, tmp_path):
    one = vet_score(vet, vet[2], tmp_path)
    assert one["score"] == 75 and one["metrics"] == {"judged": 75, "valid_rate": 100, "missing": 0, "std": 25, "run 1": 100, "run 2": 50}
    assert set(one["by"]["capability"]) == {"rec", "ocr", "math"} and set(one["by"]["capability_set"]) == {"rec_ocr", "math"}
    assert one["by"]["capability"]["rec"]["n"] == 100 and one["notes"]["judge"] == "gpt-4 (400)"


def test_mmvet_a_missing_grade_is_missing_and_never_0(vet, tmp_path):
    grades = vet[2]
    del grades["v1_1"]
    grades["v1_3"]["score"][1] = grades["v1_3"]["content"][1] = None
    one = vet_score(vet, grades, tmp_path)
    assert one["missing"] == 2 and one["score"] == 75  # 1 % of 200
    grades["v1_5"] |= {"content": ["The", "0.5"], "score": [0.0, 0.5]}  # as the script writes a judge that never answered
    one = vet_score(vet, grades, tmp_path)
    assert one["missing"] == 3 and one["score"] is None and one["metrics"]["judged"] is None and one["by"]["capability"]["math"]["score"] == 75


@pytest.mark.parametrize(("change", "said"), [
    ({"score": [1.5, 0.5]}, "1.5 does not lie between"), ({"score": ["1.0", 0.5]}, "'1.0' does not lie"),
    ({"score": [True, 0.5]}, "True does not lie"), ({"score": [0.9, 0.5]}, "0.9 is not the 1.0 that the judge replied"),
    ({"score": 1.0}, "no list"), ({"score": [1.0]}, "1 grades and 2 replies"),
])
def test_mmvet_wrong_grades_are_refused(vet, tmp_path, change, said):
    vet[2]["v1_7"] |= change
    with pytest.raises(DataError, match=said):
        vet_score(vet, vet[2], tmp_path)


def test_mmvet_wants_grades_of_its_own_questions(vet, tmp_path):
    with pytest.raises(ConfigError, match="judge's grades"):
        score_saved(["mmvet"], vet[1], vet[0])
    with pytest.raises(DataError, match="1 grades are of unknown questions, the first 'v2_0'"):
        vet_score(vet, vet[2] | {"v2_0": vet[2]["v1_0"]}, tmp_path)
    assert "mm-vet.json" in refused("mmvet", vet[1], tmp_path / "nowhere", tmp_path / "grades.json")


def test_mmvet_reads_llavas_lines_too(vet, tmp_path):
    file = write(tmp_path / "a.jsonl", [{"question_id": at, "prompt": f"What is {at}?", "text": "x"} for at in range(200)])
    assert score_saved(["mmvet"], file, vet[0], write(tmp_path / "grades.json", vet[2]))["mmvet"]["score"] == 75


# --- MMMU

def mmmu_folder(tmp_path, responses):
    """One question a subject; `responses` by subject, "B" elsewhere; the truth is always B."""
    ids = {subject: f"validation_{subject}_1" for subject in mmmu.SUBJECTS}
    write(tmp_path / "mmmu" / "answer_dict_val.json", {key: {"question_type": "multiple-choice", "ground_truth": "B"} for key in ids.values()})
    for subject, key in ids.items():
        one = {"id": key, "question_type": "multiple-choice", "answer": "B", "index2ans": {"A": "x", "B": "y"}}
        write(tmp_path / "model" / subject / "output.json", [one | {"response": responses.get(subject, "B")}])
    return tmp_path / "model", tmp_path / "mmmu"


def test_mmmu_random_options_are_drawn_in_the_official_order(tmp_path):
    unread = ("Accounting", "Art", "Art_Theory", "Marketing", "Materials", "Math", "Sociology")  # in the script's order
    generator = random.Random(42)
    drawn = [generator.choice(["A", "B"]) for _ in unread]
    one = score_saved(["mmmu"], *mmmu_folder(tmp_path, dict.fromkeys(unread, "?")), out=tmp_path / "out")["mmmu"]
    samples = [json.loads(line) for line in (tmp_path / "out" / "mmmu" / "samples.jsonl").read_text().splitlines()]
    assert [s["official"]["said"] for s in samples if "fallback" in s] == drawn and len(set(drawn)) == 2
    assert one["metrics"]["right"] == 23 + drawn.count("B") and one["variants"]["normalised"]["metrics"]["right"] == 23
    assert one["metrics"]["parse_failure_rate"] == pytest.approx(700 / 30) and one["metrics"]["without_fallback"] == pytest.approx(2300 / 30)


def test_mmmu_a_subject_without_answers_is_missing(tmp_path):
    predictions, folder = mmmu_folder(tmp_path, {})
    (predictions / "Art" / "output.json").unlink()
    one = score_saved(["mmmu"], predictions, folder)["mmmu"]
    assert one["missing"] == 1 and one["score"] is None and one["by"]["subject"]["Art"]["missing"] == 1
    assert "no <Subject>/output.json" in refused("mmmu", tmp_path, folder)


def test_mmmu_ids_and_options_must_be_known(tmp_path):
    predictions, folder = mmmu_folder(tmp_path, {})
    test_split = write(tmp_path / "test.json", {f"test_{subject}_1": "B" for subject in mmmu.SUBJECTS})
    assert "answer none of the 30 questions: the first id is 'test_Accounting_1'" in refused("mmmu", test_split, folder)
    bare = write(tmp_path / "bare.jsonl", [{"question_id": f"validation_{subject}_1", "text": "B"} for subject in mmmu.SUBJECTS])
    with pytest.raises(ConfigError, match="options of validation_Accounting_1"):
        score_saved(["mmmu"], bare, folder)
    assert "answer_dict_val.json" in refused("mmmu", predictions, tmp_path)


def test_mmmu_from_the_hub(tmp_path):
    import datasets

    for subject in mmmu.SUBJECTS:
        (tmp_path / "hub" / subject).mkdir(parents=True)
        datasets.Dataset.from_dict({
            "id": [f"validation_{subject}_1", f"validation_{subject}_2"], "question": ["Which? <image 1>", "How many?"],
            "options": ["['x', \"y's\"]", "[]"], "answer": ["B", "['24/7', '3.43']"], "question_type": ["multiple-choice", "open"],
        }).to_parquet(tmp_path / "hub" / subject / "validation-00000-of-00001.parquet")
    file = write(tmp_path / "a.jsonl", [{"question_id": f"validation_{subject}_{number}", "text": text} for subject in mmmu.SUBJECTS
                                        for number, text in ((1, "(B)"), (2, "It is 3.43"))])
    one = score_saved(["mmmu"], file, tmp_path / "hub")["mmmu"]
    assert one["score"] == 100 and {name: part["n"] for name, part in one["by"]["question_type"].items()} == {"multiple-choice": 30, "open": 30}
    row = mmmu.load(tmp_path / "hub").rows[0]
    assert mmmu.prompt(mmmu.load(tmp_path / "hub").rows[1]) == "How many?\nAnswer the question using a single word or phrase."
    assert mmmu.prompt(row) == "Which? <image 1>\n(A) x\n(B) y's\n\nAnswer with the option's letter from the given choices directly."


def test_mmmu_of_lmms_lab_in_one_table(tmp_path):
    (tmp_path / "data").mkdir()
    columns = {"id": [f"validation_{subject}_1" for subject in mmmu.SUBJECTS], "question": ["Which?"] * 30, "options": ["['x', 'y']"] * 30,
               "answer": ["B"] * 30, "question_type": ["multiple-choice"] * 30}
    table(tmp_path / "data", columns).joinpath("test-00000-of-00001.parquet").rename(tmp_path / "data" / "validation-00000-of-00001.parquet")
    rows = mmmu.load(tmp_path).rows
    assert len(rows) == 30 and rows[0]["options"] == {"A": "x", "B": "y"} and rows[0]["label"] == "B"


# --- ScienceQA

def science_folder(tmp_path):
    problem = {"question": "Which?", "choices": ["x", "y", "z"], "answer": 1, "hint": "", "image": None, "subject": "natural science",
               "grade": "grade2"}
    problems = {"1": problem, "2": problem | {"image": "image.png"}, "3": problem | {"hint": "Look."}, "4": problem}
    write(tmp_path / "science" / "problems.json", problems)
    write(tmp_path / "science" / "pid_splits.json", {"test": ["3", "1", "2"], "val": ["4"], "train": []})
    return tmp_path / "science"


def test_scienceqa_as_published(tmp_path):
    folder = science_folder(tmp_path)
    file = write(tmp_path / "a.jsonl", [{"question_id": key, "text": text} for key, text in (("1", "B"), ("2", "B. y"), ("3", "D"))])
    found = score_saved(["scienceqa", "scienceqa_img"], file, folder)
    one = found["scienceqa"]
    assert one["metrics"]["right"] == 2 and one["valid_rate"] == pytest.approx(200 / 3)  # D is no option of three
    assert {name: part["score"] for name, part in one["by"]["modality"].items()} == {"image": 100, "none": 100, "text": 0}
    assert one["by"]["grade"]["grade2"]["n"] == 3 and found["scienceqa_img"]["n"] == 1 and found["scienceqa_img"]["score"] == 100
    rows = scienceqa.load(folder, "scienceqa").rows
    assert scienceqa.prompt(rows[0]) == "Context: Look.\nWhich?\nA. x\nB. y\nC. z\nAnswer with the option's letter from the given choices directly."


def test_scienceqa_another_split_and_lacking_problems(tmp_path):
    folder = science_folder(tmp_path)
    assert "1 belong to val" in refused("scienceqa", write(tmp_path / "a.jsonl", [{"question_id": "4", "text": "A"}]), folder)
    write(folder / "pid_splits.json", {"test": ["1", "2", "1"]})
    assert "'1' stands twice" in refused("scienceqa", tmp_path / "a.jsonl", folder)
    write(folder / "pid_splits.json", {"test": ["1", "77"]})
    assert "1 of 2 test problems are missing, the first '77'" in refused("scienceqa", tmp_path / "a.jsonl", folder)
    (folder / "pid_splits.json").unlink()
    assert "pid_splits.json" in refused("scienceqa", tmp_path / "a.jsonl", folder)
    assert "problems.json" in refused("scienceqa", tmp_path / "a.jsonl", tmp_path)


@pytest.mark.parametrize(("text", "options"), [
    ("Which?\nA. x\nB. y", 2), ("A. Which?\nA. x\nB. y\nC. z", 3), ("Which?\nA. x\nmore of x\nB. y", 2), ("Which?", 0), ("Which?\nA. x\nC. y", 1),
    ("Which?\nA. a\nB. b\nC. c\nD. d\nE. e\nF. f", 5)])
def test_scienceqa_options_are_counted(text, options):
    assert scienceqa.count_options(text) == options


# --- the hub's tables

def table(folder, columns, **kinds):
    import datasets

    features = datasets.Features({name: kinds.get(name, datasets.Value("string")) for name in columns})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / "test-00000-of-00001.parquet")
    return folder


def shown(count):
    from eval_benchmarks import png

    return [{"bytes": png(at), "path": None} for at in range(count)]


def test_a_part_of_a_table_is_not_the_whole(tmp_path):
    for name in ("test-00000-of-00002.parquet", "test-00000-of-00002-0f1e2d3c.parquet"):  # older ones of the hub have a hash
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match="1 of 2 files"):
            pope.load(tmp_path, "pope_random")
        (tmp_path / name).unlink()


def test_a_table_in_both_places_is_read_once(tmp_path):
    import datasets

    columns = {"question_id": ["1", "2"], "image": shown(2), "question": ["Is there a cat in the image?"] * 2, "answer": ["yes", "no"],
               "image_source": ["a", "a"], "category": ["random"] * 2}
    (tmp_path / "data").mkdir()
    table(table(tmp_path, columns, image=datasets.Image()) / "data", columns, image=datasets.Image())
    assert len(pope.load(tmp_path, "pope_random").rows) == 2


def test_pope_from_the_hub(tmp_path):
    import datasets

    folder = table(tmp_path, {"question_id": ["1", "2", "1"], "image": shown(3), "question": ["Is there a cat in the image?"] * 3,
                              "answer": ["yes", "no", "yes"], "image_source": ["a", "a", "b"], "category": ["random", "random", "popular"]}, image=datasets.Image())
    found = pope.load(folder, "pope_random")
    assert [row["question_id"] for row in found.rows] == ["1", "2"] and len({row["image"] for row in found.rows}) == 1
    assert pope.load(folder, "pope_popular").rows[0]["pictures"][0].read() == shown(3)[2]["bytes"]
    with pytest.raises(DataError, match="adversarial split"):
        pope.load(folder, "pope_adversarial")


def test_mmvet_from_the_hub(tmp_path):
    import datasets

    folder = table(tmp_path, {"question_id": ["v1_0"], "image": shown(1), "question": ["What is x?"], "answer": ["-1<AND>-5"], "capability": ["math,ocr"]},
                   image=datasets.Image())
    row = mmvet.load(folder).rows[0]
    assert row["capability_set"] == "ocr_math" and row["pictures"][0].read() == shown(1)[0]["bytes"] and row["alias"] == "0"


def test_scienceqa_from_the_hub(tmp_path):
    import datasets

    folder = table(tmp_path, {"image": [*shown(1), None], "question": ["Which?", "Who?"], "choices": [["x", "y"], ["z", "w"]], "answer": [1, 0],
                              "hint": ["", "Look."], "subject": ["natural science"] * 2, "grade": ["grade2"] * 2},
                   image=datasets.Image(), choices=datasets.List(datasets.Value("string")), answer=datasets.Value("int8"))
    first, second = scienceqa.load(folder, "scienceqa").rows
    assert (first["label"], first["modality"], second["label"], second["modality"]) == ("B", ["image"], "A", ["text"])
    assert first["pictures"][0].read() == shown(1)[0]["bytes"] and second["pictures"] == []
    assert [row["question_id"] for row in scienceqa.load(folder, "scienceqa_img").rows] == ["0"]


@pytest.mark.parametrize("kind", ["saved", "hub"])
def test_a_data_set_of_the_datasets_library(kind, tmp_path, monkeypatch):
    import datasets

    made = datasets.Dataset.from_parquet(str(table(tmp_path, {
        "image": shown(2), "query": ["How many?"] * 2, "label": [["14"], ["2"]], "human_or_machine": [0, 1]}, image=datasets.Image(),
        label=datasets.List(datasets.Value("string")), human_or_machine=datasets.Value("int8")) / "test-00000-of-00001.parquet"))
    made.save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: {("Some/ChartQA", "test"): made}[name, split])
    source = {"saved": tmp_path / "saved", "hub": "hub:Some/ChartQA:test"}[kind]
    from omnivision_eval.task_data import load_task

    data = load_task("chartqa", source)
    assert [row["source"] for row in data.rows] == ["human", "augmented"] and data.data_hash
    assert data.rows[1]["pictures"][0].read() == shown(2)[1]["bytes"]
