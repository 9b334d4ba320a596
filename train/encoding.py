"""What happens to a batch's pictures on its device: bytes become pixels, and the tower runs on those whose features lie in no cache."""

from __future__ import annotations

from typing import Any

import torch

from omnivision.errors import ResumableError


def as_pixels(model, processor, batch: dict[str, Any]) -> None:
    """Puts pictures into the tower's type, those in bytes (see Collator.as_bytes) as pixels."""
    dtype = next(model.model.vision_tower.parameters()).dtype
    for key in {"pixel_values", "image_features"} & batch.keys():
        batch[key] = (processor.leveled(batch[key]) if batch[key].dtype == torch.uint8 else batch[key]).to(dtype)


@torch.no_grad()
def encode_rest(model, batch: dict[str, Any]) -> None:
    """Puts features in the place of the pixels of a batch that has both (see Collator.pictures); other batches stay as they are.

    Args:
        model: whose tower is frozen. batch: on its device, after as_pixels; it is changed.

    Raises:
        ResumableError: under ZeRO-3 all processes would have to run the tower together.
    """
    missing_I = batch.pop("unencoded", None)
    if missing_I is None:
        return
    if hasattr(next(model.model.vision_tower.parameters()), "ds_id"):
        raise ResumableError("Cached features of a picture were damaged, and under ZeRO-3 the tower cannot run for one process alone", "feature_cache",
                             "Start the same command again: they are made anew before the first step.")
    made = model.model.get_vision_features(batch.pop("pixel_values"))
    known = batch["image_features"]
    features_IPC = known.new_empty(len(missing_I), *made.shape[1:])
    features_IPC[missing_I] = made.half().to(known.dtype)  # rounded as the cache has them; on a GPU bf16 weights made them
    features_IPC[~missing_I] = known
    batch["image_features"] = features_IPC
