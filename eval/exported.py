"""An ONNX export, asked through its own runner: what a device would answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnivision.errors import ConfigError
from omnivision.export.packages import needed

from .answer import Answer
from .models import BatchedModel, grey_picture, opened_picture
from .prompts import Picture, Prompt, pictures_of

UNREAD = "unread"  # the one kind of malformed call: the runner says why in words, which differ from answer to answer


class Exported(BatchedModel):
    """An export of `omnivision export onnx`, its first variant unless one is named; one question after another.

    Args:
        folder: of the export. variant: fp32, fp16 or int8. blank: show a grey picture in place of every one.

    Raises:
        ConfigError: onnxruntime is not installed, or the export has no such variant.
    """

    def __init__(self, folder: str | Path, variant: str | None = None, blank: bool = False) -> None:
        needed("onnxruntime", "eval")
        from omnivision.export.onnx_files.runner import Runner

        try:
            self.runner = Runner(folder, variant)
        except ValueError as error:
            raise ConfigError(f"The export cannot be run: {error}", str(folder), "Name a variant that it holds.") from error
        self.blank, self.name, self.makes_calls = blank, f"{folder} ({self.runner.variant})", bool(self.runner.settings.get("functions"))

    def prepare(self, prompts: Sequence[Prompt], pictures: Sequence[Picture]) -> list[Any]:
        """The picture of each prompt, decoded.

        Raises:
            ConfigError: a prompt with several pictures.
        """
        most = max(len(one.pictures) for one in prompts)
        if most > 1:
            raise ConfigError(f"A prompt has {most} pictures, and the runner takes one", self.name, "Ask with --pictures first.")
        opened = {one: grey_picture() if self.blank else opened_picture(one.source) for one in pictures_of(prompts)}
        return [opened[one.pictures[0]] if one.pictures else None for one in prompts]

    def answer(self, prompts: Sequence[Prompt], prepared: list[Any]) -> list[Answer]:
        return [self._read([*self.runner.tokens(one.text, picture, one.max_new_tokens)], one.max_new_tokens)
                for one, picture in zip(prompts, prepared, strict=True)]

    def _read(self, ids: list[int], longest: int) -> Answer:
        cut = len(ids) == longest and ids[-1] not in self.runner.settings["stop_token_ids"]
        if not self.runner.settings.get("functions"):
            return Answer(self.runner.text(ids), ids, cut=cut)
        calls = self.runner.calls(ids)
        fault = next((f"{UNREAD}: {call['error']}" for call in calls if "error" in call), None)
        raw = self.runner.tokenizer.decode(ids, skip_special_tokens=False)
        return Answer(self.runner.text(ids), ids, raw, [call for call in calls if "error" not in call], fault, cut)
