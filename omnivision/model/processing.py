"""OmniVisionProcessor: images and conversations to model inputs, and the one way in for untrusted text.

Messages that go through `apply_chat_template(tokenize=True)` are safe: nothing a user types becomes a control token.
`processor(text=..., images=...)` and `apply_chat_template(tokenize=False)` work on one string, in which the template's
control tokens and typed ones cannot be told apart: give them trusted text only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, ProcessorMixin
from transformers.image_utils import make_flat_list_of_images
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from omnivision.constants import IGNORE_INDEX, IMAGE_TOKEN
from omnivision.data.image import TURNS, orientation, to_rgb, open_image
from omnivision.data.pictures import Packed
from omnivision.model.configuration import OmniVisionConfig
from omnivision.model.conversation import default_template, encode_messages


def siglip_image_processor(image_size: int, mean: Sequence[float] = (0.5, 0.5, 0.5),
                           std: Sequence[float] = (0.5, 0.5, 0.5), resample: int = Image.Resampling.BICUBIC) -> SiglipImageProcessorPil:
    """SigLIP's preprocessing: squash to a square (bicubic; SigLIP 2's is bilinear), then (x - mean) / std.

    The PIL backend resizes with Pillow, as open_clip does; transformers' other backend differs by up to 0.0078.
    """
    return SiglipImageProcessorPil(size={"height": image_size, "width": image_size}, resample=int(resample),
                                   image_mean=list(mean), image_std=list(std))


def siglip_settings(settings: dict[str, Any]) -> SiglipImageProcessorPil:
    """The image processor of the settings in a preprocessor_config.json.

    Raises:
        ValueError: they ask for more or other than a bicubic or bilinear squash to a square, levels / 255, then mean and std.
    """
    try:
        theirs = SiglipImageProcessorPil(**settings)  # which knows all ways to write a size
        side, resample = theirs.size.height, int(theirs.resample)
        mean, std = ([one] * 3 if isinstance(one, float | int) else list(one) for one in (theirs.image_mean, theirs.image_std))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"The image processor's settings cannot be read ({error}).") from error
    other = [f"{key} {settings[key]}" for key in ("do_resize", "do_rescale", "do_normalize") if settings.get(key) is False]
    other += [f"{key} {settings[key]}" for key in ("do_center_crop", "do_pad") if settings.get(key)]
    other += [f"resample {resample}"] if resample not in (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR) else []
    other += [f"rescale_factor {theirs.rescale_factor}"] if not math.isclose(theirs.rescale_factor, 1 / 255, rel_tol=1e-5) else []
    other += [f"size {settings.get('size')}"] if side is None or side != theirs.size.width else []
    if other:
        raise ValueError(f"The image processor has {', '.join(other)}; only a bicubic or bilinear squash to a square (SigLIP's) is built in.")
    return siglip_image_processor(side, mean, std, resample)


class OmniVisionProcessor(ProcessorMixin):
    """Image processor, tokenizer and chat template in one.

    Args:
        image_processor: SigLIP's; any backend is turned into the PIL one, for the same pixels everywhere (ValueError where it does something else).
        tokenizer: with the image placeholder among its tokens.
        chat_template: the project's where None.
        image_seq_length: placeholders of one image (saved with the processor).
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None,
                 image_seq_length: int = 81) -> None:
        if not isinstance(image_processor, SiglipImageProcessorPil):
            image_processor = siglip_settings(image_processor.to_dict())
        self.image_seq_length = image_seq_length
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        tokenizer.padding_side = "left"  # what generation needs, and what saving forgets; training names its own side
        super().__init__(image_processor, tokenizer, chat_template=chat_template or default_template())

    def __call__(self, images: Any = None, text: str | list[str] | None = None, **kwargs: Any) -> BatchFeature:
        """Encodes rendered text, in which every control token counts, and its images.

        Raises:
            ValueError: placeholders and images differ in number.
        """
        if text is not None:
            places = sum(row.count(self.image_token) for row in ([text] if isinstance(text, str) else text))
            given = 0 if images is None else len(make_flat_list_of_images(images))
            if places != given:
                raise ValueError(f"The text holds {places} {self.image_token} placeholders and there are {given} images: "
                                 "give one image per placeholder.")
        return super().__call__(images=images, text=text, **kwargs)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """The placeholders of one image."""
        return self.image_token * self.image_seq_length

    def _get_num_multimodal_tokens(self, image_sizes: list | None = None, **kwargs: Any) -> Any:
        from transformers.processing_utils import MultiModalData

        count = len(image_sizes or [])
        return MultiModalData(num_image_tokens=[self.image_seq_length] * count, num_image_patches=[1] * count)

    def pixels(self, images: Sequence[Image.Image | str | Path]) -> Tensor:
        """Model-ready pixels (I, 3, size, size) of pictures or of image files: bit for bit the image processor's, in less time."""
        opened = [open_image(image) if isinstance(image, str | Path | Packed) else as_read(image) if isinstance(image, Image.Image) else image
                  for image in images]
        theirs = self.image_processor
        if not (opened and self.squashes_only and all(isinstance(image, Image.Image) for image in opened)):
            return theirs(opened, return_tensors="pt")["pixel_values"]
        height, width = theirs.size["height"], theirs.size["width"]
        levels_CL, pixels_ICHW = _levels(theirs), np.empty((len(opened), 3, height, width), dtype=np.float32)
        for image, pixels_CHW in zip(opened, pixels_ICHW, strict=True):
            squashed_HWC = np.asarray(image.resize((width, height), theirs.resample))
            for channel in range(3):
                np.take(levels_CL[channel], squashed_HWC[..., channel], out=pixels_CHW[channel], mode="clip")
        return torch.from_numpy(pixels_ICHW)

    @property
    def squashes_only(self) -> bool:
        """Whether a picture's pixels are those of a squashed one, each level turned into a number of its own."""
        theirs = self.image_processor
        wanted = theirs.do_convert_rgb and theirs.do_resize and theirs.do_rescale and theirs.do_normalize
        return bool(wanted and not (theirs.do_center_crop or theirs.do_pad))

    def squashed(self, image: Image.Image) -> Tensor:
        """A picture (RGB) as the tower's size and still in bytes, a quarter of the pixels' memory. Shape (1, 3, size, size), uint8.

        Raises:
            ValueError: the image processor does more than that, see squashes_only.
        """
        theirs = self.image_processor
        if not self.squashes_only:
            raise ValueError("The image processor crops, pads or leaves a step out: use pixels().")
        if image.mode != "RGB":
            raise ValueError(f"The picture is {image.mode}, not RGB: use pixels().")
        small = image.resize((theirs.size["width"], theirs.size["height"]), theirs.resample)
        return torch.from_numpy(np.asarray(small).transpose(2, 0, 1).copy())[None]

    def leveled(self, squashed_ICHW: Tensor) -> Tensor:
        """The pixels of squashed pictures, on their device: bit for bit those of pixels(). Shape as given, fp32."""
        levels_CL = torch.from_numpy(_levels(self.image_processor)).to(squashed_ICHW.device)
        return torch.stack([levels[squashed_ICHW[:, channel].int()] for channel, levels in enumerate(levels_CL)], dim=1)

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, *, tokenize: bool = False,
                            add_generation_prompt: bool = False, continue_final_message: bool = False,
                            return_assistant_tokens_mask: bool = False, return_tensors: str | None = None,
                            return_dict: bool = False, processor_kwargs: dict | None = None, **kwargs: Any) -> Any:
        """Renders conversations, or with tokenize=True encodes them safely.

        Args:
            conversation: messages {"role", "content"}, or a list of such conversations. Content is a string or parts
                {"type": "text", "text"} and {"type": "image", "image" | "path": picture or file}.
            processor_kwargs: "images" (one list per conversation, where the parts hold none), "padding",
                "padding_side", "max_length".

        Returns:
            The text; with tokenize=True the ids, one list per conversation, or with return_dict=True a BatchFeature
            of input_ids, attention_mask, pixel_values and, if asked for, assistant_masks.

        Raises:
            ValueError: images and image parts differ in number; max_length would cut a conversation.
        """
        if not tokenize:
            return super().apply_chat_template(
                conversation, chat_template, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                **kwargs)
        if continue_final_message:
            raise ValueError("continue_final_message works with tokenize=False only.")
        options = {**kwargs, **(processor_kwargs or {})}
        batched = not (conversation and isinstance(conversation[0], dict))
        conversations = conversation if batched else [conversation]
        outside = options.get("images") if batched else ([options["images"]] if options.get("images") else None)
        if outside is not None and not (len(outside) == len(conversations) and all(isinstance(one, list | tuple | None) for one in outside)):
            raise ValueError(f"There are {len(conversations)} conversations, and images are not one list for each of them.")
        rows, pictures = [], []
        for index, messages in enumerate(conversations):
            numbered, bodies, images = _numbered(messages)
            given = list(outside[index] or ()) if outside is not None else []
            if images and given:
                raise ValueError(f"Conversation {index} has images in its parts and in `images`: give them in one of the two.")
            images = images or given
            places = sum(part["type"] == "image" for message in numbered for part in message["content"])
            if places != len(images):
                raise ValueError(f"Conversation {index} has {places} image parts and {len(images)} images: give one image per part.")
            rows.append(encode_messages(self.tokenizer, numbered, bodies, chat_template or self.chat_template,
                                        self.image_seq_length, add_generation_prompt))
            pictures += images
        features = self._batch(rows, options, None if return_tensors == "auto" else return_tensors, return_assistant_tokens_mask)
        if not return_dict:
            return features["input_ids"]
        if pictures:
            features["pixel_values"] = self.pixels(pictures)
        return features

    def _batch(self, rows: list, options: dict, tensors: str | None, with_masks: bool) -> BatchFeature:
        longest, limit = max(len(row.input_ids) for row in rows), options.get("max_length")
        if limit is not None and longest > limit and options.get("truncation", True):
            raise ValueError(f"A conversation has {longest} tokens and max_length is {limit}: cutting it could cut image "
                             "tokens or the answer. Raise max_length or shorten the conversation.")
        padding = options.get("padding", tensors is not None and len(rows) > 1)
        multiple = options.get("pad_to_multiple_of") or 1
        width = -(-(limit if padding == "max_length" and limit else longest) // multiple) * multiple
        left = options.get("padding_side", self.tokenizer.padding_side) == "left"

        def pad(values: list[int], filler: int) -> list[int]:
            rest = [filler] * (width - len(values) if padding else 0)
            return rest + values if left else values + rest

        data = {"input_ids": [pad(row.input_ids, self.tokenizer.pad_token_id) for row in rows],
                "attention_mask": [pad([1] * len(row.input_ids), 0) for row in rows]}
        if with_masks:
            data["assistant_masks"] = [pad([int(x != IGNORE_INDEX) for x in row.labels], 0) for row in rows]
        return BatchFeature(data, tensor_type=tensors)


def as_read(image: Image.Image) -> Image.Image:
    """A picture as open_image gives it of its file: upright, without transparency, RGB; itself where it is so already.

    Where one level of a picture of less or more than 8 bits is clear, Pillow has changed the levels and not told that one.
    """
    turn = TURNS.get(orientation(image))
    if turn is None and image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in ("I;16B", "I;16L", "I;16N"):
        image = image.convert("I").convert("I;16")
    whole = to_rgb(image, 8)
    return whole if turn is None else whole.transpose(turn)


def _levels(processor: SiglipImageProcessorPil) -> np.ndarray:
    """What the image processor makes of each of the 256 levels, by its own arithmetic in fp64 and fp32. Shape (3, 256)."""
    levels_C1L = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    scaled = processor.rescale(levels_C1L, processor.rescale_factor)
    return np.ascontiguousarray(processor.normalize(scaled, processor.image_mean, processor.image_std)[:, 0])


def _numbered(messages: Sequence[dict[str, Any]]) -> tuple[list[dict], list[str], list[Any]]:
    """Messages with numbers for texts, the texts, and the images that the parts hold."""
    numbered, bodies, images = [], [], []
    for message in messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        out = []
        for part in parts:
            if part["type"] == "text":
                bodies.append(part["text"])
                out.append({"type": "text", "text": len(bodies) - 1})
            else:
                images += [part[key] for key in ("image", "path", "url") if part.get(key) is not None][:1]
                out.append({"type": part["type"]})
        numbered.append({"role": message["role"], "content": out})
    return numbered, bodies, images


AutoProcessor.register(OmniVisionConfig, OmniVisionProcessor, exist_ok=True)
