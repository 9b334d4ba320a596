"""The world's folder: complete, reproducible for any number of workers, and without leaks between its sides."""

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from omnivision.errors import ConfigError, DataError
from omnivision.world.build import PRESETS, build_world, main
from omnivision.world.contact_sheet import contact_sheet
from omnivision.world.recipes import QUESTIONS, Task, fingerprint, make_recipe, truth_from_row

SIZES = {"align": 12, "sft": 24, "dpo": 6, "functions": 12, "eval_scenes": 6, "eval_charts": 6, "eval_actions": 8,
         "held_out_scenes": 3, "held_out_actions": 4}  # fmt: skip


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "w"
    build_world(out, 3, SIZES, workers=2, progress=False)
    return out


def test_the_folder_is_as_specified(world):
    known = json.loads((world / "world.json").read_text())
    assert known["seed"] == 3 and known["sizes"] == SIZES
    files = {path.relative_to(world).as_posix() for path in world.rglob("*.jsonl")}
    tasks = ("pope_random", "pope_popular", "pope_adversarial", "open", "actions")
    wanted = {f"{name}.jsonl" for name in ("align", "sft", "dpo", "functions")}
    wanted |= {f"truth/{s}.jsonl" for s in ("align", "sft", "dpo", "functions", "eval", "eval_held_out")}
    wanted |= {f"{side}/{task}.jsonl" for side in ("eval", "eval_held_out") for task in tasks} | {"eval/chartqa.jsonl"}
    assert files == wanted == set(known["sha256"])
    for name, digest in known["sha256"].items():
        assert hashlib.sha256((world / name).read_bytes()).hexdigest() == digest
        assert known["counts"][name] == len(rows(world / name)) > 0
    assert len(json.loads((world / "functions.json").read_text())) == 11
    assert not list(world.parent.glob(".*part"))


def test_every_row_names_a_picture_that_opens(world):
    seen = set()
    for name in ("align", "sft", "dpo", "functions"):
        for row in rows(world / f"{name}.jsonl"):
            seen.update(row["images"])
    for file in [*world.glob("eval*/*.jsonl"), *world.glob("truth/*.jsonl")]:
        seen.update(row["image"] for row in rows(file))
    for image in seen:
        with Image.open(world / image) as picture:
            picture.load()
            assert picture.size == (216, 216) and picture.mode == "RGB"
    assert len(seen) == sum(SIZES.values())


def test_training_rows(world):
    for row in rows(world / "sft.jsonl"):
        roles = [turn["role"] for turn in row["turns"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert [turn["loss"] for turn in row["turns"]] == [role == "assistant" for role in roles]
        assert all(turn["text"] for turn in row["turns"])
        questions = [turn["text"] for turn in row["turns"] if turn["role"] == "user"]
        assert len(set(questions)) == len(questions)
    assert all(len(row["turns"]) == 2 for row in rows(world / "dpo.jsonl"))
    plain = {row["image"] for row in rows(world / "truth/align.jsonl") if row["type"] != "scene"}
    assert all(len(row["turns"]) == (2 if row["images"][0] in plain else 4) for row in rows(world / "align.jsonl"))
    scenes = {row["image"] for row in rows(world / "truth/sft.jsonl") if row["type"] == "scene"}
    assert all(len(row["turns"]) == 2 * QUESTIONS for row in rows(world / "sft.jsonl") if row["images"][0] in scenes)
    assert all(row["request"] and row["calls"][0]["name"] for row in rows(world / "functions.jsonl"))
    asked = {row["images"][0] for row in rows(world / "functions.jsonl")}
    assert {image.split("/")[1] for image in asked} == {"sft", "functions"} and {image for image in asked if "sft" in image} <= scenes
    for name in ("align", "sft", "functions"):
        grounded = [row["images"][0] for row in rows(world / f"{name}.jsonl") if row.get("regions")]
        assert len(grounded) == len(set(grounded)) == SIZES[name]  # once a picture


def test_evaluation_rows(world):
    for side in ("eval", "eval_held_out"):
        splits = {name: rows(world / side / f"pope_{name}.jsonl") for name in ("random", "popular", "adversarial")}
        yes = {name: [row for row in found if row["label"] == "yes"] for name, found in splits.items()}
        assert all(len(found) == 6 * SIZES["eval_scenes" if side == "eval" else "held_out_scenes"] for found in splits.values())
        assert all(2 * len(yes[name]) == len(found) for name, found in splits.items())
        asked = {name: [(row["image"], row["text"]) for row in found] for name, found in yes.items()}
        assert asked["random"] == asked["popular"] == asked["adversarial"]  # splits differ only in what is absent
        assert splits["random"][0]["text"].startswith("Is there a")
    for file in world.glob("eval*/*.jsonl"):
        found = rows(file)
        assert len({row["question_id"] for row in found}) == len(found)
    assert all(isinstance(row["label"], list) for row in rows(world / "eval/chartqa.jsonl"))


def test_styles_and_truths_do_not_leak(world):
    truths = {file.stem: [truth_from_row(row) for row in rows(file)] for file in world.glob("truth/*.jsonl")}
    styles = {name: {truth.style for truth in found if hasattr(truth, "style")} for name, found in truths.items()}
    assert styles.pop("eval_held_out") == {"openmoji"} and all("openmoji" not in used for used in styles.values())
    train = {fingerprint(truth) for name in ("align", "sft", "dpo", "functions") for truth in truths[name]}
    evaluation = {fingerprint(truth) for name in ("eval", "eval_held_out") for truth in truths[name]}
    assert not train & evaluation


def test_truth_survives_its_file(world):
    for row in rows(world / "truth/sft.jsonl"):
        number = int(Path(row["image"]).stem)
        assert truth_from_row(row) == make_recipe(3, Task("sft", number, "sft")).truth


def test_one_worker_writes_the_same_bytes(world, tmp_path):
    again = build_world(tmp_path / "again", 3, SIZES, workers=1, progress=False)
    assert again["sha256"] == json.loads((world / "world.json").read_text())["sha256"]
    for image in list(world.rglob("*.png"))[:10]:
        with Image.open(image) as one, Image.open(tmp_path / "again" / image.relative_to(world)) as two:
            assert one.tobytes() == two.tobytes()
    other = build_world(tmp_path / "other", 4, {"sft": 2}, workers=1, progress=False)
    assert other["sha256"]["sft.jsonl"] != again["sha256"]["sft.jsonl"]


def test_a_finished_world_is_returned_and_another_is_not_overwritten(world, tmp_path, monkeypatch):
    stamp = (world / "world.json").stat().st_mtime_ns
    monkeypatch.setattr("omnivision.world.build._write", None)  # building again would fail
    assert build_world(world, 3, SIZES)["seed"] == 3
    with pytest.raises(ConfigError, match="other settings"):
        build_world(world, 4, SIZES)
    assert (world / "world.json").stat().st_mtime_ns == stamp
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        build_world(tmp_path, 3, SIZES)


def test_a_folder_behind_a_link_is_filled_and_what_cannot_be_replaced_is_refused_at_once(tmp_path, monkeypatch):
    real, link = tmp_path / "disk/w", tmp_path / "w"
    real.mkdir(parents=True)
    link.symlink_to(real)
    made = build_world(link, 0, {"align": 1}, workers=1, progress=False)
    assert link.is_symlink() and made == build_world(link, 0, {"align": 1}) == json.loads((real / "world.json").read_text())
    assert [path.name for path in real.parent.iterdir()] == ["w"]
    monkeypatch.setattr("omnivision.world.build._write", None)  # building would fail
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for out in (tmp_path / "gone", tmp_path / "gone/w"):
        with pytest.raises(ConfigError, match="leads to .*nothing, where nothing is"):
            build_world(out, 0, {"align": 1})
    with pytest.raises(ConfigError, match="No split has a picture"):
        build_world(tmp_path / "v", 0, {"align": 0})
    for content in ('{"seed": 0', "[]", "\x00"):
        (real / "world.json").write_text(content)
        with pytest.raises(ConfigError, match=r"no world's \(.*world.json"):
            build_world(link, 0, {"align": 1})
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "v")
    with pytest.raises(ConfigError, match="mount point.*Give a folder in it: .*v/world"):
        build_world(tmp_path / "v", 0, {"align": 1})


def test_leftovers_of_a_killed_builder_are_cleared(tmp_path):
    dead = tmp_path / ".w.999999999.part"
    dead.mkdir()
    build_world(tmp_path / "w", 0, {"align": 1}, workers=1, progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"w"}


def test_command_line(tmp_path, capsys):
    none = ",".join(f"{name}=0" for name in PRESETS["quick"] if name != "sft")
    assert main(["--out", str(tmp_path / "w"), "--sizes", f"sft=2,{none}", "--workers", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["sft.jsonl"] == 2
    with pytest.raises(ConfigError, match="sftt"):
        main(["--out", str(tmp_path / "v"), "--sizes", "sftt=2"])
    for flag, value in (("--image-size", "0"), ("--image-size", "31"), ("--image-size", "4097"), ("--workers", "0"), ("--workers", "-1")):
        with pytest.raises(ConfigError, match=f"{value} cannot be used.*{flag}"):
            main(["--out", str(tmp_path / "v"), flag, value])


def test_contact_sheet(world, tmp_path):
    with Image.open(contact_sheet(world, tmp_path / "sheet.png")) as sheet:
        assert sheet.width > 1200 and len(sheet.convert("L").getcolors()) > 100
    with pytest.raises(DataError, match="world.json"):
        contact_sheet(tmp_path, tmp_path / "no.png")
