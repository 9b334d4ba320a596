"""Asks a model everything once: what an earlier run answered is taken from its journal, what is answered now is on the disk at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from omnivision import __version__
from omnivision.pairs.journal import Journal

from .answer import Answer
from .models import Answers, Model, Source
from .prompts import Prompt, batches_of


def ask(model: Model | Source, prompts: Sequence[Prompt], batch_size: int, folder: Path | None = None, processes: int = 1,
        on_batch: Callable[[int, int], None] | None = None, model_hash: str | None = None) -> Answers:
    """The answer to every prompt.

    Args:
        model: open; or a source, which is opened only where something is left to ask.
        prompts: the same one may come several times.
        batch_size: prompts at a time.
        folder: of the journal, for a source; the caller lets no other process in. None keeps nothing.
        processes: that open the source and share the batches.
        on_batch: called after each batch: how many prompts are answered, of how many.
        model_hash: a source's fingerprint, where the caller has it already.

    Raises:
        As the model.
    """
    on_batch, different = on_batch or (lambda done, total: None), set(prompts)
    with _journal(model, folder, model_hash) as journal:
        done = {} if journal is None else journal.done
        found: Answers = {prompt: Answer.from_record(done[prompt.key]) for prompt in different if prompt.key in done}
        on_batch(len(found), len(different))
        batches = [[one for one in batch if one not in found] for batch in batches_of(prompts, batch_size)]
        for part in _answers(model, [batch for batch in batches if batch], processes):
            if journal is not None:
                journal.add({prompt.key: answer.record() for prompt, answer in part.items() if isinstance(answer, Answer)})
            found |= part
            on_batch(len(found), len(different))
    return found


def _answers(model: Model | Source, batches: list[list[Prompt]], processes: int) -> Iterator[Answers]:
    if not batches:
        return iter(())
    if isinstance(model, Source) and processes > 1:
        from .processes import answers_of_processes

        return answers_of_processes(model, batches, processes)
    return (model.open() if isinstance(model, Source) else model).answers(batches)


@contextlib.contextmanager
def _journal(model: Model | Source, folder: Path | None, model_hash: str | None) -> Iterator[Journal | None]:
    if folder is None or not isinstance(model, Source):
        yield None
        return
    settings = {"model": model_hash or model.fingerprint(), "blank": model.blank, "constrain": model.constrain, "dtype": model.dtype,
                "device": model.device.partition(":")[0], "version": __version__}
    with Journal(folder, "answers", settings) as journal:
        yield journal
