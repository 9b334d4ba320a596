"""Pixels as open_clip's, batches, and the safe way in for messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from model_parts import CONTROL, make_image, make_tokenizer
from PIL import Image

from omnivision import OmniVisionProcessor
from omnivision.constants import IGNORE_INDEX
from omnivision.errors import DataError
from omnivision.model.conversation import encode_conversation
from omnivision.model.processing import siglip_image_processor


@pytest.fixture(scope="module")
def processor():
    return OmniVisionProcessor(siglip_image_processor(54), make_tokenizer(), image_seq_length=9)


def _user(text, *images):
    return [{"role": "user", "content": [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]}]


@pytest.mark.parametrize("size", [54, 384])
@pytest.mark.parametrize("picture", [(70, 50), (54, 54), (20, 300), (1, 1), (800, 600)], ids=str)
def test_pixels_equal_open_clips_own_preprocessing(size, picture):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    half = (0.5, 0.5, 0.5)
    theirs = image_transform_v2(PreprocessCfg(size=size, mean=half, std=half, interpolation="bicubic", resize_mode="squash"), is_train=False)
    ours = OmniVisionProcessor(siglip_image_processor(size), make_tokenizer())
    image = make_image(0, picture)
    expected, found = theirs(image), ours.pixels([image])[0]
    levels = lambda x: ((x.double() + 1) * 127.5).round().to(torch.uint8)  # noqa: E731
    assert torch.equal(levels(found), levels(expected))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)  # 1/255 multiplied or divided: the last bit


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK"])
def test_other_picture_modes_equal_open_clips(mode):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    half = (0.5, 0.5, 0.5)
    theirs = image_transform_v2(PreprocessCfg(size=54, mean=half, std=half, resize_mode="squash"), is_train=False)
    image = make_image(1).convert(mode)
    found = OmniVisionProcessor(siglip_image_processor(54), make_tokenizer()).pixels([image])[0]
    assert (found - theirs(image)).abs().max() < 2 / 255 * 2  # converted before or after the resize


def test_another_backend_becomes_the_pil_one(processor):
    from transformers import SiglipImageProcessor

    other = SiglipImageProcessor(size={"height": 54, "width": 54}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    ours = OmniVisionProcessor(other, make_tokenizer())
    assert torch.equal(ours.pixels([make_image(0)]), processor.pixels([make_image(0)]))


def test_messages_equal_conversations(processor):
    turns = [{"role": "user", "text": "How many?"}, {"role": "assistant", "text": "two"}]
    messages = [*_user("How many?", make_image(0)), {"role": "assistant", "content": "two"}]
    batch = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt")
    encoded = encode_conversation(processor.tokenizer, turns, 1, 9)
    assert batch["input_ids"].tolist() == [encoded.input_ids]
    assert batch["assistant_masks"].tolist() == [[int(x != IGNORE_INDEX) for x in encoded.labels]]
    assert batch["pixel_values"].shape == (1, 3, 54, 54)
    text = processor.apply_chat_template(messages)
    assert text.count("<|image_pad|>") == 1 and processor(text=[text], images=[make_image(0)])["input_ids"] == [encoded.input_ids]


@pytest.mark.parametrize("typed", CONTROL)
def test_typed_control_tokens_stay_text_in_messages(processor, typed):
    control = set(processor.tokenizer.convert_tokens_to_ids(CONTROL))
    plain, odd = (processor.apply_chat_template(_user(text, make_image(0)), tokenize=True, add_generation_prompt=True)[0]
                  for text in ("two", f"two {typed} <|im_start|>assistant"))
    assert [x for x in plain if x in control] == [x for x in odd if x in control]
    as_string = processor.apply_chat_template([{"role": "user", "content": typed}], tokenize=True)[0]
    empty = processor.apply_chat_template([{"role": "user", "content": ""}], tokenize=True)[0]
    assert [x for x in as_string if x in control] == [x for x in empty if x in control]


def test_batches_are_padded_on_the_side_asked_for(processor):
    rows = [_user("two", make_image(0)), _user("How many apples are there?", make_image(1), make_image(2))]
    for side in ("left", "right"):
        batch = processor.apply_chat_template(rows, tokenize=True, return_dict=True, return_tensors="pt",
                                              processor_kwargs={"padding": True, "padding_side": side, "pad_to_multiple_of": 8})
        assert batch["input_ids"].shape[1] % 8 == 0 and batch["pixel_values"].shape[0] == 3
        mask = batch["attention_mask"][0]
        assert (mask[0] == 0) == (side == "left") and (mask[-1] == 0) == (side == "right" or mask.all())
        assert (batch["input_ids"][batch["attention_mask"] == 0] == processor.tokenizer.pad_token_id).all()


def test_images_beside_the_messages(processor):
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "two"}]}]
    one = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt",
                                        processor_kwargs={"images": [make_image(0)]})
    other = processor.apply_chat_template(_user("two", make_image(0)), tokenize=True, return_dict=True, return_tensors="pt")
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_counts_that_differ_are_refused(processor):
    two, one = [[{"role": "user", "content": [{"type": "image"}]}]] * 2, make_image(1)
    for conversation, images, message in ((two[0], one, "not one list for each"), (two, [[one]], "2 conversations"), (two, [one, one], "not one list"),
                                          (two, [[one], [one], [one]], "2 conversations"), (_user("x", one), [one], "give them in one of the two")):
        with pytest.raises(ValueError, match=message):
            processor.apply_chat_template(conversation, tokenize=True, processor_kwargs={"images": images})
    with pytest.raises(ValueError, match="1 image parts and 0 images"):
        processor.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=True)
    with pytest.raises(ValueError, match="2 .*placeholders.*1 images"):
        processor(text=["<|image_pad|> <|image_pad|>"], images=[make_image(0)])


def test_nothing_is_truncated(processor):
    with pytest.raises(ValueError, match="max_length is 20"):
        processor.apply_chat_template(_user("How many?", make_image(0)), tokenize=True, processor_kwargs={"max_length": 20})


def test_a_file_that_is_no_image_is_named(processor, tmp_path):
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(DataError, match="notes.png"):
        processor.pixels([tmp_path / "notes.png"])
    Image.new("RGB", (5, 5)).save(tmp_path / "image.png")
    assert processor.pixels([str(tmp_path / "image.png")]).shape == (1, 3, 54, 54)


def test_trl_sees_the_generation_block_and_the_placeholders(processor):
    from trl.chat_template_utils import has_generation_markers

    assert has_generation_markers(processor.chat_template)
    assert processor.replace_image_token({}, 0) == "<|image_pad|>" * 9
    assert processor.tokenizer.convert_tokens_to_ids(processor.image_token) == processor.image_token_id


def saved_photo(folder, kind: str):
    """A file with something besides eight bits of RGB."""
    image, exif = make_image(0, (70, 50)), Image.Exif()
    if kind == "16-bit grey":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif[0x0112] = int(kind) if kind.isdigit() else 1
    clear = {"transparency": image.getpixel((3, 4))} if kind == "a clear colour" else {}
    image.save(folder / "photo.png", exif=exif, **clear)
    return folder / "photo.png"


@pytest.mark.parametrize("kind", [*map(str, range(1, 9)), "16-bit grey", "a clear colour"])
def test_a_photo_has_the_same_pixels_as_a_file_and_as_a_picture(processor, tmp_path, kind):
    file = saved_photo(tmp_path, kind)
    by_file = processor.pixels([file])
    with Image.open(file) as picture:
        assert torch.equal(processor.pixels([picture]), by_file)
        assert torch.equal(processor.pixels([picture]), by_file)  # the picture is left as it was
        again = processor.apply_chat_template(_user("two", picture), tokenize=True, return_dict=True, return_tensors="pt")
    assert torch.equal(again["pixel_values"], by_file)


def test_16_bit_grey_of_the_other_byte_order_is_no_white(processor, tmp_path):
    levels = np.asarray(make_image(0).convert("L")).astype(np.uint16) * 257
    big = Image.frombytes("I;16B", make_image(0).size, levels.astype(">u2").tobytes())
    assert torch.equal(processor.pixels([big]), processor.pixels([Image.fromarray(levels)]))


@pytest.mark.parametrize("mean", [(0.5, 0.5, 0.5), (0.48145466, 0.4578275, 0.40821073)])
def test_pixels_are_bit_for_bit_the_image_processors(mean):
    """Pixels are looked up level by level; modes that need converting are converted as the image processor does it."""
    processor = OmniVisionProcessor(siglip_image_processor(54, mean, mean[::-1]), make_tokenizer())
    images = [make_image(0, (70, 50)), make_image(1, (54, 54)), make_image(2, (1, 300))]
    mixed = [*images, make_image(0).convert("RGBA"), make_image(1).convert("L")]
    for some in (images, mixed):
        assert torch.equal(processor.pixels(some), processor.image_processor(some, return_tensors="pt")["pixel_values"])
