"""A vision-language model on this machine as the teacher: anything that AutoModelForImageTextToText takes.

What it says stands in a journal: other gates, and a start after a kill, ask it nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from omnivision.data.image import open_image, read_image
from omnivision.errors import ConfigError, one_line
from omnivision.pairs import prompts
from omnivision.pairs.answers import model_hash
from omnivision.pairs.journal import Journal, digest
from omnivision.pairs.teacher import Task, Verdict

MAX_NEW_TOKENS = 512


class LocalTeacher:
    """Answers one question at a time, greedily.

    Args:
        source: folder or hub id. work: folder of the journal.

    Raises:
        ConfigError: it cannot be loaded.
    """

    prompt = prompts.HASH

    def __init__(self, source: str, work: Path) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        import omnivision.model.auto  # noqa: F401 - registers our own models
        from omnivision.model.checkpoints import load_whole

        self.name = source
        try:
            self.processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            self.model = load_whole(AutoModelForImageTextToText, source, use_safetensors=True, trust_remote_code=False).eval()
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(f"The teacher cannot be loaded: {one_line(error)}", f"--teacher {source}",
                              "Give `oracle`, the address of an endpoint, or folder or hub id of a vision-language model.") from error
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        which = model_hash(Path(source)) if Path(source).is_dir() else self.model.config._commit_hash
        self.journal = Journal(work, "teacher", {"teacher": source, "hash": which, "max_new_tokens": MAX_NEW_TOKENS})

    def __enter__(self) -> LocalTeacher:
        return self

    def __exit__(self, *exc) -> None:
        self.journal.__exit__(*exc)

    def correct(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        return self._ask(tasks, prompts.CORRECT, prompts.read_correction)

    def agrees(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Verdict]]:
        return self._ask(tasks, prompts.LOOK_AGAIN, prompts.read_second_look)

    def _ask(self, tasks: Iterable[Task], system: str, read: Callable[[str], Verdict]) -> Iterator[tuple[Task, Verdict]]:
        for task in tasks:
            key = digest(system, prompts.asked(task.question, task.answer, task.original), read_image(task.picture))
            if key not in self.journal.done:
                self.journal.add({key: self._answer(task, system)})
            said = self.journal.done[key]
            try:
                yield task, read(said)
            except ValueError as error:
                yield task, Verdict("failed: wrong_schema", detail=f"{error}: {said[:200]}")

    def _answer(self, task: Task, system: str) -> str:
        import torch

        messages = [{"role": "system", "content": [{"type": "text", "text": system}]},
                    {"role": "user", "content": [{"type": "image", "image": open_image(task.picture)},
                                                 {"type": "text", "text": prompts.asked(task.question, task.answer, task.original)}]}]
        inputs = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        with torch.inference_mode():
            ids = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        return self.processor.batch_decode(ids[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0].strip()
