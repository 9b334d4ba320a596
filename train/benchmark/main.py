"""The comparison: stages beside stock TRL on equal work, or each lever of ours switched off alone."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import yaml

from omnivision_train.benchmark.arm import CONFIGS, DEFAULTS, LLAVA, OURS, SMOLVLM, STOCK, Arm
from omnivision_train.benchmark.material import GATE, prepare
from omnivision_train.benchmark.measure import WARM_STEPS, gate, timed
from omnivision_train.benchmark.report import rows, table

PRODUCTS = "TFLOP/s of bf16 products"
PEERS = {"trl": STOCK, "smolvlm": SMOLVLM, "defaults": DEFAULTS, "llava": LLAVA}
SUPERVISED = {"no feature cache": {"feature_cache": None}, "rows of any length": {"group_by_length": False}, "fp32": {"precision": "fp32"}}
LEVERS = {  # of ours, each in the position where it does nothing
    "align": SUPERVISED, "sft": SUPERVISED,
    "dpo": {"no feature cache": {"feature_cache": None}, "the prompt shared": {"share": "prompt"}, "nothing shared": {"share": "none"},
            "all logits": {"needed_logits_only": False}, "a second model": {"precompute_reference": False}, "fp32": {"precision": "fp32"}},
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="scripts/benchmark_training.py", description=__doc__)
    made.add_argument("--preset", default="tiny", help="968m, small or tiny (default)")
    made.add_argument("--out", default="runs/benchmark", metavar="DIR", help="what an earlier comparison of the same shape made there is used again")
    made.add_argument("--stages", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    made.add_argument("--levers", action="store_true", help="ours beside ours without each lever, in place of stock TRL")
    made.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="trl: its trainers on our model; smolvlm: on transformers' class of that shape; defaults: the same, with gradient checkpointing "
                      "and SDPA as it comes; llava: on a model of 729 image tokens, in sft")
    made.add_argument("--change", nargs="*", default=[], metavar="KEY=VALUE", help="settings of ours, such as feature_cache=null")
    made.add_argument("--also", nargs="*", default=[], metavar="KEY=VALUE", help="for each an arm more: ours with this setting, such as compile=true")
    made.add_argument("--batch-size", type=int, nargs="+", default=[8], metavar="N", help="samples a step (default 8)")
    made.add_argument("--rows", type=int, nargs="+", default=[160], metavar="N", help="and pairs of an epoch (default 160)")
    made.add_argument("--photos", type=int, metavar="N", help="that rows are about (default: one each, of the stage that has most)")
    made.add_argument("--words", type=int, nargs="+", default=[60], metavar="N", help="of an answer on average (default 60); this and the two above: one number, or one for each stage")
    made.add_argument("--epochs", type=int, default=3, metavar="N", help="of the whole job whose time is told (default 3)")
    made.add_argument("--rounds", type=int, default=7, metavar="N", help="default 7, after two that warm up")
    made.add_argument("--steps", type=int, default=4, metavar="N", help="of a turn, after one that warms up (default 4)")
    made.add_argument("--workers", type=int, default=0, metavar="N", help="loader's processes of every arm (default 0)")
    made.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of all arms (default auto)")
    made.add_argument("--no-gate", action="store_true", help="without asking first whether ours and TRL's train the same")
    made.add_argument("--together", action="store_true", help="arms prepare at the same time: quicker, but the whole job is then no measure")
    return made


def main(argv: list[str] | None = None) -> int:
    """Prints a table for each stage, and writes arms-N/benchmark.json beside the arms' logs."""
    options = parser().parse_args(argv)
    out = Path(options.out)
    of_stages = each_stage(options)
    rows_folders = [prepare(out, one) for one in of_stages]
    folder = out / f"arms-{len(list(out.glob('arms-*')))}"
    folder.mkdir()
    found = {"options": vars(options), "device": device(), "rates": rates(), "stages": {}}
    print(f"{options.preset}; {found['device']}" + "".join(f"; {name} {value:,.1f}" for name, value in found["rates"].items()), flush=True)
    for stage, one, rows_folder in zip(options.stages, of_stages, rows_folders, strict=True):
        arms = compared(out, rows_folder, folder, stage, one)
        stock = replace(arms[0], name=STOCK, trainer=STOCK, folder=str(folder / f"{stage}-stock"), changes=None)
        check = partial(gate, fp32(arms[0]), fp32(stock)) if options.peers and not (options.levers or options.no_gate) else lambda: None
        measured = timed(arms, options.rounds, options.steps, options.together, check)
        found["stages"][stage] = measured
        (folder / "benchmark.json").write_text(json.dumps(found, indent=1))
        print(stage_report(stage, [arm for arm in arms if arm.name not in measured["left_out"]], measured, one, found["rates"].get(PRODUCTS)), flush=True)
        for name, why in measured["left_out"].items():
            print(f"\nLeft out, for it could not run: {name}. {why}", flush=True)
    return 0


def each_stage(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of each stage, with one number in the place of several; all stages have the same photos."""
    numbers, photos = {}, options.photos or max(options.rows)
    for key in ("batch_size", "rows", "words"):
        given = getattr(options, key)
        if len(given) not in (1, len(options.stages)):
            raise SystemExit(f"--{key.replace('_', '-')}: give one number, or one for each of {', '.join(options.stages)}")
        numbers[key] = given * len(options.stages) if len(given) == 1 else given
    return [argparse.Namespace(**{**vars(options), "photos": photos, **dict(zip(numbers, column, strict=True))}) for column in zip(*numbers.values(), strict=True)]


def compared(material: Path, rows_folder: Path, folder: Path, stage: str, options: argparse.Namespace) -> list[Arm]:
    """The arms of a stage, ours first; each gets a folder of its own in `folder`."""
    changes = settings(options.change)
    ours = Arm(OURS, OURS, stage, str(folder / f"{stage}-ours"), str(material), str(rows_folder), options.preset, options.batch_size, options.precision,
               options.steps + WARM_STEPS, options.workers, changes)
    levers = LEVERS[stage] if options.levers else {word: settings([word]) for word in options.also}
    others = [replace(ours, name=f"ours, {name}", folder=f"{ours.folder}-{number}", changes={**changes, **change}, optional=bool(options.also))
              for number, (name, change) in enumerate(levers.items())]
    peers = [PEERS[name] for name in options.peers if not options.levers and (name != "llava" or stage == "sft")]
    stock = [replace(ours, name=name, trainer=name, folder=str(folder / f"{stage}-stock{number}"), changes=None) for number, name in enumerate(peers)]
    return [ours, *others, *stock]


def settings(words: list[str]) -> dict:
    """KEY=VALUE words as settings."""
    return {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in words)}


def fp32(arm: Arm) -> Arm:
    """An arm for the gate: exact, the first rows in the same order, a log line a step."""
    exact = {**(arm.changes or {}), "feature_cache": None, "group_by_length": False, "precision": "fp32"} if arm.trainer == OURS else None
    return replace(arm, precision="fp32", batch_size=min(4, arm.batch_size), changes=exact, log_steps=1, rows=f"{arm.rows}/{GATE}", folder=f"{arm.folder}-gate")


def stage_report(stage: str, arms: list[Arm], measured: dict, options: argparse.Namespace, products: float | None = None) -> str:
    """A table, and what it rests on.

    Args:
        products: TFLOP/s that the device reached in one.
    """
    counted = options.steps / (options.steps + WARM_STEPS)
    lines, quiet = rows(measured, options.epochs * options.rows, [2 * options.steps * arm.config().batch_size for arm in arms], counted)
    told = f"{quiet} of {len(measured['rounds'])} rounds were quiet" + ("" if quiet else "; none, so all count and nothing is shown")
    changed = f" ({', '.join(options.change)})" if options.change else ""
    waiting = statistics.median(one.get("waiting", 0.0) for one in measured["rounds"])
    ahead = (f" Loaders read on while an arm waits for its turn ({waiting:.1f} cores): reading pictures costs it less than in a run, and the one at work more."
             if options.workers else "")
    job = "" if options.together else f"The whole job is {options.epochs} epochs of {options.rows} rows with all preparation but compiling. "
    work = f"{options.batch_size} samples a step, answers of {options.words} words on average"
    return "\n".join(["", f"{stage}{changed}, {work}:", "", *table([arm.name for arm in arms], lines, whole=not options.together, products=products), "", f"{job}{told}.{ahead}"])


def device() -> str:
    """The GPU's name, or how many threads torch has."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def rates() -> dict[str, float]:
    """What a GPU reaches here: TFLOP/s of an 8192³ bf16 product of random matrices, and TB/s of a copy, reads and writes counted; nothing on a CPU."""
    if not torch.cuda.is_available():
        return {}
    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    data = torch.randn(2**30, device="cuda")
    seconds = {PRODUCTS: _seconds(lambda: one @ other), "TB/s of copies": _seconds(data.clone)}
    work = {PRODUCTS: 2 * 8192**3 / 1e12, "TB/s of copies": 2 * data.nbytes / 1e12}
    del one, other, data
    torch.cuda.empty_cache()  # the arms' now
    return {name: work[name] / seconds[name] for name in seconds}


def _seconds(function, repeats: int = 10) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        function()
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / repeats


if __name__ == "__main__":
    sys.exit(main())
