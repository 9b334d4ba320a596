"""The model: pixels -> vision tower -> projector -> fusion -> language model -> head -> loss.

Legend: B rows, L positions, D language width, V vocabulary, I images of the batch, P patches, C vision width,
T image tokens of one image, S positions of the batch that are read. `..._at` count positions over the flattened batch (B·L).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageTextToText, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.siglip.modeling_siglip import SiglipVisionModel
from transformers.utils import can_return_tuple

from omnivision.constants import IGNORE_INDEX
from omnivision.model.chunked_loss import liger_cross_entropy, log_probs, padded, summed_cross_entropy
from omnivision.model.configuration import OmniVisionConfig
from omnivision.model.kept_layers import keep_in_fp32
from omnivision.model.projector import Projector


class OmniVisionPreTrainedModel(PreTrainedModel):
    """What transformers, accelerate and TRL ask of a model class."""

    config_class = OmniVisionConfig
    config: OmniVisionConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["SiglipVisionEmbeddings", "SiglipEncoderLayer"]  # the language model adds its own
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, Projector):
            return super()._init_weights(module)
        embedding_std = getattr(self.config.text_config, "initializer_range", 0.02)
        for layer, std in module.initial_stds(embedding_std).items():
            init.normal_(layer.weight, std=std)
            init.zeros_(layer.bias)

    def enable_input_require_grads(self) -> None:
        """Lets gradients begin at the text's embeddings. transformers would let them begin at the tower's as well whenever
        activations are checkpointed: a frozen tower would then run twice more, for gradients that nobody takes."""
        hook = self.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))
        self._require_grads_hook, self._require_grads_hooks = hook, [hook]


class OmniVisionModel(OmniVisionPreTrainedModel):
    """Vision tower, projector and the language model without its head; returns `last_hidden_state`."""

    def __init__(self, config: OmniVisionConfig) -> None:
        super().__init__(config)
        self.vision_tower = SiglipVisionModel._from_config(config.vision_config)
        self.projector = Projector(config.projector_layout, config.projector_group, config.patch_grid,
                                   config.vision_config.hidden_size, config.projector_hidden_size,
                                   config.text_config.hidden_size, config.projector_gelu)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_vision_features(self, pixel_values: Tensor) -> Tensor:
        """Unpooled tower features, without running blocks or a pooling head whose result nobody reads.

        Args:
            pixel_values: (I, 3, height, width), scaled to [-1, 1].

        Returns:
            (I, P, C): the block `vision_feature_layer`, after post-LN where the config says so.

        Raises:
            ValueError: pictures in bytes.
        """
        if not pixel_values.is_floating_point():
            raise ValueError(f"pixel_values are {pixel_values.dtype}: turn bytes into pixels first, with the processor's leveled().")
        tower = self.vision_tower
        hidden_IPC = tower.embeddings(pixel_values)
        used = tower.config.num_hidden_layers + 1 + self.config.vision_feature_layer
        for block in tower.encoder.layers[:used]:
            hidden_IPC = block(hidden_IPC, attention_mask=None)
        return tower.post_layernorm(hidden_IPC) if self.config.vision_post_layernorm else hidden_IPC

    def get_image_features(self, pixel_values: Tensor | None = None, image_features: Tensor | None = None,
                           **kwargs: Any) -> Tensor:
        """Image tokens (I, T, D) from pixels, or from cached tower features (I, P, C)."""
        if image_features is None:
            image_features = self.get_vision_features(pixel_values)
        return self.projector(image_features)

    def fuse(self, embeds_BLD: Tensor, input_ids: Tensor | None, image_tokens_ITD: Tensor, image_at: Tensor | None = None) -> Tensor:
        """Puts the image tokens in the places of the image placeholders, in order.

        Args:
            image_at: (I·T,) where the placeholders stand; None to look for them.

        Raises:
            ValueError: the two counts differ (tokens cut by truncation, or an image too many or too few).
        """
        if image_at is None:
            if input_ids is None:
                raise ValueError("Images were given with inputs_embeds: pass input_ids, so that the placeholders can be found.")
            image_at = places(input_ids == self.config.image_token_id)
        tokens_ND = image_tokens_ITD.flatten(0, 1).to(embeds_BLD.device, embeds_BLD.dtype)
        if len(image_at) != len(tokens_ND):
            raise ValueError(
                f"The text holds {len(image_at)} image placeholders (id {self.config.image_token_id}) but the images give "
                f"{len(tokens_ND)} image tokens ({image_tokens_ITD.shape[0]} images of {image_tokens_ITD.shape[1]}). "
                "Pass one image per placeholder group, and never truncate inside one.")
        return embeds_BLD.flatten(0, 1).index_copy(0, image_at.to(embeds_BLD.device), tokens_ND).view_as(embeds_BLD)

    def run_blank_image(self, embeds_BLD: Tensor, image_features: Tensor | None) -> Tensor:
        """Runs one blank image and adds nothing, so that a rank with text only keeps step with the others.

        Under ZeRO-2 and ZeRO-3 every rank must use the same modules in the same order, or the job hangs or dies.
        An empty `image_features` (0, P, C) says that the others feed cached features, not pixels.
        """
        vision = self.config.vision_config
        if image_features is None:
            blank = embeds_BLD.new_zeros(1, vision.num_channels, vision.image_size, vision.image_size)
            tokens = self.get_image_features(pixel_values=blank)
        else:
            tokens = self.get_image_features(image_features=embeds_BLD.new_zeros(1, *image_features.shape[1:]))
        return embeds_BLD + 0 * tokens.sum().to(embeds_BLD.dtype)

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None,
                attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
                past_key_values: Cache | None = None, inputs_embeds: Tensor | None = None,
                image_features: Tensor | None = None, image_at: Tensor | None = None, **kwargs: Any) -> BaseModelOutputWithPast:
        """Args as in OmniVisionForConditionalGeneration.forward; returns the hidden states (B, L, D)."""
        # text embedding: first, so that ranks with and without images use the modules in one order
        embeds_BLD = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        images = next((x for x in (image_features, pixel_values) if x is not None and len(x)), None)
        if images is not None:
            # vision tower (or cached features) -> projector -> fusion
            image_tokens_ITD = self.get_image_features(pixel_values, image_features)
            embeds_BLD = self.fuse(embeds_BLD, input_ids, image_tokens_ITD, image_at)
        elif past_key_values is None and (self.training or is_deepspeed_zero3_enabled()):
            embeds_BLD = self.run_blank_image(embeds_BLD, image_features)
        # language model
        return self.language_model(inputs_embeds=embeds_BLD, attention_mask=attention_mask, position_ids=position_ids,
                                   past_key_values=past_key_values, **kwargs)


@dataclass
class OmniVisionOutput(CausalLMOutputWithPast):
    """What a pass gives; `log_probs` (N,) are those of the tokens that were asked for."""

    log_probs: Tensor | None = None


class OmniVisionForConditionalGeneration(OmniVisionPreTrainedModel, GenerationMixin):
    """OmniVisionModel with the language model's head: logits, loss, generate."""

    _tied_weights_keys = {"lm_head.weight": "model.language_model.embed_tokens.weight"}
    liger_loss = False  # set by a stage whose configuration asks for it
    narrow_last_layer = False  # set by a stage where the last layer takes `read_at`, as omnivision_train.last_layer makes it

    def __init__(self, config: OmniVisionConfig) -> None:
        super().__init__(config)
        self.model = OmniVisionModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        embedding = self.model.get_input_embeddings()  # embed_tokens in most models, wte in GPT-2's family
        name = next(name for name, module in self.named_modules() if module is embedding)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self._keep_in_fp32_modules = getattr(config, "keep_fp32", None)  # set by an FP16 export that keeps layers
        keep_in_fp32(self, self._keep_in_fp32_modules or ())
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.lm_head = value

    def get_image_features(self, pixel_values: Tensor | None = None, image_features: Tensor | None = None,
                           **kwargs: Any) -> Tensor:
        """Image tokens (I, T, D); see OmniVisionModel."""
        return self.model.get_image_features(pixel_values, image_features)

    @can_return_tuple
    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None,
                attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
                past_key_values: Cache | None = None, inputs_embeds: Tensor | None = None,
                image_features: Tensor | None = None, labels: Tensor | None = None, logits_to_keep: int | Tensor = 0,
                num_items_in_batch: int | Tensor | None = None, early_exits: dict[int, float] | None = None,
                image_at: Tensor | None = None, supervised_at: Tensor | None = None, logits_at: Tensor | None = None,
                log_probs_of: tuple[Tensor, Tensor] | None = None, **kwargs: Any) -> OmniVisionOutput:
        """One pass over the road.

        Args:
            input_ids: (B, L), with T image placeholders for every image.
            pixel_values: (I, 3, height, width), the images of all rows in order.
            image_features: (I, P, C), cached outputs of the tower, in place of pixels.
            labels: (B, L), IGNORE_INDEX where nothing is supervised. With labels only the supervised positions
                go through the head (of 151,936 rows for Qwen2.5), in chunks, and `logits` is None.
            logits_to_keep: how many last positions get logits; 0 is all.
            num_items_in_batch: supervised tokens over accumulation and ranks, where the trainer counted them.
            early_exits: layers run before the head -> weight of the loss there; in place of the loss after all layers.
            image_at: (I·T,) where the image placeholders stand. supervised_at: (S,) what stands before a supervised label. A trainer gives
                them from the batch as it was on the CPU; where they are left out they are looked for, for which a GPU has to finish all it was told.
            logits_at: (S,) positions that get logits (S, V), in place of `logits_to_keep`.
            log_probs_of: the tokens (N) whose log-probs are wanted: where each is read, counted over `logits_at`, and its id. The
                head then runs in chunks, and `logits` is None.

        Raises:
            ValueError: image placeholders and image tokens differ in number; log_probs_of without logits_at, or with labels.
        """
        if log_probs_of is not None and (logits_at is None or labels is not None):
            raise ValueError("log_probs_of needs logits_at, and no labels.")
        read_at = None if log_probs_of is None else logits_at
        if labels is not None:
            kwargs.setdefault("use_cache", False)  # transformers turns it off in the outer config only, and would keep every layer's keys and values
            read_at = before_supervised(labels) if supervised_at is None else supervised_at
        if early_exits:
            kwargs["output_hidden_states"] = True
        narrow = self.narrow_last_layer and read_at is not None and not kwargs.get("output_hidden_states")
        if narrow:
            kwargs["read_at"] = padded(read_at)  # as the loss pads what it is given, and leaves what is padded as it is

        def read(states: Tensor) -> Tensor:
            return states[0] if narrow else hidden_at(states, read_at)

        outputs = self.model(input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask,
                             position_ids=position_ids, past_key_values=past_key_values, inputs_embeds=inputs_embeds,
                             image_features=image_features, image_at=image_at, **kwargs)
        hidden_BLD, loss, logits, found = outputs.last_hidden_state, None, None, None
        if labels is not None:
            exits = [(hidden_BLD, 1.0)] if not early_exits else [
                (self.at_exit(outputs, layer), weight) for layer, weight in early_exits.items()]
            targets_S = labels.flatten()[read_at + 1]
            loss = sum(weight * self.supervised_loss(read(exit_BLD), targets_S, num_items_in_batch) for exit_BLD, weight in exits)
        elif log_probs_of is not None:
            found = log_probs(self.lm_head, read(hidden_BLD), *log_probs_of, self.config.text_config.vocab_size)
        else:
            keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_BLD[:, keep] if logits_at is None else hidden_at(hidden_BLD, logits_at))
        return OmniVisionOutput(loss=loss, logits=logits, past_key_values=getattr(outputs, "past_key_values", None),
                                hidden_states=outputs.hidden_states, attentions=outputs.attentions, log_probs=found)

    def at_exit(self, outputs: BaseModelOutputWithPast, layer: int) -> Tensor:
        """What the head sees after so many layers of the language model. Shape (B, L, D)."""
        whole = layer == self.config.text_config.num_hidden_layers
        return outputs.last_hidden_state if whole else self.model.language_model.norm(outputs.hidden_states[layer])

    def supervised_loss(self, hidden_SD: Tensor, targets_S: Tensor, count: int | Tensor | None) -> Tensor:
        """Sum of the cross-entropy over supervised tokens / their number; 0 (with a gradient of 0) where there are none.

        Args:
            targets_S: IGNORE_INDEX where nothing is supervised after all.
        """
        columns, targets_S = self.config.text_config.vocab_size, targets_S.to(hidden_SD.device)
        total = liger_cross_entropy(self.lm_head, hidden_SD, targets_S) if self.liger_loss else summed_cross_entropy(self.lm_head, hidden_SD, targets_S, columns)
        if count is None:
            count = (targets_S != IGNORE_INDEX).sum().clamp(min=1)
        return total / (count.to(total.device) if isinstance(count, Tensor) else count)

    def _expand_inputs_for_generation(self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Tensor | None = None,
                                      **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """For beams and samples: a row is repeated with all of its pictures, where transformers would repeat picture by picture."""
        images = {key: kwargs.pop(key) for key in ("pixel_values", "image_features") if kwargs.get(key) is not None}
        if images and expand_size > 1:
            counts = ((input_ids == self.config.image_token_id).sum(1) // self.config.image_seq_length).tolist()
            images = {key: torch.cat([row.repeat(expand_size, *[1] * (row.dim() - 1)) for row in value.split(counts)]) for key, value in images.items()}
        input_ids, kwargs = super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs | images

    def prepare_inputs_for_generation(self, input_ids: Tensor, is_first_iteration: bool = False,
                                      **kwargs: Any) -> dict[str, Any]:
        """Passes images with the prompt only: in later steps the cache holds them."""
        inputs = super().prepare_inputs_for_generation(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            inputs.pop("pixel_values", None)
            inputs.pop("image_features", None)
        return inputs


def before_supervised(labels_BL: Tensor) -> Tensor:
    """The positions whose next label is supervised, counted over the flattened batch. Shape (S,)."""
    return places(nn.functional.pad(labels_BL[:, 1:], (0, 1), value=IGNORE_INDEX) != IGNORE_INDEX)


def places(mask_BL: Tensor) -> Tensor:
    """Where a mask is true, counted over the flattened batch. Shape (S,)."""
    return mask_BL.flatten().nonzero().squeeze(1)


def hidden_at(hidden_BLD: Tensor, places_S: Tensor) -> Tensor:
    """What stands at positions of the flattened batch. Shape (S, D)."""
    return hidden_BLD.flatten(0, 1).index_select(0, places_S.to(hidden_BLD.device))


AutoModel.register(OmniVisionConfig, OmniVisionModel, exist_ok=True)
AutoModelForImageTextToText.register(OmniVisionConfig, OmniVisionForConditionalGeneration, exist_ok=True)
