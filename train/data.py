"""Rows to batches: conversations with their label masks.

Shapes: B rows, L tokens, P patches, C tower width.
"""

from __future__ import annotations

import os
import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from omnivision.constants import IGNORE_INDEX
from omnivision.data.features import FeatureCache
from omnivision.data.fitting import fitted
from omnivision.data.image import open_image
from omnivision.data.parallel import at_once, cores
from omnivision.data.pictures import Packed, locate
from omnivision.data.resized import ResizedCache
from omnivision.data.rows import Row
from omnivision.errors import DataError
from omnivision.model.modeling import before_supervised, places
from omnivision_train.activations import Batch


CPU_STEP, GPU_STEP = 16, 8  # rows are padded to multiples: few different shapes keep a CPU's allocator and kernel cache small; a GPU has no such need


def bucket(length: int, step: int = CPU_STEP) -> int:
    """The next multiple of `step`, or of 2 up to 64 (requests in text alone, where 8 would be a tenth of padding)."""
    step = step if length > 64 else 2
    return -(-length // step) * step


@dataclass(frozen=True)
class Sample:
    """An encoded row. Its ids are arrays of four bytes a token: as lists of Python's numbers, millions of rows would not fit a machine, and every
    loader's process would come to hold them all."""

    input_ids: array[int]
    labels: array[int]
    images: tuple[str | Packed, ...]
    id: str = ""
    part: int = 0  # which of the run's files


class Conversations(Dataset):
    """Encoded conversations.

    Args:
        rows: as read, or from functions.py. processor: of the model. image_root: folder that image paths are relative to.
        max_length: a row that is longer loses whole question-answer pairs from its end, never an image token.
        leave_out: called with what is wrong with a row that is left out; None raises it.

    Raises:
        DataError: a row without turns, one that does not fit even with one pair, or that has no supervised token.
    """

    def __init__(self, rows: Sequence[Row], processor, image_root: str | Path, max_length: int,
                 leave_out: Callable[[DataError], None] | None = None) -> None:
        self.processor, self.root, self.max_length, self.samples = processor, str(image_root), max_length, []
        self.shortened = Counter()  # rows that lost answers to max_length, and these answers
        for row in rows:
            try:
                self.samples.append(self._sample(row))
            except DataError as error:
                if leave_out is None:
                    raise
                leave_out(error)

    def __len__(self) -> int:
        return len(self.samples)

    def lengths(self) -> list[int]:
        """Tokens of every row."""
        return [len(sample.input_ids) for sample in self.samples]

    def largest(self, rows: int) -> Batch:
        """The batch of the longest row, with as many supervised tokens and pictures as rows have on average."""
        supervised = sum(label != IGNORE_INDEX for sample in self.samples for label in sample.labels)
        pictures = sum(len(sample.images) for sample in self.samples)
        return Batch(rows, bucket(max(self.lengths())), rows * supervised // len(self), rows * pictures // len(self))

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def _sample(self, row: Row) -> Sample:
        if not row.turns:
            raise DataError(f"Row {row.id} is no conversation", row.source, "Give rows with turns; pairs go to dpo, calls to functions.")
        images = tuple(locate(image, self.root) for image in row.images)
        encoded, cut = fitted(row, self.processor.tokenizer, self.processor.image_seq_length, self.max_length)
        self.shortened.update({"rows": 1, "answers": cut} if cut else {})
        return Sample(array("i", encoded.input_ids), array("i", encoded.labels), images, row.id, row.part)


def leave_group(worker: int) -> None:
    """A loader's worker in a process group of its own: Ctrl-C and `timeout` signal the group, and a worker that ends so breaks the step off."""
    os.setpgrp()


class Order(Sampler[int]):
    """The order of rows in an epoch: a function of seed and epoch alone, the same for any number of processes.

    With lengths, neighbours are of like length, so that a batch pads little: the rows are shuffled, sorted by length within
    windows of 50 batches, and each window's batches shuffled. Every batch is whole: the last one is filled up with the epoch's
    first rows, where torch's samplers would give a short batch to one process and repeat rows for several.

    Args:
        rows: how many there are. batch: rows of a global batch (processes and accumulation included). seed: of the order.
        lengths: tokens of each row, where like lengths should stand together. parts: the file that each row came from.
        passes: over each of these files in an epoch (one where a file has none). Half a pass takes one half in this epoch and the other in
            the next.
    """

    WINDOW = 50

    def __init__(self, rows: int, batch: int, seed: int, lengths: Sequence[int] | None = None, parts: Sequence[int] = (),
                 passes: Sequence[float] | None = None) -> None:
        self.rows, self.batch, self.seed, self.lengths, self.epoch = rows, batch, seed, lengths, 0
        self.parts: list[tuple[list[int], int]] = []  # rows of each file, and how many of them an epoch takes
        for part in sorted(set(parts)) if passes else ():
            members = [row for row, its in enumerate(parts) if its == part]
            self.parts.append((members, max(1, round(len(members) * passes[part])) if part < len(passes) else len(members)))

    def __len__(self) -> int:
        rows = sum(taken for _, taken in self.parts) or self.rows
        return -(-rows // self.batch) * self.batch

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate's loader before an epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        rows = self._mixed(rng) if self.parts else rng.sample(range(self.rows), self.rows)
        if self.lengths is not None:
            rows = self._grouped(rows, rng)
        while len(rows) < len(self):
            rows += rows[: len(self) - len(rows)]
        return iter(rows)

    def _mixed(self, rng: random.Random) -> list[int]:
        """This epoch's part of an endless row of passes over each file, shuffled together."""
        rows = []
        for number, (members, taken) in enumerate(self.parts):
            first, last = self.epoch * taken, (self.epoch + 1) * taken
            for turn in range(first // len(members), -(-last // len(members))):
                shuffled = random.Random(f"{self.seed}/{number}/{turn}").sample(members, len(members))
                start = turn * len(members)
                rows += shuffled[max(0, first - start) : last - start]
        return rng.sample(rows, len(rows))

    def _grouped(self, rows: list[int], rng: random.Random) -> list[int]:
        order, window = [], self.WINDOW * self.batch
        for start in range(0, len(rows), window):
            near = sorted(rows[start : start + window], key=self.lengths.__getitem__)
            batches = [near[i : i + self.batch] for i in range(0, len(near), self.batch)]
            whole = [batch for batch in batches if len(batch) == self.batch]
            for batch in (*rng.sample(whole, len(whole)), *batches[len(whole) :]):  # a short batch comes last
                order += batch
        return order


@dataclass
class Collator:
    """Right-padded batches of samples; pictures as pixels, or as cached features where a cache is given.

    Args:
        processor: of the model. cache: features of the frozen tower. squashed: pictures as the tower takes them, kept on disk.
        as_bytes: pictures stay uint8, to be normalised on the device (see encoding.as_pixels): a quarter of the bytes to send there.
        step: rows are padded to a multiple of it.

    `row_ids`, `num_tokens` and `num_supervised` are for messages and meters; the trainers take them out before the model sees the batch.
    """

    processor: object
    cache: FeatureCache | None = None
    squashed: ResizedCache | None = None
    as_bytes: bool = False
    step: int = CPU_STEP

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        return {**self.pad([s.input_ids for s in samples], [s.labels for s in samples]), **self.pictures(samples),
                "row_ids": [s.id for s in samples], "num_tokens": sum(len(s.input_ids) for s in samples),
                "num_supervised": sum(label != IGNORE_INDEX for s in samples for label in s.labels)}

    def pad(self, ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """input_ids, labels. Shape (B, L); image_at, supervised_at: see the model's forward. No mask: what is padded stands behind all that it
        could be seen by."""
        longest, pad = bucket(max(map(len, ids)), self.step), self.processor.tokenizer.pad_token_id
        input_ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in ids])
        labels_BL = torch.tensor([[*row, *[IGNORE_INDEX] * (longest - len(row))] for row in labels])
        return {"input_ids": input_ids, "labels": labels_BL, "image_at": self.image_at(input_ids), "supervised_at": before_supervised(labels_BL)}

    def image_at(self, input_ids: Tensor) -> Tensor:
        """Where image placeholders stand in the flattened batch."""
        return places(input_ids == self.processor.image_token_id)

    def pictures(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """pixel_values (I, 3, H, W) or image_features (I, P, C) of all rows in order, or of each a part; nothing for a text-only batch."""
        paths = [path for sample in samples for path in sample.images]
        if self.cache is not None:
            return self._features(paths) if paths else {"image_features": torch.zeros(0, *self.cache.shape)}
        return {"pixel_values": self._all_pixels(paths)} if paths else {}

    def _features(self, paths: Sequence[str | Packed]) -> dict[str, Tensor]:
        """Features of the pictures that the cache has; of the others their pixels, and which they are: see encode_rest."""
        kept = self.cache.kept(paths)
        missing = [path for path, features_PC in zip(paths, kept, strict=True) if features_PC is None]
        known = [features_PC for features_PC in kept if features_PC is not None]
        found = {"image_features": torch.stack(known) if known else torch.zeros(0, *self.cache.shape)}
        if missing:
            found |= {"pixel_values": self._all_pixels(missing), "unencoded": torch.tensor([features_PC is None for features_PC in kept])}
        return found

    def _all_pixels(self, paths: Sequence[str | Packed]) -> Tensor:
        workers = 1 if get_worker_info() else cores()  # a loader's worker has company, and this process waits for its batch
        return torch.cat(at_once(workers, self._pixels, paths))

    def _pixels(self, path: str | Packed) -> Tensor:
        picture = self.squashed.open(path) if self.squashed else open_image(path)
        return self.processor.squashed(picture) if self.as_bytes else self.processor.pixels([picture])
