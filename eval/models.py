"""Models that answer prompts: ours, any other that takes pictures, or one behind an endpoint; opened here, here or in another process."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from PIL import Image

from omnivision.constants import FUNCTION_FILE
from omnivision.data.image import open_image
from omnivision.errors import ConfigError, one_line
from omnivision.runs import file_hash

from .answer import Answer, Missing
from .prompts import Picture, Prompt, batches_of, pictures_of
from .questions import read_mapping

GREY = (128, 128, 128)  # the picture of the blind row: it says nothing, and no training picture looks like it
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
AS_SAVED = "as saved"  # the weights' own type
RUNNER = "runner.json"  # what an ONNX export has and nothing else
VARIANTS = {"float32": "fp32", "float16": "fp16"}  # of an export, by the type's name
STORED_ONLY = "int8"  # a variant of an export, and no type to compute in
AHEAD = 2  # batches whose pictures are decoded while the model works

Answers = dict[Prompt, Answer | Missing]


def grey_picture() -> Image.Image:
    """What a blind model is shown."""
    return Image.new("RGB", (64, 64), GREY)


def opened_picture(source: Any) -> Image.Image:
    """A picture's pixels, whatever it is kept in."""
    return source if isinstance(source, Image.Image) else open_image(source)


class Model(ABC):
    """Answers prompts, greedily.

    Attributes:
        name: for people.
        blank: whether it is shown a grey picture in place of every one.
        constrain: whether it is held to the calls of its functions.
        makes_calls: whether its answers are read for calls: it has functional tokens, and its ids are known.
        dtype: what it computes in, where it was asked for one.
        prepared: how pictures are changed before a server gets them, None where they are not.
        request_fields: what a server is sent beside the prompt.
    """

    name: str
    blank: bool = False
    constrain: bool = False
    makes_calls: bool = False
    dtype: str | None = None
    prepared: dict[str, Any] | None = None
    request_fields: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def answers(self, batches: Sequence[Sequence[Prompt]]) -> Iterator[Answers]:
        """The answers of batch after batch, as they come."""


class BatchedModel(Model):
    """A model in this process: it works on a batch while the pictures of the next ones are decoded in a thread."""

    @abstractmethod
    def prepare(self, prompts: Sequence[Prompt], pictures: Sequence[Picture]) -> Any:
        """What can be done without the model, in another thread.

        Args:
            prompts: a batch. pictures: those of it that the batch before had not.
        """

    @abstractmethod
    def answer(self, prompts: Sequence[Prompt], prepared: Any) -> list[Answer]:
        """Answers a batch; `prepared` is what `prepare` gave for it."""

    def answers(self, batches: Sequence[Sequence[Prompt]]) -> Iterator[Answers]:
        waiting, shown = deque(), set()
        with ThreadPoolExecutor(1) as thread:
            for batch in batches:
                pictures = pictures_of(batch)
                waiting.append((batch, thread.submit(self.prepare, batch, [one for one in pictures if one not in shown])))
                shown = set(pictures)
                if len(waiting) > AHEAD:
                    yield self._next(waiting)
            while waiting:
                yield self._next(waiting)

    def answer_all(self, prompts: Sequence[Prompt], batch_size: int) -> Answers:
        """Answers in this process, kept nowhere."""
        return {prompt: answer for part in self.answers(batches_of(prompts, batch_size)) for prompt, answer in part.items()}

    def _next(self, waiting: deque) -> Answers:
        batch, prepared = waiting.popleft()
        return dict(zip(batch, self.answer(batch, prepared.result()), strict=True))


@dataclass(frozen=True)
class Source:
    """A model that is not open yet, as a process needs it to open it.

    Args:
        name: a checkpoint of ours, the folder or hub id of any AutoModelForImageTextToText, or an ONNX export.
        kind: which of the three.
        blank, device, constrain: as the command line gives them.
        dtype: what it computes in: a type of torch, or "as saved"; of an export its variant, "as saved" is the first.
    """

    name: str
    kind: Literal["ours", "any", "onnx"]
    blank: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    constrain: bool = False
    prepared: ClassVar[None] = None  # nothing is sent
    request_fields: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @property
    def makes_calls(self) -> bool:
        """As `Model` has it, told from the files.

        Raises:
            DataError: a broken runner.json.
        """
        if self.kind == "onnx":
            return bool(read_mapping(Path(self.name) / RUNNER, "settings").get("functions"))
        return self.kind == "ours" and (Path(self.name) / FUNCTION_FILE).is_file()

    def open(self) -> BatchedModel:
        """Loads it.

        Raises:
            ConfigError, DataError: as `load_any`.
        """
        dtype = None if self.dtype == AS_SAVED else self.dtype
        if self.kind == "onnx":
            from .exported import Exported

            return Exported(self.name, dtype, self.blank)
        if self.kind == "ours":
            from omnivision.functions import FunctionSet
            from omnivision.model.checkpoints import load_checkpoint

            from .ours import Ours

            return Ours(*load_checkpoint(self.name, self.device, dtype), FunctionSet.beside(self.name), self.blank, constrain=self.constrain)
        from omnivision.model.checkpoints import load_any

        from .any_model import AnyModel

        return AnyModel(*load_any(self.name, self.device, dtype), blank=self.blank)

    def fingerprint(self) -> str:
        """What its answers depend on: config, weights, tokenizer and processor; of a hub id the commit.

        Raises:
            ConfigError: the hub has no such model, or cannot be reached.
        """
        folder = Path(self.name)
        if not folder.is_dir():
            from transformers.utils.hub import cached_file

            try:
                return f"{self.name}@{Path(cached_file(self.name, 'config.json')).parent.name}"
            except OSError as error:
                raise ConfigError(f"The model cannot be fetched: {one_line(error)}", f"--model {self.name}",
                                  "Give a checkpoint's folder, or the hub id of a model that takes pictures.") from error
        files = sorted(one for one in folder.iterdir() if one.is_file() and one.suffix in (".json", ".safetensors", ".jinja", ".txt", ".model"))
        return hashlib.sha256(json.dumps([(one.name, file_hash(one)) for one in files]).encode()).hexdigest()[:16]


def source_of(name: str | Path, blank: bool = False, dtype: str | None = None, device: str | None = None, constrain: bool = False) -> Source:
    """Finds out what kind of model a name stands for.

    Raises:
        ConfigError: a path that holds no model; one that has no functional tokens is to be held to calls; or a type that only exports have.
        DataError: a broken config.json.
    """
    if (Path(name) / RUNNER).is_file():
        return _export(str(name), blank, dtype, device, constrain)
    if dtype == STORED_ONLY:
        raise ConfigError(f"Nothing is computed in {dtype}: it is a variant of an ONNX export", f"--dtype {dtype} --model {name}", "Leave --dtype out.")
    from omnivision.model.checkpoints import kind_of, model_folder, resolved

    import torch

    found = resolved(str(name))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else AS_SAVED)
    misspelt = "/" in found and Path(found).parent.is_dir()
    if not Path(found).exists() and HUB_ID.fullmatch(found) and not misspelt:
        ours, folder = False, found
    else:
        ours = not (Path(found) / "config.json").is_file() or kind_of(Path(found)) == "omnivision"
        folder = str(model_folder(found)) if ours else found
    source = Source(folder, "ours" if ours else "any", blank, dtype, device, constrain)
    if constrain and not source.makes_calls:
        raise ConfigError("The model has no functional tokens that it could be held to", f"--constrain --model {name}",
                          "Take a checkpoint of the stage functions, or leave --constrain out.")
    return source


def _export(name: str, blank: bool, dtype: str | None, device: str | None, constrain: bool) -> Source:
    if constrain or device not in (None, "cpu"):
        raise ConfigError("An ONNX export answers freely and on the CPU", f"--model {name}", "Leave --constrain and the device out.")
    return Source(name, "onnx", blank, VARIANTS.get(dtype, dtype) or AS_SAVED)
