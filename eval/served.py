"""A model behind an OpenAI-compatible endpoint: a llama.cpp server with an exported file, vLLM, or a service."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from omnivision.constants import END_OF_TEXT, TURN_END
from omnivision.endpoint import Client, Endpoint, Kind, Ledger, Outcome, image_part, message
from omnivision.errors import ConfigError, OmniError, ResumableError
from omnivision.export.folder import read_manifest
from omnivision.export.gguf import tiles
from omnivision.pairs.endpoint_teacher import picture_part
from omnivision.pairs.journal import digest

from .answer import Answer, Missing
from .models import Answers, Model, grey_picture, opened_picture
from .prompts import Prompt

ENDINGS = re.compile(f"(?:{re.escape(TURN_END)}|{re.escape(END_OF_TEXT)})+\\s*$")  # a llama.cpp server with --special shows them
SAID = (Kind.ANSWERED, Kind.CUT_OFF, Kind.EMPTY)  # a long answer ends at max_new_tokens, and "" is one: as with every other model


class Served(Model):
    """Asks an endpoint; each request and reply stands in its ledger, so that a run that goes on asks nothing twice.

    Args:
        endpoint: where and how; its `max_tokens` is the prompts' own, unless its `extra` gives another.
        folder: of the ledgers; each address, model, blindness and `extra` has its own.
        blank: show a grey picture in place of every one.
        prepared: `image_size`, `patch_size` and `raster` of the GGUF export that answers there: pictures are sent as it wants them. None
            sends the files' own bytes.
    """

    def __init__(self, endpoint: Endpoint, folder: Path, blank: bool = False, prepared: dict | None = None) -> None:
        self.endpoint, self.blank, self.prepared = endpoint, blank, prepared
        self.name = f"{endpoint.model} at {endpoint.base_url}"
        self.request_fields = dict(endpoint.extra)
        changed = [json.dumps(one, sort_keys=True) for one in (prepared, self.request_fields) if one]
        self.ledger = folder / f"answers-{digest(endpoint.base_url, endpoint.model, str(blank), *changed)}.ledger.jsonl"

    def answers(self, batches: Sequence[Sequence[Prompt]]) -> Iterator[Answers]:
        """As they come, one at a time; a prompt without an answer is Missing, with the reason.

        Raises:
            ResumableError, ConfigError: so many prompts in a row have no answer that the endpoint counts as dead; or that another start asks
                none of them again.
        """
        failed: list[Outcome] = []
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        prompts = [prompt for batch in batches for prompt in batch]
        for length, some in groupby(sorted(prompts, key=lambda one: one.max_new_tokens), key=lambda one: one.max_new_tokens):
            by_key = {prompt.key: prompt for prompt in some}
            with Ledger(self.ledger) as ledger, Client(replace(self.endpoint, max_tokens=length), ledger) as client:
                for outcome in client.ask_all((key, self._messages(prompt)) for key, prompt in by_key.items()):
                    if outcome.kind in SAID:
                        failed.clear()
                        yield {by_key[outcome.key]: Answer(ENDINGS.sub("", outcome.text or "").strip(), cut=outcome.kind is Kind.CUT_OFF)}
                        continue
                    failed.append(outcome)
                    if len(failed) >= self.endpoint.patience:
                        raise self._no_answers(failed)
                    yield {by_key[outcome.key]: Missing(_reason(outcome))}

    def _no_answers(self, failed: list[Outcome]) -> OmniError:
        what = f"{len(failed)} prompts in a row have no answer, the last: {_reason(failed[-1])}"
        if all(one.final for one in failed):
            other = """--request-fields '{"max_tokens": 2048}'"""
            return ConfigError(what, self.name, f"Fix the server, or send something else ({other}, for example): what has ended so is asked again only "
                                                f"with other fields, or without {self.ledger}.")
        return ResumableError(what, self.name, f"Fix the server and start again: what it rejected is asked again only without {self.ledger}.")

    def _messages(self, prompt: Prompt) -> list[dict]:
        return [message("user", *(self._shown(one.source) for one in prompt.pictures), prompt.text)]

    def _shown(self, source: Any) -> dict:
        if not (self.blank or self.prepared):
            return picture_part(source)
        picture = grey_picture() if self.blank else opened_picture(source)
        if self.prepared:
            picture = tiles.prepared(picture, self.prepared["image_size"], self.prepared["patch_size"], self.prepared["raster"])
        file = io.BytesIO()
        picture.save(file, "PNG")
        return image_part(file.getvalue(), "image/png")


def _reason(outcome: Outcome) -> str:
    return f"{outcome.kind.value}: {outcome.detail}"


def picture_settings(export: Path) -> dict:
    """How the GGUF export in a folder wants its pictures.

    Raises:
        ConfigError: the folder holds none.
    """
    found = read_manifest(export).get("picture")
    if not isinstance(found, dict) or not {"image_size", "patch_size", "raster"} <= found.keys():
        raise ConfigError("The folder holds no GGUF export", f"--export {export}", "Give the folder that `omnivision export gguf` wrote and the server runs.")
    return found
