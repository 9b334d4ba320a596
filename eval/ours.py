"""Our own models: shared-prefix generation, functional tokens read from ids, and a check that pictures arrive."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from omnivision.errors import ConfigError

from .answer import Answer
from .margin import Margins
from .models import GREY, BatchedModel, grey_picture
from .prompts import Picture, Prompt, pictures_of


class Ours(BatchedModel):
    """A loaded checkpoint.

    Args:
        model, processor: in evaluation mode.
        functions: the FunctionSet whose tokens count as calls.
        blank: show a grey picture in place of every one.
        features: a feature cache with `.get(paths)` -> (paths, patches, width).
        constrain: hold answers to calls of the functions.
    """

    def __init__(self, model: Any, processor: Any, functions: Any = None, blank: bool = False, features: Any = None, *,
                 constrain: bool = False) -> None:
        self.model, self.processor, self.functions, self.blank, self.cache, self.constrain = model, processor, functions, blank, features, constrain
        self.makes_calls = functions is not None
        self._constraint = call_constraint(model, processor, functions) if constrain else None
        self.name = getattr(model.config, "_name_or_path", "") or type(model).__name__
        self._features: dict[Picture, Tensor] = {}  # of the last batch: the next one may begin with the same pictures
        self._grey: Tensor | None = None
        self._checked = False

    def prepare(self, prompts: Sequence[Prompt], pictures: Sequence[Picture]) -> tuple[list[Picture], Tensor | None]:
        """The new pictures, and the pixels of those that lie in no cache."""
        wanted = [] if self.blank else [one.source for one in pictures if not self._cached(one)]
        return list(pictures), self.processor.pixels(wanted) if wanted else None

    def answer(self, prompts: Sequence[Prompt], prepared: tuple[list[Picture], Tensor | None]) -> list[Answer]:
        from omnivision.generation import generate_ids, stop_ids

        self._see(pictures_of(prompts), *prepared)
        shown = [[self._features[picture] for picture in prompt.pictures] for prompt in prompts]
        if not self._checked and shown[0]:
            check_image_reaches_model(self.model, self.processor, prompts[0].text, shown[0][0])
            self._checked = True
        watch = Margins(self.processor.tokenizer, self.functions, self._constraint) if self.functions else None
        with _count_images(self.model) as projected:
            found = generate_ids(self.model, self.processor, [one.text for one in prompts], shown, prompts[0].max_new_tokens, len(prompts),
                                 constrain=watch)
        wanted = len({tuple(map(id, one)) for one in shown if one})
        assert sum(projected) >= wanted, f"{wanted} images were asked about, {sum(projected)} reached the projector"
        stops = stop_ids(self.model)
        return [self._read(ids, len(ids) == prompts[0].max_new_tokens and ids[-1] not in stops, watch and watch.of(ids)) for ids in found]

    def _see(self, pictures: list[Picture], new: list[Picture], pixels: Tensor | None) -> None:
        """Tower features of the batch's pictures."""
        known = self._features | self._computed(new, pixels)
        self._features = {picture: known[picture] for picture in pictures}

    def _cached(self, picture: Picture) -> bool:
        """A picture that is open already lies in no file that a cache could know it by."""
        return self.cache is not None and not isinstance(picture.source, Image.Image)

    def _computed(self, new: list[Picture], pixels: Tensor | None) -> dict[Picture, Tensor]:
        if self.blank:
            self._grey = features_of(self.model, self.processor, grey_picture()) if self._grey is None else self._grey
            return dict.fromkeys(new, self._grey)
        found, cached = {}, [one for one in new if self._cached(one)]
        if cached:
            weight = next(self.model.parameters())
            kept = self.cache.get([one.source for one in cached])
            found = dict(zip(cached, (one.to(weight.device, weight.dtype) for one in kept), strict=True))
        if pixels is not None:
            tower = self.model.model.vision_tower
            with torch.inference_mode():
                features = self.model.model.get_vision_features(pixels.to(tower.device, tower.dtype))
            found |= dict(zip([one for one in new if not self._cached(one)], features, strict=True))
        return found

    def _read(self, ids: list[int], cut: bool = False, margin: float | None = None) -> Answer:
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if self.functions is None:
            return Answer(text, ids, cut=cut)
        from omnivision.functions.calls import parse_calls

        raw = tokenizer.decode(ids, skip_special_tokens=False)
        found = parse_calls(ids, tokenizer, self.functions)
        fault = f"{found.errors[0].kind}: {found.errors[0].message}" if found.errors else None
        return Answer(text, ids, raw, [one.to_dict() for one in found], fault, cut, margin)


def call_constraint(model: Any, processor: Any, functions: Any) -> Any:
    """The grammar of a model's functions, for generation that can only write calls."""
    from omnivision.functions.constraint import CallConstraint
    from omnivision.generation import stop_ids

    return CallConstraint(processor.tokenizer, functions, stop_token_ids=stop_ids(model))


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
