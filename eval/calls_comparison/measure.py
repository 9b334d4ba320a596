"""All arms are asked the same questions, one question after the other, the arms in turn; every answer is on the disk at once."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

from omnivision.errors import ResumableError
from omnivision.pairs.journal import Journal
from omnivision.runs import HAND_OVER, file_hash

from .. import actions
from .arms import ALL, ARMS, KEPT, TRAINED, Arm, KeptArm, open_arms
from .material import Material

MOST = 96  # new ids of an answer
WARM_UP = 2
FEWEST, MOST_DESCRIPTIONS = 5, 6000  # of the arm with everything in its prompt: questions, and descriptions over all of them


def questions_of(arm: str, size: int, questions: int) -> int:
    """How many of the questions an arm is asked: long prompts take long, and their accuracy is that of the arm that keeps them."""
    return min(questions, max(FEWEST, MOST_DESCRIPTIONS // size)) if arm == ALL else questions


def measure(folder: Path, checkpoints: dict[str, Path], material: Material, k: int) -> dict[str, dict]:
    """Answers with times and grades; what a stopped run has measured is not asked again.

    Args:
        folder: for the journal. checkpoints: format -> folder. k: descriptions that are retrieved.

    Returns:
        arm -> question -> record, and "kept": what it costs once to keep the descriptions.
    """
    plan = [(row, name) for number, row in enumerate(material.questions) for name in _turned(number)
            if number < questions_of(name, len(material.names), len(material.questions))]
    trained = {kind: file_hash(one / HAND_OVER) for kind, one in checkpoints.items()}
    with Journal(folder, "answers", {"questions": material.questions, "k": k, "checkpoints": trained}) as journal:
        left = [(row, name) for row, name in plan if _key(row, name) not in journal.done]
        if left:
            arms = open_arms(ARMS, checkpoints, material, k)
            if "kept" not in journal.done:
                journal.add({"kept": kept_facts(arms[KEPT])})
            for name in dict.fromkeys(name for _, name in left):
                for row in material.questions[:WARM_UP if name != ALL else 1]:
                    arms[name].ask(row["request"], MOST)
            for row, name in left:
                journal.add({_key(row, name): record(arms[name], row)})
        found = {name: {row["id"]: journal.done[_key(row, name)] for row, asked in plan if asked == name} for name in ARMS}
        return {**found, "kept": journal.done["kept"]}


def kept_facts(arm: Arm) -> dict:
    """What keeping the descriptions costs, once."""
    assert isinstance(arm, KeptArm)
    return {"tokens": arm.length, "seconds": arm.seconds}


def record(arm: Arm, row: dict) -> dict:
    """One question asked and graded."""
    timed = arm.ask(row["request"], MOST)
    answer = arm.read(timed.ids)
    grade = actions.grade({"calls": row["calls"], "question_id": row["id"]}, answer)["official"]
    return {"prompt": timed.prompt, "new": len(timed.ids), "first": timed.first, "seconds": timed.seconds, "cpu": timed.cpu, "text": str(answer),
            "fault": answer.fault, **{key: grade[key] for key in ("valid", "function", "strict")}}


def _turned(number: int) -> list[str]:
    at = number % len(ARMS)
    return [*ARMS[at:], *ARMS[:at]]


def _key(row: dict, name: str) -> str:
    return f"{row['id']} {name}"


def peak_memory(checkpoints: dict[str, Path], material: Material, k: int, name: str) -> float:
    """GiB held by a process of its own that opens one arm and asks it two questions (everything in the prompt: one)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "omnivision.model.checkpoints", "transformers"])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_alone, args=(writer, checkpoints, material, k, name))
    process.start()
    writer.close()
    try:
        return reader.recv()
    except EOFError as error:
        raise ResumableError(f"The process that measures the memory of `{name}` ended without a word", str(checkpoints[TRAINED[name]]),
                             "Free memory and start again.") from error
    finally:
        process.join()


def _alone(writer: Any, checkpoints: dict[str, Path], material: Material, k: int, name: str) -> None:
    from omnivision.memory import peak_gib

    arm = open_arms([name], checkpoints, material, k)[name]
    for row in material.questions[:1 if name == ALL else 2]:
        arm.ask(row["request"], MOST)
    writer.send(peak_gib())
