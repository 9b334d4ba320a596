"""Features of a frozen tower, kept on disk: the tower runs once per picture over all epochs, stages and evaluations.

One folder per tower: `features.bin` holds records of one size, `index.jsonl` names them; a line is written
only after its record is flushed, so that a killed run leaves complete records behind a shorter index.

Shapes: N pictures, P patches, C tower width.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from omnivision.data.image import read_image
from omnivision.data.pictures import Packed
from omnivision.errors import DataError

Source = str | Path | Packed  # a file, or a picture in a shard or table


class FeatureCache:
    """Tower features by picture.

    Args:
        folder: parent of the towers' folders (created).
        model, processor: an OmniVision model whose tower is frozen, and its processor.
    """

    def __init__(self, folder: str | Path, model, processor) -> None:
        vision = model.config.vision_config
        self.shape = ((vision.image_size // vision.patch_size) ** 2, vision.hidden_size)
        self.bytes = 2 * self.shape[0] * self.shape[1]
        self.folder = Path(folder) / tower_hash(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data, self.index = self.folder / "features.bin", self.folder / "index.jsonl"
        self._model, self._processor = model, processor
        self._keys: dict[str, str] = {}  # path -> key of the file's bytes
        self._records: dict[str, tuple[int, int]] = {}  # key -> record, checksum
        self._read_index()

    def fill(self, paths: Sequence[Source], batch_size: int = 16, progress: Callable[[int], None] | None = None,
             autocast_dtype: torch.dtype | None = None) -> int:
        """Computes what is missing; returns how many pictures that were.

        Args:
            autocast_dtype: torch.bfloat16 runs the tower's products in bf16 (faster where the processor has them,
                features off by bf16's rounding); None computes in the model's own type.
            progress: called with the number of pictures after every batch.
        """
        with FileLock(self.folder / "lock"):
            self._read_index()
            by_key = {self._key(p): p for p in paths}  # one picture may have several names
            missing = [p for key, p in by_key.items() if key not in self._records]
            with self.data.open("ab") as data, self.index.open("ab") as index:
                # what a killed run left: records without a line, half a line, lines without a record
                data.truncate(self._count * self.bytes)
                index.truncate(self._index_bytes)
                for start in range(0, len(missing), batch_size):
                    batch = missing[start : start + batch_size]
                    self._append(batch, data, index, autocast_dtype)
                    if progress:
                        progress(len(batch))
        return len(missing)

    def get(self, paths: Sequence[Source]) -> Tensor:
        """Features of pictures, computed where they are missing. Shape (N, P, C), fp16.

        Raises:
            DataError: no such picture, or a stored record that does not match its checksum.
        """
        if not all(map(self.has, paths)):
            self.fill(paths)
        out = np.empty((len(paths), *self.shape), dtype=np.float16)
        with self.data.open("rb") as data:
            for row, path in enumerate(paths):
                number, checksum = self._records[self._key(path)]
                data.seek(number * self.bytes)
                raw = data.read(self.bytes)
                if zlib.crc32(raw) != checksum:
                    raise DataError("The cached features of a picture are damaged", str(path), f"Delete {self.folder} and start again.")
                out[row] = np.frombuffer(raw, dtype=np.float16).reshape(self.shape)
        return torch.from_numpy(out)

    def features(self, paths: Sequence[Source], model=None, processor=None) -> list[Tensor]:
        """One (P, C) tensor a path, in fp32: what generation takes in place of pictures."""
        return list(self.get(paths).float())

    def has(self, path: Source) -> bool:
        """Whether the features of a picture are there.

        Raises:
            DataError: the picture cannot be read.
        """
        return self._key(path) in self._records

    def _append(self, paths: list[Source], data, index, autocast_dtype: torch.dtype | None) -> None:
        from omnivision.generation import encode_images

        device = self._model.device.type
        with torch.autocast(device, dtype=autocast_dtype or torch.bfloat16, enabled=autocast_dtype is not None):
            features_NPC = encode_images(self._model, self._processor, paths, len(paths)).to(torch.float16).cpu().numpy()
        lines = []
        for path, features_PC in zip(paths, features_NPC, strict=True):
            raw = features_PC.tobytes()
            data.write(raw)
            self._records[self._key(path)] = (self._count, zlib.crc32(raw))
            self._count += 1
            lines.append(json.dumps({"key": self._key(path), "crc32": zlib.crc32(raw)}))
        data.flush()
        os.fsync(data.fileno())
        self._index_bytes += index.write("".join(line + "\n" for line in lines).encode())
        index.flush()

    def _key(self, path: Source) -> str:
        name = str(path)
        if name not in self._keys:
            self._keys[name] = hashlib.sha256(read_image(path)).hexdigest()[:32]
        return self._keys[name]

    def _read_index(self) -> None:
        self._records, self._count, self._index_bytes = {}, 0, 0
        if not self.index.is_file():
            return
        whole = self.data.stat().st_size // self.bytes if self.data.is_file() else 0
        for line in self.index.read_bytes().splitlines(keepends=True)[:whole]:
            try:
                entry = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                entry = None
            if entry is None:
                break  # the last line of a killed run
            self._records[entry["key"]] = (self._count, entry["crc32"])
            self._count += 1
            self._index_bytes += len(line)


def tower_hash(model) -> str:
    """Sixteen hex digits that name a tower's weights and which of its layers is read."""
    digest = hashlib.sha256(repr((model.config.vision_feature_layer, model.config.vision_post_layernorm)).encode())
    for name, tensor in sorted(model.model.vision_tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]
