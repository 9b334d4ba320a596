"""Opens a model folder for the verbs that ask a model something, and says clearly when it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnivision.errors import ConfigError, DataError


def model_folder(path: str | Path) -> Path:
    """The folder that holds config.json: the one given, or the `final` inside it.

    Raises:
        ConfigError: no such folder, no model in it, another kind of model, or no weights.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise ConfigError("The checkpoint folder does not exist" if not folder.exists() else "The checkpoint is no folder",
                          str(folder), "Give the final/ folder of a run.")
    if not (folder / "config.json").is_file() and (folder / "final" / "config.json").is_file():
        folder = folder / "final"
    if not (folder / "config.json").is_file():
        near = sorted(str(found.parent) for found in folder.glob("*/final/config.json"))
        raise ConfigError("The folder holds no model (no config.json)", str(folder),
                          f"Did you mean one of: {', '.join(near)}?" if near else "Give the final/ folder of a run.")
    kind = _kind(folder)
    if kind != "omnivision":
        raise ConfigError(f"The folder holds a model of the kind {kind!r}, not an omnivision model", str(folder),
                          "Give the final/ folder of a run.")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError("The folder holds no weights (no .safetensors file)", str(folder),
                          "The run was stopped while saving, or the copy is not complete: start the run again, or copy it again.")
    return folder


def load_checkpoint(path: str | Path) -> tuple[Any, Any]:
    """Model (in evaluation mode, on the GPU where there is one) and processor.

    Raises:
        ConfigError: as model_folder.
        DataError: a broken weights file.
    """
    folder = model_folder(path)
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor

    logging.disable_progress_bar()  # a bar of one step, over the answer
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = OmniVisionForConditionalGeneration.from_pretrained(folder, dtype="auto" if device == "cuda" else torch.float32)
        processor = OmniVisionProcessor.from_pretrained(folder)
    except SafetensorError as error:
        raise DataError(f"The weights cannot be read: {error}", str(folder), "Copy or make the checkpoint again.") from error
    return model.to(device).eval(), processor


def _kind(folder: Path) -> str | None:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise DataError("config.json is broken", str(folder), "Copy or make the checkpoint again.") from error
