"""The real benchmarks' layouts, answered by a model: batches, processes, kills, pictures that cannot be shown, and lm-eval's way."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time

import eval_benchmarks
import pytest
from eval_world import checkpoint, model, random_model  # noqa: F401 - fixtures are found by name
from endpoint_server import Server
from omnivision_eval import mmmu, mmvet
from omnivision_eval.lm import OmniVisionLM
from omnivision_eval.main import main
from omnivision_eval.models import Source, source_of
from omnivision_eval.ours import Ours
from omnivision_eval.run import Settings, evaluate
from omnivision_eval.saved import score_saved
from test_eval_lm import check_alike, through_lm_eval

from omnivision.errors import ConfigError, DataError

TASKS = {"pope": ["pope"], "chartqa": ["chartqa"], "mmvet": ["mmvet"], "mmmu": ["mmmu"], "scienceqa": ["scienceqa", "scienceqa_img"]}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return eval_benchmarks.all_of_them(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture
def short(monkeypatch):
    """A random model never ends: 128 and 512 tokens of it teach no more than a few."""
    for benchmark in (mmmu, mmvet):
        monkeypatch.setattr(benchmark, "MAX_NEW_TOKENS", 6)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(folder, task):
    return {s["question_id"]: s["answer"] for s in lines(folder / task / "samples.jsonl")}


@pytest.mark.parametrize("name", ["pope", "mmmu", "scienceqa"])
def test_batch_size_and_processes_change_no_answer(name, folders, checkpoint, tmp_path, short):
    runs = {"one": Settings(batch_size=1), "eight": Settings(batch_size=8), "two": Settings(batch_size=4, processes=2)}
    for run, settings in runs.items():
        evaluate(source_of(checkpoint), folders[name], TASKS[name], tmp_path / run, settings)
    for task in [one.parent.name for one in (tmp_path / "one").glob("*/samples.jsonl") if one.stat().st_size]:
        one, eight, two = (answers(tmp_path / run, task) for run in runs)
        assert one == eight == two and len(set(one.values())) > 1
        written = [(tmp_path / run / task / "results.json").read_text().replace('"batch_size": 8', '"batch_size": 1')
                   .replace('"batch_size": 4', '"batch_size": 1') for run in runs]
        assert written[0] == written[1] == written[2]


def test_every_task_is_scored_and_says_what_was_read(folders, model, tmp_path, short):
    found = {task: one for name, tasks in TASKS.items() for task, one in evaluate(model, folders[name], tasks, tmp_path).items()}
    assert {task: one["n"] for task, one in found.items()} == {
        "pope_random": 24, "pope_popular": 24, "pope_adversarial": 24, "pope": 72, "chartqa": 12, "mmvet": 6, "mmmu": 60,
        "scienceqa": 8, "scienceqa_img": 4}
    assert found["mmmu"]["notes"]["pictures"] == "first of several (30 questions have several)"
    assert found["mmvet"]["score"] is None and found["mmvet"]["missing"] == 6 and "--judge" in found["mmvet"]["notes"]["judge"]
    assert found["mmmu"]["metrics"]["parse_failure_rate"] > 50, "a random model names no letter"
    assert found["mmmu"]["score"] > found["mmmu"]["metrics"]["without_fallback"]
    assert found["scienceqa"]["by"]["modality"]["image"]["n"] == 4
    assert found["chartqa"]["notes"]["part"].startswith("12 of 2,500") and "part" in found["pope"]["notes"]
    assert found["mmmu"]["notes"]["cut off"].split()[0].isdigit() and len(found["mmmu"]["data_hash"]) == 30


def test_saved_answers_of_a_run_score_the_same(folders, model, tmp_path, short):
    for name in ("pope", "chartqa", "scienceqa", "mmmu"):
        task = {"pope": "pope_random"}.get(name, name)
        found = evaluate(model, folders[name], [task], tmp_path / name)[task]
        again = score_saved([task], tmp_path / name, folders[name])[task]
        assert {key: again[key] for key in ("score", "stderr", "by", "variants", "n")} == {key: found[key] for key in ("score", "stderr", "by", "variants", "n")}


def test_all_pictures_of_a_question(folders, model, tmp_path, short):
    first = evaluate(model, folders["mmmu"], ["mmmu"], tmp_path / "first")["mmmu"]
    whole = evaluate(model, folders["mmmu"], ["mmmu"], tmp_path / "all", Settings(pictures="all"))["mmmu"]
    assert first["settings"]["pictures"] == "first" and whole["notes"]["pictures"].startswith("all of several")
    one, other = (lines(tmp_path / run / "mmmu" / "samples.jsonl") for run in ("first", "all"))
    differ = {a["question_type"] for a, b in zip(one, other, strict=True) if a["answer"] != b["answer"]}
    assert differ == {"multiple-choice"}, "only these have two pictures"


# --- lm-eval's way

@pytest.mark.parametrize(("name", "tasks"), [("pope", ["pope_adversarial"]), ("chartqa", ["chartqa"]), ("scienceqa", ["scienceqa", "scienceqa_img"]), ("mmmu", ["mmmu"])])
def test_hf_multimodal_gives_the_same_answers_and_score(name, tasks, folders, checkpoint, tmp_path):
    limit = 8 if name == "mmmu" else None  # 128 tokens each
    found = through_lm_eval("hf-multimodal", tasks, {"data_dir": str(folders[name])}, apply_chat_template=True, batch_size=3, device="cpu",
                            model_args={"pretrained": str(checkpoint), "convert_img_format": True}, limit=limit)
    check_alike(folders[name], checkpoint, tmp_path, found["results"], found["samples"], tasks, limit=limit)


def test_the_model_type_omnivision_takes_questions_without_a_picture(folders, model, tmp_path):
    ours = evaluate(model, folders["scienceqa"], ["scienceqa"], tmp_path)["scienceqa"]
    found = through_lm_eval(OmniVisionLM(model=model), ["scienceqa"], {"data_dir": str(folders["scienceqa"]), "images": "path"})
    assert found["results"]["omnivision_scienceqa"]["accuracy,none"] == pytest.approx(ours["score"])
    theirs = [s["resps"][0][0] for s in sorted(found["samples"]["omnivision_scienceqa"], key=lambda s: s["doc_id"])]
    assert theirs == list(answers(tmp_path, "scienceqa").values())


def test_a_judge_grades_fresh_answers_both_ways(folders, checkpoint, tmp_path, capsys):
    """The judge likes long predictions: grades differ, and both ways give the same mean."""
    def likes(question, number):
        return f"good:{len(question) % 10 / 10}"

    with Server(likes) as server:
        argv = ["mmvet", "--model", str(checkpoint), "--data", str(folders["mmvet"]), "--limit", "3", "--json", "--judge", server.url, "--judge-model", "j"]
        assert main([*argv, "--out", str(tmp_path / "ours")]) == 0
        ours = json.loads(capsys.readouterr().out)["tasks"]["mmvet"]
        asked = len(server.received)
        metadata = {"data_dir": str(folders["mmvet"]), "judge": server.url, "judge_model": "j", "judge_folder": str(tmp_path / "theirs")}
        found = through_lm_eval("hf-multimodal", ["mmvet"], metadata, apply_chat_template=True, batch_size=3, device="cpu", limit=3,
                                model_args={"pretrained": str(checkpoint), "convert_img_format": True})
        assert asked == 3 and len(server.received) == 6, "three metrics ask the judge once"
    assert len({s["official"]["score"] for s in lines(tmp_path / "ours" / "mmvet" / "samples.jsonl")}) > 1
    assert found["results"]["omnivision_mmvet"]["judged,none"] == pytest.approx(ours["score"]) and ours["missing"] == 0
    recorded = ["--judge", str(tmp_path / "ours" / "mmvet" / "judge.ledger.jsonl"), "--judge-model", "j", "--json"]
    saved = ["mmvet", "--predictions", str(tmp_path / "ours" / "mmvet" / "predictions.jsonl"), "--data", str(folders["mmvet"])]
    assert main([*saved, *recorded]) == 3  # the other three questions have no answer
    again = json.loads(capsys.readouterr().out)["tasks"]["mmvet"]
    assert again["missing"] == 3 and again["metrics"]["judged"] == pytest.approx(ours["score"])


@pytest.mark.official_data
def test_real_charts_and_photos_reach_every_way_alike(official_data, checkpoint, tmp_path):
    made = json.loads((official_data / "coco_small" / "pope_made.json").read_text())
    rows = [{"question_id": at, "image": one["image"], "text": one["question"], "label": one["label"]}
            for at, one in enumerate(one for one in made if one["set"] == "random" and one["split"] == "val")]
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope" / "coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "pope" / "images").symlink_to(official_data / "coco_small" / "img")
    for task, data in (("pope_random", tmp_path / "pope"), ("chartqa", official_data / "chartqa" / "val_small")):
        found = through_lm_eval("hf-multimodal", [task], {"data_dir": str(data)}, apply_chat_template=True, batch_size=4, device="cpu", limit=24,
                                model_args={"pretrained": str(checkpoint), "convert_img_format": True})
        check_alike(data, checkpoint, tmp_path, found["results"], found["samples"], [task], limit=24)


@pytest.mark.official_data
@pytest.mark.parametrize(("name", "said"), [("mmvet", "of 218 questions of mmvet .* missing.*images/"), ("scienceqa", "2017 of 4241 questions.*2017 missing.*images/test/<id>/")])
def test_pictures_that_are_not_there_are_asked_for(name, said, official_data, checkpoint):
    with pytest.raises(DataError, match=said):
        evaluate(source_of(checkpoint), official_data / name, [name])


# --- a run that is killed

class Stop(Exception):
    """Where the test kills."""


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_run_goes_on_and_asks_nothing_twice(after, folders, checkpoint, tmp_path, monkeypatch):
    asked, original = [], Ours.answer

    def answer(self, prompts, prepared):
        if len(asked) == limit:
            raise Stop
        asked.append([prompt.key for prompt in prompts])
        return original(self, prompts, prepared)

    monkeypatch.setattr(Ours, "answer", answer)
    limit = after
    with pytest.raises(Stop):
        evaluate(source_of(checkpoint), folders["pope"], ["pope"], tmp_path / "killed", Settings(batch_size=4))
    assert not list((tmp_path / "killed").glob("*/results.json"))
    journal = next((tmp_path / "killed" / "answers").glob("*.jsonl"), None)
    if after:  # half of a line that was being written
        journal.write_bytes(journal.read_bytes()[:-7])
    limit = None
    evaluate(source_of(checkpoint), folders["pope"], ["pope"], tmp_path / "killed", Settings(batch_size=4))
    keys = [key for batch in asked for key in batch]
    assert len(keys) - len(set(keys)) == (1 if after else 0), "only the answer whose line was torn is given again"
    once = evaluate(source_of(checkpoint), folders["pope"], ["pope"], tmp_path / "once", Settings(batch_size=4))
    assert len(once) == 4
    for task in once:
        for name in ("results.json", "samples.jsonl"):
            assert (tmp_path / "killed" / task / name).read_bytes() == (tmp_path / "once" / task / name).read_bytes()
    asked.clear()
    evaluate(source_of(checkpoint), folders["pope"], ["pope"], tmp_path / "killed", Settings(batch_size=4))
    assert not asked, "what is answered is not asked again"


def test_another_model_or_picture_is_asked_anew(folders, checkpoint, tmp_path, monkeypatch):
    asked, original = [], Ours.answer
    monkeypatch.setattr(Ours, "answer", lambda self, prompts, prepared: asked.extend(prompts) or original(self, prompts, prepared))
    data = shutil.copytree(folders["chartqa"], tmp_path / "data")
    evaluate(source_of(checkpoint), data, ["chartqa"], tmp_path / "out")
    assert len(asked) == 12
    eval_benchmarks.save(data / "test" / "png" / "human1.png", 99)
    evaluate(source_of(checkpoint), data, ["chartqa"], tmp_path / "out")
    assert len(asked) == 14, "the two questions about the other picture"
    other = shutil.copytree(checkpoint, tmp_path / "other")
    network, processor = random_model(seed=1)
    network.save_pretrained(other)
    shutil.rmtree(tmp_path / "out" / "chartqa")
    evaluate(source_of(other), data, ["chartqa"], tmp_path / "out")
    assert len(asked) == 26
    shutil.rmtree(tmp_path / "out" / "chartqa")
    blind = evaluate(source_of(other, blank=True), data, ["chartqa"], tmp_path / "out")
    assert len(asked) == 38 and blind["chartqa"]["settings"]["blank"]
    shutil.rmtree(tmp_path / "out" / "chartqa_blind")
    evaluate(source_of(other, dtype="bfloat16"), data, ["chartqa"], tmp_path / "out")
    assert len(asked) == 50
    for file in (tmp_path / "out" / "answers").glob("*.jsonl"):
        file.write_bytes(b"{\n" + file.read_bytes())
    with pytest.raises(DataError, match="journal is broken"):
        evaluate(source_of(other, dtype="bfloat16"), data, ["chartqa"], tmp_path / "out")


def test_what_a_process_raises_is_told(folders, checkpoint, tmp_path):
    source = source_of(checkpoint)
    (checkpoint / "model.safetensors").rename(checkpoint / "away")
    try:
        with pytest.raises(ConfigError, match="no weights"):
            evaluate(source, folders["chartqa"], ["chartqa"], tmp_path, Settings(processes=2))
    finally:
        (checkpoint / "away").rename(checkpoint / "model.safetensors")


@pytest.mark.slow  # each start of a process loads torch
def test_a_command_killed_at_any_moment_ends_the_same(folders, checkpoint, tmp_path):
    """SIGKILL whenever a few more answers are on the disk, then once to the end: the files of a run that nobody killed."""
    command = [sys.executable, "-m", "omnivision_cli", "eval", "pope", "--model", str(checkpoint), "--data", str(folders["pope"]), "--batch-size", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "once")], check=True, capture_output=True)
    dice, sizes = random.Random(0), [0]
    for _ in range(6):
        with subprocess.Popen([*command, "--out", str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and _journalled(tmp_path / "killed") <= sizes[-1]:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.05))
            process.kill()
        sizes.append(_journalled(tmp_path / "killed"))
    subprocess.run([*command, "--out", str(tmp_path / "killed")], check=True, capture_output=True)
    assert 0 < sizes[1] < sizes[3] < _journalled(tmp_path / "killed"), "the kills did not fall between answers"
    files = [file for file in (tmp_path / "once").glob("pope*/*") if file.is_file()]
    assert len(files) == 4 * 3 - 1  # the mean of the splits has no predictions
    for file in files:
        assert file.read_bytes() == (tmp_path / "killed" / file.relative_to(tmp_path / "once")).read_bytes(), file
    answered = [line["key"] for journal in (tmp_path / "killed" / "answers").glob("*.jsonl") for line in lines(journal) if "key" in line]
    assert len(answered) == len(set(answered))


def _journalled(folder):
    """Bytes of the journal."""
    return sum(journal.stat().st_size for journal in (folder / "answers").glob("*.jsonl"))


# --- pictures that cannot be shown

def test_missing_pictures_are_named_and_counted_before_a_model_is_opened(folders, tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(Source, "open", lambda self: pytest.fail("it was opened"))
    data = shutil.copytree(folders["chartqa"], tmp_path / "data")
    (data / "test" / "png" / "human1.png").unlink()
    (data / "test" / "png" / "human2.png").write_bytes(b"GIF89a, or not")
    with pytest.raises(DataError) as error:
        evaluate(source_of(checkpoint), data, ["chartqa"], tmp_path / "out")
    said = str(error.value)
    assert "4 of 12 questions of chartqa" in said and "2 missing, 2 format" in said and "human_2" in said and "test/png/" in said


def test_a_few_broken_pictures_are_left_out_of_the_score_and_named(tmp_path, model, capsys):
    data = eval_benchmarks.pope(tmp_path / "pope", images=101)
    (data / "val2014" / "COCO_7.jpg").write_bytes((data / "val2014" / "COCO_7.jpg").read_bytes()[:900])
    one = evaluate(model, data, ["pope_random"], tmp_path / "out")["pope_random"]
    assert one["missing"] == 6 and one["n"] == 606 and one["score"] is not None  # 0.99 %
    assert "COCO_7.jpg" in one["notes"]["without an answer"]
    lost = [s for s in lines(tmp_path / "out" / "pope_random" / "samples.jsonl") if s["answer"] is None]
    assert len(lost) == 6 and all("COCO_7.jpg" in s["missing"] and s["official"]["score"] is None for s in lost)


def test_the_command_scores_a_benchmark(folders, checkpoint, tmp_path, capsys):
    argv = ["scienceqa_img", "--model", str(checkpoint), "--data", str(folders["scienceqa"]), "--out", str(tmp_path), "--json", "--batch-size", "3"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["tasks"]["scienceqa_img"]["n"] == 4 and "modality" in err
    assert main(["mmvet", "--model", str(checkpoint), "--data", str(folders["mmvet"]), "--out", str(tmp_path), "--limit", "2"]) == 3
    assert "2 of 2 answers or grades are missing" in capsys.readouterr().err
    assert len(lines(tmp_path / "mmvet" / "predictions.jsonl")) == 2, "kept for a judge to come"
