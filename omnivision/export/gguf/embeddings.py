"""Image tokens of a few reference pictures, in fp32, that travel with an export.

T = image tokens, D = width of the language model
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from omnivision.export.folder import PICTURE_FOLDER

FILE = f"{PICTURE_FOLDER}/embeddings.safetensors"
MOST = 8  # pictures; 81 tokens of 896 numbers are 290 kB each


@torch.inference_mode()
def write_embeddings(folder: Path, model, processor) -> None:
    """Writes what the model makes of the first reference pictures; nothing where there are none."""
    pictures = sorted(path for path in (folder / PICTURE_FOLDER).iterdir() if path.is_file())[:MOST]
    found = {f"{PICTURE_FOLDER}/{path.name}": model.get_image_features(processor.pixels([path]))[0].float().numpy() for path in pictures}
    if found:
        save_file(found, folder / FILE)


def read_embeddings(folder: Path) -> dict[str, np.ndarray]:
    """Picture -> image tokens (T, D)."""
    return load_file(folder / FILE) if (folder / FILE).is_file() else {}
