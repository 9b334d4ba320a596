"""Our model as lm-eval sees it: `generate_until` for questions about images, through omnivision's own generation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.models  # noqa: F401 - lm-eval lists its own models only while its registry is empty; ours would hide them
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from omnivision.data.pictures import Packed
from omnivision.errors import ConfigError

from .answer import Answer
from .lm_task import PLACEHOLDER
from .models import source_of
from .pictures import look_at
from .prompts import Picture, Prompt

LONGEST = 256  # tokens of an answer where a task says nothing, as lm-eval's own models have it

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


@register_model("omnivision")
class OmniVisionLM(LM):
    """Answers lm-eval's requests with an OmniVision model.

    Args:
        pretrained: a checkpoint folder; or give `model`, an `Ours` that is open already.
        batch_size: questions at a time. dtype, device: as `omnivision eval` takes them.

    Raises:
        ConfigError: no such checkpoint.
    """

    MULTIMODAL = True

    def __init__(self, pretrained: str | Path | None = None, *, model: Any = None, batch_size: int | str = 32,
                 device: str | None = None, dtype: str | None = None, max_batch_size: int | None = None) -> None:
        super().__init__()
        if not str(batch_size or 32).isdigit():
            raise ConfigError(f"The batch size is {batch_size!r}", "--batch_size", "Give a number.")
        self.opened = model or source_of(pretrained, dtype=dtype, device=device).open()
        self.batch_size = int(batch_size or 32)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Answers in the order of the requests; an identical question about the same image is asked once."""
        shown = [request.args[2]["visual"] for request in requests]
        files = look_at([one for images in shown for one in images if isinstance(one, str | Packed)])
        prompts = []
        for request, images in zip(requests, shown, strict=True):
            context, settings, _ = request.args
            if context.count(PLACEHOLDER) != len(images):
                raise ValueError(f"the text has {context.count(PLACEHOLDER)} places for {len(images)} images: {context!r}")
            _refuse_what_is_not_greedy(settings)
            prompts.append(Prompt(context.replace(PLACEHOLDER, ""), tuple(_picture(one, files) for one in images), _longest(request)))
        answers = self.opened.answer_all(prompts, self.batch_size)
        return [_until(answers[prompt], request.args[1].get("until") or []) for prompt, request in zip(prompts, requests, strict=True)]

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """The bare question: generation renders the template itself, from the same file as training."""
        if len(chat_history) != 1:
            raise ValueError(f"few-shot examples are not supported, got {len(chat_history)} turns")
        return chat_history[0]["content"]

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The processor's own."""
        return self.opened.processor.chat_template

    @property
    def tokenizer_name(self) -> str:
        """Name for lm-eval's request cache."""
        return str(self.opened.processor.tokenizer.name_or_path).replace("/", "__")

    def loglikelihood(self, requests):
        """Not offered: the benchmarks generate."""
        raise NotImplementedError("model type `omnivision` answers generate_until only")

    def loglikelihood_rolling(self, requests):
        """Not offered: the benchmarks generate."""
        raise NotImplementedError("model type `omnivision` answers generate_until only")


def _refuse_what_is_not_greedy(settings: dict) -> None:
    """Settings of lm-eval that would be ignored.

    Raises:
        ConfigError: the first of them.
    """
    greedy = {"do_sample": (False, None), "temperature": (0, None), "num_beams": (1, None), "top_p": (1, None), "top_k": (None,)}
    for key, value in settings.items():
        if key not in ("until", "max_gen_toks") and value not in greedy.get(key, ()):
            raise ConfigError(f"The model type `omnivision` answers greedily, and {key} is {value}", "generation_kwargs", "Take it out, or use --model hf-multimodal.")


def _until(answer: Answer, stops: str | list[str]) -> Answer:
    """The answer up to the first of the texts that end it."""
    places = [at for stop in ([stops] if isinstance(stops, str) else stops) if stop and (at := answer.find(stop)) >= 0]
    return Answer(answer[: min(places)], answer.ids, answer.raw, answer.calls, answer.fault, answer.cut, answer.margin) if places else answer


def _picture(image: Any, files: dict) -> Picture:
    if isinstance(image, str | Packed):
        found = files[image]
        if isinstance(found, Exception):
            raise found
        return found
    return Picture.of(image)


def _longest(request: Instance) -> int:
    """Tokens of an answer: the task's limit, or more where one's own rows have longer ones."""
    asked = int(request.args[1].get("max_gen_toks", LONGEST))
    return max(asked, (request.doc or {}).get("longest", 0))
