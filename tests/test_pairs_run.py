"""`omnivision data pairs`: answers are given once, wrong ones become pairs, everything else is counted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import train_world
from pairs_world import IMAGE, built, folder, mirrored, model, options  # noqa: F401 - fixtures
from PIL import Image

from omnivision.data.rows import read_rows
from omnivision.errors import ConfigError
from omnivision.pairs.main import run


def test_the_command_writes_pairs_of_wrong_answers_only(folder, model):
    rows = read_rows(folder / "world" / "dpo.jsonl")
    wrong = [one for one in rows if mirrored(one.turns[1]["text"]) != one.turns[1]["text"]]
    report = run(options(folder, model, "--most-edited", "1", "--html", str(folder / "pairs.html")))
    outcomes = report["outcomes"]
    assert sum(outcomes.values()) == report["answers"] == len(rows) and outcomes["right"] >= len(rows) - len(wrong)
    written = train_world.read_lines(folder / "pairs.jsonl")
    assert len(written) == outcomes["pairs"] > 10 and all(pair["rejected"] != pair["chosen"] for pair in written)
    first = written[0]
    assert set(first) >= {"id", "images", "prompt", "edit_spans", "ratios", "model", "model_hash", "teacher", "seed"} and first["teacher"] == "world oracle"
    read_rows(folder / "pairs.jsonl")  # dpo reads them as they are
    page = (folder / "pairs.html").read_text()
    assert page.count("<article") == min(60, len(written)) and "<del>" in page and "<ins>" in page
    assert run(options(folder, model, "--most-edited", "0.01"))["outcomes"]["pairs"] == 0
    assert not list(folder.rglob("*.partial"))


def test_a_folder_without_a_model_and_wrong_limits_are_refused(folder, model):
    with pytest.raises(ConfigError, match="no model in the folder"):
        run(options(folder, folder))
    for flag, value in (("--most-edited", "0"), ("--most-edited", "1.5"), ("--most-longer", "nan"), ("--samples", "0"), ("--temperature", "-1"), ("--samples", "2"),
                        ("--limit", "0"), ("--max-new-tokens", "-1")):
        with pytest.raises(ConfigError, match=flag):
            run(options(folder, model, flag, value))
    with pytest.raises(ConfigError, match="cannot be written"):
        run(options(folder, model, "--html", str(folder)))
    with pytest.raises(ConfigError, match="model is not named"):
        run(options(folder, model, "--teacher", "http://127.0.0.1:1/v1"))
    with pytest.raises(ConfigError, match="teacher cannot be loaded"):
        run(options(folder, model, "--teacher", str(folder / "none"), "--limit", "2"))


def test_answers_are_given_once(folder, model, monkeypatch):
    """Other gates, or another teacher, do not ask the model again; half a line of a killed run is not taken for an answer."""
    run(options(folder, model))
    (journal,) = (folder / "pairs.work").glob("answers-*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]) + lines[-2][:-9])
    asked = []
    original = __import__("omnivision.generation", fromlist=["x"]).generate_whole
    monkeypatch.setattr("omnivision.generation.generate_whole", lambda m, p, questions, *rest, **more: asked.extend(questions) or original(m, p, questions, *rest, **more))
    first = run(options(folder, model, "--most-edited", "0.4"))
    assert len(asked) == 2 and journal.read_bytes().splitlines(keepends=True) == lines
    assert run(options(folder, model, "--most-edited", "0.4")) == first and len(asked) == 2
    run(options(folder, model, "--seed", "7"))
    assert len(asked) == len(lines) + 1  # the header is no answer


def test_a_full_feature_cache_takes_no_more_and_says_so(folder, model, capsys):
    cached = ("--feature-cache", str(folder / "features"), "--limit", "3", "--most-edited", "1")
    full = run(options(folder, model, *cached, "--cache-gib", "1e-7"))
    assert "is full" in capsys.readouterr().err and not any(path.stat().st_size for path in (folder / "features").glob("*/features.bin"))
    shutil.rmtree(folder / "pairs.work", ignore_errors=True)
    assert run(options(folder, model, *cached))["outcomes"] == full["outcomes"] and any((folder / "features").glob("*/features.bin"))


def test_a_picture_that_was_replaced_is_asked_about_again(folder, model, monkeypatch):
    """Its rows, and no others; and what a kill may cost is little."""
    shutil.copytree(folder / "world", folder / "own", symlinks=False)
    (folder / "world").unlink()
    (folder / "own").rename(folder / "world")
    run(options(folder, model))
    (journal,) = (folder / "pairs.work").glob("answers-*.jsonl")
    lines = len(journal.read_bytes().splitlines())
    asked, sizes = [], []

    def generate(loaded, processor, questions, images, *rest, **more):
        asked.extend(images)
        sizes.append(len(images))
        return ["Something."] * len(images)

    monkeypatch.setattr("omnivision.generation.generate_whole", generate)
    picture = folder / "world" / IMAGE
    Image.open(picture).rotate(90).save(picture)
    rows = [one for one in read_rows(folder / "world" / "dpo.jsonl") if one.images == (IMAGE,)]
    run(options(folder, model))
    assert asked == [str(picture.resolve())] * len(rows) and len(journal.read_bytes().splitlines()) == lines + len(rows)
    run(options(folder, model, "--seed", "9"))
    assert max(sizes) <= 64 < sum(sizes)


def test_rows_that_are_passed_over_are_counted(folder, model):
    rows = train_world.read_lines(folder / "world" / "dpo.jsonl")[:3]
    uri = "data:image/png;base64,QUJD"
    others = [{"images": [], "question": "Two and two?", "answer": "4"}, {"images": [IMAGE, IMAGE], "question": "What differs?", "answer": "Nothing"},
              {"image": uri, "question": "What is it?", "answer": "A cat"}, {"images": [IMAGE], "request": "Buy it", "calls": [{"name": "order", "arguments": {}}]}]
    others.append({"images": [IMAGE], "messages": [{"role": role, "content": "Be brief."} for role in ("system", "user", "assistant")]})
    file = train_world.write_lines(folder / "mixed.jsonl", [*rows, *others, *others[:1]])
    report = run(options(folder, model, "--data", str(file)))
    assert report["answers"] == 3 and report["passed_over"] == {"no picture": 2, "several pictures": 1, "picture inside the data": 1, "request": 1, "system text": 1}
    assert json.loads((folder / "pairs.report.json").read_text())["passed_over"] == report["passed_over"]


def test_answers_that_were_cut_are_no_answers(folder, model, monkeypatch):
    whole = run(options(folder, model))
    shutil.rmtree(folder / "pairs.work")
    generate = __import__("omnivision.generation", fromlist=["x"]).generate_whole
    monkeypatch.setattr("omnivision.generation.generate_whole", lambda *given, **more: [None, *generate(*given, **more)[1:]])
    cut = run(options(folder, model))
    assert cut["passed_over"] == {"answer cut": cut["passed_over"]["answer cut"]} and cut["answers"] + cut["passed_over"]["answer cut"] == whole["answers"]
    assert run(options(folder, model))["passed_over"] == cut["passed_over"]  # from the journal


def test_sampled_answers_depend_on_their_seed_alone(built, model):
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision.generation import generate_ids

    loaded, processor = OmniVisionForConditionalGeneration.from_pretrained(model), OmniVisionProcessor.from_pretrained(model)
    questions, pictures = ["What is it?", "How many apples are there?", "What is it?"], [built / "world" / IMAGE] * 3
    seeds = ["a", "b", "c"]
    together = generate_ids(loaded, processor, questions, pictures, 8, temperature=1.0, seeds=seeds)
    alone = [generate_ids(loaded, processor, [question], [picture], 8, temperature=1.0, seeds=[seed])[0] for question, picture, seed in
             zip(questions, pictures, seeds, strict=True)]
    assert together == alone and together[0] != together[2]
    cold = generate_ids(loaded, processor, questions, pictures, 8, temperature=1e-4, seeds=seeds)
    assert cold == generate_ids(loaded, processor, questions, pictures, 8)


def test_a_model_on_this_machine_may_teach(folder, model):
    """A model of three training steps writes no JSON: nothing is written, for it has answered nothing."""
    chosen = options(folder, model, "--teacher", str(model), "--limit", "2")
    chosen.out.write_text("kept\n")
    with pytest.raises(ConfigError, match="none of 2 questions, the last: wrong_schema"):
        run(chosen)
    assert chosen.out.read_text() == "kept\n"


@pytest.mark.parametrize("flag", ["--data", "--html"])
def test_pairs_are_not_written_over_what_is_read_or_written_otherwise(folder, model, flag):
    chosen = options(folder, model)
    before = Path(chosen.data).read_text()
    setattr(chosen, *{"--data": ("out", Path(chosen.data)), "--html": ("html", chosen.out)}[flag])
    with pytest.raises(ConfigError, match="one file"):
        run(chosen)
    assert Path(chosen.data).read_text() == before


def test_a_model_that_teaches_is_asked_once(folder, model, monkeypatch):
    """Other gates ask it nothing, in either of its two questions; other answers do."""
    from omnivision.pairs.local_teacher import LocalTeacher

    asked, said = [], ["A cat sits there."]

    def answer(self, task, system):
        asked.append((task.answer, task.original))
        if task.original:
            return json.dumps({"right": True, "original_right": False, "only_needed": True})
        return json.dumps({"right": False, "answer": task.answer.replace("cat", "dog")})

    monkeypatch.setattr(LocalTeacher, "_answer", answer)
    monkeypatch.setattr("omnivision.generation.generate_whole", lambda m, p, questions, *rest, **more: said * len(questions))
    teacher = ["--teacher", str(model), "--limit", "4"]
    first = run(options(folder, model, *teacher))
    assert first["outcomes"]["pairs"] == 4 and asked[-1] == ("A dog sits there.", said[0])
    assert run(options(folder, model, *teacher)) == first and run(options(folder, model, *teacher, "--most-edited", "0.01"))["outcomes"]["pairs"] == 0
    assert len(asked) == 8
    said[0] = "A cat stands there."
    run(options(folder, model, *teacher, "--seed", "1"))
    assert len(asked) == 16 and {answer for answer, _ in asked[8:]} == {said[0], "A dog stands there."}
