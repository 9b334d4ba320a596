"""A checkpoint as exports read it: its weights stay on the disk, and what runs is read in fp32 when it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoProcessor, GenerationConfig
from transformers.initialization import no_init_weights
from transformers.utils import CHAT_TEMPLATE_FILE, PROCESSOR_NAME

from omnivision.errors import ConfigError, DataError, one_line
from omnivision.export.folder import is_list
from omnivision.export.stored import StoredTensors
from omnivision.export.streaming import SMALL, empty, give_back_at_once, is_empty, stream
from omnivision.model.configuration import OmniVisionConfig
from omnivision.model.conversation import encode_messages
from omnivision.model.modeling import OmniVisionForConditionalGeneration
from omnivision.model.processing import OmniVisionProcessor

HEAD = "lm_head.weight"
GENERATION = "generation_config.json"
REAL_TYPES = ("F64", "F32", "F16", "BF16")
# of a generation config: without these, or with a 0 or 1, the most likely token is taken
OTHER_ANSWERS = ("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "suppress_tokens",
                 "begin_suppress_tokens", "sequence_bias", "min_length", "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id",
                 "exponential_decay_length_penalty", "guidance_scale", "num_beams")
AGAIN = "Copy or train it again."
PUT_AGAIN = "Put tokenizer and processor files beside the weights (processor.save_pretrained)."


@dataclass(frozen=True)
class Checkpoint:
    """A folder in the hub's layout; `open_checkpoint` makes sure that it is whole."""

    folder: Path
    config: OmniVisionConfig
    processor: OmniVisionProcessor
    stored: StoredTensors

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors that make the model; a tied head has none of its own."""
        state = self._hollow().state_dict()
        return {name: tuple(values.shape) for name, values in state.items() if not (name == HEAD and self.config.tie_word_embeddings)}

    def load(self, name: str) -> torch.Tensor:
        """One tensor in fp32."""
        return torch.from_numpy(self.stored.load(name))

    def head_is_embeddings(self) -> bool:
        """Whether the head that is stored is the table of the embeddings: transformers ties the two only then."""
        return torch.equal(self.load(HEAD), self.load(self._hollow()._tied_weights_keys[HEAD]))

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor in fp32, one at a time."""
        return ((name, self.load(name)) for name in self.shapes)

    def hollow_model(self) -> OmniVisionForConditionalGeneration:
        """The model in evaluation mode with its small tensors; of the others there is nothing but the shape."""
        model = self._hollow()
        for name, values in model.state_dict(keep_vars=True).items():
            if name in self.shapes and (values.numel() <= SMALL or not isinstance(values, nn.Parameter)):
                values.data = self.load(name).to(values.dtype)
        model.generation_config = self.generation_config
        return model

    def running_model(self, convert: Callable[[torch.Tensor], torch.Tensor] | None = None) -> OmniVisionForConditionalGeneration:
        """The model as it answers, in fp32.

        Args:
            convert: what every weight goes through once it is read.
        """
        model = self.hollow_model()
        if convert is None:
            stream(model, self.load)
        else:
            for values in model.parameters():
                values.data = values.data if is_empty(values) else convert(values.data)
            stream(model, lambda name: convert(self.load(name)))
        return model

    @property
    def not_applied(self) -> dict[str, Any]:
        """Settings of the generation config by which `model.generate` answers otherwise than an engine that takes the most likely token."""
        said = {name: getattr(self.generation_config, name, None) for name in OTHER_ANSWERS}
        return {name: value for name, value in said.items() if value and value != 1}

    def _hollow(self) -> OmniVisionForConditionalGeneration:
        for config in (self.config, self.config.text_config, self.config.vision_config):
            config.dtype = torch.float32
        try:
            with no_init_weights():  # memory that is never touched is never taken
                model = OmniVisionForConditionalGeneration(self.config)
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
            raise DataError(f"config.json describes no model: {one_line(error)}", str(self.folder), AGAIN) from error
        for parameter in model.parameters():
            empty(parameter)
        model.tie_weights()
        return model.eval()

    @cached_property
    def generation_config(self) -> GenerationConfig:
        """Of its file, else what config.json says."""
        if not (self.folder / GENERATION).is_file():
            return self._hollow().generation_config
        try:
            found = GenerationConfig.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{GENERATION} cannot be read: {one_line(error)}", str(self.folder), AGAIN) from error
        ends = found.eos_token_id
        if not (ends is None or isinstance(ends, int) or is_list(ends, int)):
            raise DataError(f"eos_token_id is {ends!r}, expected an id or a list of ids", str(self.folder / GENERATION), AGAIN)
        return found


def open_checkpoint(folder: str | Path) -> Checkpoint:
    """A checkpoint that is whole.

    Raises:
        ConfigError: no such checkpoint, or of another kind of model. DataError: one that is broken, not whole, or stored in types
            that are no plain numbers.
    """
    folder = Path(folder)
    give_back_at_once()
    checkpoint = Checkpoint(folder, open_config(folder), load_processor(folder), StoredTensors(folder))
    _refuse_what_is_not_whole(checkpoint)
    return checkpoint


def open_config(folder: Path) -> OmniVisionConfig:
    """The configuration of a checkpoint.

    Raises:
        ConfigError: no such checkpoint, or of another kind of model. DataError: it is broken.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError("no checkpoint", str(folder), "Give a folder with config.json and model.safetensors.")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a value of a wrong type can lead anywhere in transformers
        raise DataError(f"config.json cannot be read: {one_line(error)}", str(folder), AGAIN) from error
    if not isinstance(config, OmniVisionConfig):
        raise ConfigError(f"the model is a {config.model_type!r}, not an omnivision model", str(folder), "Give the final/ folder of a run.")
    if getattr(config, "quantization_config", None) is not None:
        raise DataError("config.json says that the weights are quantised", str(folder), "Give the checkpoint before it was quantised.")
    return config


def load_processor(folder: Path) -> OmniVisionProcessor:
    """Tokenizer, image processor and chat template of a checkpoint.

    Raises:
        DataError: one of their files is missing or broken.
    """
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises plain Exceptions
        raise DataError(f"the processor cannot be loaded: {one_line(error)}", str(folder), PUT_AGAIN) from error
    for name in ("image_mean", "image_std"):
        if not _are_channels(found := getattr(processor.image_processor, name)):
            raise DataError(f"{name} is {found!r}, expected three numbers", str(folder / PROCESSOR_NAME), PUT_AGAIN)
    _refuse_broken_template(processor, folder)
    return processor


def _are_channels(found: object) -> bool:
    return isinstance(found, list | tuple) and len(found) == 3 and all(isinstance(one, int | float) and math.isfinite(one) for one in found)


def _refuse_broken_template(processor: OmniVisionProcessor, folder: Path) -> None:
    text = {"type": "text", "text": 0}
    try:
        for content in ([text], [{"type": "image"}, text]):
            encode_messages(processor.tokenizer, [{"role": "user", "content": content}], ["?"], processor.chat_template, 1, True)
    except Exception as error:  # a template is a program
        raise DataError(f"the chat template cannot be used: {one_line(error)}", str(folder / CHAT_TEMPLATE_FILE), PUT_AGAIN) from error


def _refuse_what_is_not_whole(checkpoint: Checkpoint) -> None:
    stored, where = checkpoint.stored, str(checkpoint.folder)
    gone = [name for name in checkpoint.shapes if name not in stored.shapes]
    if gone:
        raise DataError(f"{len(gone)} tensors are missing, the first is {gone[0]}", where, AGAIN)
    more = [name for name in stored.shapes if name not in checkpoint.shapes and not (name == HEAD and checkpoint.config.tie_word_embeddings)]
    if more:
        raise DataError(f"{len(more)} tensors have no place in the model that config.json describes, the first is {more[0]}", where,
                        "Take config.json and weights of the same checkpoint.")
    for name, shape in checkpoint.shapes.items():
        if stored.shapes[name] != shape:
            what = f"{name} has shape {stored.shapes[name]}, config.json says {shape}"
            raise DataError(what, where, "Take config.json and weights of the same checkpoint.")
        if stored.types[name] not in REAL_TYPES:
            what = f"{name} is stored as {stored.types[name]}, expected {', '.join(REAL_TYPES)}"
            raise DataError(what, where, "Give the checkpoint before it was quantised.")
    if HEAD in stored.shapes and checkpoint.config.tie_word_embeddings and not checkpoint.head_is_embeddings():
        raise DataError(f"config.json says that the head is the embeddings, the weights hold another {HEAD}, which answers everywhere else", where,
                        "Set text_config.tie_word_embeddings to false in config.json.")
    _refuse_other_parts(checkpoint)


def _refuse_other_parts(checkpoint: Checkpoint) -> None:
    """Tokenizer and image processor must be the model's: with others it stops in the middle of a question, or answers nonsense."""
    config, processor = checkpoint.config, checkpoint.processor
    ids = processor.tokenizer.get_vocab().values()
    sides = {"ids of the tokenizer": (max(ids, default=-1) < config.text_config.vocab_size, max(ids, default=-1), config.text_config.vocab_size),
             "image tokens": (processor.image_seq_length == config.image_seq_length, processor.image_seq_length, config.image_seq_length),
             "id of the image token": (processor.image_token_id == config.image_token_id, processor.image_token_id, config.image_token_id),
             "height of a picture": (_height(processor) == config.vision_config.image_size, _height(processor), config.vision_config.image_size)}
    for what, (fits, found, expected) in sides.items():
        if not fits:
            raise DataError(f"{what}: {found} in the processor's files, {expected} in config.json", str(checkpoint.folder),
                            "Take tokenizer, processor and config.json of the same checkpoint.")


def _height(processor: OmniVisionProcessor) -> int | None:
    return processor.image_processor.size.get("height")
