"""Any OpenAI-compatible vision endpoint as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from omnivision.data.image import read_image
from omnivision.endpoint import Client, Kind, Tally, image_part, message
from omnivision.pairs import prompts
from omnivision.pairs.journal import digest
from omnivision.pairs.teacher import Task, Verdict

FAILED = "failed: "  # before the kind of an ending that is no answer
MIMES = ((b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))  # else JPEG: the reader takes nothing else


class EndpointTeacher:
    """Asks a client's endpoint; both questions about an answer stand in its ledger.

    Args:
        client: open, with a ledger of its own.
    """

    prompt = prompts.HASH

    def __init__(self, client: Client) -> None:
        self.client, self.name = client, f"{client.endpoint.model} at {client.endpoint.base_url}"

    def correct(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        return self._ask(tasks, "correct", prompts.CORRECT, prompts.read_correction)

    def agrees(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        return self._ask(tasks, "look", prompts.LOOK_AGAIN, prompts.read_second_look)

    def _ask(self, tasks: Iterable[Task], step: str, system: str, read: Callable[[str], Verdict]) -> Iterator[tuple[Task, Verdict]]:
        waiting: dict[str, list[Task]] = {}
        verdicts: dict[str, Verdict] = {}
        again: list[tuple[Task, Verdict]] = []  # of questions whose answer has come already

        def questions() -> Iterator[tuple[str, list]]:
            for task in tasks:
                told = prompts.asked(task.question, task.answer, task.original)
                key = f"{step}/{digest(system, told, read_image(task.picture))}"  # wherever a row stands, the same question is paid once
                if key in verdicts:
                    again.append((task, verdicts[key]))
                elif key in waiting:
                    waiting[key].append(task)
                else:
                    waiting[key] = [task]
                    yield key, [message("system", system), message("user", told, picture_part(task.picture))]

        tally = Tally(self.name, self.client.endpoint.patience)
        for outcome in self.client.ask_all(questions(), read):
            verdict = read(outcome.text) if outcome.kind is Kind.ANSWERED else Verdict(f"{FAILED}{outcome.kind.value}", detail=outcome.detail)
            verdicts[outcome.key] = verdict
            yield from ((task, verdict) for task in waiting.pop(outcome.key))
            tally.note(outcome)
        yield from again


def unanswered(kind: str) -> bool:
    """Whether an answer's outcome is a question that the next start asks again."""
    return kind.startswith(FAILED) and not Kind(kind.removeprefix(FAILED)).final


def picture_part(picture) -> dict:
    """The picture's own bytes: nothing is decoded or stored anew."""
    data = read_image(picture)
    return image_part(data, next((mime for magic, mime in MIMES if data.startswith(magic)), "image/jpeg"))
