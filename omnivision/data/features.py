"""Features of a frozen tower, kept on disk: the tower runs once per picture over all epochs, stages and evaluations.

One folder for each tower with its preprocessing and precision: `features.bin` holds records of one size, `index.jsonl` names them.

Shapes: N pictures, P patches, C tower width.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock
from torch import Tensor

from omnivision.data.feature_records import Records
from omnivision.data.image import DECODER, read_image
from omnivision.data.parallel import cores, in_order
from omnivision.data.pictures import Packed, state_of
from omnivision.data.room import MOST_GIB, Room, gib
from omnivision.errors import DataError

Source = str | Path | Packed  # a file, or a picture in a shard or table
COMPUTES = ("hidden_act", "num_attention_heads", "layer_norm_eps", "image_size", "patch_size")  # of a tower, beside its weights
PREPROCESSING = ("do_convert_rgb", "do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
                 "do_center_crop", "do_pad")  # what an image processor does to pixels


class FeatureCache:
    """Tower features by picture.

    Args:
        folder: parent of the towers' folders (created).
        model, processor: an OmniVision model whose tower is frozen, and its processor.
        precision: bf16 runs the tower's products in bf16 (faster where the device has them, features off by bf16's rounding);
            fp32 computes in the model's own type. Each has records of its own.
        most_gib: of all towers' records together; at the limit nothing more is added, see Room.
    """

    def __init__(self, folder: str | Path, model, processor, precision: str = "fp32", most_gib: float = MOST_GIB) -> None:
        vision = model.config.vision_config
        self.shape = ((vision.image_size // vision.patch_size) ** 2, vision.hidden_size)
        self.room = Room(Path(folder), most_gib)
        self.folder = Path(folder) / features_hash(model, processor, precision)
        self.records = Records(self.folder, 2 * self.shape[0] * self.shape[1], self.room)
        self._model, self._processor, self._precision = model, processor, precision
        self._keys: dict[str, tuple[tuple, str]] = {}  # picture's name -> (what tells that a file has changed, key of its bytes)

    def __getstate__(self) -> dict:
        """For a loader's worker that is started anew, as on macOS, or on Linux from Python 3.14 on: it reads, and needs no copy of the model."""
        return {**self.__dict__, "_model": None, "_processor": None}

    def fill(self, paths: Sequence[Source], batch_size: int = 16, progress: Callable[[int], None] | None = None,
             rank: int = 0, ranks: int = 1) -> int:
        """Computes what is missing while there is room; returns how many pictures that were.

        Args:
            progress: called with the number of pictures after every batch.
            rank, ranks: of the processes that call this with the same pictures. Each begins with its share and then helps the others.
        """
        sources = self._by_key(paths)  # one picture may have several names
        made = 0
        with FileLock(self.folder / f"fill-{rank}.lock"), self._on_device():  # another run waits, and finds what this one has made
            self.records.refresh()
            missing = [key for key in sources if key not in self.records]
            batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
            others = [batch for number, batch in enumerate(batches) if number % ranks != rank]
            for batch in (*batches[rank::ranks], *reversed(others)):
                self.records.refresh()
                batch = [key for key in batch if key not in self.records]
                batch = batch[: self.records.room()] if batch else batch
                if batch:
                    made += self.records.add(dict(zip(batch, self._computed([sources[key] for key in batch]), strict=True)))
                    if progress:
                        progress(len(batch))
        self._tell_missing(sources)
        return made

    def read_keys(self, paths: Sequence[Source]) -> dict[str, tuple[tuple, str]]:
        """What pictures are kept under, by name, from their bytes: for another process, which reads them no more (see `know`).

        Raises:
            DataError: no such picture.
        """
        self._by_key(paths)
        return {str(path): self._keys[str(path)] for path in paths}

    def know(self, keys: dict[str, tuple[tuple, str]]) -> None:
        """Takes what another process has read; a file that is another one here, or changes later, is read again."""
        self._keys |= keys

    def kept(self, paths: Sequence[Source]) -> list[Tensor | None]:
        """Features of pictures as they lie on the disk, (P, C) in fp16; None for one that is not there, or whose record is damaged.

        Raises:
            DataError: no such picture.
        """
        raws = self.records.read([self._key(path) for path in paths])
        return [None if raw is None else torch.frombuffer(bytearray(raw), dtype=torch.float16).view(self.shape) for raw in raws]

    def get(self, paths: Sequence[Source]) -> Tensor:
        """Features of pictures, computed where they are missing. Shape (N, P, C), fp16.

        Raises:
            DataError: no such picture.
        """
        found = dict(zip(map(str, paths), self.kept(paths), strict=True))
        missing = [path for path in {str(path): path for path in paths}.values() if found[str(path)] is None]
        if missing:
            computed = self._computed(missing)
            found |= dict(zip(map(str, missing), map(torch.from_numpy, computed), strict=True))
            self.records.add(dict(zip(map(self._key, missing), computed, strict=True)))
            self._tell_missing(self._by_key(missing))
        features_NPC = torch.empty(len(paths), *self.shape, dtype=torch.float16)
        for row_PC, path in zip(features_NPC, paths, strict=True):  # autocast on a CPU would refuse to stack fp16
            row_PC.copy_(found[str(path)])
        return features_NPC

    def has(self, path: Source) -> bool:
        """Whether the features of a picture are there.

        Raises:
            DataError: the picture cannot be read.
        """
        return self._key(path) in self.records

    def has_all(self, paths: Iterable[Source]) -> bool:
        """Whether nothing is missing."""
        return all(map(self.has, paths))

    def _computed(self, sources: list[Source]) -> np.ndarray:
        from omnivision.generation import encode_images

        device = next(self._model.model.vision_tower.parameters()).device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._precision == "bf16"):
            features_NPC = encode_images(self._model, self._processor, sources, len(sources)).to(torch.float16).cpu()
        if not torch.isfinite(features_NPC).all():
            raise DataError("The tower's features do not fit into fp16, in which the cache keeps them", str(sources[0]), "Train without `feature_cache`.")
        return features_NPC.numpy()

    @contextmanager
    def _on_device(self):
        """The tower on a GPU meanwhile, where there is one: before training begins a stage's model is on the CPU."""
        tower = self._model.model.vision_tower
        before = next(tower.parameters()).device
        if torch.cuda.is_available():
            tower.to("cuda")
        try:
            yield
        finally:
            tower.to(before)

    def _tell_missing(self, sources: dict[str, Source]) -> None:
        missing = sum(key not in self.records for key in sources)
        if missing:
            used = self.records.used()
            needed = gib(used + missing * self.records.size)
            self.room.tell_full(used, f"{missing:,} of {len(sources):,} pictures are not in it, and the tower runs whenever one of them is seen. "
                                      f"Allow it {needed}, or delete the folders in it of towers that are no longer used: this one's is {self.folder.name}.")

    def _by_key(self, paths: Sequence[Source]) -> dict[str, Source]:
        with ThreadPoolExecutor(cores()) as threads:
            keys = list(in_order(threads, cores(), self._key, paths))
        found: dict[str, Source] = {}
        for key, path in zip(keys, paths, strict=True):
            found.setdefault(key, path)
        return found

    def _key(self, path: Source) -> str:
        name, state = str(path), _state(path)
        known = self._keys.get(name)
        if known is None or known[0] != state:
            known = self._keys[name] = (state, hashlib.sha256(read_image(path)).hexdigest()[:32])
        return known[1]


def _state(path: Source) -> tuple:
    """Tells that a file has changed; a shard's pictures look themselves, when they are read."""
    if isinstance(path, Packed):
        return ()
    try:
        return state_of(os.stat(path))
    except OSError:
        return (None,)  # reading it says what is wrong


def features_hash(model, processor, precision: str) -> str:
    """Sixteen hex digits that name all that a picture's features depend on beside its bytes."""
    preprocessing = {key: getattr(processor.image_processor, key, None) for key in PREPROCESSING}
    said = json.dumps([tower_hash(model), preprocessing, PIL.__version__, DECODER, precision], sort_keys=True, default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def tower_hash(model) -> str:
    """Sixteen hex digits that name a tower's weights, how it computes with them, and which of its layers is read."""
    computes = [getattr(model.config.vision_config, key, None) for key in COMPUTES]
    digest = hashlib.sha256(repr((model.config.vision_feature_layer, model.config.vision_post_layernorm, computes)).encode())
    for name, tensor in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
