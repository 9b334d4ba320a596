"""Rows and images a second, from a row file up to pixel values: this project's reader against plain `datasets` and Pillow.

    python -m omnivision.data.picture_speed [--json] [--photos 2000] [--reduced]

All arms go over the same photos in turn, round by round. `plain` is datasets' Image column, `convert("RGB")` and transformers'
SigLIP processor; `ours` has its pixels, and `threads` too: batches of 8, a thread for each core, as training reads without workers;
`reduced` may decode smaller (not equal); `cached` writes squashed pictures to disk while `kept` finds them there: both have plain's
pixels. `--reduced` measures instead what reduced decoding changes on larger photos.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from omnivision.data.image import open_image
from omnivision.data.parallel import at_once, cores
from omnivision.data.resized import ResizedCache
from omnivision.data.rows import read_rows
from omnivision.statistics import median_interval

SIZE, WIDTH, HEIGHT, QUALITY, SEED = 384, 640, 480, 90, 0
BATCH = 8  # pictures at once where threads read them
EQUAL = ("ours", "threads", "cached", "kept")  # arms that claim plain's pixels
ARMS = ("plain", "ours", "threads", "reduced", "cached", "kept")
Arm = Callable[[Sequence[int]], Iterator]


def sample_photos() -> list[Image.Image]:
    """The photographs that scikit-image and scikit-learn bring along."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    pixels = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket(), skimage.data.hubble_deep_field(),
              *skimage.data.stereo_motorcycle()[:2], *load_sample_images().images]
    return [Image.fromarray(one) for one in pixels]


def make_photos(folder: Path, count: int) -> Path:
    """Writes JPEG photos (crops, mirrored at random, with a camera's noise) and their rows; returns the row file."""
    rng, sources = np.random.default_rng(SEED), sample_photos()
    noise = rng.normal(0, 3, (HEIGHT + 64, WIDTH + 64, 3)).round().astype(np.int16)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as rows:
        for number in range(count):
            source = sources[rng.integers(len(sources))]
            scale = rng.uniform(0.7, 1) * min(source.width / WIDTH, source.height / HEIGHT)
            x, y = (rng.uniform(0, 1, 2) * (source.width - scale * WIDTH, source.height - scale * HEIGHT)).tolist()
            picture = source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(x, y, x + scale * WIDTH, y + scale * HEIGHT))
            down, right = rng.integers(0, 64, 2)
            pixels = np.clip(np.asarray(picture) + noise[down : down + HEIGHT, right : right + WIDTH], 0, 255).astype(np.uint8)
            Image.fromarray(pixels[:, :: rng.choice((-1, 1))]).save(folder / f"{number}.jpg", quality=QUALITY)
            turns = [{"role": "user", "text": f"What is in picture {number}?"}, {"role": "assistant", "text": "A photograph."}]
            rows.write(json.dumps({"id": str(number), "image": str(folder / f"{number}.jpg"), "images": [f"{number}.jpg"], "turns": turns}) + "\n")
    return folder / "rows.jsonl"


def plain_rows(file: Path):
    """The rows as `datasets` reads them, not from its own cache."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=file.parent) as cache:
        return datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache, keep_in_memory=True)


def arms(file: Path, cache: Path) -> dict[str, Arm]:
    """Each arm: numbers of rows in, pixel values (1, 3, SIZE, SIZE) out."""
    import datasets
    import torch
    from transformers import AutoTokenizer

    from omnivision.model.processing import OmniVisionProcessor, siglip_image_processor

    torch.set_num_threads(1)
    table = plain_rows(file).cast_column("image", datasets.Image())
    theirs, rows = siglip_image_processor(SIZE), read_rows(file)
    tokenizer = AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "weights" / "tiny-language")
    ours = OmniVisionProcessor(siglip_image_processor(SIZE), tokenizer)
    resized = ResizedCache(cache, SIZE)

    def plain(numbers: Sequence[int]) -> Iterator:
        for row in table.select(numbers):
            yield theirs(row["image"].convert("RGB"), return_tensors="pt")["pixel_values"]

    def reader(open_one: Callable[[Path], Image.Image], numbers: Sequence[int]) -> Iterator:
        for number in numbers:
            yield ours.pixels([open_one(file.parent / rows[number].images[0])])

    def threads(numbers: Sequence[int]) -> Iterator:
        for start in range(0, len(numbers), BATCH):
            yield from at_once(cores(), lambda number: next(reader(open_image, [number])), numbers[start : start + BATCH])

    return {"plain": plain, "ours": partial(reader, open_image), "threads": threads, "reduced": partial(reader, partial(open_image, at_least=(SIZE, SIZE))),
            "cached": partial(reader, resized.open), "kept": partial(reader, resized.open)}


def difference(found: Iterator, wanted: Iterator) -> float:
    """The largest difference of pixel values, in levels of 255."""
    return max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True)) * 127.5


def _seconds(arm: str, numbers: Sequence[int], pools: list[ProcessPoolExecutor]) -> tuple[float, float]:
    """Wall and CPU time of an arm over some rows: here, or shared out to processes that keep the tensors to themselves."""
    start = time.perf_counter()
    if pools:
        jobs = [pool.submit(_work, arm, numbers[part :: len(pools)]) for part, pool in enumerate(pools)]
        cpu = sum(job.result() for job in jobs)
    else:
        cpu = _work(arm, numbers)
    return time.perf_counter() - start, cpu


_ARMS: dict[str, Arm] = {}  # of this process


def _set_up(file: Path, cache: Path) -> None:
    _ARMS.update(arms(file, cache))


def _work(arm: str, numbers: Sequence[int]) -> float:
    start = time.process_time()
    for _ in _ARMS[arm](numbers):
        pass
    return time.process_time() - start


def time_arms(file: Path, cache: Path, count: int, rounds: int, workers: int) -> dict[str, dict[str, list[float]]]:
    """Images a second of wall and of CPU time, by arm and round.

    Every round takes its own rows, every second one in the opposite order of arms.
    """
    speeds: dict[str, dict[str, list[float]]] = {clock: {arm: [] for arm in ARMS} for clock in ("wall", "cpu")}
    with ExitStack() as stack:
        pools = []
        for _ in range(workers if workers > 1 else 0):
            pools.append(stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), _set_up, (file, cache))))
        if not pools:
            _set_up(file, cache)
        for arm in ("plain", "ours", "threads", "reduced"):  # warm
            _seconds(arm, range(min(8, count)), pools)
        for number in range(rounds):
            rows = range(number * count // rounds, (number + 1) * count // rounds)
            for arm in ARMS if number % 2 == 0 else ("reduced", "threads", "ours", "cached", "kept", "plain"):  # kept needs what cached wrote
                for clock, seconds in zip(("wall", "cpu"), _seconds(arm, rows, pools), strict=True):
                    speeds[clock][arm].append(len(rows) / seconds)
    return speeds


def ratio(ours: Sequence[float], plain: Sequence[float]) -> tuple[float, float, float]:
    """The median of the rounds' ratios with its 95 % bootstrap interval."""
    return median_interval(np.divide(ours, plain))


def two_passes(speeds: dict[str, list[float]]) -> list[float]:
    """Images a second over a first pass that fills the cache and a second one that uses it."""
    return [2 / (1 / first + 1 / second) for first, second in zip(speeds["cached"], speeds["kept"], strict=True)]


def time_rows(file: Path, repeats: int = 5) -> dict[str, float]:
    """Rows a second without pictures: from the file to a mapping or a Row."""
    readers = {"plain": lambda: sum(1 for _ in plain_rows(file)), "ours": lambda: len(read_rows(file))}
    best = dict.fromkeys(readers, 0.0)
    for _ in range(repeats):
        for name, read in readers.items():
            start = time.perf_counter()
            count = read()
            best[name] = max(best[name], count / (time.perf_counter() - start))
    return best


def measure(count: int, rounds: int, folder: Path) -> dict:
    """All figures."""
    file = make_photos(folder, count)
    checked = range(min(count, 64))
    these = arms(file, folder / "check")
    result: dict = {"photos": count, "bytes": sum(path.stat().st_size for path in folder.glob("*.jpg")) // count, "rows": time_rows(file),
                    "levels": {arm: difference(these[arm](checked), these["plain"](checked)) for arm in ARMS[1:]}}
    for workers in (1, 2):
        clocks = time_arms(file, folder / f"cache-{workers}", count, rounds, workers)
        for speeds in clocks.values():
            speeds["cached + kept"] = two_passes(speeds)
        result[f"{workers} process{'es' * (workers > 1)}"] = {
            arm: {"images": float(np.median(found)), "ratio": ratio(found, clocks["wall"]["plain"]),
                  "cpu_ms": 1000 / float(np.median(clocks["cpu"][arm])), "cpu_ratio": ratio(clocks["cpu"][arm], clocks["cpu"]["plain"])}
            for arm, found in clocks["wall"].items()}
    return result


def reduced_differences(factors: Sequence[int] = (2, 4, 8)) -> dict[int, dict[str, float]]:
    """What reduced decoding changes after the squash: photos of 640x480 mirrored into larger ones, which keeps their detail."""
    results = {}
    for factor in factors:
        found = [_reduced(source.resize((WIDTH, HEIGHT)), factor) for source in sample_photos()]
        levels = np.array([one[0] for one in found])
        whole, reduced = np.array([one[1:] for one in found]).sum(0)
        results[factor] = {"mean": float(levels.mean()), "largest": float(levels.max()),
                           "whole_ms": 1000 * whole / len(found), "reduced_ms": 1000 * reduced / len(found)}
    return results


def _reduced(photo: Image.Image, factor: int) -> tuple[np.ndarray, float, float]:
    large = Image.new("RGB", (WIDTH * factor, HEIGHT * factor))
    for x in range(factor):
        for y in range(factor):
            tile = ImageOps.mirror(photo) if x % 2 else photo
            large.paste(ImageOps.flip(tile) if y % 2 else tile, (x * WIDTH, y * HEIGHT))
    file = io.BytesIO()
    large.save(file, "JPEG", quality=QUALITY)
    squashed, seconds = [], []
    for wanted in (None, (SIZE, SIZE)):
        file.seek(0)
        start = time.process_time()
        squashed.append(np.asarray(open_image(file, at_least=wanted).resize((SIZE, SIZE), Image.Resampling.BICUBIC), int))
        seconds.append(time.process_time() - start)
    return np.abs(squashed[0] - squashed[1]), seconds[0], seconds[1]


def table(result: dict) -> str:
    """The figures for people."""
    lines = [f"{result['photos']:,} photos of {WIDTH}x{HEIGHT}, {result['bytes'] / 1000:.0f} kB each, to {SIZE}x{SIZE}",
             "goal: 2 times plain with plain's pixels",
             f"rows a second, without pictures: plain {result['rows']['plain']:,.0f}, ours {result['rows']['ours']:,.0f}", ""]
    for name in ("1 process", "2 processes"):
        lines.append(f"{name:<14}{'images/s':>9}{'times plain':>12}{'95 %':>14}{'CPU ms':>8}{'times plain':>12}{'95 %':>14}   levels of 255 off")
        for arm, found in result[name].items():
            levels = result["levels"].get(arm, 0.0 if arm == "plain" else result["levels"]["kept"])
            wall, cpu = _interval(found["ratio"]), _interval(found["cpu_ratio"])
            lines.append(f"{arm:<14}{found['images']:>9.0f}{wall}{found['cpu_ms']:>8.2f}{cpu}   {levels:.3g}")
        lines.append("")
    return "\n".join(lines)


def _interval(of: Sequence[float]) -> str:
    middle, low, high = of
    return f"{middle:>12.2f}{f'{low:.2f} - {high:.2f}':>14}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--reduced", action="store_true", help="what reduced decoding changes, and how much time it saves")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.reduced:
        print(json.dumps(reduced_differences(), indent=None if options.json else 2))
        return
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.photos, options.rounds, Path(folder))
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
