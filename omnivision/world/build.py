"""`omnivision data world`: writes the embedded world's folder (pictures, truth, training rows, evaluation splits)."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import psutil

from ..data.flags import within
from ..errors import ConfigError
from .action_words import function_tools
from .pope import pope_rows
from .recipes import Task, draw, fingerprint, make_recipe, truth_row
from .tables import tables
from .truth import Region, Scene

VERSION = 6  # of the recipes: a folder of another version is not reused
GROUNDED = {"align", "sft", "functions"}  # rows that say where things lie; the first about a picture carries it
TRAIN_SPLITS = ("align", "sft", "dpo", "functions")
# Pictures. Six POPE questions and five open ones a scene, five questions a chart, one or two requests an action scene.
EVAL_SIZES = {
    "eval_scenes": 110, "eval_charts": 110, "eval_actions": 280,
    "held_out_scenes": 60, "held_out_actions": 130,
}
PRESETS = {
    "quick": {"align": 1000, "sft": 1700, "dpo": 300, "functions": 700, **EVAL_SIZES},
    "long": {"align": 6000, "sft": 8500, "dpo": 1250, "functions": 4000, **EVAL_SIZES},
}
CHUNK = 16  # pictures a worker makes between two reports


def build_world(
    out: str | Path,
    seed: int = 0,
    sizes: dict[str, int] | None = None,
    size: int = 216,
    workers: int = 2,
    progress: bool = True,
) -> dict:
    """Write the world's folder, or return at once where it is already there.

    Args:
        out: folder to write, or a link to an empty one; it appears complete or not at all.
        seed: decides every picture and row, for any number of workers.
        sizes: pictures by split, keys as in PRESETS["quick"], which is the default.
        size: side of the pictures in pixels.
        workers: processes.
        progress: draw a bar on stderr.

    Returns:
        The content of world.json.

    Raises:
        ConfigError: unknown split, no picture at all, or `out` holds something else (nothing is overwritten), is a link to
            nothing or a mount point.
    """
    out, sizes = _resolved(Path(out).absolute()), _checked(sizes or PRESETS["quick"])
    settings = {"version": VERSION, "seed": seed, "size": size, "sizes": sizes}
    known = _existing(out, settings)
    if known:
        return known
    if out.is_mount():
        raise ConfigError("The folder is a mount point, which the finished world cannot take the place of", str(out), f"Give a folder in it: {out / 'world'}.")
    _clear_leftovers(out)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        manifest = {**settings, **_write(part, seed, sizes, size, workers, progress)}
        _dump(part / "world.json", manifest)
        if out.is_dir():
            out.rmdir()  # only an empty folder gets this far
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return manifest


def _resolved(out: Path) -> Path:
    """Where the folder really lies: a link cannot be replaced by it."""
    for path in (out, *out.parents):
        if path.is_symlink() and not path.exists():
            raise ConfigError(f"The link leads to {os.readlink(path)}, where nothing is", str(path), "Make that folder, or give another --out.")
    return out.resolve()


def _clear_leftovers(out: Path) -> None:
    """Remove the unfinished folders of builders that were killed; a living builder's folder stays."""
    for part in out.parent.glob(f".{out.name}.*.part"):
        number = part.name.split(".")[-2]
        if not number.isdigit() or int(number) == os.getpid() or not psutil.pid_exists(int(number)):
            shutil.rmtree(part, ignore_errors=True)


def _checked(sizes: dict[str, int]) -> dict[str, int]:
    for name, count in sizes.items():
        if name not in PRESETS["quick"] or count < 0:
            raise ConfigError(f"{name}={count} is no size of the world", "--sizes", f"Known: {', '.join(PRESETS['quick'])}.")
    if not any(sizes.values()):
        raise ConfigError("No split has a picture", "--sizes", "Give one of them more than 0.")
    return {name: sizes.get(name, 0) for name in PRESETS["quick"]}


def _existing(out: Path, settings: dict) -> dict | None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    file = out / "world.json"
    try:
        known = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise ConfigError("The file is no world's", str(file), "Choose another --out, or delete the folder.")
    if {key: known.get(key) for key in settings} == settings:
        return known
    what = "holds a world with other settings" if known else "is not empty and holds no world"
    raise ConfigError(f"The folder {what}", str(out), "Choose another --out, or delete the folder.")


def _tasks(sizes: dict[str, int]) -> list[Task]:
    tasks = [Task(split, number, split) for split in TRAIN_SPLITS for number in range(sizes[split])]
    for split, prefix in (("eval", "eval"), ("eval_held_out", "held_out")):
        purposes = [p for p in ("scenes", "charts", "actions") for _ in range(sizes.get(f"{prefix}_{p}", 0))]
        tasks += [Task(split, number, purpose) for number, purpose in enumerate(purposes)]
    return tasks


def _make(root: Path, seed: int, size: int, task: Task) -> tuple[Task, str, str, dict[str, list[dict]], Scene | None]:
    """Draw and save one picture; what comes back is small."""
    recipe = make_recipe(seed, task)
    image, regions = draw(recipe.truth, size)
    image.save(root / task.image, compress_level=1)
    if task.split in GROUNDED:
        recipe.rows[task.split][0]["regions"] = [region_row(region, size) for region in regions]
    line = json.dumps(truth_row(task, recipe.truth), ensure_ascii=False)
    scene = recipe.truth if task.purpose == "scenes" else None
    return task, line, fingerprint(recipe.truth), recipe.rows, scene


def region_row(region: Region, size: int) -> dict:
    """A region of a picture of this side as rows carry it: the box in fractions of the sides."""
    return {"box": [round(at / size, 4) for at in region.box], "label": region.label, "kind": region.kind}


def _write(root: Path, seed: int, sizes: dict, size: int, workers: int, progress: bool) -> dict:
    tasks = _tasks(sizes)
    for split in dict.fromkeys(task.split for task in tasks):
        (root / "images" / split).mkdir(parents=True)
    lines: dict[str, list[str]] = defaultdict(list)
    prints: dict[str, set[str]] = {"train": set(), "eval": set()}
    scenes: dict[str, list[tuple[str, Scene]]] = defaultdict(list)
    for task, truth, mark, rows, scene in _made(tasks, partial(_make, root, seed, size), workers, progress):
        lines[f"truth/{task.split}.jsonl"].append(truth)
        prints["eval" if task.split.startswith("eval") else "train"].add(mark)
        for name, entries in rows.items():
            file = f"{task.split}/{name}.jsonl" if task.split.startswith("eval") else f"{name}.jsonl"
            lines[file] += [_line(entry, name, file, len(lines[file]) + n) for n, entry in enumerate(entries)]
        if scene:
            scenes[task.split].append((task.image, scene))
    shared = prints["train"] & prints["eval"]
    assert not shared, f"training and evaluation share a picture's truth: {sorted(shared)[:3]}"
    for split, found in scenes.items():
        for name, entries in pope_rows(found, random.Random(f"{seed}/{split}/pope")).items():
            lines[f"{split}/pope_{name}.jsonl"] = [json.dumps(entry, ensure_ascii=False) for entry in entries]
    _dump(root / "functions.json", function_tools())
    return {
        "counts": {name: len(content) for name, content in sorted(lines.items())},
        "sha256": {name: _save(root / name, content) for name, content in sorted(lines.items())},
    }


def _line(entry: dict, name: str, file: str, number: int) -> str:
    identity = {"question_id": f"{name}_{number:05d}"} if file.startswith("eval") else {}
    return json.dumps({**identity, **entry}, ensure_ascii=False)


def _save(path: Path, content: list[str]) -> str:
    data = "".join(f"{line}\n" for line in content).encode("utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def _dump(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _made(tasks: list[Task], make: partial, workers: int, progress: bool) -> Iterator[tuple]:
    """What `make` returns for every task, in order."""
    tables()  # read once here, so that forked workers share it
    bar = _Bar(len(tasks)) if progress else None
    if workers > 1:
        context = multiprocessing.get_context("fork")  # no re-import: workers start in milliseconds
        pool = ProcessPoolExecutor(workers, mp_context=context)
        try:
            for done, result in enumerate(pool.map(make, tasks, chunksize=CHUNK), 1):
                if bar:
                    bar.show(done)
                yield result
        finally:
            pool.shutdown(cancel_futures=True)  # an interrupted build does not draw the rest first
    else:
        for done, task in enumerate(tasks, 1):
            if bar:
                bar.show(done)
            yield make(task)


class _Bar:
    """A line on stderr that says how many pictures are done: rewritten on a terminal, every tenth elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.start, self.terminal = total, time.monotonic(), sys.stderr.isatty()

    def show(self, done: int) -> None:
        step = 20 if self.terminal else max(1, self.total // 10)
        if done % step and done != self.total:
            return
        rate = done / max(1e-9, time.monotonic() - self.start) * 60
        text = f"world: {done}/{self.total} pictures, {rate:,.0f} a minute"
        end = "\n" if done == self.total or not self.terminal else ""
        print(f"\r{text}" if self.terminal else text, end=end, file=sys.stderr, flush=True)


def _sizes(text: str) -> dict[str, int]:
    try:
        return {name.strip(): int(count) for name, count in (pair.split("=") for pair in text.split(","))}
    except ValueError:
        raise ConfigError(f"--sizes {text} is not name=number,name=number", "--sizes", "Example: align=800,sft=2400.") from None


def main(argv: list[str] | None = None) -> int:
    """Run `omnivision data world`."""
    parser = argparse.ArgumentParser(
        prog="omnivision data world",
        description="Build the embedded world: pictures with their truth, training rows and evaluation splits.",
        epilog="example: omnivision data world --out runs/world --seed 0 --preset quick",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="decides every picture and row")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="quick", help="how many pictures")
    parser.add_argument("--sizes", help="pictures by split, over the preset: align=80,sft=200")
    parser.add_argument("--image-size", type=within("--image-size", int, 32, 4096), default=216, help="side of the pictures in pixels")
    parser.add_argument("--workers", type=within("--workers", int, 1), default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print world.json's content on stdout")
    args = parser.parse_args(argv)
    start = time.monotonic()
    sizes = {**PRESETS[args.preset], **(_sizes(args.sizes) if args.sizes else {})}
    manifest = build_world(args.out, args.seed, sizes, args.image_size, args.workers)
    if args.json:
        print(json.dumps({"out": str(args.out), **manifest, "seconds": round(time.monotonic() - start, 1)}))
    else:
        print(f"{sum(manifest['sizes'].values())} pictures in {args.out}")
        for name, count in manifest["counts"].items():
            print(f"  {name:<36}{count:>7} rows")
    return 0
