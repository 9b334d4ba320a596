"""Bad rows: so few that a run can do without them are left out and named, more stop it; the good ones stay what they were."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import train_world
from omnivision_train import trainer as trainer_module

from omnivision.data.rows import load_rows
from omnivision.errors import DataError

QUESTION = {"question": "What is it?", "answer": "cat"}
BAD = {  # a line, or a picture that is broken
    "broken JSON": '{"question": "What', "no kind": "{}", "NaN": '{"question": "a", "answer": NaN}', "a key twice": '{"question": "a", "question": "b", "answer": "c"}',
    "an empty answer": json.dumps({"question": "a", "answer": " "}), "a surrogate": '{"question": "\\ud800", "answer": "b"}',
    "too many pictures": json.dumps({"image": "images/0.png", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]}),
    "wrong order": json.dumps({"conversations": [{"from": "gpt", "value": "Hi"}, {"from": "human", "value": "Ho"}]}),
    "a missing picture": json.dumps({"image": "images/none.png", **QUESTION}), "outside": json.dumps({"image": "../none.png", **QUESTION}),
    "a cut picture": json.dumps({"image": "images/cut.png", **QUESTION}), "an empty picture": json.dumps({"image": "images/empty.png", **QUESTION}),
    "too long": json.dumps({"image": "images/0.png", "question": "What is it? " * 400, "answer": "cat"}),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = train_world.world(tmp_path_factory)
    whole = (made.folder / "images" / "1.png").read_bytes()
    (made.folder / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (made.folder / "images" / "empty.png").write_bytes(b"")
    return made


def mixed(path, rows: int, bad: int) -> set[int]:
    """A file of so many rows of which some are bad; returns their line numbers."""
    rng = random.Random(1)
    places = set(rng.sample(range(rows), bad))
    kinds = [*BAD.values()]
    lines = [kinds[number % len(kinds)] if number in places else json.dumps({"id": f"good {number}", "image": f"images/{number % 12}.png", **QUESTION})
             for number in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return {number + 1 for number in places}


def run(world, out, file, **changes):
    return train_world.train(train_world.settings(world, out, "sft", **{"data": [str(file)], "max_length": 512, "max_steps": 2, **changes}), "sft")


def test_a_thousand_rows_of_which_fifty_are_bad(world, tmp_path, monkeypatch):
    bad = mixed(tmp_path / "rows.jsonl", 1000, 50)
    seen = []
    original = trainer_module.StageTrainer.__init__

    def kept(self, *args, train_dataset, **kwargs):
        seen.extend(train_dataset.samples)
        original(self, *args, train_dataset=train_dataset, **kwargs)

    monkeypatch.setattr(trainer_module.StageTrainer, "__init__", kept)
    final = run(world, tmp_path, tmp_path / "rows.jsonl", max_bad_fraction=0.05)
    manifest = json.loads((final.parent / "data_manifest.json").read_text())
    assert {int(source.rpartition(":")[2]) for source in manifest["left_out"]} == bad and all(manifest["left_out"].values())
    # every good row is there once, in its place, and what it is when it is alone
    good = [number for number in range(1, 1001) if number not in bad]
    assert [sample.id for sample in seen] == [f"good {number - 1}" for number in good]
    alone = tmp_path / "alone.jsonl"
    alone.write_text((tmp_path / "rows.jsonl").read_text().splitlines()[good[7] - 1] + "\n")
    (row,) = load_rows(alone).rows
    assert replace(row, source="") == replace(load_rows(tmp_path / "rows.jsonl").rows[7], source="")


def test_more_bad_rows_than_allowed_stop_the_run(world, tmp_path):
    mixed(tmp_path / "rows.jsonl", 200, 3)
    with pytest.raises(DataError, match="3 of 200 rows are bad, more than max_bad_fraction 0.01; the first: .*data check") as raised:
        run(world, tmp_path, tmp_path / "rows.jsonl")
    assert raised.value.exit_code == 3 and not list(tmp_path.rglob("metrics.jsonl"))


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_is_left_out_by_name(world, tmp_path, kind):
    good = json.dumps({"image": "images/0.png", **QUESTION})
    (tmp_path / "rows.jsonl").write_text("\n".join([good, good, BAD[kind], good]))
    manifest = json.loads((run(world, tmp_path, tmp_path / "rows.jsonl", max_bad_fraction=0.25).parent / "data_manifest.json").read_text())
    assert [source.rpartition(":")[2] for source in manifest["left_out"]] == ["3"] and manifest[str(tmp_path / "rows.jsonl")]["rows"] in (3, 4)


def test_bad_preferences_are_left_out_too(world, tmp_path):
    rows = [train_world.read_lines(world.file("dpo"))[0] for _ in range(8)]
    rows[3] = {**rows[3], "rejected": rows[3]["chosen"]}
    file = train_world.write_lines(tmp_path / "pairs.jsonl", rows)
    final = train_world.train(train_world.settings(world, tmp_path, "dpo", data=[str(file)], max_bad_fraction=0.2), "dpo")
    (said,) = json.loads((final.parent / "data_manifest.json").read_text())["left_out"].values()
    assert "is no preference" in said


def test_a_run_that_goes_on_leaves_out_what_it_began_without(world, tmp_path, monkeypatch):
    """A picture that breaks, or is fixed, meanwhile must not move the places of the others."""
    from test_train_resume import Killed, die, interrupt

    picture = world.folder / "images" / "late.png"
    whole = (world.folder / "images" / "2.png").read_bytes()
    picture.write_bytes(whole[:40])
    rows = [{"id": f"r{number}", "image": "images/late.png" if number == 5 else f"images/{number % 12}.png", **QUESTION} for number in range(20)]
    file = train_world.write_lines(tmp_path / "rows.jsonl", rows)
    changes = {"max_bad_fraction": 0.1, "max_steps": 8, "save_steps": 2}
    expected = train_world.losses(run(world, tmp_path / "whole", file, **changes))
    with monkeypatch.context() as patch:
        interrupt(patch, 5, die)
        with pytest.raises(Killed):
            run(world, tmp_path / "killed", file, **changes)
    picture.write_bytes(whole)
    assert train_world.losses(run(world, tmp_path / "killed", file, **changes)) == expected


def test_rows_that_supervise_nothing_have_a_limit_of_their_own(world, tmp_path):
    good = {"image": "images/0.png", **QUESTION}
    long = {"images": [], "turns": [{"role": "user", "text": "a"}, {"role": "assistant", "text": "b", "loss": False}, {"role": "user", "text": "c " * 900},
                                    {"role": "assistant", "text": "d"}]}  # what is supervised does not fit
    file = train_world.write_lines(tmp_path / "rows.jsonl", [good] * 9 + [long])
    with pytest.raises(DataError, match="1 of 10 rows have no supervised token"):
        run(world, tmp_path, file, max_bad_fraction=0.5)


def test_held_out_rows_and_those_that_train_have_a_limit_each(world, tmp_path):
    good, bad = {"image": "images/0.png", **QUESTION}, {"image": "images/none.png", **QUESTION}
    rows = train_world.write_lines(tmp_path / "rows.jsonl", [good] * 12)
    others = [{**good, "question": f"What is it, {number}?"} for number in range(200)]
    held = train_world.write_lines(tmp_path / "held.jsonl", others)
    with pytest.raises(DataError, match="6 of 12 rows are bad"):
        run(world, tmp_path / "a", train_world.write_lines(tmp_path / "bad.jsonl", [good, bad] * 6), held_out=[str(held)])
    with pytest.raises(DataError, match="4 of 204 held-out rows are bad"):
        run(world, tmp_path / "b", rows, held_out=[str(train_world.write_lines(tmp_path / "held_bad.jsonl", [*others, *[bad] * 4]))])
    final = run(world, tmp_path / "c", rows, held_out=[str(train_world.write_lines(tmp_path / "held_one.jsonl", [*others, bad]))])
    manifest = json.loads((final.parent / "data_manifest.json").read_text())
    assert [source.rpartition("/")[2] for source in manifest["left_out"]] == ["held_one.jsonl:201"]


def test_answers_that_max_length_cuts_are_told_and_counted(world, tmp_path, capfd):
    turns = [{"from": who, "value": said} for _ in range(4) for who, said in (("human", "What is it, if one may ask?"), ("gpt", "cat"))]
    turns[0] = {"from": "human", "value": "<image>\nWhat is it?"}
    rows = train_world.write_lines(tmp_path / "rows.jsonl", [{"image": "images/0.png", **QUESTION}, {"image": "images/1.png", "conversations": turns}])
    manifest = json.loads((run(world, tmp_path / "whole", rows).parent / "data_manifest.json").read_text())
    assert manifest["shortened"] == {} and "lose their last answers" not in capfd.readouterr().err
    manifest = json.loads((run(world, tmp_path / "cut", rows, max_length=60).parent / "data_manifest.json").read_text())
    cut = manifest["shortened"]
    assert cut["rows"] == 1 and 1 <= cut["answers"] <= 3
    assert f"1 rows lose their last answers ({cut['answers']} in all) to `max_length`" in capfd.readouterr().err


def test_pictures_packed_in_a_shard_train_as_files_do(world, tmp_path):
    import tarfile

    rows = [{"id": f"r{number}", "image": f"images/{number}.png", **QUESTION} for number in range(8)]
    plain = run(world, tmp_path / "plain", train_world.write_lines(tmp_path / "rows.jsonl", rows))
    with tarfile.open(tmp_path / "rows.tar", "w") as shard:
        for number, row in enumerate(rows):
            shard.add(world.folder / row["image"], f"{number}.png")
            (tmp_path / "row.json").write_text(json.dumps(row))
            shard.add(tmp_path / "row.json", f"{number}.json")
    for name, changes in (("packed", {}), ("squashed", {"picture_cache": str(tmp_path / "pictures")}), ("cached", {"feature_cache": str(tmp_path / "features")})):
        packed = run(world, tmp_path / name, tmp_path / "rows.tar", **changes)
        assert train_world.losses(packed) == pytest.approx(train_world.losses(plain), abs=1e-2 if name == "cached" else 0)
    assert 4 <= len([one for one in (tmp_path / "pictures").rglob("*") if one.is_file()]) <= 8


def test_a_mixture_trains_and_is_planned_alike(world, tmp_path, capsys):
    from omnivision_cli.main import main

    from omnivision.config_files import dump_config

    files = [str(train_world.write_lines(tmp_path / f"{name}.jsonl", [{"id": f"{name}{number}", **QUESTION} for number in range(8)])) for name in "ab"]
    config = train_world.settings(world, tmp_path, "sft", data=files, passes=[0.5, 2.0], max_steps=-1, epochs=2.0)
    final = train_world.train(config, "sft")
    assert len(train_world.losses(final)) == 20  # twice 4 + 16 rows, two a step
    (tmp_path / "sft.yaml").write_text(dump_config(config))
    assert main(["plan", "--config", str(tmp_path / "sft.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["steps"]["steps"] == 20


def test_weights_are_of_the_rows_that_are_left(world, tmp_path):
    long = {**QUESTION, "question": "What is it? " * 300}
    rows = {"a": [{"id": f"a{number}", **(long if number < 4 else QUESTION)} for number in range(8)], "b": [{"id": f"b{number}", **QUESTION} for number in range(8)]}
    files = [str(train_world.write_lines(tmp_path / f"{name}.jsonl", lines)) for name, lines in rows.items()]
    final = train_world.train(train_world.settings(world, tmp_path, "sft", data=files, weights=[1.0, 1.0], max_bad_fraction=0.5, max_steps=-1, epochs=1.0), "sft")
    assert len(train_world.losses(final)) == 6  # 12 rows are left: 6 of each file, two a step
    order = json.loads((tmp_path / "sft" / "data_manifest.json").read_text())
    assert len(order["left_out"]) == 4


@pytest.mark.official_data
def test_real_charts_and_photos_train_as_they_are(world, official_data, tmp_path):
    """The train part of ChartQA and the captions of COCO, from the files as they are published; no row is left out."""
    for name, file, root in (("charts", "chartqa/train_small/train_small.json", "chartqa/train_small/img"), ("photos", "coco_small/annotations.json", "coco_small/img")):
        final = run(world, tmp_path / name, official_data / file, image_root=str(official_data / root), limit=60, max_steps=3)
        assert len(train_world.losses(final)) == 3 and json.loads((final.parent / "data_manifest.json").read_text())["left_out"] == {}


def test_a_missing_picture_is_left_out_beside_a_feature_cache(world, tmp_path):
    rows = [{"id": f"r{number}", "image": "images/none.png" if number == 3 else f"images/{number % 12}.png", **QUESTION} for number in range(20)]
    file = train_world.write_lines(tmp_path / "rows.jsonl", rows)
    final = run(world, tmp_path, file, max_bad_fraction=0.1, feature_cache=str(tmp_path / "features"))
    assert [source.rpartition(":")[2] for source in json.loads((final.parent / "data_manifest.json").read_text())["left_out"]] == ["4"]


@pytest.mark.parametrize("requests_per_row", [1, 3])
def test_functions_go_on_in_the_same_order_with_rows_left_out(world, tmp_path, monkeypatch, requests_per_row):
    """A replayed row and a request that are too long: they are dropped at the same place in both starts."""
    from test_train_resume import Killed, die, interrupt

    asked = [{**row, "images": ["images/0.png"], "request": "why " * 500 if number == 4 else row["request"]}
             for number, row in enumerate(train_world.read_lines(world.file("functions")))]
    file = train_world.write_lines(tmp_path / "asked.jsonl", asked)
    spoken = [{"id": f"s{number}", "image": f"images/{number}.png", "question": "why " * 500 if number == 2 else "What is it?", "answer": "cat"} for number in range(8)]
    replay = train_world.write_lines(tmp_path / "replay.jsonl", spoken)
    changes = {"data": [str(file)], "replay": [str(replay)], "max_bad_fraction": 0.2, "max_steps": 6, "save_steps": 2, "requests_per_row": requests_per_row}
    whole = train_world.train(train_world.settings(world, tmp_path / "whole", "functions", **changes), "functions")
    with monkeypatch.context() as patch:
        interrupt(patch, 5, die)
        with pytest.raises(Killed):
            train_world.train(train_world.settings(world, tmp_path / "killed", "functions", **changes), "functions")
    again = train_world.train(train_world.settings(world, tmp_path / "killed", "functions", **changes), "functions")
    assert train_world.losses(again) == train_world.losses(whole)
    assert len(json.loads((whole.parent / "data_manifest.json").read_text())["left_out"]) == 2


def test_a_start_without_checkpoints_forgets_what_the_one_before_left_out(world, tmp_path):
    picture = world.folder / "images" / "once.png"
    whole = (world.folder / "images" / "2.png").read_bytes()
    picture.write_bytes(whole[:40])
    rows = [{"id": f"r{number}", "image": "images/once.png" if number == 5 else f"images/{number % 12}.png", **QUESTION} for number in range(20)]
    file = train_world.write_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(DataError):
        run(world, tmp_path, file, max_bad_fraction=0.01)
    picture.write_bytes(whole)
    assert json.loads((run(world, tmp_path, file).parent / "data_manifest.json").read_text())["left_out"] == {}


def test_a_call_that_no_function_serves_is_left_out(world, tmp_path):
    asked = train_world.read_lines(world.file("functions"))
    asked[1] = {**asked[1], "calls": [{"name": "fly", "arguments": {}}]}
    file = train_world.write_lines(tmp_path / "asked.jsonl", asked)
    final = train_world.train(train_world.settings(world, tmp_path, "functions", data=[str(file)], max_bad_fraction=0.2), "functions")
    (said,) = json.loads((final.parent / "data_manifest.json").read_text())["left_out"].values()
    assert "fly" in said
