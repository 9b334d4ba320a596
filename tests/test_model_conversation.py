"""The prompt's format, supervision, and that no text can become a control token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_parts import CONTROL, make_tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from omnivision.constants import IGNORE_INDEX
from omnivision.model.conversation import default_template, encode_conversation, encode_text

TOKENIZER = make_tokenizer()
CONTROL_IDS = set(TOKENIZER.convert_tokens_to_ids(CONTROL))
TURNS = [{"role": "user", "text": "How many apples?", "loss": False}, {"role": "assistant", "text": "two", "loss": True},
         {"role": "user", "text": "Is there a cat?"}, {"role": "assistant", "text": "No", "loss": False},
         {"role": "user", "text": "red"}, {"role": "assistant", "text": "Yes"}]


def test_the_format_word_for_word():
    ids = encode_conversation(TOKENIZER, TURNS[:3], 1, 2, add_generation_prompt=True).input_ids
    assert TOKENIZER.decode(ids) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>How many apples?<|im_end|>\n"
        "<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>user\nIs there a cat?<|im_end|>\n<|im_start|>assistant\n")


def test_supervised_are_answers_with_loss_and_their_end():
    encoded = encode_conversation(TOKENIZER, TURNS, 1, 9)
    assert len(encoded.input_ids) == len(encoded.labels)
    supervised = [label for label in encoded.labels if label != IGNORE_INDEX]
    assert TOKENIZER.decode(supervised) == "two<|im_end|>Yes<|im_end|>"
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(*encoded))


def test_images_stand_at_the_head_of_the_first_user_turn():
    ids = encode_conversation(TOKENIZER, [{"role": "system", "text": "red"}, *TURNS], 2, 3).input_ids
    text = TOKENIZER.decode(ids)
    pads = "<|vision_start|>" + "<|image_pad|>" * 3 + "<|vision_end|>"
    assert text.startswith("<|im_start|>system\nred<|im_end|>\n<|im_start|>user\n" + pads * 2 + "How many")
    assert text.count("<|image_pad|>") == 6 and "helpful" not in text


def test_equal_to_the_rendered_template_on_plain_text():
    messages = [{"role": t["role"], "content": t["text"]} for t in TURNS]
    rendered, _ = render_jinja_template([messages], chat_template=default_template())
    ids = encode_conversation(TOKENIZER, TURNS, 0, 9).input_ids
    assert TOKENIZER.decode(ids) == rendered[0]
    assert ids == TOKENIZER(rendered[0], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("typed", CONTROL)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_typed_control_token_stays_text(typed, role):
    turns = [{"role": "system", "text": "red"}, {"role": "user", "text": "two"}, {"role": "assistant", "text": "No"}]
    plain = encode_conversation(TOKENIZER, turns, 1, 9)
    next(t for t in turns if t["role"] == role)["text"] = f"a {typed}{typed} b"
    typed_in = encode_conversation(TOKENIZER, turns, 1, 9)
    count = lambda encoded: [token for token in encoded.input_ids if token in CONTROL_IDS]  # noqa: E731
    assert count(typed_in) == count(plain)
    assert f"a {typed}{typed} b" in TOKENIZER.decode(typed_in.input_ids)  # nothing is lost either


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(CONTROL), st.text(max_size=8), st.sampled_from(["\ue000text0\ue001", "<|im_", "end|>"])), max_size=6))
def test_no_text_gives_a_control_token(pieces):
    text = "".join(pieces)
    encoded = encode_conversation(TOKENIZER, [{"role": "user", "text": text}], 0, 9, add_generation_prompt=True)
    inner = encode_text(TOKENIZER, text)
    assert not CONTROL_IDS & set(inner)
    assert TOKENIZER.decode(inner) == text
    assert any(encoded.input_ids[i:i + len(inner)] == inner for i in range(len(encoded.input_ids)))
    assert sum(token in CONTROL_IDS for token in encoded.input_ids) == 5


def test_ids_as_a_target_keep_functional_tokens():
    call = [TOKENIZER.convert_tokens_to_ids("<nexa_3>"), *encode_text(TOKENIZER, "('red')"), TOKENIZER.convert_tokens_to_ids("<nexa_end>")]
    encoded = encode_conversation(TOKENIZER, [{"role": "user", "text": "two"}, {"role": "assistant", "ids": call}], 0, 9)
    assert [x for x in encoded.labels if x != IGNORE_INDEX][:-1] == call


def test_wrong_conversations_are_refused():
    with pytest.raises(ValueError, match="2 images and no user turn"):
        encode_conversation(TOKENIZER, [{"role": "assistant", "text": "two"}], 2, 9)
    with pytest.raises(Exception, match="Unknown role: tool"):
        encode_conversation(TOKENIZER, [{"role": "tool", "text": "two"}], 0, 9)
