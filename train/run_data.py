"""The rows of a run: read, checked, and what is left out named in the run's data_manifest.json."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from omnivision.data.features import FeatureCache
from omnivision.data.fitting import Unsupervised
from omnivision.data.image import open_image
from omnivision.data.parallel import cores, in_order
from omnivision.data.pictures import Packed, locate
from omnivision.data.resized import ResizedCache
from omnivision.data.rows import Row, load_rows
from omnivision.data.sources import source_hash
from omnivision.data.tables import HUB
from omnivision.errors import ConfigError, DataError
from omnivision.hardware import device
from omnivision.model.build import stand_in
from omnivision.runs import read_json, sorted_checkpoints, write_json
from omnivision_train.config import StageConfig
from omnivision_train.data import CPU_STEP, GPU_STEP
from omnivision_train.deepspeed_config import zero_settings
from omnivision_train.launch import rank_and_ranks
from omnivision_train.precision import resolved
from omnivision_train.ranks import gathered

MANIFEST = "data_manifest.json"
MOST_UNSUPERVISED = 0.001  # rows without a supervised token have a limit of their own
MOST_PASSES, MOST_WEIGHT = 1000.0, 1e9  # of one file in an epoch
PART_FILES = (".json", ".safetensors", ".jinja", ".model", ".txt")  # what a model is read from
TOLD = 5  # bad rows that are told on the terminal; the manifest has all


class LeftOut:
    """Rows that a run does without: broken, too long, or teaching nothing.

    A run that goes on leaves out the rows that it began without, or the order of the others would change.
    """

    def __init__(self, folder: Path, main: bool, most: float) -> None:
        self.folder, self.main, self.most, self.total = folder, main, most, Counter()
        self.errors: dict[str, DataError] = {}
        self.held_out: set[str] = set()  # those of them that would not train: each kind of rows has max_bad_fraction of its own
        self.needed: list[Row] = []  # of which one at least has to be left
        manifest = folder / MANIFEST
        resumes = manifest.is_file() and bool(sorted_checkpoints(folder / "checkpoints"))
        # Pictures may break or be fixed meanwhile; everything else about a row follows from the files, which stay what they were.
        self.before: set[str] | None = set(read_json(manifest).get("broken_pictures", [])) if resumes else None
        self.pictures: list[str] = []

    def add(self, error: DataError) -> None:
        """One more."""
        self.errors.setdefault(error.where, error)

    def add_held_out(self, error: DataError) -> None:
        """One more of the rows that do not train."""
        self.add(error)
        self.held_out.add(error.where)

    def settle(self, shortened: Counter | None = None) -> None:
        """Called when all rows have been looked at.

        Args:
            shortened: `rows` that train without all of their answers, and these `answers`, see data.Conversations.

        Raises:
            DataError: more than `max_bad_fraction` of the rows, all that train, or more than 0.1 % that have no supervised token.
        """
        needed, self.needed = self.needed, []  # they are not held while the stage trains
        if self.before is not None:
            return  # the run has begun with these rows
        self._check_fractions("rows", [error for error in self.errors.values() if error.where not in self.held_out])
        self._check_fractions("held-out rows", [error for error in self.errors.values() if error.where in self.held_out])
        if needed and all(row.source in self.errors for row in needed):
            first = self.errors[needed[0].source]
            raise DataError(f"No row is left to train on: all {len(needed)} are bad; the first: {first.what}", first.where,
                            "Look at them with `omnivision data check`, and fix the file.")
        if self.main:
            path = self.folder / MANIFEST
            write_json(path, {**read_json(path), "left_out": {error.where: error.what for error in self.errors.values()}, "broken_pictures": self.pictures,
                              "shortened": dict(shortened or {})})
        if self.main and self.errors:
            for error in [*self.errors.values()][:TOLD]:
                print(f"left out: {error}", file=sys.stderr)
            print(f"{len(self.errors)} of {self.total.total()} rows are left out; {path} names them", file=sys.stderr)
        if self.main and shortened:
            print(f"{shortened['rows']} rows lose their last answers ({shortened['answers']} in all) to `max_length`; `omnivision data check` names them", file=sys.stderr)

    def _check_fractions(self, kind: str, errors: list[DataError]) -> None:
        total, silent = self.total[kind], [error for error in errors if isinstance(error, Unsupervised)]
        if len(errors) > self.most * total:
            raise DataError(f"{len(errors)} of {total} {kind} are bad, more than max_bad_fraction {self.most:g}; the first: {errors[0].what}", errors[0].where,
                            "Look at them with `omnivision data check`; fix the file, or raise `max_bad_fraction`.")
        if len(silent) > MOST_UNSUPERVISED * total:
            raise DataError(f"{len(silent)} of {total} {kind} have no supervised token; the first: {silent[0].what}", silent[0].where,
                            "Give them an assistant turn with loss.")


def read_data(config: StageConfig, run, cache: FeatureCache | None = None, files: list[str] | None = None, limit: int | None = None,
              held_out: bool = False) -> list[Row]:
    """The good rows of the config's files; bad ones are told to run.left_out; hashes and counts go into the manifest.

    Args:
        run: a run_folder.Run. cache: its pictures have been decoded before. files, limit: others than the config's. held_out: they do not train.
    """
    check_settings(config)
    main = files is None
    files = config.data if main else files
    if not files:
        raise DataError("The config names no data", "data", "Give at least one file.")
    check_once(files)
    loaded = {file: load_rows(file, limit if limit is not None else config.limit, config.urls) for file in files}
    told, hashes = {"held_out": True} if held_out else {}, known_hashes(run, loaded)
    if run.main:
        _write_manifest(run.folder, {file: {"rows": len(one.rows), "sha256": hashes[file], **told} for file, one in loaded.items()})
    rows = []
    leave_out = run.left_out.add_held_out if held_out else run.left_out.add
    for part, one in enumerate(loaded.values()):
        run.left_out.total["held-out rows" if held_out else "rows"] += len(one.rows) + len(one.bad)
        for error in one.bad:
            leave_out(error)
        rows += [replace(row, part=part) for row in one.rows]
    if main:
        run.left_out.needed = rows
    return with_sound_pictures(rows, config, run, cache, leave_out)


def note_file(run, file: str, part: str = "functions") -> None:
    """Puts another file that training depends on into the manifest, as part of what."""
    if run.main:
        _write_manifest(run.folder, {file: {"sha256": source_hash(file), "part": part}})


def note_parts(run, config: StageConfig) -> None:
    """Puts the files of the folders that `vision` and `language` name into the manifest; what comes from the hub has no folder here."""
    for part in ("vision", "language"):
        folder = Path(stand_in(getattr(config, part), part) or "").expanduser()
        for file in sorted(folder.iterdir()) if getattr(config, part) and folder.is_dir() else ():
            if file.suffix in PART_FILES:
                note_file(run, str(file), part=part)


def known_hashes(run, files: Iterable[str]) -> dict[str, str]:
    """Each file's hash; every process reads its share of those that nobody has read yet."""
    rank, ranks = rank_and_ranks()
    new = sorted({*files} - run.hashes.keys())
    for part in gathered({file: source_hash(file) for file in new[rank::ranks]}):
        run.hashes.update(part)
    return run.hashes


def _write_manifest(folder: Path, seen: dict[str, dict]) -> None:
    path = folder / MANIFEST
    known = read_json(path) if path.is_file() else {}
    changed = [file for file in seen if file in known and known[file]["sha256"] != seen[file]["sha256"]]
    if changed and sorted_checkpoints(folder / "checkpoints"):
        raise DataError("What the run reads has changed since it began", ", ".join(changed),
                        "Restore the files to resume, or give another `out` to begin a new run.")
    write_json(path, known | seen)


def read_held_out(config: StageConfig, run, cache: FeatureCache | None = None) -> list[Row]:
    """The rows whose loss is only told. `omnivision data check --against` finds rows and pictures of theirs that train in another file.

    Raises:
        DataError: a file, or a copy of it, is among the data too.
    """
    if not config.held_out:
        return []
    training = [file for key in ("data", "replay", "grounding_data") for file in getattr(config, key, [])]
    hashes = known_hashes(run, [*training, *config.held_out])
    both = [file for file in config.held_out if hashes[file] in {hashes[other] for other in training}]
    if both:
        raise DataError("The same file is to train and to be held out", ", ".join(both), "Take it out of `held_out`.")
    return read_data(replace(config, limit=None), run, cache, config.held_out, held_out=True)


def with_sound_pictures(rows: list[Row], config: StageConfig, run, cache: FeatureCache | None, leave_out: Callable[[DataError], None]) -> list[Row]:
    """The rows whose pictures all lie below the image root and decode whole, the others to `leave_out`; every process looks at its share."""
    if run.left_out.before is not None:
        return [row for row in rows if row.source not in run.left_out.before]
    located: dict[str | Packed, str | Packed] = {}
    wrong: dict[str | Packed, str] = {}
    for image in dict.fromkeys(image for row in rows for image in row.images):
        try:
            located[image] = locate(image, config.image_root)
        except DataError as error:
            wrong[image] = error.what
    broken = broken_pictures(list(dict.fromkeys(located.values())), cache)
    wrong |= {image: broken[str(picture)] for image, picture in located.items() if str(picture) in broken}
    if not wrong:
        return rows
    good = []
    for row in rows:
        why = next((wrong[image] for image in row.images if image in wrong), None)
        if why is None:
            good.append(row)
        else:
            run.left_out.pictures.append(row.source)
            leave_out(DataError(f"Row {row.id}: {why}", row.source, "Fix the picture, or remove the row."))
    return good


def broken_pictures(pictures: list[str | Packed], cache: FeatureCache | None = None) -> dict[str, str]:
    """What is wrong with pictures that do not decode, by name; the cache's have been decoded before."""
    rank, ranks = rank_and_ranks()

    def look(picture: str | Packed) -> tuple[str, str] | None:
        try:
            if cache is None or not cache.has(picture):
                open_image(picture, at_least=(1, 1))  # reads all of the file's data, into few pixels
        except DataError as error:
            return str(picture), f"{error.what} ({error.where})"
        return None

    with ThreadPoolExecutor(cores()) as threads:
        found = [one for one in in_order(threads, cores(), look, itertools.islice(pictures, rank, None, ranks)) if one]
    return dict(one for part in gathered(found) for one in part)


def open_cache(config: StageConfig, model, processor) -> FeatureCache | None:
    """The feature cache, where the config asks for one; the tower computes in the arithmetic that the run trains in."""
    return FeatureCache(config.feature_cache, model, processor, resolved(config), config.cache_gib) if config.feature_cache else None


def open_squashed(config: StageConfig, processor) -> ResizedCache | None:
    """The cache of squashed pictures, where the config asks for one.

    Raises:
        ConfigError: the processor resizes in another way than the cache.
    """
    if config.picture_cache and processor.image_processor.resample != Image.Resampling.BICUBIC:
        raise ConfigError(f"The image processor resizes by filter {processor.image_processor.resample}, the cache by {Image.Resampling.BICUBIC} (bicubic)",
                          f"picture_cache: {config.picture_cache}", "Remove `picture_cache`.")
    side = processor.image_processor.size["height"]
    return ResizedCache(config.picture_cache, side, config.cache_gib) if config.picture_cache else None


def collator_arguments(config: StageConfig, processor, cache: FeatureCache | None) -> dict[str, Any]:
    """How a stage's collator reads pictures: its arguments."""
    on_gpu = device() == "cuda"
    return {"processor": processor, "cache": cache, "squashed": open_squashed(config, processor), "as_bytes": on_gpu and processor.squashes_only,
            "step": GPU_STEP if on_gpu else CPU_STEP}


def fill_cache(cache: FeatureCache | None, config: StageConfig, rows: Iterable[Row]) -> None:
    """Runs the tower on the rows' pictures that it has not seen.

    Raises:
        ConfigError: they do not all fit, and under ZeRO-3 the tower cannot run for the rest of one process' batch.
    """
    if cache is None:
        return
    pictures = list(dict.fromkeys(locate(image, config.image_root) for row in rows for image in row.images))
    rank, ranks = rank_and_ranks()
    for keys in gathered(cache.read_keys(pictures[rank::ranks])):  # each process reads its share of the files
        cache.know(keys)
    made = cache.fill(pictures, rank=rank, ranks=ranks)
    if made:
        print(f"features of {made} pictures made, those of {len(pictures) - made} were there", file=sys.stderr)
    if zero_settings(config)[0] == 3 and not all(gathered(cache.has_all(pictures))):
        raise ConfigError(f"The features of {len(pictures)} pictures do not fit into the cache, and ZeRO-3 needs all of them",
                          f"feature_cache: {config.feature_cache}", "Raise `cache_gib`, use zero_stage=2, or remove `feature_cache`.")


def passes(config: StageConfig, rows: Iterable[Row]) -> list[float] | None:
    """Passes over each part of the data in an epoch; None for one each."""
    counts = Counter(row.part for row in rows)
    if config.weights:
        total, weight = sum(counts[part] for part in range(len(config.data))), sum(config.weights)
        return [one / weight * total / max(1, counts[part]) for part, one in enumerate(config.weights)]
    return list(config.passes) or None


def check_once(files: list[str]) -> None:
    """Every file stands once, however its path is written.

    Raises:
        ConfigError: one stands twice.
    """
    if len({file if file.startswith(HUB) else Path(file).resolve() for file in files}) != len(files):
        raise ConfigError("A file stands twice", ", ".join(files), "Name it once, and how often it is seen in `passes`.")


def check_settings(config: StageConfig) -> None:
    """What the config says of the data, before any of them is read.

    Raises:
        ConfigError: a file twice; `passes` or `weights` that do not fit `data`, or both; a share outside of 0 to 1; a limit below 1.
    """
    check_once(config.data)
    for key, most in (("passes", MOST_PASSES), ("weights", MOST_WEIGHT)):
        given = getattr(config, key)
        if given and not (len(given) == len(config.data) and all(0 < one <= most for one in given)):  # NaN is not
            raise ConfigError(f"`{key}` is {given}, and `data` has {len(config.data)} files", key,
                              f"Give one number above 0 and up to {most:g} for each file.")
    if config.passes and config.weights:
        raise ConfigError("Both `passes` and `weights` say how often a file is seen", "passes, weights", "Give one of them.")
    if not 0 <= config.max_bad_fraction <= 1:
        raise ConfigError(f"`max_bad_fraction` is {config.max_bad_fraction:g}", "max_bad_fraction", "Give a share from 0 to 1.")
    for key in ("limit", "replay_limit"):
        if (most := getattr(config, key, None)) is not None and most < 1:
            raise ConfigError(f"`{key}` is {most}", key, "Give at least 1, or null for all rows.")
