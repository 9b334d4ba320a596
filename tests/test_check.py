"""`omnivision data check` and `data preview`: every fault of data is found, named and counted; what is shared with evaluation sets too."""

from __future__ import annotations

import io
import json

import pytest
import train_world
from PIL import Image

from omnivision.data.overlap import TOLD
from omnivision.data.writing import stand_in_tokenizer
from omnivision.functions import FunctionSet
from omnivision.requests.checks import with_tokens
from omnivision_cli.main import main

QUESTION = {"question": "What colour is the third chair?", "answer": "red"}


@pytest.fixture
def folder(tmp_path):
    """Four pictures below `root`."""
    (tmp_path / "root").mkdir()
    for number in range(4):
        Image.effect_mandelbrot((200 + 10 * number, 150), (-2 + number / 3, -1.5, 1, 1.5), 90).convert("RGB").save(tmp_path / "root" / f"{number}.png")
    return tmp_path


def checked(folder, capsys, rows, *flags) -> tuple[int, dict]:
    file = train_world.write_lines(folder / "rows.jsonl", rows)
    code = main(["data", "check", str(file), "--image-root", str(folder / "root"), "--json", *flags])
    return code, json.loads(capsys.readouterr().out)


def row(number=0, **changes):
    return {"id": f"r{number}", "image": f"{number % 4}.png", **QUESTION, **changes}


def test_sound_rows_are_counted(folder, capsys):
    rows = [row(0), row(1), {"id": "t", "question": "Two and two?", "answer": "4"}, {"id": "p", "image": "2.png", "prompt": "What?", "chosen": "a", "rejected": "b"},
            {"id": "f", "image": "3.png", "request": "Buy it", "calls": [{"name": "order", "arguments": {}}]}]
    code, report = checked(folder, capsys, rows)
    assert code == 0 and report["rows"] == 5 and report["bad_rows"] == 0 and report["problems"] == {}
    assert report["kinds"] == {"conversation": 3, "preference": 1, "action": 1} and report["pictures"] == 4 and report["picture_rows"] == 4
    assert report["widths"] == {"least": 200, "median": 220, "p95": 230, "most": 230} and report["tokens"]["most"] > 81 > report["tokens"]["least"]
    assert 0 < report["supervised_share"] < 0.2 and report["files"][str(folder / "rows.jsonl")]["formats"]["question and answer"] == 3


def test_token_counts_are_those_of_training(folder, capsys):
    from omnivision.data.rows import read_rows
    from omnivision.data.writing import stand_in_tokenizer
    from omnivision.model.conversation import encode_conversation

    _, report = checked(folder, capsys, [row(0)])
    (one,) = read_rows(folder / "rows.jsonl")
    encoded = encode_conversation(stand_in_tokenizer("tiny")[0], one.turns, 1, 81)
    assert report["tokens_total"] == len(encoded.input_ids)
    assert report["supervised_share"] == sum(label != -100 for label in encoded.labels) / len(encoded.input_ids)


def test_any_number_of_workers_counts_the_same(folder, capsys):
    rows = [{"id": f"r{n}", "messages": [{"role": role, "content": f"{word} {n} <|im_end|>"} for _ in range(1 + n % 5) for role, word in
                                         (("user", "what"), ("assistant", "so"))]} for n in range(120)]
    (_, one), (_, four) = checked(folder, capsys, rows, "--workers", "1"), checked(folder, capsys, rows, "--workers", "4")
    assert one == four


def test_evaluation_sets_in_tables_and_unreadable_ones(folder, capsys):
    import datasets

    held = {"image": {"bytes": (folder / "root" / "1.png").read_bytes(), "path": None}, "question": "What?", "answer": "x"}
    datasets.Dataset.from_list([held]).to_parquet(folder / "held.parquet")
    assert checked(folder, capsys, [row(0), row(1)], "--against", str(folder / "held.parquet"))[0] == 3
    (folder / "held.tsv").write_text("index\tquestion\n1\tWhat?\n")
    file = train_world.write_lines(folder / "rows.jsonl", [row(0)])
    assert main(["data", "check", str(file), "--image-root", str(folder / "root"), "--against", str(folder / "held.tsv")]) == 3
    assert "neither pictures nor questions" in capsys.readouterr().err


FAULTS = {  # name -> (row, kind, whether it is bad)
    "no kind": ({"id": "x"}, "unreadable row", True),
    "missing": (row(9, image="none.png"), "image: missing", True),
    "outside": (row(9, image="../rows.jsonl"), "image: outside", True),
    "empty": (row(9, image="empty.png"), "image: empty", True),
    "cut": (row(9, image="cut.png"), "image: truncated", True),
    "another format": (row(9, image="gif.png"), "image: format", True),
    "equal answers": ({"id": "x", "prompt": "a", "chosen": "b", "rejected": "b"}, "chosen = rejected", True),
    "too long": (row(9, question="why " * 3000), "too long", True),
    "loses answers": ({"id": "x", "messages": [{"role": role, "content": text} for _ in range(8) for role, text in (("user", "why " * 150), ("assistant", "so"))]},
                      "loses its last answers to max_length", False),
    "loses all that is supervised": ({"id": "x", "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0},
                                                              {"role": "user", "content": "why " * 3000}, {"role": "assistant", "content": "d"}]},
                                     "loses all supervised answers to max_length", True),
    "rendered before": (row(9, question="<|im_start|>user what?<|im_end|>"), "spells a control token, which is read as letters", False),
    "a rejected answer rendered before": ({"id": "x", "prompt": "a", "chosen": "b", "rejected": "c<|im_end|>"}, "spells a control token, which is read as letters", False),
    "an empty prompt": ({"id": "x", "prompt": "", "chosen": "b", "rejected": "c"}, "unreadable row", True),
    "one id twice": (row(0, question="Is it another question?"), "one id for several rows", False),
    "the same row": (row(0, id="other"), "the same row again", False),
    "one picture twice": (row(9, image="copy.png"), "one picture under several names", False),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(folder, capsys, name):
    root = folder / "root"
    whole = (root / "0.png").read_bytes()
    (root / "empty.png").write_bytes(b"")
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (9, 9)).save(root / "gif.png", "GIF")
    (root / "copy.png").write_bytes(whole)
    fault, kind, bad = FAULTS[name]
    code, report = checked(folder, capsys, [row(0), row(1), fault])
    assert list(report["problems"]) == [kind] and report["problems"][kind]["count"] == 1 and report["problems"][kind]["bad"] is bad
    (said,) = report["problems"][kind]["rows"]
    assert said.startswith(f"{folder / 'rows.jsonl'}:3" if name != "one picture twice" else str(root)), said
    assert code == (3 if bad else 0) and report["bad_rows"] == int(bad)


def test_few_bad_rows_are_no_failure(folder, capsys):
    rows = [row(number, id=f"r{number}", question=f"What colour has chair {number}?") for number in range(50)]
    assert checked(folder, capsys, [*rows, {"id": "x"}], "--max-bad-fraction", "0.05")[0] == 0
    code, report = checked(folder, capsys, [*rows, {"id": "x"}], "--max-bad-fraction", "0.01")
    assert code == 3 and report["bad_fraction"] == 1 / 51


@pytest.mark.parametrize("stored", ["as it is", "JPEG", "WEBP", "smaller"])
def test_a_picture_of_an_evaluation_set_is_found_however_it_is_stored(folder, capsys, stored):
    evaluation = folder / "eval" / "images"
    evaluation.mkdir(parents=True)
    picture = Image.open(folder / "root" / "2.png")
    if stored == "smaller":
        picture = picture.resize((picture.width * 2 // 3, picture.height * 2 // 3), Image.Resampling.BICUBIC)
    saved = io.BytesIO()
    picture.save(saved, stored if stored.isupper() else "PNG", quality=60)
    (evaluation / "x").with_suffix("." + (stored.lower() if stored.isupper() else "png")).write_bytes(saved.getvalue())
    (folder / "eval" / "questions.json").write_text(json.dumps([{"image": "x.png", "query": "what COLOUR is -- the third chair", "label": "blue"}]))
    rows = [row(number, id=f"r{number}", question=f"What is thing number {number}?") for number in range(4)]
    code, report = checked(folder, capsys, rows, "--against", str(folder / "eval"))
    assert code == 3 and report["problems"]["picture of an evaluation set"]["count"] == 1
    assert "2.png is " in report["problems"]["picture of an evaluation set"]["rows"][0] and "question of an evaluation set" not in report["problems"]
    code, report = checked(folder, capsys, [row(0)], "--against", str(folder / "eval"))
    assert code == 0 and report["problems"]["question of an evaluation set"]["count"] == 1  # a note: questions may be common


def test_pictures_that_an_evaluation_file_names_are_compared_and_what_is_missing_is_told(folder, capsys):
    sets = folder / "sets" / "eval"
    sets.mkdir(parents=True)
    (folder / "sets" / "images").mkdir()
    (folder / "sets" / "images" / "x.png").write_bytes((folder / "root" / "2.png").read_bytes())
    lines = [{"question_id": 0, "image": "images/x.png", "text": "Is there a chair in the image?"}, {"question_id": 1, "images": ["gone.jpg"], "text": "What?"}]
    train_world.write_lines(sets / "pope.jsonl", lines)
    (sets / "more.zip").write_bytes(b"PK")
    rows = [row(number, id=f"r{number}", question=f"What is thing number {number}?") for number in range(4)]
    code, report = checked(folder, capsys, rows, "--against", str(sets))
    assert code == 3 and report["problems"]["picture of an evaluation set"]["count"] == 1
    assert report["against"] == {"pictures": 1, "questions": 1, "named_and_not_found": ["gone.jpg"], "not_read": [str(sets / "more.zip")],
                                 "unreadable_pictures": [], "broken_rows": []}
    train_world.write_lines(sets / "pope.jsonl", [{"image": "1.png", "text": "Anything there?"}])  # lies in the image root
    assert checked(folder, capsys, rows, "--against", str(sets / "pope.jsonl"))[0] == 3
    assert main(["data", "check", str(folder / "rows.jsonl"), "--image-root", str(folder / "root"), "--against", str(sets)]) == 3
    assert "1 of their files are not read, " in capsys.readouterr().out


def test_what_is_not_compared_is_told_in_the_text_the_json_and_the_page(folder, capsys):
    sets = folder / "sets"
    sets.mkdir()
    (sets / "a.png").write_bytes((folder / "root" / "2.png").read_bytes())
    (sets / "broken.png").write_bytes(b"")
    (sets / "table.csv").write_text("question\n")
    train_world.write_lines(sets / "rows.jsonl", [{"image": "a.png", "text": "Is there a chair in the image?"}, {"image": "gone.png"}])
    with (sets / "rows.jsonl").open("a") as file:
        file.write('{"value": NaN}\n{"text": \n')
    code, report = checked(folder, capsys, [row(0)], "--against", str(sets))
    held = {"pictures": 1, "questions": 1, "named_and_not_found": ["gone.png"], "not_read": [str(sets / "table.csv")],
            "unreadable_pictures": [str(sets / "broken.png")], "broken_rows": [f"{sets / 'rows.jsonl'}:3", f"{sets / 'rows.jsonl'}:4"]}
    assert code == 0 and report["against"] == held
    flags = ["--image-root", str(folder / "root"), "--against", str(sets), "--html", str(folder / "check.html")]
    assert main(["data", "check", str(folder / "rows.jsonl"), *flags]) == 0
    said, page = capsys.readouterr().out, (folder / "check.html").read_text()
    assert "against     1 different pictures and 1 questions" in said and "1 different pictures and 1 questions" in page
    for key, told in TOLD.items():
        assert f"note  {len(held[key])} {told}: {', '.join(held[key])}" in said
        assert told in page and all(f"<li>{name}</li>" in page for name in held[key])


def test_the_text_and_the_page(folder, capsys):
    file = train_world.write_lines(folder / "rows.jsonl", [row(0, question="<script>alert(1)</script> & what?"), row(1, image="none.png")])
    assert main(["data", "check", str(file), "--image-root", str(folder / "root"), "--html", str(folder / "check.html")]) == 3
    said = capsys.readouterr().out
    assert "BAD   image: missing: 1" in said and f"{file}:2" in said and "1 of 2 rows are bad (50.00%" in said
    page = (folder / "check.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and page.count("<svg") == 4 and "data:image/" in page and "image: missing" in page


def test_the_files_are_read_once_however_much_is_written(folder, capsys, monkeypatch):
    from omnivision.data import findings

    read, load = [], findings.load_rows
    monkeypatch.setattr(findings, "load_rows", lambda file, **more: read.append(file) or load(file, **more))
    assert checked(folder, capsys, [row(0), row(1)], "--html", str(folder / "new" / "folder" / "check.html"))[0] == 0
    assert len(read) == 1 and (folder / "new" / "folder" / "check.html").is_file()


@pytest.mark.parametrize("flag, value", [("--workers", "0"), ("--workers", "-1"), ("--max-length", "0"), ("--max-bad-fraction", "nan"), ("--max-bad-fraction", "-1"),
                                         ("--max-bad-fraction", "2"), ("--html", "root"), ("--html", "root/0.png/check.html")])
def test_flags_that_cannot_be_are_refused_before_anything_is_read(folder, capsys, flag, value):
    value = str(folder / value) if flag == "--html" else value
    assert main(["data", "check", str(folder / "none.jsonl"), flag, value]) == 2
    said = capsys.readouterr().err
    assert (flag in said or value in said) and said.count("\n") == 1 and "none.jsonl" not in said


def test_nothing_to_read_is_an_error(folder, capsys):
    assert main(["data", "check", str(folder / "none.jsonl")]) == 3
    (folder / "bad.jsonl").write_text("{x\n{y\n")
    assert main(["data", "check", str(folder / "bad.jsonl")]) == 3
    assert "None of 2 rows can be read" in capsys.readouterr().err
    train_world.write_lines(folder / "rows.jsonl", [row(0)])
    assert main(["data", "check", str(folder / "rows.jsonl"), "--image-root", str(folder / "root"), "--against", str(folder / "none")]) == 3


def test_a_preview_shows_what_the_model_sees(folder, capsys):
    file = train_world.write_lines(folder / "rows.jsonl", [row(0), {"id": "p", "image": "1.png", "prompt": "What?", "chosen": "cat", "rejected": "dog"}])
    flags = ["--image-root", str(folder / "root"), "--picture", str(folder / "seen.png"), "--image-size", "216"]
    assert main(["data", "preview", str(file), *flags]) == 0
    said = capsys.readouterr().out
    assert "[81 image tokens]" in said and "[[red<|im_end|>]]" in said and "What colour is the third chair?" in said and "x81" in said
    seen, given = Image.open(folder / "seen.png"), Image.open(folder / "root" / "0.png")
    assert seen.size == (216, 216)
    squashed = given.resize((216, 216), Image.Resampling.BICUBIC)
    assert max(abs(one - other) for one, other in zip(seen.tobytes(), squashed.tobytes(), strict=True)) <= 1
    assert main(["data", "preview", str(file), "--row", "1", *flags]) == 0
    said = capsys.readouterr().out
    assert "chosen:" in said and "[[cat<|im_end|>]]" in said and "[[dog<|im_end|>]]" in said
    assert main(["data", "preview", str(file), "--row", "1", "--json", "--image-root", str(folder / "root")]) == 0
    (chosen, rejected) = json.loads(capsys.readouterr().out)["sides"]
    assert len(chosen["input_ids"]) == len(chosen["labels"]) and chosen != rejected
    assert main(["data", "preview", str(file), "--row", "2"]) == 3
    train_world.write_lines(folder / "zh.jsonl", [row(0, question="鲲鹏在哪儿？", answer="鲲鹏在瀚海😀。")])
    assert main(["data", "preview", str(folder / "zh.jsonl"), *flags]) == 0
    assert "[[鲲鹏在瀚海😀。<|im_end|>]]" in capsys.readouterr().out
    words = train_world.write_lines(folder / "words.jsonl", [QUESTION])
    assert main(["data", "preview", str(words), "--picture", str(folder / "none.png")]) == 3 and not (folder / "none.png").exists()
    for flag, value in (("--row", "-1"), ("--image-size", "0"), ("--picture", str(folder / "root"))):
        assert main(["data", "preview", str(file), flag, value]) == 2


def test_a_preview_takes_the_size_and_values_of_the_checkpoints_own_processor(folder):
    from omnivision import OmniVisionProcessor
    from omnivision.model.processing import siglip_image_processor

    images = siglip_image_processor(54)
    images.image_mean, images.image_std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    OmniVisionProcessor(images, stand_in_tokenizer("tiny")[0], image_seq_length=9).save_pretrained(folder / "model")
    file = train_world.write_lines(folder / "rows.jsonl", [row(0)])
    flags = ["data", "preview", str(file), "--image-root", str(folder / "root"), "--model", str(folder / "model"), "--picture", str(folder / "seen.png")]
    assert main(flags) == 0
    seen = Image.open(folder / "seen.png")
    squashed = Image.open(folder / "root" / "0.png").resize((54, 54), Image.Resampling.BICUBIC)
    assert seen.size == (54, 54) and max(abs(one - other) for one, other in zip(seen.tobytes(), squashed.tobytes(), strict=True)) <= 1
    assert main([*flags, "--image-size", "108"]) == 0 and Image.open(folder / "seen.png").size == (108, 108)


def test_calls_are_shown_and_counted_as_the_models_functions_say_them(folder, capsys):
    function_set = FunctionSet.from_json(train_world.FUNCTIONS)
    model = folder / "model"
    with_tokens(stand_in_tokenizer("tiny")[0], function_set).save_pretrained(model)
    function_set.save(model)
    request = {"request": "I want a cup", "calls": [{"name": "order", "arguments": {"item": "cup"}}]}
    file = train_world.write_lines(folder / "calls.jsonl", [request])
    assert main(["data", "preview", str(file)]) == 0
    said = capsys.readouterr()
    assert "[[[{" in said.out and "give --model a checkpoint" in said.err
    assert main(["data", "preview", str(file), "--model", str(model)]) == 0
    said = capsys.readouterr()
    assert "[[<nexa_0>(item='cup')<nexa_end>" in said.out and not said.err
    shares = []
    for flags in ((), ("--model", str(model))):
        code, report = checked(folder, capsys, [request], *flags)
        assert code == 0
        shares.append(report["supervised_share"])
    assert shares[1] < shares[0]
    code, report = checked(folder, capsys, [request, {**request, "calls": [{"name": "fly", "arguments": {}}]}], "--model", str(model))
    assert code == 0 and report["problems"]["calls that the model's own functions cannot say"]["count"] == 1 and report["bad_rows"] == 0
    other = train_world.write_lines(folder / "other.jsonl", [{**request, "calls": [{"name": "fly", "arguments": {}}]}])
    assert main(["data", "preview", str(other), "--model", str(model)]) == 0
    said = capsys.readouterr()
    assert '"fly"' in said.out and "give --model a checkpoint" in said.err


@pytest.mark.official_data
def test_real_train_parts_are_clean_and_evaluation_parts_are_caught(official_data, capsys):
    charts = official_data / "chartqa"
    for part, code in (("train_small", 0), ("val_small", 3)):
        flags = ["--image-root", str(charts / part / "img"), "--against", str(charts / "val_small"), "--json"]
        assert main(["data", "check", str(charts / part / f"{part}.json"), *flags]) == code
        report = json.loads(capsys.readouterr().out)
        assert report["bad_rows"] == (0 if code == 0 else 195) and report["rows"] == (1000 if code == 0 else 195)
        assert ("picture of an evaluation set" in report["problems"]) == bool(code)
    coco = official_data / "coco_small"
    flags = ["--image-root", str(coco / "img"), "--json"]
    assert main(["data", "check", str(coco / "annotations.json"), *flags, "--against", str(official_data / "mmvet" / "images")]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 101
    assert main(["data", "check", str(coco / "pope_made.json"), *flags, "--against", str(coco / "img")]) == 3
    assert json.loads(capsys.readouterr().out)["problems"]["picture of an evaluation set"]["count"] == 1296
