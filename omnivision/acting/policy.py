"""What may run: an allow-list with one rule for each function.

A policy file is JSON; a function that it does not name never runs:
{"web_search": {"policy": "read-only", "run": ["./search"], "seconds": 5}, "send_email": {"policy": "ask", "run": ["mailer", "--json"]}}
"""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omnivision.acting.program import Program
from omnivision.errors import ConfigError
from omnivision.functions.function_set import IRRELEVANT, FunctionSet
from omnivision.functions.json_file import read_json_file

READ_ONLY = "read-only"  # changes nothing outside: runs unasked
ASK = "ask"  # runs when a person has said yes to this very call
NEVER = "never"
POLICIES = (READ_ONLY, ASK, NEVER)
SECONDS = 10.0
MOST_SECONDS = 1_000_000  # eleven days: the system's own timers end at 24
_KEYS = ("policy", "run", "seconds")


@dataclass(frozen=True)
class Rule:
    """What one function may do.

    Args:
        policy: READ_ONLY, ASK or NEVER.
        run: called with the arguments (a dictionary) and the seconds it may take; returns a JSON value. None where
            nothing is known that would do it.
        seconds: time limit.
    """

    policy: str
    run: Callable[[dict, float], object] | None = None
    seconds: float = SECONDS


class Policy(dict):
    """Rules by function name; what is not in it never runs.

    Args:
        rules: names and rules. functions: the set that they are about.

    Raises:
        ConfigError: a name that the set does not have, or `irrelevant`; an unknown policy; a time limit that is none.
    """

    def __init__(self, rules: dict[str, Rule], functions: FunctionSet) -> None:
        known = [function.name for function in functions.functions if function.name != IRRELEVANT]
        for name, rule in rules.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(f"a rule for {name!r}, which is no function of the set", "policy", f"Did you mean {near[0]!r}?" if near else "Remove it.")
            if rule.policy not in POLICIES:
                raise ConfigError(f"no policy {rule.policy!r}", f"policy of {name!r}", f"Use one of: {', '.join(POLICIES)}.")
            if isinstance(rule.seconds, bool) or not isinstance(rule.seconds, (int, float)) or not 0 < rule.seconds <= MOST_SECONDS:
                raise ConfigError(f"a time limit of {rule.seconds!r}", f"policy of {name!r}", f"Give seconds, more than 0 and at most {MOST_SECONDS}.")
        super().__init__(rules)

    @classmethod
    def read(cls, file: str | Path, functions: FunctionSet) -> Policy:
        """Read a policy file; programs are started in its folder.

        Raises:
            ConfigError: no such file, not JSON, a rule that is none, or one whose program is not there.
        """
        file = Path(file)
        content = read_json_file(file, "policy file", "Give a JSON object with one rule for each function.")
        if not isinstance(content, dict):
            raise ConfigError("the policy is no JSON object", str(file), "Give one rule for each function, by name.")
        return cls({name: _rule(rule, file.parent, f"{file}, {name!r}") for name, rule in content.items()}, functions)


def _rule(content: object, folder: Path, where: str) -> Rule:
    if not isinstance(content, dict) or "policy" not in content:
        raise ConfigError("the rule names no policy", where, f'Give {{"policy": one of {", ".join(POLICIES)}, "run": [program, arguments]}}.')
    unknown = [key for key in content if key not in _KEYS]
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}", where, f"Known: {', '.join(_KEYS)}.")
    words = content.get("run")
    if words is not None and not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        raise ConfigError(f"'run' is {words!r}", where, "Give the program and its arguments as a list of texts; there is no shell.")
    if words and content["policy"] != NEVER and not shutil.which(os.path.join(folder, words[0]) if "/" in words[0] else words[0]):
        raise ConfigError(f"there is no program {words[0]!r} that may be executed", where, "Name one on the PATH, or a path from the policy file's folder: ./NAME.")
    return Rule(content["policy"], Program(words, folder) if words else None, content.get("seconds", SECONDS))
