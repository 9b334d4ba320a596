"""Any AutoModelForImageTextToText: its own processor and chat template, left-padded batches, its image tokens counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature

from omnivision.errors import ConfigError
from omnivision.generation import stop_ids
from omnivision.model.checkpoints import image_token_id

from .answer import Answer
from .models import BatchedModel, grey_picture, opened_picture
from .prompts import Picture, Prompt, pictures_of

PLAIN = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}  # greedy as everybody's: a model's own settings would forbid it words of the question


class AnyModel(BatchedModel):
    """A loaded model of transformers.

    Args:
        model, processor: in evaluation mode. blank: show a grey picture in place of every one.

    Raises:
        ConfigError: its processor has no chat template, or its config names no image token.
    """

    def __init__(self, model: Any, processor: Any, blank: bool = False) -> None:
        self.model, self.processor, self.blank = model, processor, blank
        self.name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        self._image_token = image_token_id(model.config)
        if self._image_token is None or not getattr(processor, "chat_template", None):
            what = "no image token in its config" if self._image_token is None else "no chat template"
            raise ConfigError(f"The model has {what}", self.name, "Give a chat model that takes pictures.")
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def prepare(self, prompts: Sequence[Prompt], pictures: Sequence[Picture]) -> BatchFeature:
        """The batch's inputs; each row's image tokens are counted.

        Raises:
            ConfigError: a prompt with pictures has no image token, or one without has some: the model would answer blindly; or the
            processor refuses it.
        """
        opened = {one: grey_picture() if self.blank else opened_picture(one.source) for one in pictures_of(prompts)}
        conversations = [[{"role": "user", "content": [*({"type": "image", "image": opened[one]} for one in prompt.pictures),
                                                       {"type": "text", "text": prompt.text}]}] for prompt in prompts]
        try:
            made = self.processor.apply_chat_template(conversations, add_generation_prompt=True, tokenize=True, return_dict=True,
                                                      return_tensors="pt", processor_kwargs={"padding": True})
        except ValueError as error:
            raise ConfigError(f"The processor does not take a prompt with its pictures: {error}", self.name,
                              "Its chat template drops pictures, or takes one only (--pictures first).") from error
        counts = (made["input_ids"] == self._image_token).sum(1).tolist()
        for prompt, count in zip(prompts, counts, strict=True):
            if bool(count) != bool(prompt.pictures):
                raise ConfigError(f"A prompt with {len(prompt.pictures)} pictures has {count} image tokens (id {self._image_token}): {prompt.text[:60]!r}",
                                  self.name, "Its processor and chat template do not take pictures this way.")
        return made

    def answer(self, prompts: Sequence[Prompt], prepared: BatchFeature) -> list[Answer]:
        inputs = prepared.to(self.model.device)
        inputs = inputs.to(self.model.dtype)  # floats only: ids keep their type
        with torch.inference_mode():
            found = self.model.generate(**inputs, max_new_tokens=prompts[0].max_new_tokens, do_sample=False, num_beams=1, **PLAIN)
        new = found[:, inputs["input_ids"].shape[1]:].tolist()
        pad = self._tokenizer.pad_token_id
        texts = self.processor.batch_decode(new, skip_special_tokens=True)
        stops = stop_ids(self.model) | {pad}
        return [Answer(text.strip(), _without_padding(ids, pad), cut=len(ids) == prompts[0].max_new_tokens and ids[-1] not in stops)
                for text, ids in zip(texts, new, strict=True)]


def _without_padding(ids: list[int], pad: int) -> list[int]:
    """What a row was filled up with after its end; the model may have said the same id before."""
    end = next((at for at in range(len(ids), 0, -1) if ids[at - 1] != pad), 0)
    return ids[:end]
