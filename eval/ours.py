"""Our own models: shared-prefix generation, functional tokens read from ids, and a check that pictures arrive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omnivision.errors import ConfigError

from .answer import Answer
from .models import GREY, BatchedModel, grey_picture
from .prompts import Picture, Prompt, pictures_of


class Ours(BatchedModel):
    """A loaded checkpoint.

    Args:
        model, processor: in evaluation mode.
        functions: the FunctionSet whose tokens count as calls.
        blank: show a grey picture in place of every one.
        features: a feature cache with `.features(paths, model, processor)` -> one (patches, width) tensor a path.
    """

    def __init__(self, model: Any, processor: Any, functions: Any = None, blank: bool = False, features: Any = None) -> None:
        self.model, self.processor, self.functions, self.blank, self.cache = model, processor, functions, blank, features
        self.name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        self._features: dict[Picture, Tensor] = {}  # of the last batch: the next one may begin with the same pictures
        self._grey: Tensor | None = None
        self._checked = False

    def prepare(self, prompts: Sequence[Prompt], pictures: Sequence[Picture]) -> tuple[list[Picture], Tensor | None]:
        """The new pictures and their pixels."""
        wanted = pictures and not self.blank and self.cache is None
        return list(pictures), self.processor.pixels([one.source for one in pictures]) if wanted else None

    def answer(self, prompts: Sequence[Prompt], prepared: tuple[list[Picture], Tensor | None]) -> list[Answer]:
        from omnivision.generation import generate_ids, stop_ids

        self._see(pictures_of(prompts), *prepared)
        shown = [[self._features[picture] for picture in prompt.pictures] for prompt in prompts]
        if not self._checked and shown[0]:
            check_image_reaches_model(self.model, self.processor, prompts[0].text, shown[0][0])
            self._checked = True
        with _count_images(self.model) as projected:
            found = generate_ids(self.model, self.processor, [one.text for one in prompts], shown, prompts[0].max_new_tokens, len(prompts))
        wanted = len({tuple(map(id, one)) for one in shown if one})
        assert sum(projected) >= wanted, f"{wanted} images were asked about, {sum(projected)} reached the projector"
        stops = stop_ids(self.model)
        return [self._read(ids, len(ids) == prompts[0].max_new_tokens and ids[-1] not in stops) for ids in found]

    def _see(self, pictures: list[Picture], new: list[Picture], pixels: Tensor | None) -> None:
        """Tower features of the batch's pictures."""
        known = self._features | dict(zip(new, self._computed(new, pixels), strict=True))
        self._features = {picture: known[picture] for picture in pictures}

    def _computed(self, new: list[Picture], pixels: Tensor | None) -> list[Tensor]:
        if self.blank:
            self._grey = features_of(self.model, self.processor, grey_picture()) if self._grey is None else self._grey
            return [self._grey] * len(new)
        if self.cache is not None:
            weight = next(self.model.parameters())
            return [one.to(weight.device, weight.dtype) for one in self.cache.features([one.source for one in new], self.model, self.processor)]
        tower = self.model.model.vision_tower
        with torch.inference_mode():
            return [] if pixels is None else list(self.model.model.get_vision_features(pixels.to(tower.device, tower.dtype)))

    def _read(self, ids: list[int], cut: bool = False) -> Answer:
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if self.functions is None:
            return Answer(text, ids, cut=cut)
        from omnivision.functions.calls import parse_calls

        raw = tokenizer.decode(ids, skip_special_tokens=False)
        found = parse_calls(ids, tokenizer, self.functions)
        fault = f"{found.errors[0].kind}: {found.errors[0].message}" if found.errors else None
        return Answer(text, ids, raw, [one.to_dict() for one in found], fault, cut)


def features_of(model: Any, processor: Any, image: Any) -> Tensor:
    """Tower features (patches, width) of a picture or file; features are passed through."""
    from omnivision.generation import encode_images

    return image if isinstance(image, Tensor) else encode_images(model, processor, [image])[0]


def check_image_reaches_model(model: Any, processor: Any, question: str, image: Any) -> None:
    """Shows one question with its image and with another: the placeholders must be there, and the logits must differ.

    A wrong image token drops every image without a word, and the model then answers as if blind.

    Raises:
        ConfigError: the prompt has another number of placeholders than one image needs, or the image changes nothing.
    """
    name = str(getattr(model.config, "_name_or_path", ""))
    content = [{"type": "image"}, {"type": "text", "text": question}]
    grey = Image.new("RGB", (8, 8), GREY)  # only for the count: the features below take its place
    encoded = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt", processor_kwargs={"images": [grey]})
    ids = encoded["input_ids"].to(model.device)
    places = int((ids == model.config.image_token_id).sum())
    if places != processor.image_seq_length:
        raise ConfigError(f"The prompt holds {places} image placeholders (id {model.config.image_token_id}), one image needs "
                          f"{processor.image_seq_length}", name, "Processor and model do not belong together: take both from one checkpoint.")
    features = features_of(model, processor, image).to(model.device, model.dtype)[None]
    with torch.no_grad():
        seen, other = (model(input_ids=ids, image_features=f, logits_to_keep=1).logits for f in (features, -features))
    if torch.equal(seen, other):
        raise ConfigError("Another image gives the same logits: the image does not reach the language model", name, "The checkpoint is damaged.")


@contextlib.contextmanager
def _count_images(model: Any) -> Iterator[list[int]]:
    """Collects how many images pass the projector."""
    counts: list[int] = []
    hook = model.model.projector.register_forward_hook(lambda _module, _inputs, tokens: counts.append(len(tokens)))
    try:
        yield counts
    finally:
        hook.remove()


def load_functions(folder: str | Path) -> Any:
    """The function table beside a checkpoint, or None."""
    from omnivision.constants import FUNCTION_FILE
    from omnivision.functions import FunctionSet

    return FunctionSet.load(folder) if (Path(folder) / FUNCTION_FILE).is_file() else None
