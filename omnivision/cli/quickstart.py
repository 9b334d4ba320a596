"""`omnivision quickstart`: the whole road on the embedded world, on a CPU, step by step and resumable."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omnivision import __version__
from omnivision.errors import ConfigError
from omnivision_cli import quickstart_table, stage_process
from omnivision_cli.progress import Steps

EXAMPLE = "example: omnivision quickstart --out runs/quickstart"
HAND_OVER = "omnivision.json"  # in a finished stage's final/, written last
SEEN, HELD_OUT = "eval", "eval_held_out"
REFERENCE_LIMIT = 240  # questions a task for rows that only show where the others start
QUESTIONS = ("pope", "chartqa", "open")


@dataclass(frozen=True)
class Plan:
    """Sizes of a run; `overrides` go to the stages' commands."""

    world: str | dict[str, int] = "quick"  # a preset of the world, or pictures by split
    seed: int = 33  # development looked at 3, earlier reports at 20 to 32
    overrides: dict[str, list[str]] = field(default_factory=dict)


QUICK = Plan()
LONG = Plan(world="long", overrides={"align": ["epochs=1", "grounding_steps=4000"], "sft": ["epochs=2"], "dpo": ["limit=1500"], "functions": ["epochs=2", "replay_limit=4000"]})


def main(argv: list[str]) -> int:
    """Runs the road, or goes on where it was interrupted."""
    parser = argparse.ArgumentParser(prog="omnivision quickstart", epilog=EXAMPLE,
                                     description="The whole road on the embedded world: data, stages, scores, export, report.")
    parser.add_argument("--out", metavar="DIR", help="folder of the run (default: runs/quickstart, or runs/quickstart-long)")
    parser.add_argument("--long", action="store_true", help="about an hour on two cores instead of minutes")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    out = Path(options.out or ("runs/quickstart-long" if options.long else "runs/quickstart"))
    with contextlib.redirect_stdout(sys.stderr):  # libraries' logs: stdout is for the result
        result = Quickstart(out, LONG if options.long else QUICK).run()
    print(json.dumps(result) if options.json else quickstart_table.text(result, out))
    return 0


class Quickstart:
    """The steps of the road in one folder; a finished step leaves steps/<name>.json and is not run again."""

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan, self.world = out, plan, out / "world"
        self.cache = out / "features"
        self.done: dict[str, dict] = {}
        self._claim()

    def run(self) -> dict:
        """All steps in order; returns the content of quickstart.json."""
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tiny configurations are for a CPU: fp32 weights, Muon
        from omnivision.runs import RunLock

        steps: list[tuple[str, float, Callable]] = [
            ("world", 50, self.build_world), ("untrained", 5, self.assemble), ("encode", 70, self.encode),
            ("eval untrained", 20, lambda tick: self.evaluate("untrained", tick)),
            ("align", 40, lambda tick: self.train("align", tick)),
            ("eval align", 20, lambda tick: self.evaluate("align", tick)),
            ("sft", 140, lambda tick: self.train("sft", tick)),
            ("eval sft", 25, lambda tick: self.evaluate("sft", tick)),
            ("pairs", 25, self.make_pairs), ("dpo", 40, lambda tick: self.train("dpo", tick)),
            ("eval dpo", 25, lambda tick: self.evaluate("dpo", tick)),
            ("functions", 70, lambda tick: self.train("functions", tick)),
            ("eval functions", 30, lambda tick: self.evaluate("functions", tick)),
            ("eval blind", 25, self.evaluate_blind), ("export", 20, self.export),
        ]
        stage_process.prepare()
        with RunLock(self.out), Steps([(name, weight) for name, weight, _ in steps]) as screen:
            for name, _, step in steps:
                self._step(name, step, screen)
            result = self._result()
            self._step("report", lambda tick: self.report(result), screen, always=True)
        return result

    def build_world(self, tick) -> dict:
        """The embedded world: pictures, rows, evaluation sets."""
        from omnivision.world.build import PRESETS, build_world

        sizes = PRESETS[self.plan.world] if isinstance(self.plan.world, str) else self.plan.world
        build_world(self.world, seed=self.plan.seed, sizes=sizes, workers=min(2, os.cpu_count() or 1), progress=False)
        return {"pictures": sum(sizes.values())}

    def assemble(self, tick) -> dict:
        """The stand-ins with an untrained projector between them."""
        import torch

        from omnivision.model.build import build_model

        torch.manual_seed(self.plan.seed)
        model, processor = build_model("tiny", vision="tiny", language="tiny")
        model.save_pretrained(self.out / "untrained" / "final")
        processor.save_pretrained(self.out / "untrained" / "final")
        return {"parameters": sum(p.numel() for p in model.parameters())}

    def encode(self, tick) -> dict:
        """Every picture once through the frozen tower."""
        paths = sorted((self.world / "images").rglob("*.png"))
        seen = 0

        def progress(count: int) -> None:
            nonlocal seen
            seen += count
            tick(seen / len(paths))

        return {"encoded": self._features(*self._load("untrained")).fill(paths, progress=progress)}

    def train(self, stage: str, tick) -> dict:
        """One stage by its own command, in a process of its own."""
        if (self.out / stage / "final" / HAND_OVER).is_file():
            return {"command": "finished before the interruption"}
        before = {"align": None, "sft": "align", "dpo": "sft", "functions": "dpo"}[stage]
        data = self.out / "pairs.jsonl" if stage == "dpo" else self.world / f"{stage}.jsonl"
        keys = {"out": self.out, "data": [data], "image_root": self.world, "feature_cache": self.cache}
        if stage == "align":  # pictures of later stages' training splits are there already: their regions cost no encoding
            keys["grounding_data"] = [self.world / f"{name}.jsonl" for name in ("align", "sft", "functions")]
        if before:
            keys["start"] = self.out / before / "final"
        if stage == "functions":
            keys |= {"functions": self.world / "functions.json", "replay": [self.world / "sft.jsonl"]}
        words = [f"{key}={json.dumps(value, default=str)}" for key, value in keys.items()]  # quoted: a path may hold what YAML reads
        config = config_file(stage)
        command = ["train", stage, "--config", str(config), *words, *self.plan.overrides.get(stage, [])]
        stage_process.run_logged(command, self.out / f"{stage}.log", stage, tick)
        return {"command": " ".join(["omnivision", *command])}

    def make_pairs(self, tick) -> dict:
        """The model's own wrong answers, corrected word by word by the oracle."""
        from omnivision.pairs.main import parser, run

        return run(parser().parse_args([
            "--model", str(self.out / "sft" / "final"), "--data", str(self.world / "dpo.jsonl"), "--image-root", str(self.world),
            "--out", str(self.out / "pairs.jsonl"), "--feature-cache", str(self.cache),
        ]))

    def evaluate(self, stage: str, tick, blind: bool = False) -> dict:
        """Scores on unseen scenes, in the seen styles and in the held-out one."""
        tasks = QUESTIONS + (("actions",) if stage == "functions" else ())
        trained = stage not in ("untrained", "align") and not blind
        found = {SEEN: self._scores(stage, tasks, SEEN, blind, None if trained else REFERENCE_LIMIT)}
        if trained:
            found[HELD_OUT] = self._scores(stage, tuple(t for t in tasks if t != "chartqa"), HELD_OUT, blind)
        return found

    def evaluate_blind(self, tick) -> dict:
        """The last model with every picture greyed out: what language alone can guess."""
        return self.evaluate("functions", tick, blind=True)

    def export(self, tick) -> dict:
        """FP16 files, reloaded in a new process and compared on 200 questions."""
        import shutil

        from omnivision.export.fp16 import export_fp16

        target = self.out / "export"
        shutil.rmtree(target, ignore_errors=True)  # of an interrupted run: an export is whole or not there
        return export_fp16(self.out / "functions" / "final", target, self.world / "eval" / "pope_popular.jsonl", self.world, 200)

    def report(self, result: dict) -> dict:
        """quickstart.json and report.html."""
        from omnivision.runs import write_json
        from omnivision_cli.quickstart_report import write_report

        write_json(self.out / "quickstart.json", result)
        return {"file": str(write_report(self.out, result))}

    def _scores(self, stage: str, tasks: tuple[str, ...], split: str, blind: bool, limit: int | None = None) -> dict:
        from omnivision_eval.ours import Ours
        from omnivision_eval.run import Settings, evaluate

        model, processor = self._load(stage)
        functions = self._functions(stage)
        cache = None if blind else self._features(model, processor)
        found = evaluate(Ours(model, processor, functions, blind, cache), self.world, list(tasks), self.out / stage / "eval",
                         Settings(limit, 64, split))
        return {task: {key: result.get(key) for key in ("score", "stderr", "n", "metrics")} for task, result in found.items()}

    def _features(self, model, processor):
        """The cache in the arithmetic in which the stages, too, fill it."""
        from omnivision.data.features import FeatureCache
        from omnivision.hardware import fast_precision

        return FeatureCache(self.cache, model, processor, fast_precision())

    def _functions(self, stage: str):
        from omnivision.functions import FunctionSet

        return FunctionSet.load(self.out / stage / "final") if stage == "functions" else None

    def _load(self, stage: str):
        from omnivision.model.checkpoints import load_checkpoint

        return load_checkpoint(self.out / stage / "final")

    def _step(self, name: str, step: Callable, screen: Steps, always: bool = False) -> None:
        from omnivision.runs import write_json

        marker = self.out / "steps" / f"{name.replace(' ', '_')}.json"
        if marker.is_file() and not always:
            self.done[name] = json.loads(marker.read_text())
            screen.skip(name)
            return
        with screen.running(name) as tick:
            started = time.time()
            result = step(tick)
            self.done[name] = {"seconds": round(time.time() - started, 1), "result": result}
        marker.parent.mkdir(parents=True, exist_ok=True)
        write_json(marker, self.done[name])

    def _claim(self) -> None:
        """Writes the plan, or checks that the folder was begun with the same one."""
        from omnivision.runs import write_json

        path, plan = self.out / "plan.json", {**asdict(self.plan), "version": __version__}
        if path.is_file() and json.loads(path.read_text()) != plan:
            raise ConfigError("The folder holds a quickstart of other sizes, or of another version", str(self.out), "Give another --out, or remove the folder.")
        if not path.is_file():
            if self.out.is_dir() and any(self.out.iterdir()):
                raise ConfigError("The folder exists and holds something else", str(self.out), "Give another --out.")
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(path, plan)

    def _result(self) -> dict:
        return quickstart_table.result(self.done)


def config_file(stage: str) -> Path:
    """The shipped tiny config of a stage."""
    import importlib.util

    spec = importlib.util.find_spec("omnivision_train")
    return Path(spec.submodule_search_locations[0]) / "configs" / "tiny" / f"{stage}.yaml"
