"""One checkpoint for each format: the same requests in the same order, as many steps, from the same start, by the same stage."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from omnivision.errors import ResumableError
from omnivision.runs import HAND_OVER, write_json, write_text

from . import descriptions
from .arms import BM25, LSA, open_retrievers
from .material import Material

FORMATS = ("tokens", "listed", "retrieved")
LISTED = (5, 10)  # descriptions in a training prompt of `listed`, the right one among them; all of them would be too many tokens
SETTINGS = {"batch_size": 8, "lr": 2e-3, "optimizer": "muon", "zero_stage": 0, "max_length": 1024, "save_steps": 200,
            "log_steps": 1}  # so that the last line tells how long all of them took
Run = Callable[[list[str], Path], None]  # words of `omnivision`, and the file for what it says


def train(folder: Path, start: str, material: Material, kind: str, k: int, seed: int, overrides: Sequence[str], run: Run) -> Path:
    """Trains a format's checkpoint below <folder>/<kind>, unless it is there; returns its final/.

    Rows that describe functions are conversations, which the stage `functions` takes as they are; its table is then empty.

    Args:
        overrides: key=value words for the stage. run: does the command.
    """
    out = folder / kind
    final = out / "functions" / "final"
    if (final / HAND_OVER).is_file():
        return final
    out.mkdir(parents=True, exist_ok=True)
    rows = material.train if kind == "tokens" else described_rows(material, kind, k, seed)
    write_text(out / "rows.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    tools = [one.to_tool() for one in material.functions.functions] if kind == "tokens" else []
    write_json(out / "table.json", tools)
    # Rows of like length together would be another order for each format.
    settings = {**SETTINGS, "out": str(out), "start": start, "functions": str(out / "table.json"), "data": [str(out / "rows.jsonl")],
                "feature_cache": str(out / "features"), "group_by_length": False, "seed": seed}
    write_text(out / "stage.yaml", yaml.safe_dump(settings, sort_keys=False))
    run(["train", "functions", "--config", str(out / "stage.yaml"), *overrides], out / "train.log")
    return final


def facts(final: Path) -> dict:
    """Steps, seconds and loss of the stage that wrote this final/."""
    last = json.loads((final.parent / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    return {key: last.get(key) for key in ("step", "seconds", "loss")}


def described_rows(material: Material, kind: str, k: int, seed: int) -> list[dict]:
    """The training rows as conversations: the described functions, the request, the call as JSON.

    `listed` describes 5 to 10 functions drawn at random, `retrieved` the k that BM25 and LSA, in turn, find
    most likely; the right one is always among them.
    """
    rng, lines = random.Random(f"{seed} {kind}"), descriptions.lines(material.functions)
    retrievers = open_retrievers([BM25, LSA], material) if kind == "retrieved" else {}
    rows = []
    for number, row in enumerate(material.train):
        call = row["calls"][0]
        if kind == "retrieved":
            names = retrievers[(BM25, LSA)[number % 2]].top(row["request"], k)
        else:
            names = rng.sample(material.names, min(rng.randint(*LISTED), len(material.names)))
        if call["name"] not in names:
            names[rng.randrange(len(names))] = call["name"]
        turns = descriptions.turns(row["request"], [lines[name] for name in names])
        rows.append({"id": row["id"], "images": [], "turns": [*turns, {"role": "assistant", "text": descriptions.spelled(call), "loss": True}]})
    return rows


def command(words: list[str], log: Path) -> None:
    """Runs `omnivision WORDS` in a process of its own.

    Raises:
        ResumableError: it failed; the message ends with the log's last lines.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    with log.open("w", encoding="utf-8") as said:
        code = subprocess.run([sys.executable, "-m", "omnivision_cli", *words], stdout=said, stderr=said, env=environment, check=False).returncode
    if code:
        tail = " ".join(log.read_text("utf-8").strip().splitlines()[-3:])
        raise ResumableError(f"`omnivision {' '.join(words)}` ended with code {code}: {tail}", str(log), "Fix the cause and start again.")
