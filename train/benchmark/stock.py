"""TRL's trainers as they are, on the rows of the other arms in their order."""

from __future__ import annotations

import copy
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnivision.hardware import avoid_attention_plans
from omnivision.model.processing import OmniVisionProcessor
from omnivision.runs import read_json_lines
from omnivision_train.benchmark.arm import DEFAULTS, LLAVA, SMOLVLM, Arm, Paced
from omnivision_train.benchmark.material import PROMPT
from omnivision_train.data import Order
from omnivision_train.lean_attention import LEAN
from omnivision_train.precision import resolved
from omnivision_train.stages import plain_model, set_trainable


def run_stock(arm: Arm, paced: Paced) -> None:
    """SFTTrainer or DPOTrainer with its own collator, loss and loop, no DeepSpeed; for dpo a second model is its reference."""
    from datasets import Dataset, Image
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    paced.imported()
    config, preference = arm.config(), arm.stage == "dpo"
    avoid_attention_plans()  # as ours: a peer gets its best settings
    os.environ.setdefault("WORLD_SIZE", "1")
    model, processor = plain_model(config, arm.stage)
    set_trainable(model, arm.stage)
    if model.config.get_text_config()._attn_implementation == LEAN:
        model.set_attn_implementation({"text_config": "eager"})  # the quickest that transformers has
    theirs = {LLAVA: llava, SMOLVLM: smolvlm, DEFAULTS: smolvlm}.get(arm.trainer)
    if theirs:
        model, processor = theirs(model, processor, arm.stage)
    if arm.trainer == DEFAULTS:
        model.set_attn_implementation("sdpa")

    class Stock(DPOTrainer if preference else SFTTrainer):
        """In the order of the other arms."""

        def _get_train_sampler(self, train_dataset=None):
            return Order(len(self.train_dataset), arm.batch_size, self.args.seed)

    rows = [stock_row(row, processor, f"{arm.material}/photos") for row in read_json_lines(Path(config.data[0]))]
    arguments = (DPOConfig if preference else SFTConfig)(
        output_dir=f"{arm.folder}/stock", per_device_train_batch_size=arm.batch_size, num_train_epochs=config.epochs, learning_rate=config.lr,
        lr_scheduler_type=config.schedule, max_length=None, bf16=resolved(config) == "bf16", use_cpu=not torch.cuda.is_available(), gradient_checkpointing=arm.trainer == DEFAULTS,
        save_strategy="no", report_to="none", logging_steps=arm.log_steps, seed=config.seed, weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm, disable_tqdm=True, dataloader_num_workers=arm.workers,
        dataloader_persistent_workers=arm.workers > 0, **({"beta": config.beta} if preference else {}))
    reference = {"ref_model": copy.deepcopy(model).requires_grad_(False).eval()} if preference else {}
    data = Dataset.from_list(rows).cast_column("images", [Image()])
    Stock(model=model, args=arguments, train_dataset=data, processing_class=processor, callbacks=[paced], **reference).train()


def stock_row(row: dict, processor, photos: str) -> dict[str, Any]:
    """A row in TRL's plain format: rendered by the template, and without the line end that it writes after an answer, which we do not train on."""
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROMPT}]}
    answers = {"completion": row["turns"][1]["text"]} if "turns" in row else {side: row[side] for side in ("chosen", "rejected")}
    return {"prompt": processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False),
            **{key: f"{answer}<|im_end|>" for key, answer in answers.items()}, "images": [f"{photos}/{image}" for image in row["images"]]}


def llava(model, processor, stage: str) -> tuple[nn.Module, Any]:
    """transformers' LLaVA with the tower and the language model of ours: 729 image tokens, a projector of its own."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    theirs = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=model.config.vision_config, text_config=model.config.text_config, image_token_index=model.config.image_token_id,
        vision_feature_select_strategy="full", vision_feature_layer=model.config.vision_feature_layer, image_seq_length=model.config.patch_grid**2,
        tie_word_embeddings=model.config.tie_word_embeddings))
    inner = theirs.model
    inner.vision_tower, inner.language_model = model.model.vision_tower, model.model.language_model
    _as_ours(theirs, model, {inner.vision_tower: False, inner.multi_modal_projector: True, inner.language_model: stage != "align"})
    return theirs, LlavaProcessor(processor.image_processor, processor.tokenizer, patch_size=model.config.vision_config.patch_size,
                                  vision_feature_select_strategy="full", chat_template=processor.chat_template, image_token=processor.image_token)


def smolvlm(model, processor, stage: str) -> tuple[nn.Module, Any]:
    """transformers' SmolVLM with the weights of our tower and language model: nine patches in a token as in ours, a projector of one matrix."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    tower = model.config.vision_config
    vision = {key: getattr(tower, key) for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size",
                                                   "hidden_act", "layer_norm_eps")}
    theirs = SmolVLMForConditionalGeneration(SmolVLMConfig(
        vision_config=vision, text_config=model.config.text_config, image_token_id=model.config.image_token_id, scale_factor=math.isqrt(model.config.projector_group),
        tie_word_embeddings=model.config.tie_word_embeddings))
    inner = theirs.model
    weights = model.model.vision_tower.state_dict()
    inner.vision_model.load_state_dict({key: weights[key] for key in inner.vision_model.state_dict()})
    inner.text_model = model.model.language_model
    _as_ours(theirs, model, {inner.vision_model: False, inner.connector: True, inner.text_model: stage != "align"})
    return theirs, OnePicture(processor.image_processor, processor.tokenizer, processor.chat_template, processor.image_seq_length)


class OnePicture(OmniVisionProcessor):
    """Ours, with the pictures of a row in a dimension of their own, as SmolVLM's class reads them."""

    def __call__(self, images=None, text=None, **kwargs):
        inputs = super().__call__(images=images, text=text, **kwargs)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].unsqueeze(1)
        return inputs


def _as_ours(theirs: nn.Module, model: nn.Module, trains: dict[nn.Module, bool]) -> None:
    """The same head and attention; the same parts train."""
    theirs.lm_head = model.lm_head
    if not torch.cuda.is_available():
        theirs.set_attn_implementation(model.config._attn_implementation)
    for part, does in trains.items():
        part.requires_grad_(does)
