"""Models that write nothing but calls: our generation, transformers' generate, batches, beams, samples."""

from __future__ import annotations

import json

import pytest
import torch
from function_parts import add_tokens, make_model, make_shop, make_tokenizer
from model_parts import CONTROL, make_image, make_processor
from model_parts import make_model as make_omnivision

from omnivision.errors import ConfigError, DataError
from omnivision.functions import Function, FunctionSet, functional_tokens, install_tokens, parse_calls, target_ids
from omnivision.functions.constraint import CallConstraint
from omnivision.functions.grammar import TEXT_OR_CALLS
from omnivision.generation import generate_ids

FRIDGE = {"type": "object", "properties": {"door": {"enum": ["open", "shut"]}, "degrees": {"type": "integer", "minimum": 1, "maximum": 9}},
          "required": ["door", "degrees"]}
HOUSE = FunctionSet((Function("fridge", "Set the fridge.", FRIDGE), Function("lamp", "Switch the lamp on.")))
WORDS = ["Is there a red cat?", "two", "图中有几只猫？", "", "How many apples are there in the image?"]


@pytest.fixture(scope="module")
def house():
    """A random model with images, whose tokenizer knows the house."""
    model = make_omnivision()
    processor = make_processor(model)
    install_tokens(model, processor.tokenizer, HOUSE)
    return model, processor


@pytest.fixture(scope="module")
def language():
    """A random language model with 40 rows more than ids."""
    tokenizer = add_tokens(make_tokenizer(), HOUSE)
    tokenizer.padding_side = "left"
    return make_model(len(tokenizer) + 40).eval(), tokenizer


def check(answers: list[list[int]], tokenizer, least: int = 1) -> None:
    """Every answer that ended holds calls and no fault."""
    ended = [ids for ids in answers if ids[-1] == tokenizer.eos_token_id]
    assert len(ended) >= least
    for ids in ended:
        calls = parse_calls(ids, tokenizer, HOUSE)
        assert calls and calls.errors == [] and sum(call.span[1] - call.span[0] for call in calls) == len(ids) - 1


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 4}, {"batch_size": 4, "temperature": 1.5, "seeds": range(10)}])
def test_our_generation_writes_nothing_but_calls(house, options):
    model, processor = house
    stops = model.generation_config.eos_token_id
    constraint = CallConstraint(processor.tokenizer, HOUSE, most_calls=1, stop_token_ids=stops)
    free = generate_ids(model, processor, WORDS * 2, [make_image(0)] * 5 + [None] * 5, 60, **options)
    bound = generate_ids(model, processor, WORDS * 2, [make_image(0)] * 5 + [None] * 5, 60, constrain=constraint, **options)
    assert not any(parse_calls(ids, processor.tokenizer, HOUSE) for ids in free)
    assert all(ids[-1] in stops for ids in bound)
    assert [len(parse_calls(ids[:-1], processor.tokenizer, HOUSE)) for ids in bound] == [1] * 10
    assert len({json.dumps(ids) for ids in bound}) > 1
    if options.get("batch_size") == 4 and "seeds" not in options:
        assert bound == generate_ids(model, processor, WORDS * 2, [make_image(0)] * 5 + [None] * 5, 60, 1, constrain=constraint)


def test_a_call_may_be_the_end_of_an_answer(house):
    model, processor = house
    end = functional_tokens(processor.tokenizer, HOUSE).end
    answers = generate_ids(model, processor, WORDS, [None] * 5, 60, constrain=CallConstraint(processor.tokenizer, HOUSE), stop_token_ids=[end])
    assert all(ids[-1] == end and len(parse_calls(ids, processor.tokenizer, HOUSE)) == 1 for ids in answers)


def test_generate_with_images_takes_a_processor(house):
    model, processor = house
    constraint = CallConstraint(processor.tokenizer, HOUSE, most_calls=2, stop_token_ids=model.generation_config.eos_token_id)
    question = [{"role": "user", "content": [{"type": "image", "image": make_image(1)}, {"type": "text", "text": "red"}]}]
    batch = processor.apply_chat_template(question, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True)
    found = model.generate(**batch, do_sample=False, max_new_tokens=80, logits_processor=[constraint.processor()])[0, batch["input_ids"].shape[1]:]
    ours = generate_ids(model, processor, ["red"], [make_image(1)], 80, constrain=constraint)[0]
    assert found.tolist() == ours and parse_calls(ours[:-1], processor.tokenizer, HOUSE)


@pytest.mark.parametrize("options", [
    {"do_sample": False}, {"do_sample": True, "temperature": 2.0}, {"do_sample": False, "num_beams": 3, "early_stopping": True},
    {"do_sample": True, "num_return_sequences": 3}])
def test_generate_in_batches_and_beams(language, options):
    model, tokenizer = language
    constraint = CallConstraint(tokenizer, HOUSE, most_calls=1)
    batch = tokenizer(["the red cat", "a", "订购红色的猫 count=2"], padding=True, return_tensors="pt")
    torch.manual_seed(0)
    for _ in range(2):  # one constraint serves many calls
        new = model.generate(**batch, max_new_tokens=80, logits_processor=[constraint.processor()], **options)[:, batch["input_ids"].shape[1]:].tolist()
        assert len(new) == 3 * options.get("num_return_sequences", 1)
        check([ids[: ids.index(tokenizer.eos_token_id) + 1] for ids in new], tokenizer, len(new))


def test_generate_from_embeddings_counts_from_the_first_new_id(language):
    model, tokenizer = language
    constraint = CallConstraint(tokenizer, HOUSE, most_calls=1)
    embeddings = model.get_input_embeddings()(torch.tensor([[5, 6, 7]]))
    new = model.generate(inputs_embeds=embeddings, max_new_tokens=80, do_sample=False, logits_processor=[constraint.processor()])[0].tolist()
    check([new], tokenizer)


def test_every_stop_may_end_an_answer_and_no_other_control_token_ever_comes(house):
    model, processor = house
    tokenizer = processor.tokenizer
    stops = model.generation_config.eos_token_id
    constraint = CallConstraint(tokenizer, HOUSE, TEXT_OR_CALLS, stop_token_ids=stops)
    lamp = target_ids({"name": "lamp", "arguments": {}}, tokenizer, HOUSE)
    control = set(tokenizer.convert_tokens_to_ids(CONTROL))
    logits = torch.zeros(2, len(tokenizer) + 40)
    for ids in ([], lamp, tokenizer.encode("red")):
        here = {one for one in range(logits.shape[1]) if constraint(logits, [ids, ids])[1, one] == 0}
        tokens = functional_tokens(tokenizer, HOUSE)
        assert here & {*control, *tokens.functions, tokens.end} == {*stops, *tokens.functions} and max(here) < len(tokenizer)
    assert torch.equal(constraint(logits, [[*lamp, stops[1]], lamp])[0], logits[0])  # what comes after the end is nobody's


def test_rows_may_change_places_and_wrong_ids_are_told(language):
    _, tokenizer = language
    constraint = CallConstraint(tokenizer, HOUSE)
    logits = torch.zeros(2, len(tokenizer))
    first, second = (target_ids({"name": "fridge", "arguments": {"door": "shut", "degrees": degrees}}, tokenizer, HOUSE) for degrees in (3, 7))
    straight = constraint(logits, [first[:-3], second[:-1]])
    assert torch.equal(constraint(logits, [second[:-1], first[:-3]]), straight.flip(0))
    wrong = [*first[:1], *tokenizer.encode("(door='ajar'")]
    for _ in range(2):
        with pytest.raises(DataError, match="no answer of the grammar"):
            constraint(logits[:1], [wrong])
    assert torch.equal(constraint(logits, [first[:-3], second[:-1]]), straight)


def test_what_cannot_be_made_is_refused(language):
    _, tokenizer = language
    with pytest.raises(ConfigError, match="does not know <nexa_3>"):
        CallConstraint(tokenizer, make_shop().extended([Function("more", "More.")]))
    with pytest.raises(ConfigError, match="no id ends"):
        CallConstraint(tokenizer, HOUSE, stop_token_ids=[])
    vast = {"type": "object", "properties": {f"a{index}": {"type": "object", "properties": {f"b{at}": {"minimum": index * at} for at in range(40)}} for index in range(40)}}
    with pytest.raises(ConfigError, match="no grammar of 3 functions"):
        CallConstraint(tokenizer, FunctionSet((Function("vast", "Vast.", vast), Function("lamp", "Lamp."))))
