"""`omnivision plan` counts rows as a run reads them, from every kind of file."""

from __future__ import annotations

import json
import subprocess
import sys

import datasets
import pytest
import train_world

from omnivision.config_files import dump_config
from omnivision.presets import preset_config
from omnivision_cli.main import main
from omnivision_train.config import AlignConfig, FunctionsConfig, SftConfig

ROWS = [{"id": str(number), "question": f"What is {number}?", "answer": "cat"} for number in range(6)]


def lines(folder):
    return train_world.write_lines(folder / "rows.jsonl", ROWS)


def some_bad(folder):
    file = lines(folder)
    file.write_text(file.read_text() + '{"question": "What?"\n\n{}\n')
    return file


def listed(folder):
    (folder / "rows.json").write_text(json.dumps(ROWS, indent=1))
    return folder / "rows.json"


def by_id(folder):
    (folder / "rows.json").write_text(json.dumps({row["id"]: row for row in ROWS}))
    return folder / "rows.json"


def captions(folder):
    return train_world.write_lines(folder / "rows.jsonl", [{"image": "a.png", "captions": ["A cat.", "A dog."]}] * 3)


def parquet(folder):
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def saved(folder):
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "rows")
    return folder / "rows"


def steps(folder, config, capsys, *flags) -> dict:
    (folder / "stage.yaml").write_text(dump_config(config))
    stage = "functions" if isinstance(config, FunctionsConfig) else "sft"
    assert main(["plan", "--config", str(folder / "stage.yaml"), "--stage", stage, "--json", *flags]) == 0
    return json.loads(capsys.readouterr().out)["steps"]


@pytest.mark.parametrize("make", [lines, some_bad, listed, by_id, captions, parquet, saved])
def test_rows_of_any_file_are_counted(tmp_path, capsys, make):
    config = SftConfig(preset="tiny", data=[str(make(tmp_path))], batch_size=2)
    assert (found := steps(tmp_path, config, capsys))["rows"] == 6 and found["steps"] == 3 and found["missing"] == []


def test_a_limit_passes_and_requests_that_share_a_picture(tmp_path, capsys):
    file = str(lines(tmp_path))
    assert steps(tmp_path, SftConfig(preset="tiny", data=[file], limit=4, passes=[2.5]), capsys)["rows"] == 10
    asked = [{"images": [f"{number // 4}.png"], "request": "Buy it", "calls": [{"name": "order", "arguments": {}}]} for number in range(8)]
    requests = str(train_world.write_lines(tmp_path / "requests.jsonl", asked))
    config = FunctionsConfig(preset="tiny", data=[requests], requests_per_row=3, passes=[2.0], replay=[file], replay_limit=5)
    assert steps(tmp_path, config, capsys)["rows"] == 2 * 4 + 5


def test_what_is_not_here_is_told_and_not_fetched(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **more: pytest.fail("fetched"))
    config = SftConfig(preset="tiny", data=["hub:somebody/something:train", str(tmp_path / "none.jsonl"), str(lines(tmp_path))])
    assert steps(tmp_path, config, capsys)["missing"] == config.data[:2]
    assert steps(tmp_path, config, capsys, "--rows", "64")["steps"] == 8


def test_the_model_is_the_one_that_the_stage_starts_from(tmp_path, capfd):
    preset_config("tiny").save_pretrained(tmp_path / "align" / "final")
    (tmp_path / "align" / "final" / "model.safetensors").touch()
    (tmp_path / "sft.yaml").write_text(dump_config(SftConfig(start=str(tmp_path / "align" / "final"))))
    assert main(["plan", "--config", str(tmp_path / "sft.yaml"), "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["parameters"]["total"] == 5_833_216 and "assumed" not in said.err
    assert main(["plan", "--config", str(tmp_path / "sft.yaml"), f"start={tmp_path / 'none'}", "--json"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["parameters"]["total"] > 900_000_000 and "the shape of the preset 968m is assumed" in said.err
    assert main(["plan", "--config", str(tmp_path / "sft.yaml"), "--preset", "small", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["preset"] == "small"
    assert main(["plan", "--preset", "small", "--model", str(tmp_path / "align" / "final"), "--json"]) == 0  # a checkpoint, instead of a preset
    assert json.loads(capfd.readouterr().out)["parameters"]["total"] == 5_833_216


def test_stdout_is_the_plan_alone(tmp_path):
    done = subprocess.run([sys.executable, "-m", "omnivision_cli", "plan", "--preset", "tiny", "--json"], capture_output=True, text=True)
    assert json.loads(done.stdout)["preset"] == "tiny", done.stderr


def test_grounding_is_told_apart(tmp_path, capsys):
    (tmp_path / "align.yaml").write_text(dump_config(AlignConfig(preset="tiny", data=[str(lines(tmp_path))], grounding_steps=800)))
    assert main(["plan", "--config", str(tmp_path / "align.yaml")]) == 0
    assert "before them 800 steps of grounding, whose time and memory are not told here" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--ranks", "0"], ["--rows", "-5"], ["--length", "0"], ["--memory", "nan"], ["--seconds-per-step", "-1"], ["--seconds-per-step", "inf"]])
def test_numbers_that_cannot_be_are_refused(capsys, flags):
    assert main(["plan", "--preset", "tiny", *flags]) == 2
    assert flags[0] in capsys.readouterr().err


def test_data_that_cannot_be_read_and_wrong_settings_end_the_plan(tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text("{\n")
    for config, code in ((SftConfig(preset="tiny", data=[str(tmp_path / "bad.jsonl")]), 3), (SftConfig(preset="tiny", data=[str(lines(tmp_path))], limit=0), 2)):
        (tmp_path / "sft.yaml").write_text(dump_config(config))
        assert main(["plan", "--config", str(tmp_path / "sft.yaml")]) == code
    assert main(["plan", "--preset", "tiny", "--rows", "9", "data=[a.jsonl, ./a.jsonl]", "--config", str(tmp_path / "sft.yaml")]) == 2
    assert "stands twice" in capsys.readouterr().err


def test_a_chains_stages_are_planned_and_shown_with_the_model_that_they_share(tmp_path, capsys):
    file = tmp_path / "chain.yaml"
    file.write_text("out: runs/x\nshared: {batch_size: 4}\nstages:\n- {stage: align, preset: tiny, vision: tiny, language: tiny, data: [a.jsonl]}\n- {stage: sft, data: [b.jsonl]}\n")
    assert main(["config", "show", "--config", str(file), "sft.lr=1e-4", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    sft = shown["stages"]["sft"]["config"]
    assert [*shown["stages"]] == ["align", "sft"] and shown["recipe"] == "chain"
    assert (sft["preset"], sft["language"], sft["start"], sft["lr"], sft["batch_size"]) == ("tiny", "tiny", "runs/x/align/final", 1e-4, 4)
    assert main(["config", "show", "--config", str(file), "--recipe", "sft"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# sft\nout: runs/x\n") and "# align" not in text and "zero_optimization" in text
    assert main(["plan", "--config", str(file), "--stage", "sft", "--rows", "100", "sft.batch_size=10", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["preset"] == "tiny" and planned["steps"]["steps"] == 10 and planned["parameters"]["total"] == 5_833_216
    assert main(["config", "show", "--config", str(file), "--recipe", "dpo"]) == 2
    assert "The chain has no stage `dpo`" in capsys.readouterr().err
    for flags, said in (([], "A chain has several stages"), (["--stage", "dpo"], "The chain has no stage `dpo`")):
        assert main(["plan", "--config", str(file), *flags]) == 2
        assert said in capsys.readouterr().err
