"""How fast dpo is beside TRL's DPOTrainer, on equal weights and pairs.

    python -m omnivision_train.pair_speed --preset tiny --out runs/pair-speed

First both make three steps in fp32, and their losses and gradient norms have to agree. Then they take turns (A B B A a round),
each in a process of its own. The pairs are long answers with one word replaced; parts have the preset's shape and random weights.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from omnivision_train.pair_speed_arm import Arm

TRUSTED = 0.15  # cores that others may use in a round that counts
AGREE, LATER = 1e-5, 1e-3  # relative, of the first step, and of the two after it: AdamW divides by small gradients


def main(argv: list[str] | None = None) -> int:
    """Prints the comparison and writes pair_speed.json."""
    parser = argparse.ArgumentParser(prog="python -m omnivision_train.pair_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", help="968m, small or tiny (default)")
    parser.add_argument("--out", default="runs/pair-speed", metavar="DIR", help="folder that does not exist")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="pairs a step (default 8)")
    parser.add_argument("--pairs", type=int, default=160, metavar="N", help="in an epoch (default 160)")
    parser.add_argument("--words", type=int, default=40, metavar="N", help="of an answer (default 40)")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="of the whole job whose time is told (default 3)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default 7, after two that warm up")
    parser.add_argument("--steps", type=int, default=4, metavar="N", help="of a turn (default 4)")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16"], help="of both (default auto)")
    parser.add_argument("--without", nargs="*", default=[], metavar="KEY=VALUE", help="a lever of ours in another position, such as share=none")
    options = parser.parse_args(argv)
    out = Path(options.out)
    prepare_pairs(out, options)
    changes = {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in options.without)}
    agreed = gate([arm(out, options, name, "fp32", {**changes, "feature_cache": None} if name == "ours" else {}) for name in ("stock", "ours")])
    found = {"agreed": agreed, **timed([arm(out, options, name, options.precision, changes) for name in ("stock", "ours")], options)}
    (out / "pair_speed.json").write_text(json.dumps({"options": vars(options), **found}, indent=1))
    print(report(found, options))
    return 0


def prepare_pairs(out: Path, options: argparse.Namespace) -> None:
    """A start of the preset's shape with random weights, and minimal-edit pairs on the world's pictures."""
    from omnivision.model.build import build_model
    from omnivision.runs import read_json_lines, write_hand_over
    from omnivision_train.speed import prepare

    prepare(out, argparse.Namespace(preset=options.preset, steps=1, batch_size=options.pairs))
    model, processor = build_model(options.preset, vision=str(out / "vision"), language=str(out / "language"))
    for part in (model, processor):
        part.save_pretrained(out / "start")
    write_hand_over(out / "start", "sft", None)
    rows = read_json_lines(out / "world" / "align.jsonl")
    rng = random.Random(0)
    words = [word for row in rows for word in row["turns"][1]["text"].split()]
    with (out / "minimal.jsonl").open("w") as file:
        for number in range(options.pairs):
            answer = rng.choices(words, k=options.words)
            edited = list(answer)
            place = rng.randrange(len(answer))
            edited[place] = rng.choice([word for word in words if word != answer[place]])
            file.write(json.dumps({"id": str(number), "images": rows[number % len(rows)]["images"], "prompt": "Describe the image.",
                                   "chosen": " ".join(answer), "rejected": " ".join(edited)}) + "\n")


def arm(out: Path, options: argparse.Namespace, name: str, precision: str, changes: dict) -> Arm:
    """An arm with a folder of its own, so that nothing is cached before."""
    folder = out / f"{name}-{len(list(out.glob(f'{name}-*')))}"
    folder.mkdir()
    return Arm(name, str(folder), str(out / "start"), str(out / "minimal.jsonl"), str(out / "world"), options.batch_size, precision, changes)


class Process:
    """A running arm."""

    def __init__(self, arm: Arm) -> None:
        began = time.perf_counter()
        with (Path(arm.folder) / "log").open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "omnivision_train.pair_speed_arm", json.dumps(asdict(arm))], text=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.log = Path(arm.folder) / "log"
        self.answer()
        self.preparation = time.perf_counter() - began

    def answer(self) -> dict:
        """Its next line."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"An arm has ended before its time; {self.log} says why: {self.log.read_text()[-500:]}")
        return json.loads(line)

    def steps(self, number: int) -> dict:
        """So many steps."""
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> dict:
        """Its peak memory."""
        self.process.stdin.close()
        said = self.answer()
        self.process.wait()
        return said


def gate(arms: list[Arm]) -> dict[str, list[dict]]:
    """Three steps of both.

    Raises:
        SystemExit: they do not agree; nothing is timed then.
    """
    logged = {}
    for one in arms:
        process = Process(one)
        logged[one.name] = process.steps(3)["logged"]
        process.end()
    for number, (stock, ours) in enumerate(zip(*logged.values(), strict=True)):
        for key, value in stock.items():
            if abs(value - ours[key]) > (LATER if number else AGREE) * max(abs(value), 1.0):
                raise SystemExit(f"The arms do not train the same: step {number + 1}, {key} {value} and {ours[key]}")
    return logged


def timed(arms: list[Arm], options: argparse.Namespace) -> dict:
    """Seconds of every round, preparation and memory of both arms."""
    processes = [Process(one) for one in arms]  # one after the other: each prepares alone
    rounds = []
    for _ in range(options.rounds + 2):
        others, began, seconds, cpu = -_busy_seconds(), time.perf_counter(), [0.0, 0.0], [0.0, 0.0]
        for turn in (0, 1, 1, 0):
            said = processes[turn].steps(options.steps)
            seconds[turn] += said["seconds"]
            cpu[turn] += said["cpu"]
        others = (others + _busy_seconds() - sum(cpu)) / (time.perf_counter() - began)
        rounds.append({"seconds": seconds, "cpu": cpu, "others": others})
    return {"rounds": rounds[2:], "preparation": [one.preparation for one in processes], "peak_gib": [one.end()["peak_gib"] for one in processes]}


def _busy_seconds() -> float:
    """What all processes of the machine have computed since it started; NaN where that is not told: no round is quiet then."""
    try:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    except (OSError, ValueError):
        return math.nan
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def interval(values: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """Median, and the bootstrap's 95 % around it."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return statistics.median(values), medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def report(found: dict, options: argparse.Namespace) -> str:
    """Markdown."""
    quiet = [one for one in found["rounds"] if one["others"] <= TRUSTED]
    rounds = quiet or found["rounds"]
    pairs = 2 * options.steps * options.batch_size  # an arm has two turns a round
    speeds = [pairs / statistics.median(one["seconds"][at] for one in rounds) for at in (0, 1)]
    steady, low, high = interval([one["seconds"][0] / one["seconds"][1] for one in rounds])
    cpu = statistics.median(one["cpu"][0] / one["cpu"][1] for one in rounds)
    whole = [made + options.epochs * options.pairs / speed for made, speed in zip(found["preparation"], speeds, strict=True)]
    without = f"; ours with {', '.join(options.without)}" if options.without else ""
    lines = [f"{options.preset}, {options.batch_size} pairs a step, answers of {options.words} words{without}:", "", "| | pairs/s | preparation (s) | peak memory (GiB) |", "|---|---|---|---|"]
    lines += [f"| {name} | {speed:.2f} | {made:.1f} | {peak:.2f} |" for name, speed, made, peak in
              zip(("stock TRL", "ours"), speeds, found["preparation"], found["peak_gib"], strict=True)]
    told = f"{len(quiet)} of {len(found['rounds'])} rounds were quiet" + ("" if quiet else "; none, so all count and nothing is shown")
    return "\n".join([*lines, "", f"Steady: {steady:.2f} times as fast ({low:.2f} to {high:.2f}; by CPU time {cpu:.2f}). {options.epochs} epochs of "
                                  f"{options.pairs} pairs with all preparation: {whole[0] / whole[1]:.2f} times. {told}."])


if __name__ == "__main__":
    sys.exit(main())
