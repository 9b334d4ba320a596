"""What a judge of MM-Vet is told: a table of graded examples, and a last row without its grade.

The words and examples are ours; the official ones can be read from the official script, which is not executed.

Source: how the row is put together is that of mm-vet_evaluator.py of yuweihao/MM-Vet@acde843, read there.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import NamedTuple

from omnivision.endpoint import message
from omnivision.errors import DataError

OWN = """You grade what a model said about a picture that you do not see. Every row of this table has a question, the reference, the model's \
answer and the grade of the answer. A grade is one of 0.0 (nothing is right), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9 and 1.0 (all is right). \
If the reference joins parts with <AND>, only an answer that has every part gets 1.0, and one that has some of them gets their share; \
if it joins them with <OR>, one of them is enough. Other words for the same thing are as good. Write the grade that the last row lacks, nothing else.

Question | Reference | Answer | Grade
--- | --- | --- | ---
At which values does the curve cross the axis? | 4 <AND> 12 | At 7. | 0.0
At which values does the curve cross the axis? | 4 <AND> 12 | 12 | 0.5
At which values does the curve cross the axis? | 4 <AND> 12 | 5 and 12 | 0.5
At which values does the curve cross the axis? | 4 <AND> 12 | It crosses at 12 and at 4. | 1.0
What lies in the basket? | apple <AND> pear <AND> plum <AND> fig <AND> lemon | A fig, an apple and some bread. | 0.4
What stops in front of the shop? | bus <OR> coach | A tram stops there. | 0.0
What stops in front of the shop? | bus <OR> coach | A red coach. | 1.0
Why is this cartoon funny? | Two fish read a sign by the lake that says "No swimming" and look at each other in alarm. The joke is that swimming is \
all that a fish can do, so the rule cannot be kept. | Two fish in a lake are looking at a sign. | 0.3
Why is this cartoon funny? | Two fish read a sign by the lake that says "No swimming" and look at each other in alarm. The joke is that swimming is \
all that a fish can do, so the rule cannot be kept. | \
A sign forbids swimming, and the fish who read it are alarmed, since they have no way to obey. | 1.0
"""
NUDGE = "\nThe grade of the last row as a number: "


class Prompt(NamedTuple):
    """What stands before the row, and behind it when a reply could not be read.

    Args:
        name: said beside the score.
        text: instruction and examples.
        nudge: put behind the row from the second try on.
    """

    name: str
    text: str
    nudge: str = NUDGE

    @property
    def hash(self) -> str:
        """Tells prompts apart, in the ledger and beside the score."""
        return hashlib.sha256(f"{self.text}\0{self.nudge}".encode()).hexdigest()[:12]

    def messages(self, row: str, again: bool) -> list[dict]:
        """The judge's messages.

        Args:
            row: from `table_row`.
            again: whether a reply to it could not be read.
        """
        return [message("user", f"{self.text}\n{row}{self.nudge if again else ''}")]


def table_row(question: str, truth: str, answer: str) -> str:
    """The last row of the table, its grade left open; line breaks in an answer stay, as in the official script."""
    return " | ".join([question, truth.replace("<AND>", " <AND> ").replace("<OR>", " <OR> "), answer, ""])


def read_prompt(path: Path | None) -> Prompt:
    """Our own prompt, or a file's.

    Args:
        path: a text, used as it is; or the official script, whose `prompt` and nudge are taken. None: our own.

    Raises:
        DataError: the file cannot be read, is empty, or is a script without such a text.
    """
    if path is None:
        return Prompt("omnivision-1", OWN)
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError("The judge's prompt cannot be read", str(path), f"{error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"The judge's prompt is no UTF-8: byte {error.start}", str(path), "Give a text file.") from error
    name = f"{path.name} (SHA-256 {hashlib.sha256(content).hexdigest()})"
    prompt = Prompt(name, *_of_script(text, path)) if path.suffix == ".py" else Prompt(name, text)
    if not prompt.text.strip():
        raise DataError("The judge's prompt is empty", str(path), "Give an instruction and examples.")
    return prompt


def _of_script(source: str, path: Path) -> tuple[str, str]:
    """The text that a script assigns to `prompt`, and the one that it adds when it asks again."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:  # ValueError: a zero byte
        raise DataError(f"The script with the judge's prompt is no Python: {error}", str(path), "Copy it again.") from error
    texts = [node.value.value for node in tree.body if isinstance(node, ast.Assign) and _is_text(node.value)
             and any(isinstance(target, ast.Name) and target.id == "prompt" for target in node.targets)]
    if len(texts) != 1:
        raise DataError(f"The script assigns a text to `prompt` {len(texts)} times, not once", str(path),
                        "Give MM-Vet's mm-vet_evaluator.py, or the prompt as a text file.")
    added = [node.right.value for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)
             and _is_text(node.right) and node.right.value.strip() and ast.unparse(node).startswith("args.prompt +")]
    return texts[0], added[0] if added else NUDGE


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
