"""How fast a stage runs: tokens a second, and the share of the chip's arithmetic that the model's own products use.

Counted are the products of matrices with a token (2 operations a weight), forward once, backward once for what flows
through and once for what trains; attention's scores and recomputation under gradient checkpointing are not.
"""

from __future__ import annotations

import torch
from torch import nn

PEAK_TFLOPS = {  # dense bf16, from the makers' data sheets; a part of the device's name
    "H200": 989, "H100 PCIe": 756, "H100": 989, "H800": 989, "A100": 312, "A800": 312, "L40S": 362, "L40": 181, "L4": 121, "A10": 125,
    "RTX 4090": 165, "RTX 6000 Ada": 364, "GH200": 989, "B200": 2250,
}
OTHERS = ("H100 NVL", "H200 NVL", "GB200", "A10G", "RTX A1000", "RTX A100 ")  # names that hold one of these and are slower: better no share than a wrong one


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations a second of a device, where they are known."""
    if any(name in device_name for name in OTHERS):
        return None
    return next((1e12 * tera for part, tera in PEAK_TFLOPS.items() if part in device_name), None)


POOLING = ("attn_pool", "head")  # parts of a tower that see one token a picture, or none


def matrix_weights(module: nn.Module) -> tuple[int, int]:
    """(weights in matrices that multiply every token, how many of them train)."""
    matrices = [part.weight for name, part in module.named_modules()
                if isinstance(part, nn.Linear | nn.Conv2d) and not any(word in name.split(".") for word in POOLING)]
    sizes = [getattr(weight, "ds_numel", weight.numel()) for weight in matrices]  # under ZeRO-3 a parameter is empty
    return sum(sizes), sum(size for size, weight in zip(sizes, matrices, strict=True) if weight.requires_grad)


class Flops:
    """Operations of a training step by its tokens and pictures.

    Args:
        model: with its parts frozen or not, as the stage has them. encoded: pictures come as cached features.
        reference: a second model sees every row too, forward only (dpo). frozen_layers: of the language model, through which no gradient flows.
    """

    def __init__(self, model, encoded: bool, reference: bool = False, frozen_layers: int = 0) -> None:
        inner = model.model
        language, language_trained = matrix_weights(inner.language_model)
        head, head_trained = matrix_weights(model.lm_head)  # multiplies, tied or not
        if model.narrow_last_layer:  # what stands behind its attention
            narrow, narrow_trained = matrix_weights(inner.language_model.layers[-1].mlp)
            language, language_trained = language - narrow, language_trained - narrow_trained
            head, head_trained = head + narrow, head_trained + narrow_trained
        tower, tower_trained = matrix_weights(inner.vision_tower)
        projector, projector_trained = matrix_weights(inner.projector)
        patches, tokens = model.config.patch_grid**2, model.config.image_seq_length
        forward = 2 if reference else 1
        # backward flows through the language model even where it does not train
        held = matrix_weights(inner.language_model.layers[:frozen_layers])[0] if frozen_layers else 0
        self.per_token = 2 * (language * (forward + 1) - held + language_trained)
        self.per_supervised = 2 * (head * (forward + 1) + head_trained)
        self.per_picture = 2 * tokens * (projector * forward + 2 * projector_trained)
        self.per_encoding = 2 * patches * (tower * forward + 2 * tower_trained)
        if not encoded:
            self.per_picture += self.per_encoding

    def of(self, tokens: int = 0, supervised: int = 0, pictures: int = 0, uncached: int = 0) -> float:
        """Operations of so many tokens (image tokens among them) and pictures.

        Args:
            supervised: tokens that the head (and a narrow last layer) sees, counted once for each head that sees them. uncached: pictures that were not in the cache.
        """
        return self.per_token * tokens + self.per_supervised * supervised + self.per_picture * pictures + self.per_encoding * uncached


def device_peak() -> float | None:
    """The peak of this process' device; None on a CPU or an unknown device."""
    return peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
