"""Answers to many short questions: what images share is computed once.

The tower runs once per image, the prompt up to the end of the image once per image and batch; its key/value cache is
handed to every question about that image. Tests hold the answers equal to `model.generate`, one question at a time.

Legend: B questions of a batch, U different (sets of) images of a batch, I their images, P patches, C vision width, L prefix length, Q longest rest.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import DynamicCache

from omnivision.constants import VISION_END
from omnivision.data.parallel import at_once, cores
from omnivision.data.pictures import Packed
from omnivision.model.caches import check_cache, counts_places
from omnivision.model.conversation import encode_conversation
from omnivision.model.modeling import OmniVisionForConditionalGeneration
from omnivision.model.processing import OmniVisionProcessor, as_read

Question = str | Sequence[dict[str, Any]]
ImageInput = Image.Image | str | Path | Packed | Tensor
ImagesInput = ImageInput | Sequence[ImageInput] | None
Constrain = Callable[[Tensor, list[list[int]]], Tensor]


@torch.inference_mode()
def encode_images(model: OmniVisionForConditionalGeneration, processor: OmniVisionProcessor, images: Sequence[ImageInput],
                  batch_size: int = 16) -> Tensor:
    """Tower features of pictures, files or pixels, to be cached and passed back as `image_features`.

    Returns:
        (images, P, C) on the model's device.
    """
    batches = [images[i:i + batch_size] for i in range(0, len(images), batch_size)]
    tower = model.model.vision_tower
    done = []
    for batch in batches:
        pixels_ICHW = torch.cat(at_once(cores(), lambda image: processor.pixels([image]), batch))
        done.append(model.model.get_vision_features(pixels_ICHW.to(tower.device, tower.dtype)))
    return torch.cat(done)


@torch.inference_mode()
def generate_ids(model: OmniVisionForConditionalGeneration, processor: OmniVisionProcessor, questions: Sequence[Question],
                 images: Sequence[ImagesInput], max_new_tokens: int, batch_size: int = 32, *,
                 stop_token_ids: Iterable[int] | None = None, autocast_dtype: torch.dtype | None = None,
                 temperature: float = 0.0, seeds: Sequence[Hashable] | None = None,
                 constrain: Constrain | None = None) -> list[list[int]]:
    """Answers questions, greedily or sampled, in any order of work, returned in the order given.

    Args:
        model: in evaluation mode or not; it is put into it for the call.
        questions: a text, or turns {"role", "text"} as in encode_conversation, for every answer.
        images: for every question a picture, a file, tower features (P, C), several of them, or None.
        max_new_tokens: the longest answer.
        batch_size: questions at a time.
        stop_token_ids: ids that end an answer; None is the generation config's.
        autocast_dtype: torch.bfloat16 to compute under autocast.
        temperature: above 0 samples. seeds: one a question, then; an answer depends on its own, not on the batch beside it.
        constrain: called at every step with the logits and the new ids of each of their rows; returns the logits to choose by.

    Returns:
        New ids of every question, with the id that ended it (none where max_new_tokens did).

    Raises:
        ValueError: questions and images differ in number, or questions and the seeds that sampling needs; a temperature below 0.
        ConfigError: a language model whose past cannot be shared, see check_cache.
    """
    check_cache(model.model.language_model, "generate_ids")
    if len(questions) != len(images):
        raise ValueError(f"There are {len(questions)} questions and {len(images)} images: give one image (or None) per question.")
    given = 0 if seeds is None else len(seeds)
    if not temperature >= 0 or (temperature > 0 and given != len(questions)):
        raise ValueError(f"The temperature is {temperature}, with {given} seeds for {len(questions)} questions: "
                         "give 0 to answer greedily, or a number above 0 and one seed per question.")
    shown = [_shown(image) for image in images]
    stops = stop_ids(model) if stop_token_ids is None else set(stop_token_ids)
    prompts = [_split_prompt(processor, question, len(pictures)) for question, pictures in zip(questions, shown)]
    keys = [tuple(map(_image_key, pictures)) for pictures in shown]
    answers: list[list[int]] = [[] for _ in questions]
    features: dict[Hashable, Tensor] = {}
    was_training = model.training
    model.eval()
    device = model.get_input_embeddings().weight.device
    autocast = torch.autocast(device.type, autocast_dtype) if autocast_dtype else contextlib.nullcontext()
    try:
        with autocast:
            for batch in _batches(prompts, keys, batch_size, counts_places(model.config.text_config)):
                wanted = {key: picture for i in batch for key, picture in zip(keys[i], shown[i])}
                features = _features(model, processor, wanted, features)  # an image at a batch's edge is kept
                cache = _prefix_cache(model, prompts[batch[0]][0], features, [keys[i] for i in batch])
                choose = _Sampled(temperature, [seeds[i] for i in batch]) if temperature > 0 else _most_likely
                new = _decode(model, cache, [prompts[i][1] for i in batch], stops, max_new_tokens, choose, constrain)
                for index, ids in zip(batch, new):
                    answers[index] = ids
    finally:
        model.train(was_training)
    return answers


def stop_ids(model: Any) -> set[int]:
    """Ids that end an answer, by the model's generation config."""
    stops = model.generation_config.eos_token_id
    return {stops} if isinstance(stops, int) else set(stops or ())


def generate_whole(model: OmniVisionForConditionalGeneration, processor: OmniVisionProcessor, questions: Sequence[Question],
                   images: Sequence[ImagesInput], max_new_tokens: int, **options: Any) -> list[str | None]:
    """The answers of generate_ids as text, without control tokens; None for one that `max_new_tokens` cut."""
    stops, found = stop_ids(model), generate_ids(model, processor, questions, images, max_new_tokens, **options)
    return [processor.tokenizer.decode(ids, skip_special_tokens=True).strip() if ids and ids[-1] in stops else None for ids in found]


def _shown(images: ImagesInput) -> tuple[ImageInput, ...]:
    """A question's pictures, in order."""
    return () if images is None else tuple(images) if isinstance(images, list | tuple) else (images,)


def _split_prompt(processor: OmniVisionProcessor, question: Question, images: int) -> tuple[tuple[int, ...], list[int]]:
    """The prompt's ids, cut after the last image: the part that questions about the same images share, and the rest."""
    turns = [{"role": "user", "text": question}] if isinstance(question, str) else question
    ids = encode_conversation(processor.tokenizer, turns, images, processor.image_seq_length, True).input_ids
    end, cut = processor.tokenizer.convert_tokens_to_ids(VISION_END), 0
    for _ in range(images):
        cut = ids.index(end, cut) + 1
    return tuple(ids[:cut]), ids[cut:]


def _image_key(image: ImageInput) -> Hashable:
    if isinstance(image, Tensor):
        return image.data_ptr(), tuple(image.shape), image.stride(), image.dtype, str(image.device)  # views of one cache are new objects each time
    if isinstance(image, Image.Image):
        image = as_read(image)
        return hashlib.sha256(image.tobytes()).digest(), image.size
    return str(image)


def _batches(prompts: Sequence[tuple[tuple[int, ...], list[int]]], keys: Sequence[Hashable], batch_size: int, alike: bool) -> list[list[int]]:
    """Batches of one prefix each, and of one length where they have to be `alike` (nothing is padded then); questions about the same images stay
    together, images with long questions too."""
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, (prefix, rest) in enumerate(prompts):
        groups[(prefix, len(rest) if alike else None), keys[index]].append(index)
    by_prefix: dict[tuple, list[list[int]]] = defaultdict(list)
    for (head, _), members in groups.items():
        by_prefix[head].append(sorted(members, key=lambda i: len(prompts[i][1])))
    batches = []
    for members in by_prefix.values():
        order = [i for group in sorted(members, key=lambda g: len(prompts[g[-1]][1])) for i in group]
        batches += [order[i:i + batch_size] for i in range(0, len(order), batch_size)]
    return batches


def _features(model: OmniVisionForConditionalGeneration, processor: OmniVisionProcessor, wanted: dict[Hashable, ImageInput],
              known: dict[Hashable, Tensor]) -> dict[Hashable, Tensor]:
    new = [key for key, image in wanted.items() if key not in known and not isinstance(image, Tensor)]
    computed = dict(zip(new, encode_images(model, processor, [wanted[key] for key in new]))) if new else {}
    return {key: image if isinstance(image, Tensor) else computed.get(key, known.get(key)) for key, image in wanted.items()}


def _prefix_cache(model: OmniVisionForConditionalGeneration, prefix: tuple[int, ...], features: dict[Hashable, Tensor],
                  keys: Sequence[tuple[Hashable, ...]]) -> DynamicCache:
    """Runs the prefix once for all questions about the same images and copies its cache to their rows."""
    cache, device = DynamicCache(config=model.config), model.get_input_embeddings().weight.device
    if prefix:
        different = {images: row for row, images in enumerate(dict.fromkeys(keys))}
        features_IPC = torch.stack([features[key].to(device) for images in different for key in images])
        ids_UL = torch.tensor(prefix, device=device).expand(len(different), -1)
        model.model(input_ids=ids_UL, image_features=features_IPC, past_key_values=cache, use_cache=True)
        cache.batch_select_indices(torch.tensor([different[images] for images in keys], device=device))
    return cache


def _most_likely(logits_BV: Tensor, rows: list[int]) -> Tensor:
    return logits_BV.argmax(-1)


class _Sampled:
    """Draws by the logits plus Gumbel noise, which each question takes from a generator of its own."""

    def __init__(self, temperature: float, seeds: Sequence[Hashable]) -> None:
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "big") >> 1) for seed in seeds]

    def __call__(self, logits_BV: Tensor, rows: list[int]) -> Tensor:
        uniform = torch.stack([torch.rand(logits_BV.shape[-1], generator=self.generators[row], dtype=torch.float64) for row in rows])
        gumbel = -(-uniform.clamp(1e-300, 1 - 1e-16).log()).log()
        return (logits_BV.double().cpu() / self.temperature + gumbel).argmax(-1).to(logits_BV.device)


def _decode(model: OmniVisionForConditionalGeneration, cache: DynamicCache, rests: list[list[int]], stops: set[int],
            max_new_tokens: int, choose: Callable[[Tensor, list[int]], Tensor], constrain: Constrain | None) -> list[list[int]]:
    """Decodes on top of a cache. The rests are padded on the left, between prefix and question, and masked there."""
    device = model.get_input_embeddings().weight.device
    longest, prefix = max(map(len, rests)), cache.get_seq_length()
    pads = torch.tensor([longest - len(rest) for rest in rests], device=device)
    ids = torch.tensor([[0] * (longest - len(rest)) + rest for rest in rests], device=device)
    steps_Q = torch.arange(longest, device=device)
    mask = torch.cat([torch.ones(len(rests), prefix, dtype=torch.long, device=device),
                      (steps_Q >= pads[:, None]).long()], 1)
    positions = prefix + (steps_Q - pads[:, None]).clamp(min=0)
    answers: list[list[int]] = [[] for _ in rests]
    alive = list(range(len(rests)))
    for step in range(max_new_tokens):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                       logits_to_keep=1).logits[:, -1]
        if constrain:
            logits = constrain(logits, [answers[row] for row in alive])
        chosen = choose(logits, alive)
        for row, token in zip(alive, chosen.tolist()):
            if not (answers[row] and answers[row][-1] in stops):
                answers[row].append(token)
        live = [i for i, row in enumerate(alive) if answers[row][-1] not in stops]
        if not live:
            break
        if 2 * len(live) <= len(alive):  # copying the cache pays once half of the rows are done
            keep = torch.tensor(live, device=device)
            cache.batch_select_indices(keep)
            chosen, mask, positions, alive = chosen[keep], mask[keep], positions[keep], [alive[i] for i in live]
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
    return answers
