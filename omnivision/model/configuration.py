"""OmniVisionConfig: a SigLIP tower, a projector and any causal language model; the defaults are the 968m preset."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig, SiglipVisionConfig

from omnivision.model.layouts import check_layout

# google/siglip-so400m-patch14-384 as open_clip's ViT-SO400M-14-SigLIP-384 runs it. Its timm trunk uses the exact
# (erf) GELU where transformers' own files say gelu_pytorch_tanh; the loaders set what their source says.
SO400M_384 = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}
# Qwen/Qwen2.5-0.5B-Instruct; 151,936 rows for 151,665 ids leave 271 spare rows for functional tokens.
QWEN25_05B = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}
GELUS = ("erf", "tanh")


class OmniVisionConfig(PreTrainedConfig):
    """Everything that decides the model's shape.

    Args:
        vision_config: SigLIP's vision config or its dict; None is so400m/14 at 384 px.
        text_config: config or dict of any causal language model; None is Qwen2.5-0.5B.
        projector_layout: raster, block, conv, pool or identity (see layouts.py).
        projector_group: patches that become one image token: 1, 3, 9, 27 or 81.
        projector_hidden_size: width of the MLP between the two linears.
        projector_gelu: "erf" (OmniVision's) or "tanh" (what stock llama.cpp computes).
        vision_feature_layer: which block's output is used; -1 is the last, -2 the one before (LLaVA's choice).
        vision_post_layernorm: whether the tower's post-LN is applied to it.
        image_token_id: id of the image placeholder in the tokenizer.
        early_exit_layer: layer of the language model after which an early exit was trained; None: none was.

    Raises:
        ValueError: an unknown layout or GELU, or a group that does not tile the patch grid.
    """

    model_type = "omnivision"
    sub_configs = {"text_config": AutoConfig, "vision_config": SiglipVisionConfig}

    vision_config: Any = None
    text_config: Any = None
    projector_layout: str = "raster"
    projector_group: int = 9
    projector_hidden_size: int = 4096
    projector_gelu: str = "erf"
    vision_feature_layer: int = -1
    vision_post_layernorm: bool = True
    image_token_id: int = 151655
    early_exit_layer: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.vision_config is None or isinstance(self.vision_config, dict):
            self.vision_config = SiglipVisionConfig(**(self.vision_config or SO400M_384))
        if self.text_config is None or isinstance(self.text_config, dict):
            text = dict(self.text_config or QWEN25_05B)
            self.text_config = AutoConfig.for_model(text.pop("model_type", "qwen2"), **text)
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        check_layout(self.projector_layout, self.projector_group, self.patch_grid)
        if self.projector_gelu not in GELUS:
            raise ValueError(f"projector_gelu is {self.projector_gelu!r}; it must be one of {', '.join(GELUS)}.")
        depth = self.vision_config.num_hidden_layers
        if not -depth <= self.vision_feature_layer <= -1:
            raise ValueError(f"vision_feature_layer is {self.vision_feature_layer}; the tower has {depth} blocks, "
                             f"so it must lie between {-depth} and -1.")
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As transformers', without the places that config and parts were read from: a checkpoint goes to other machines."""
        found = super().to_dict()
        for one in (found, *(found[part] for part in self.sub_configs)):
            one.pop("_name_or_path", None)
        return found

    @property
    def patch_grid(self) -> int:
        """Patches along one side (27 for all presets); the patch convolution drops a rest of less than one patch."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of one image (729 for all presets)."""
        return self.patch_grid**2

    @property
    def image_seq_length(self) -> int:
        """Image tokens that one image takes in the prompt (81 for all presets)."""
        return self.num_patches // self.projector_group


AutoConfig.register(OmniVisionConfig.model_type, OmniVisionConfig, exist_ok=True)
