"""The ONNX runner reads what a model wrote as the library does: the text is anyone's, and must neither pass nor end the program."""

from __future__ import annotations

import json

import pytest

from omnivision.export.onnx_files.runner import read_arguments
from omnivision.functions import Function
from omnivision.functions.arguments import Malformed
from omnivision.functions.arguments import read_arguments as read_by_the_library

OPEN = Function("order", "Order.", {"type": "object", "properties": {"item": {}, "count": {}}, "required": ["item"], "additionalProperties": True})
EXPECTED = {"known": ["item", "count"], "required": ["item"], "others": True}
ODD = ["oo(item='a')", "(item='a') # and more", "(item='a')\n", "(item='a')(1)", "(item=1e999)", "(item=-1e999)", r"(item='\ud800')", f"(item=0x{'f' * 5000})",
       "(item='a', **{[1]: 2})", "(item='a', **{1: 2})", "(item='a', **{None: 2})", "(item='a', **{**{'b': 1}})", f"(item={'[' * 300}{']' * 300})",
       f"(item={'-' * 9000}1)", "", "'{1}'", "(item=f'{1}')", "(item=-True)", "(item=...)", "(item=1j)", "(item='a'\0)"]


@pytest.mark.parametrize("text", ODD, ids=[text[:24] for text in ODD])
def test_odd_arguments_are_refused_by_both(text):
    with pytest.raises(Malformed):
        read_by_the_library([text], OPEN)
    with pytest.raises((ValueError, SyntaxError, MemoryError, RecursionError)):
        read_arguments(text, EXPECTED)


@pytest.mark.parametrize("text", ["(item='猫', count=2)", "('a')", "(item=['x', {'y': [None, True, -1.5]}], **{'from': 1})", "(\nitem='a')", " (item='a')",
                                  r"(item='\d')"])
def test_plain_arguments_are_read_alike(text):
    found = read_arguments(text, EXPECTED)
    assert found == read_by_the_library([text], OPEN)[0] and json.loads(json.dumps(found)) == found
