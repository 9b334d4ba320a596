"""The Berkeley function-calling files: every function in one set, every reference answer through grammar and parser."""

from __future__ import annotations

from collections import Counter

import bfcl
import pytest
from function_parts import add_tokens
from function_walks import same
from transformers import AutoTokenizer

from omnivision.errors import DataError
from omnivision.functions import parse_calls, target_ids
from omnivision.functions.constraint import CallConstraint

pytestmark = pytest.mark.official_data

# What the references allow and the function's own schema does not: question, argument set, and the schema's complaint.
REFUSED = [
    ("simple_python_17", {"number": 450}, "'formatted' is a required property"),
    ("simple_python_149", {"company_names": [["Apple"], ["Microsoft"]]}, "['Apple'] is not of type 'string'"),
    ("simple_python_200", {"distance": 12000, "fuel_type": "gas", "efficiency_reduction": 0}, "'fuel_efficiency' is a required property"),
    ("simple_python_200", {"distance": 12000, "fuel_type": "gas"}, "'fuel_efficiency' is a required property"),
    ("simple_python_307", {"teams": ["Lakers", "Clippers"], "date": "2021-01-28", "venue": True}, "True is not of type 'string'"),
    ("simple_python_358", {"dish": "cookie", "diet": ["GF"], "time_limit": 30}, "'GF' is not one of"),
    ("simple_python_358", {"dish": "cookie", "diet": ["gluten free"], "time_limit": 30}, "'gluten free' is not one of"),
    ("multiple_76", {"item": "horse", "material": "bronze"}, "'bronze' is not one of"),
    ("parallel_88", {"height": 10, "gravity": 9.8}, "'initial_velocity' is a required property"),
    ("parallel_152", {"base": 2, "exponent": 3, "mod": None}, "None is not of type 'number'"),
    ("parallel_152", {"base": 3, "exponent": 5, "mod": None}, "None is not of type 'number'"),
]


@pytest.fixture(scope="module")
def berkeley(official_data, root):
    functions, answers = bfcl.read(official_data / "bfcl")
    tokenizer = add_tokens(AutoTokenizer.from_pretrained(root / "omnivision" / "weights" / "tiny-language"), functions)
    return functions, answers, tokenizer, CallConstraint(tokenizer, functions)


def test_1157_functions_make_a_set_and_a_grammar(berkeley):
    functions, _, _, constraint = berkeley
    assert len(functions) == 863 and constraint.grammar.never == ()
    assert {name: words for name, words in constraint.grammar.left_out.items() if words != ("additionalProperties",)} == {}
    assert len(constraint.grammar.left_out) == 6  # objects of any keys


@pytest.mark.parametrize(("file", "questions", "calls", "sets"), [("simple_python", 400, 400, 860), ("multiple", 200, 200, 508), ("parallel", 200, 540, 1091)])
def test_every_reference_call_is_expressible_allowed_and_read_back(berkeley, file, questions, calls, sets):
    functions, answers, tokenizer, constraint = berkeley
    refused, passed = [], Counter()
    for number, (question, name, allowed) in enumerate(answers[file]):
        for arguments in allowed:
            call = {"name": name, "arguments": arguments}
            try:
                ids = target_ids(call, tokenizer, functions)
            except DataError as error:
                refused.append((question, arguments, error.what))
                continue
            matcher = constraint.matcher()
            assert all(matcher.consume_token(one) for one in ids) and matcher.is_accepting(), (question, tokenizer.decode(ids))
            found = parse_calls(ids, tokenizer, functions)
            assert found.errors == [] and same([action.to_dict() for action in found], [call])
            passed[number] += 1
    expected = [one for one in REFUSED if one[0].rpartition("_")[0] == file]
    assert [(question, arguments) for question, arguments, _ in refused] == [(question, arguments) for question, arguments, _ in expected]
    assert all(word in what for (_, _, what), (_, _, word) in zip(refused, expected))
    assert len({question for question, _, _ in answers[file]}) == questions
    assert len(answers[file]) == len(passed) == calls  # each reference call in at least one of the ways it allows
    assert sum(passed.values()) + len(refused) == sets


def test_calls_of_one_question_are_one_answer(berkeley):
    functions, answers, tokenizer, constraint = berkeley
    together: dict[str, list[dict]] = {}
    for question, name, allowed in answers["parallel"]:
        together.setdefault(question, []).append({"name": name, "arguments": allowed[0]})
    for question, calls in together.items():
        ids = target_ids(calls, tokenizer, functions)
        matcher = constraint.matcher()
        assert matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting(), question
        assert [action.to_dict() for action in parse_calls(ids, tokenizer, functions)] == calls
