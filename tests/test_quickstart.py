"""The quickstart's bookkeeping: what is done stays done, what belongs to another run is refused, and its table."""

from __future__ import annotations

import json
import time

import pytest
from omnivision_cli import quickstart as quickstart_module
from omnivision_cli import quickstart_table, stage_process
from omnivision_cli.progress import Steps
from omnivision_cli.quickstart import LONG, QUICK, Plan, Quickstart, config_file
from omnivision_cli.quickstart_report import score_rows

from omnivision.errors import ConfigError, ResumableError


def entry(score, **metrics):
    return {"score": score, "stderr": 0.5, "n": 500, "metrics": metrics}


def scored(pope, chart, **more):
    return {"pope": entry(pope), "pope_adversarial": entry(pope - 2, false_yes_rate=100 - pope), "chartqa": entry(chart), **more}


@pytest.fixture()
def done():
    """Records of finished steps as they lie in steps/."""
    return {
        "untrained": {"seconds": 3.0, "result": {"parameters": 5_000_000}},
        "eval untrained": {"seconds": 10.0, "result": {"eval": scored(0.0, 1.234)}},
        "eval sft": {"seconds": 20.0, "result": {"eval": scored(81.256, 33.3), "eval_held_out": {"pope": entry(60.0)}}},
        "pairs": {"seconds": 5.0, "result": {"right": 10, "pairs": 7, "not_minimal": 1}},
        "eval functions": {"seconds": 22.0, "result": {"eval": scored(80.0, 31.0, actions=entry(64.0), open=entry(None))}},
        "export": {"seconds": 4.0, "result": {"bytes": {"a.safetensors": 9_000_000, "b.json": 500_000, "reference/": 7_000_000, "reference.jsonl": 400_000}, "top1_agreement": 99.5,
                                              "questions": 200}},
    }


def test_the_result_by_hand(done):
    result = quickstart_table.result(done)
    assert result["stages"]["sft"] == {"pope": 81.256, "pope_adversarial": 79.256, "pope_adversarial_false_yes": 18.744, "chartqa": 33.3}
    assert result["stages"]["functions"]["actions"] == 64.0 and "open" not in result["stages"]["functions"]
    assert result["held_out_style"] == {"sft": {"pope": 60.0}}
    assert result["parameters"] == 5_000_000 and result["pairs"]["pairs"] == 7
    assert result["seconds"]["eval sft"] == 20.0 and set(result["details"]) == {"untrained", "sft", "functions"}
    json.dumps(result)


def test_nothing_done_is_a_result_too(tmp_path):
    result = quickstart_table.result({})
    assert result["stages"] == {} and result["parameters"] is None
    assert "POPE F1" in quickstart_table.text(result, tmp_path)


def test_the_table_by_hand(done, tmp_path):
    lines = quickstart_table.text(quickstart_table.result(done), tmp_path).splitlines()
    cells = {line[:22].strip(): line[22:].split() for line in lines if line[22:].strip()}
    assert cells["untrained"] == ["0.0", "100.0", "1.2", "-", "-"]
    assert cells["sft"] == ["81.3", "18.7", "33.3", "-", "-"]
    assert cells["functions"] == ["80.0", "20.0", "31.0", "-", "64.0"]
    assert [line.split()[0] for line in lines if line.startswith(("untrained", "sft", "functions"))] == [
        "untrained", "sft", "functions", "sft,"]
    assert any("9.5 MB" in line and "99.5 % of 200 questions" in line for line in lines)
    assert any(line.endswith("1.1 min") for line in lines)


def test_the_report_has_a_row_for_every_judged_stage(done):
    rows = score_rows(quickstart_table.result(done))
    assert [row["stage"] for row in rows] == ["untrained", "sft", "functions"]
    assert rows[1]["seen"]["pope_f1"]["score"] == 81.256 and rows[1]["held_out"]["pope_f1"]["score"] == 60.0


STEPS = ["world", "untrained", "encode", "eval untrained", "align", "eval align", "sft", "eval sft", "pairs", "dpo", "eval dpo",
         "functions", "eval functions", "eval blind", "export"]


@pytest.fixture()
def road(tmp_path, monkeypatch):
    """A quickstart whose steps only say that they ran; returns (folder, what ran)."""
    ran = []

    def says(name):
        def step(self, *arguments, **keywords):
            said = [name, *(a for a in arguments if isinstance(a, str))]
            ran.append(" ".join(said))
            if keywords.get("fails") or ran[-1] == step.fails:
                raise RuntimeError("power cut")
            return {"parameters": 1} if name == "assemble" else {"eval": {}} if name.startswith("evaluate") else {}

        step.fails = None
        return step

    for name in ("build_world", "assemble", "encode", "train", "evaluate", "evaluate_blind", "make_pairs", "export", "report"):
        monkeypatch.setattr(Quickstart, name, says(name))
    return tmp_path / "road", ran


ROAD = ["build_world", "assemble", "encode", "evaluate untrained", "train align", "evaluate align", "train sft", "evaluate sft",
        "make_pairs", "train dpo", "evaluate dpo", "train functions", "evaluate functions", "evaluate_blind", "export", "report"]


def test_the_steps_run_in_order_and_once(road):
    folder, ran = road
    first = Quickstart(folder, QUICK).run()
    assert ran == ROAD and set(first["seconds"]) == set(STEPS)
    ran.clear()
    again = Quickstart(folder, QUICK).run()
    assert ran == ["report"] and again == first


def test_an_interrupted_road_goes_on_at_the_step_that_broke(road):
    folder, ran = road
    Quickstart.train.fails = "train sft"
    with pytest.raises(RuntimeError, match="power cut"):
        Quickstart(folder, QUICK).run()
    assert ran[-1] == "train sft" and not (folder / "steps" / "sft.json").exists()
    ran.clear()
    Quickstart.train.fails = None
    Quickstart(folder, QUICK).run()
    assert ran == ROAD[ROAD.index("train sft"):]


def test_a_skipped_step_is_said(road, capsys):
    folder, _ = road
    Quickstart(folder, QUICK).run()
    capsys.readouterr()
    Quickstart(folder, QUICK).run()
    said = capsys.readouterr().err
    assert all(f"{name}: done before" in said for name in STEPS)


def test_a_folder_of_another_plan_is_refused(road):
    folder, _ = road
    Quickstart(folder, QUICK)
    with pytest.raises(ConfigError, match="quickstart of other sizes.*another --out"):
        Quickstart(folder, LONG)
    Quickstart(folder, Plan())  # the same plan goes on


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(ConfigError, match="holds something else"):
        Quickstart(tmp_path, QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_quickstarts_do_not_share_a_folder(road):
    from omnivision.runs import RunLock

    folder, ran = road
    made = Quickstart(folder, QUICK)
    with RunLock(folder), pytest.raises(ConfigError, match="in use"):
        made.run()
    assert not ran


def test_the_bar_passes_every_step():
    with Steps([("a", 1.0), ("b", 3.0)]) as screen:
        screen.skip("a")
        with screen.running("b") as tick:
            tick(0.5)
            assert screen.bar.tasks[0].completed == 2.5
            tick(7.0)
            assert screen.bar.tasks[0].completed == 4.0
    assert screen.passed == 4.0


def talking(words, log):
    """In place of a stage's work: half of the lines come late, one of them on stderr."""
    with open(log, "a", buffering=1) as file:
        file.write("align 5/20  loss 1.0\nnoise align 6/20 \n")
        time.sleep(0.4)
        file.write(f"align 20/20  loss 0.5\n{words}\n")


def test_a_stage_moves_the_bar_and_leaves_a_log(tmp_path, monkeypatch):
    ticks = []
    monkeypatch.setattr(stage_process, "_work", talking)
    stage_process.run_logged(["train", "align"], tmp_path / "align.log", "align", ticks.append)
    assert ticks == [0.25, 1.0] and (tmp_path / "align.log").read_text().splitlines()[-1] == "['train', 'align']"


def test_a_stage_that_fails_ends_with_its_last_lines(tmp_path):
    words = ["train", "sft", "--config", str(tmp_path / "none.yaml")]
    with pytest.raises(ResumableError, match=r"stage `sft` ended with code 2: .*cannot be read.*none.yaml.*sft.log") as failed:
        stage_process.run_logged(words, tmp_path / "sft.log", "sft", print)
    assert failed.value.exit_code == 6


def test_every_stage_has_a_shipped_config():
    assert all(config_file(stage).is_file() for stage in ("align", "sft", "dpo", "functions"))


def test_the_command_refuses_before_it_works(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="something else"):
        quickstart_module.main(["--out", str(tmp_path)])


SMALL = Plan(world={"align": 48, "sft": 64, "dpo": 20, "functions": 40, "eval_scenes": 8, "eval_charts": 8, "eval_actions": 12,
                    "held_out_scenes": 4, "held_out_actions": 6},
             overrides={stage: ["save_steps=3", "log_steps=1", "max_steps=4"] for stage in ("align", "sft", "dpo", "functions")})


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_road_at_a_small_size(tmp_path):
    out = tmp_path / "road"
    result = Quickstart(out, SMALL).run()
    assert set(result["stages"]) == {"untrained", "align", "sft", "dpo", "functions", "blind"}
    assert all("pope" in scores and "chartqa" in scores for scores in result["stages"].values())
    assert "actions" in result["stages"]["functions"] and set(result["held_out_style"]) == {"sft", "dpo", "functions"}
    assert result["export"]["questions"] > 0 and (out / "export").is_dir()
    assert json.loads((out / "quickstart.json").read_text())["parameters"] == result["parameters"]
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and page.count("data:image") >= 3
    begun = {path: path.stat().st_mtime_ns for path in (out / "steps").iterdir() if path.name != "report.json"}
    Quickstart(out, SMALL).run()
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
