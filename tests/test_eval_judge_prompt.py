"""What a judge is told: our own table, and the official one read from its script without running it."""

from __future__ import annotations

import hashlib

import pytest
from omnivision_eval import mmvet
from omnivision_eval.judge_prompt import NUDGE, read_prompt, table_row

from omnivision.errors import DataError

SCRIPT = '''
import no_such_module
raise SystemExit("this must not run")

prompt = """Grade it.

Q | T | P | C
"""
other = "prompt"


def ask(args):
    prompt = "not this one"
    question = args.prompt + "\\n" + " | ".join([prompt, ""])
    while True:
        try:
            question = (
                args.prompt
                + "\\n"
                + " | ".join([prompt, ""])
                + "\\nAgain: "
            )
        except ValueError:
            pass
    return "other " + "text", question + "neither"
'''


def test_our_own_prompt_is_golden():
    prompt = read_prompt(None)
    assert prompt.name == "omnivision-1"
    assert prompt.hash == "750bae5376e3", "a changed prompt is another judge: it needs another name, and its hash here"


def test_our_own_examples_are_rows_of_the_table():
    instruction, head, line, *rows = read_prompt(None).text.rstrip("\n").replace("\n\n", "\n").split("\n")
    assert len(rows) == 9 and head.count(" | ") == line.count(" | ") == 3
    grades = [mmvet.read_reply(row.split(" | ")[3]) for row in rows]
    assert None not in grades and {0.0, 0.5, 1.0} < set(grades) and all(row.count(" | ") == 3 for row in rows)
    assert all(f"{tenth / 10:.1f}" in instruction for tenth in range(11)) and "<AND>" in instruction and "<OR>" in instruction


def test_the_row_is_put_together_as_by_the_official_script():
    assert table_row("What is x?", "-1<AND>-5<OR>5", "x = 1\nor so") == "What is x? | -1 <AND> -5 <OR> 5 | x = 1\nor so | "


def test_the_nudge_comes_from_the_second_try_on():
    prompt = read_prompt(None)
    first, second = (prompt.messages("a | b | c | ", again)[0]["content"] for again in (False, True))
    assert first == prompt.text + "\na | b | c | " and second == first + NUDGE


def test_the_official_prompt_is_read_from_its_script(tmp_path):
    file = tmp_path / "mm-vet_evaluator.py"
    file.write_text(SCRIPT)
    prompt = read_prompt(file)
    assert prompt.text == "Grade it.\n\nQ | T | P | C\n" and prompt.nudge == "\nAgain: "
    assert prompt.name == f"mm-vet_evaluator.py (SHA-256 {hashlib.sha256(SCRIPT.encode()).hexdigest()})"


def test_a_script_without_a_nudge_gets_ours(tmp_path):
    file = tmp_path / "prompt.py"
    file.write_text("prompt = 'Grade it.'\n")
    assert read_prompt(file)[1:] == ("Grade it.", NUDGE)


def test_a_text_is_used_as_it_is(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"\xef\xbb\xbf Grade it: prompt = 5\n\n")
    prompt = read_prompt(file)
    assert prompt.text == " Grade it: prompt = 5\n\n" and prompt.nudge == NUDGE and prompt.name.startswith("prompt.txt (SHA-256 ")
    assert prompt.hash != read_prompt(None).hash != prompt._replace(text=read_prompt(None).text, nudge="").hash


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.py", b"prompt = 5", "0 times"), ("a.py", b"prompt = f'{x}'", "0 times"), ("a.py", b"def f():\n    prompt = 'x'", "0 times"),
    ("a.py", b"prompt = 'x'\nprompt = 'y'", "2 times"), ("a.py", b"prompt = (", "no Python"), ("a.py", b"prompt = 'x'\0", "no Python"),
    ("a.py", b"prompt = ' '", "is empty"), ("a.txt", b"\n", "is empty"), ("a.txt", b"\xff", "no UTF-8: byte 0"), (".", b"", "cannot be read"),
    ("gone/a.txt", None, "cannot be read")])
def test_a_prompt_that_cannot_be(tmp_path, name, content, said):
    if content:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_prompt(tmp_path / name)
