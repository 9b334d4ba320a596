"""Function sets, functional tokens, and calls there and back."""

from __future__ import annotations

import enum
import json
import pickle
from typing import Literal, Optional

import model_parts
import pytest
import torch
from function_parts import ANYTHING, make_model, make_shop, make_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from omnivision.errors import ConfigError, DataError
from omnivision.functions import (
    Function,
    FunctionSet,
    format_call,
    functional_tokens,
    install_tokens,
    parse_calls,
    target_ids,
)
from omnivision.functions.tokens import starting_rows

@pytest.fixture(scope="module")
def shop() -> FunctionSet:
    return make_shop()


@pytest.fixture(scope="module")
def tokenizer(shop) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    install_tokens(make_model(400), tokenizer, shop)
    return tokenizer


# ---- function sets ----


class Size(enum.Enum):
    SMALL = "s"
    LARGE = "l"


def send(
    to: str, count: int = 1, size: Optional[Size] = None, how: Literal["mail", "sms"] = "mail", *, tags: list[str]
):
    """Send a message
    to somebody.

    Args:
        to: who gets it,
            by name
        count (int): how often: at most three

    Returns:
        nothing: at all
    """


def test_from_callables_reads_hints_and_docstring():
    function = FunctionSet.from_callables(send)["send"]
    assert function.description == "Send a message to somebody."
    assert function.argument_names == ("to", "count", "size", "how", "tags")
    assert function.parameters["required"] == ["to", "tags"]
    properties = function.parameters["properties"]
    assert properties["to"] == {"type": "string", "description": "who gets it, by name"}
    assert properties["count"] == {"type": "integer", "description": "how often: at most three", "default": 1}
    assert properties["size"] == {"anyOf": [{"enum": ["s", "l"]}, {"type": "null"}]}
    assert properties["how"] == {"enum": ["mail", "sms"], "default": "mail"}
    assert properties["tags"] == {"type": "array", "items": {"type": "string"}}


def test_from_callables_names_what_it_cannot_describe():
    def bare(a):
        """Does."""

    def many(*a: int):
        """Does."""

    def odd(a: bytes):
        """Does."""

    def silent(a: int):
        pass

    for function, word in ((bare, "type hint"), (many, "by name"), (odd, "bytes"), (silent, "docstring")):
        with pytest.raises(ConfigError, match=word):
            FunctionSet.from_callables(function)


def test_irrelevant_is_last_unless_given_and_ids_are_stable(tmp_path, shop):
    assert [function.name for function in shop.functions] == ["order", "any", "irrelevant"]
    larger = shop.extended([Function("later", "Comes later.")])
    assert [larger.token(name) for name in ("order", "irrelevant", "later")] == ["<nexa_0>", "<nexa_2>", "<nexa_3>"]
    larger.save(tmp_path)
    assert FunctionSet.load(tmp_path) == larger
    given_first = FunctionSet.from_json(
        [{"name": "irrelevant"}, {"type": "function", "function": {"name": "b"}}], prefix="act"
    )
    assert given_first.tokens == ("<act_0>", "<act_1>") and given_first.end_token == "<act_end>"
    given_first.save(tmp_path)
    assert FunctionSet.load(tmp_path).prefix == "act"


def test_a_function_that_has_checked_arguments_goes_to_other_processes(shop):
    before = [one.faults({"item": 3}) for one in shop.functions]
    again = pickle.loads(pickle.dumps(shop))
    assert again == shop and [one.faults({"item": 3}) for one in again.functions] == before


def test_bad_function_files_are_config_errors(tmp_path):
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "text.json").write_text('"hello"')
    for source in (
        tmp_path / "none.json",
        tmp_path / "broken.json",
        tmp_path / "text.json",
        [{"description": "x"}],
        [3],
    ):
        with pytest.raises(ConfigError):
            FunctionSet.from_json(source)
    outside = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}
    for parameters in ({"type": "nonsense"}, {"type": "array"}, outside):
        with pytest.raises(ConfigError):
            Function("f", "f", parameters)
    with pytest.raises(ConfigError, match="two functions"):
        FunctionSet((Function("f", "f"), Function("f", "g")))


# ---- tokens ----


@pytest.mark.parametrize("tied", [True, False])
def test_spare_rows_come_first_and_start_from_the_description(shop, tied):
    tokenizer, model = make_tokenizer(), make_model(400, tied)
    used, before = len(tokenizer), model.get_input_embeddings().weight.detach().clone()
    head_before = model.get_output_embeddings().weight.detach().clone()
    done = install_tokens(model, tokenizer, shop)
    assert (done.rows_before, done.rows_after, done.added, done.spare_rows_used) == (400, 400, 4, 4)
    table = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    texts = [tokenizer.encode(text) for text in (*(function.description for function in shop.functions), "The end of the call.")]
    new = [*done.tokens.functions, done.tokens.end]
    assert torch.allclose(table[new], starting_rows(before[:used], texts), atol=1e-6)
    assert torch.allclose(head[new], starting_rows(head_before[:used], texts), atol=1e-6)
    others = [row for row in range(400) if row not in (*done.tokens.functions, done.tokens.end)]
    assert torch.equal(table[others], before[others])
    assert (table is head) is tied


def test_starting_rows_by_hand():
    table = torch.tensor([[0.0, 0.0], [6.0, 0.0], [6.0, 4.0], [0.0, 4.0]])  # the middle is (3, 2), every row sqrt(13) away from it
    rows = starting_rows(table, [[0, 1], [2, 3], [1, 2, 2, 1]])  # means (3, 0), (3, 4), (6, 2) around (4, 2)
    length = 13**0.5
    directions = torch.nn.functional.normalize(torch.tensor([[-1.0, -2.0], [-1.0, 2.0], [2.0, 0.0]]), dim=-1)
    assert torch.allclose(rows, torch.tensor([3.0, 2.0]) + length * directions)
    assert torch.allclose(starting_rows(table, [[0, 1]]), torch.tensor([[3.0, 2.0 - length]]))  # one alone: away from the middle
    assert torch.allclose(starting_rows(table, [[1], [1]]), torch.tensor([[3.0, 2.0]]).expand(2, 2))  # nothing tells them apart


@pytest.mark.parametrize("tied", [True, False])
def test_the_table_grows_only_past_the_spare_rows(shop, tied):
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer) + 1, tied)
    before = model.get_input_embeddings().weight.detach().clone()
    done = install_tokens(model, tokenizer, shop)
    assert done.spare_rows_used == 1 and done.rows_after == len(tokenizer) == done.rows_before + 3
    table = model.get_input_embeddings().weight
    assert (table is model.get_output_embeddings().weight) is tied
    assert torch.equal(table[: done.rows_before - 1], before[:-1])
    assert model(torch.tensor([list(done.tokens.functions)])).logits.shape[-1] == done.rows_after


@pytest.mark.parametrize("functions", [3, 150])
def test_omnivision_keeps_its_tie_through_growth_and_reload(functions, tmp_path):
    tokenizer, model = model_parts.make_tokenizer(control=model_parts.CONTROL[:6]), model_parts.make_model()
    many = FunctionSet(tuple(Function(f"f{index}", "Is there a cat?") for index in range(functions)))
    done = install_tokens(model, tokenizer, many)
    assert done.rows_after == max(done.rows_before, len(tokenizer)) == model.config.text_config.vocab_size
    assert (done.rows_after > done.rows_before) is (functions == 150)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.get_output_embeddings().weight, model.get_input_embeddings().weight)


def test_more_functions_later_move_no_id_and_touch_no_trained_row(shop, tmp_path):
    tokenizer, model = make_tokenizer(), make_model(400)
    first = install_tokens(model, tokenizer, shop)
    with torch.no_grad():
        model.get_input_embeddings().weight[first.tokens.functions[1]] += 1
    trained = model.get_input_embeddings().weight.detach().clone()
    tokenizer.save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    larger = shop.extended([Function("later", "Comes later.")])
    second = install_tokens(model, tokenizer, larger)
    assert second.tokens.functions[:3] == first.tokens.functions and second.tokens.end == first.tokens.end
    assert second.added == 1
    kept = [*first.tokens.functions, first.tokens.end]
    assert torch.equal(model.get_input_embeddings().weight[kept], trained[kept])


def test_tokens_are_special_and_unknown_sets_are_refused(tokenizer, shop):
    ids = functional_tokens(tokenizer, shop)
    assert tokenizer.decode([ids.end], skip_special_tokens=True) == ""
    assert ids.end not in tokenizer.encode("<nexa_end>", split_special_tokens=True)
    with pytest.raises(ConfigError, match="<other_0>"):
        functional_tokens(tokenizer, FunctionSet(shop.functions, "other"))


def test_ids_stay_known_while_a_tokenizer_grows(shop):
    tokenizer, other = make_tokenizer(), make_tokenizer()
    larger = shop.extended([Function("later", "Comes later.")])
    for _ in range(2):  # what is not there is looked for again
        with pytest.raises(ConfigError, match="<nexa_0>"):
            functional_tokens(tokenizer, shop)
    first = install_tokens(make_model(400), tokenizer, shop).tokens
    with pytest.raises(ConfigError, match="<nexa_3>"):
        functional_tokens(tokenizer, larger)
    tokenizer.add_tokens(["plain"])
    grown = install_tokens(make_model(400), tokenizer, larger).tokens
    assert functional_tokens(tokenizer, shop) == first and functional_tokens(tokenizer, larger) == grown
    assert grown.functions == tuple(tokenizer.convert_tokens_to_ids(list(larger.tokens))) and grown.end == first.end
    other.add_tokens(["shifts", "all"])
    assert install_tokens(make_model(400), other, shop).tokens.functions == tuple(one + 2 for one in first.functions)


# ---- calls ----


def test_canonical_text_follows_the_schema(shop):
    assert format_call("order", {"count": 2, "item": "red cat"}, shop) == "(item='red cat', count=2)"
    assert format_call("order", {"item": "isn't"}, shop) == '(item="isn\'t")'
    assert format_call("irrelevant", {}, shop) == "()"
    assert (
        format_call("any", {"from": 1, "item": None, "start-date": True}, shop)
        == "(item=None, **{'from': 1}, **{'start-date': True})"
    )


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("nobody", {}),
        ("order", {}),
        ("order", {"item": 3}),
        ("order", {"item": "x", "count": 0}),
        ("order", {"item": "x", "colour": "red"}),
        ("any", {"item": float("nan")}),
        ("any", {"item": {1: 2}}),
        ("any", {"item": object()}),
        ("any", {"item": 10**5000}),
        ("any", {"item": "\ud800"}),
    ],
)
def test_a_wrong_call_is_never_written(shop, tokenizer, name, arguments):
    with pytest.raises(DataError):
        target_ids({"name": name, "arguments": arguments}, tokenizer, shop)


def test_several_calls_in_a_row_with_spans(shop, tokenizer):
    calls = [
        {"name": "order", "arguments": {"item": "猫", "tags": ["it's", '"']}},
        {"name": "irrelevant", "arguments": {}},
    ]
    ids = target_ids(calls, tokenizer, shop)
    tail = tokenizer.encode(" Order a thing.") + [tokenizer.eos_token_id]
    actions = parse_calls(torch.tensor(tail[:2] + ids + tail), tokenizer, shop)
    assert actions.errors == []
    assert [{"name": action.name, "arguments": action.arguments} for action in actions] == calls
    assert actions[0].span[0] == 2 and actions[0].span[1] == actions[1].span[0] and actions[1].span[1] == len(ids) + 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(list(ANYTHING["properties"])), VALUES))
def test_values_survive_tokens_and_parser(shop, tokenizer, arguments):
    ids = target_ids({"name": "any", "arguments": arguments}, tokenizer, shop)
    actions = parse_calls(ids, tokenizer, shop)
    assert actions.errors == []
    assert json.dumps(actions[0].arguments, sort_keys=True) == json.dumps(arguments, sort_keys=True)


@pytest.mark.parametrize(
    "value", ["<nexa_1>", "<nexa_end>", "<|im_end|>", "e\u0301", "ﬁ", "a\\d", "\x00\n\t", "“‘'\"", "红色的猫'"]
)
def test_hostile_and_odd_strings_survive(shop, tokenizer, value):
    ids = target_ids({"name": "order", "arguments": {"item": value}}, tokenizer, shop)
    assert sum(one in functional_tokens(tokenizer, shop).functions for one in ids) == 1
    assert parse_calls(ids, tokenizer, shop)[0].arguments == {"item": value}


@pytest.mark.parametrize(
    "text, kind",
    [
        ("(item='a'", "syntax"),
        ("", "syntax"),
        ("(item='a')(item='b')", "syntax"),
        ("(item='a').x", "syntax"),
        ("(item='a') # ok", "syntax"),
        ("(item='a') or 1", "syntax"),
        ("(item='\x00')", "syntax"),
        ("(" + "[" * 400, "syntax"),
        ("(item=" + "-" * 9000 + "1)", "syntax"),
        ("(item='" + "a" * 30000 + "')", "syntax"),
        ("(item=" + "9" * 6000 + ")", "syntax"),
        ("(item=0x" + "f" * 9000 + ")", "not_literal"),
        ("(item={'a': 1, 'a': 2})", "not_literal"),
        ("(item=[" + "[" * 60 + "]" * 60 + "])", "not_literal"),
        ("(item=open('x'))", "not_literal"),
        ("(item=__import__('os'))", "not_literal"),
        ("(item=f'{1}')", "not_literal"),
        ("(item=1+1)", "not_literal"),
        ("(item='a', count=1e999)", "not_literal"),
        ("(item=('a',))", "not_literal"),
        ("(item=b'a')", "not_literal"),
        ("(item='\\ud800')", "not_literal"),
        ("(*['a'])", "not_literal"),
        ("(**x)", "not_literal"),
        ("(**{1: 2})", "not_literal"),
        ("(x for x in y)", "not_literal"),
        ("(item='a', item='b')", "duplicate"),
        ("('a', item='b')", "duplicate"),
        ("(item='a', colour='b')", "unknown_argument"),
        ("('a', 1, [], 4)", "unknown_argument"),
        ("(item=3)", "schema"),
        ("()", "schema"),
        ("(item='a', count=True)", "schema"),
    ],
)
def test_malformed_calls_are_typed_errors(shop, tokenizer, text, kind):
    tokens = functional_tokens(tokenizer, shop)
    good = target_ids({"name": "irrelevant"}, tokenizer, shop)
    ids = [tokens.functions[0], *tokenizer.encode(text, split_special_tokens=True), tokens.end]
    actions = parse_calls(ids + good, tokenizer, shop)
    assert [error.kind for error in actions.errors] == [kind]
    assert actions.errors[0].span == (0, len(ids)) and actions.errors[0].name == "order"
    assert [action.name for action in actions] == ["irrelevant"]  # the rest is still read


def test_only_ids_make_a_call(shop, tokenizer):
    tokens = functional_tokens(tokenizer, shop)
    typed = tokenizer.encode("<nexa_2>()<nexa_end>", split_special_tokens=True)
    assert parse_calls(typed, tokenizer, shop) == [] and parse_calls(typed, tokenizer, shop).errors == []

    def kinds(ids):
        return [error.kind for error in parse_calls(ids, tokenizer, shop).errors]

    assert kinds([tokens.end]) == ["stray_end"]
    assert kinds([tokens.functions[0]]) == ["unclosed"]
    assert kinds([tokens.functions[0], tokens.functions[0], tokens.end]) == ["unclosed", "syntax"]
    for foreign in (tokenizer.eos_token_id, 10**6, -1):
        assert kinds([tokens.functions[0], foreign, tokens.end]) == ["foreign_token"]
    positional = [tokens.functions[0], *tokenizer.encode("('a', -2)"), tokens.end]
    assert kinds(positional) == ["schema"]  # count must be at least 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-2, 420), max_size=40))
def test_any_ids_at_all_never_raise(shop, tokenizer, ids):
    tokens = functional_tokens(tokenizer, shop)
    calls = parse_calls([tokens.functions[0], *ids, tokens.end], tokenizer, shop)
    assert len(calls) + len(calls.errors) >= 1
