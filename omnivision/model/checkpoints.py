"""Opens a model for whoever asks it something, ours or any other that takes pictures, and says clearly when it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnivision.errors import ConfigError, DataError, one_line


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
    kind = kind_of(folder)
    if kind != "omnivision":
        raise ConfigError(f"The folder holds a model of the kind {kind!r}, not an omnivision model", str(folder),
                          "Give the final/ folder of a run.")
    if not any(folder.glob("*.safetensors")):
        raise ConfigError("The folder holds no weights (no .safetensors file)", str(folder),
                          "The run was stopped while saving, or the copy is not complete: start the run again, or copy it again.")
    return folder


def load_checkpoint(path: str | Path, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """Model (in evaluation mode) and processor of ours.

    Args:
        path: as model_folder takes it.
        device: the GPU where there is one, else the CPU, where None.
        dtype: such as "bfloat16"; as saved where None, but float32 on a CPU.

    Raises:
        ConfigError: as model_folder.
        DataError: a broken weights file, or weights that are not all there.
    """
    folder = model_folder(path)
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor

    return _load(OmniVisionForConditionalGeneration, OmniVisionProcessor, str(folder), device, dtype)


def load_any(source: str, device: str | None = None, dtype: str | None = None) -> tuple[Any, Any]:
    """Any AutoModelForImageTextToText (ours included) in evaluation mode, and its processor.

    Args:
        source: a folder, a run's folder with `final` inside, or a hub id. The rest as load_checkpoint.

    Raises:
        ConfigError: there is no such model, or none that takes pictures.
        DataError: a broken weights file, or weights that are not all there.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import omnivision.model.auto  # noqa: F401 - registers our own models

    try:
        return _load(AutoModelForImageTextToText, AutoProcessor, resolved(source), device, dtype, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"The model cannot be loaded: {one_line(error)}", f"--model {source}",
                          "Give a checkpoint's folder, or the hub id of a model that takes pictures.") from error


def resolved(source: str) -> str:
    """The folder that holds a model's config.json, where the source is one; else the source, a hub id."""
    folder = Path(source)
    if not (folder / "config.json").is_file() and (folder / "final" / "config.json").is_file():
        return str(folder / "final")
    return str(folder) if folder.is_dir() else source


def _load(models: Any, processors: Any, name: str, device: str | None, dtype: str | None, **options: Any) -> tuple[Any, Any]:
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    from omnivision.hardware import avoid_attention_plans

    logging.disable_progress_bar()  # a bar of one step, over the answer
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    avoid_attention_plans()
    kind = getattr(torch, dtype) if dtype else torch.float32 if device == "cpu" else "auto"
    try:
        model = load_whole(models, name, dtype=kind, **options)
        processor = processors.from_pretrained(name, trust_remote_code=False)
    except SafetensorError as error:
        raise DataError(f"The weights cannot be read: {error}", name, "Copy or make the checkpoint again.") from error
    return model.to(device).eval(), processor


class MissingTensors(DataError):
    """Weights that are not all there.

    Args:
        names: of the tensors that lack. source: where.
    """

    def __init__(self, names: list[str], source: str) -> None:
        self.names = names
        super().__init__(f"{len(names)} of the model's tensors are not in the weights, the first is {names[0]}", source,
                         "Random numbers would stand in their place: copy or make the checkpoint again.")


def load_whole(models: Any, source: str | Path, **options: Any) -> Any:
    """`models.from_pretrained`, which fills what the weights lack with random numbers and a warning.

    Raises:
        MissingTensors: something is missing.
    """
    model, told = models.from_pretrained(source, output_loading_info=True, **options)
    if missing := sorted(told["missing_keys"]):
        raise MissingTensors(missing, str(source))
    return model


def image_token_id(config: Any) -> int | None:
    """The placeholder's id, by whichever name a model has for it."""
    return next((getattr(config, name) for name in ("image_token_id", "image_token_index") if getattr(config, name, None) is not None), None)


def kind_of(folder: Path) -> str | None:
    """The `model_type` of a folder's config.json.

    Raises:
        DataError: it is broken.
    """
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise DataError("config.json is broken", str(folder), "Copy or make the checkpoint again.") from error
