"""Any OpenAI-compatible endpoint as the writer of requests; every question stands in the client's ledger and is paid once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from rapidfuzz import fuzz

from omnivision.endpoint import Client, Kind, Tally, message
from omnivision.functions import Function, FunctionSet
from omnivision.functions.function_set import IRRELEVANT
from omnivision.pairs.journal import digest
from omnivision.requests import prompts
from omnivision.requests.drawing import Drawing, Undrawable
from omnivision.requests.sieve import Sieve

AT_ONCE = 10  # requests that one question asks for
ROUNDS = 3  # how often a function that is short of rows is asked about again
MORE = 1.3  # requests asked for, for each that is wanted: some are refused
EXAMPLES = 3  # of arguments, in a question
SHOWN = 40  # functions, in a question about requests for none of them or about which one serves


class Question(NamedTuple):
    """A batch of requests to be written: for a function, or for none (`irrelevant`)."""

    name: str
    language: str
    batch: int


class Teacher:
    """Asks for requests until there are enough or the rounds are over.

    Args:
        client: open, with a ledger of its own. function_set: the functions. sieve: takes the rows. seed: of the examples in questions.
        second_look: whether the teacher is asked which function serves each request that it wrote; the others are refused.
    """

    def __init__(self, client: Client, function_set: FunctionSet, sieve: Sieve, seed: int, second_look: bool) -> None:
        self.client, self.function_set, self.sieve = client, function_set, sieve
        self.seed, self.second_look = seed, second_look
        self.name = f"{client.endpoint.model} at {client.endpoint.base_url}"
        self.tally = Tally(self.name, client.endpoint.patience)

    def write(self, wanted: dict[tuple[str, str], int], split: str) -> None:
        """Has requests written and gives them to the sieve.

        Args:
            wanted: how many rows for each (name of a function, language); `irrelevant` for requests that none serves.
        """
        kept = dict.fromkeys(wanted, 0)
        asked = dict.fromkeys(wanted, 0)
        for _ in range(ROUNDS):
            questions = []
            for (name, language), number in wanted.items():
                batches = -(-int(MORE * (number - kept[name, language])) // AT_ONCE) if kept[name, language] < number else 0
                questions += [Question(name, language, asked[name, language] + batch) for batch in range(batches)]
                asked[name, language] += batches
            for question, rows in self._rows(questions, split):
                open_ = wanted[question.name, question.language] - kept[question.name, question.language]
                kind = "negative" if question.name == IRRELEVANT else "single"
                kept[question.name, question.language] += self.sieve.take_all(rows, split, kind, most=open_)

    def _rows(self, questions: list[Question], split: str) -> Iterator[tuple[Question, list[dict]]]:
        """Rows of each question, in the questions' order whatever the answers': so the same answers give the same rows."""
        told = {f"write/{split}/{'/'.join(map(str, question))}": question for question in questions}
        asked = ((key, *self._prompt(question, split)) for key, question in told.items())
        answers = self._ask(asked, prompts.read_requests)
        found = {key: self._read(question, answers[key], split) for key, question in told.items() if key in answers}
        if self.second_look:
            found = self._looked_at(found)
        elif len(self.function_set.functions) > SHOWN:  # a request for none was written against some of them: another may serve it
            found |= self._looked_at({key: rows for key, rows in found.items() if told[key].name == IRRELEVANT})
        return ((told[key], found[key]) for key in told if key in found)

    def _prompt(self, question: Question, split: str) -> tuple[str, str]:
        if question.name == IRRELEVANT:
            rng = random.Random(f"{self.seed}/{split}/{question}")
            others = [function for function in self.function_set.functions if function.name != IRRELEVANT]
            shown = others if len(others) <= SHOWN else rng.sample(others, SHOWN)
            return prompts.WRITE_OTHERS, prompts.asked_for_others(shown, question.language, split, question.batch, AT_ONCE)
        function = self.function_set[question.name]
        examples = self._examples(function, question, split)
        return prompts.WRITE, prompts.asked_to_write(function, question.language, split, question.batch, AT_ONCE, examples)

    def _examples(self, function: Function, question: Question, split: str) -> list[dict]:
        drawing = Drawing(function, random.Random(f"{self.seed}/{split}/{question}"), split, question.language)
        try:
            return [drawing.arguments() for _ in range(EXAMPLES)]
        except Undrawable:
            return []

    def _read(self, question: Question, entries: list[object], split: str) -> list[dict]:
        """Entries as rows; what is none is refused."""
        rows = []
        for number, entry in enumerate(entries):
            request = entry.get("request") if isinstance(entry, dict) else None
            arguments = {} if question.name == IRRELEVANT else entry.get("arguments") if isinstance(entry, dict) else None
            if not isinstance(request, str) or not isinstance(arguments, dict):
                self.sieve.refuse("malformed", {"request": str(entry)[:200], "message": f"no request with arguments for {question.name}"})
                continue
            rows.append({"id": f"{split}/{question.name}/{question.language}-{question.batch}-{number}", "request": request.strip(),
                         "language": question.language, "calls": [{"name": question.name, "arguments": arguments}]})
        return rows

    def _looked_at(self, found: dict[str, list[dict]]) -> dict[str, list[dict]]:
        """The rows about whose function the teacher agrees with itself."""
        rows = {f"look/{row['id']}": row for several in found.values() for row in several}
        asked = ((key, prompts.LOOK_AGAIN, prompts.asked_to_look(self.likely(row), row["request"])) for key, row in rows.items())
        chosen = self._ask(asked, lambda text: prompts.read_choice(text) or IRRELEVANT)
        agreed = set()
        for key, row in rows.items():
            name = row["calls"][0]["name"]
            if chosen.get(key) == name:
                agreed.add(row["id"])
            elif key in chosen:
                self.sieve.refuse("second_look_disagrees", {"request": row["request"], "message": f"{name} was meant, {chosen[key]} is said to serve it"})
        return {key: [row for row in several if row["id"] in agreed] for key, several in found.items()}

    def likely(self, row: dict) -> Sequence[Function]:
        """The function of a row, and those that are most like the request and like it."""
        mine = row["calls"][0]["name"]
        told = f"{row['request']} {self.function_set[mine].description}"
        others = [function for function in self.function_set.functions if function.name not in (mine, IRRELEVANT)]
        others.sort(key=lambda function: -fuzz.token_set_ratio(told, f"{function.name} {function.description}"))
        own = [] if mine == IRRELEVANT else [self.function_set[mine]]
        return sorted(own + others[: SHOWN - len(own)], key=lambda function: self.function_set.position(function.name))

    def _ask(self, asked: Iterable[tuple[str, str, str]], read: Callable[[str], object]) -> dict[str, object]:
        """What was read of each answer, by key.

        Raises:
            ResumableError: the teacher is dead.
        """
        names: dict[str, str] = {}

        def items() -> Iterator[tuple[str, list]]:
            for key, system, told in asked:
                full = f"{key}/{digest(system, told)}"  # another prompt is another question
                names[full] = key
                yield full, [message("system", system), message("user", told)]

        found = {}
        for outcome in self.client.ask_all(items(), read):
            self.tally.note(outcome)
            if outcome.kind is Kind.ANSWERED:
                found[names[outcome.key]] = read(outcome.text)
        return found
