"""The arms: how each makes its prompt, and how its call is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from omnivision.functions import FunctionSet, parse_calls
from omnivision.generation import stop_ids
from omnivision.model.checkpoints import load_checkpoint
from omnivision.model.conversation import encode_conversation

from ..answer import Answer
from . import descriptions
from .cache import roomy_cache
from .material import Material
from .retrieval import Bm25, Lsa, Retriever

TOKENS, ALL, KEPT, BM25, LSA, LSA_REQUESTS = "tokens", "all", "all, kept", "bm25", "lsa", "lsa + requests"
ARMS = (TOKENS, ALL, KEPT, BM25, LSA, LSA_REQUESTS)
TRAINED = {TOKENS: "tokens", ALL: "listed", KEPT: "listed", BM25: "retrieved", LSA: "retrieved", LSA_REQUESTS: "retrieved"}  # arm -> format


@dataclass(frozen=True)
class Timed:
    """One answer: new ids, length of the prompt, seconds from the request to the first new id and to the last, and the process' own CPU seconds."""

    ids: list[int]
    prompt: int
    first: float
    seconds: float
    cpu: float


class Arm:
    """A model with its way to be asked.

    Args:
        prompt: request -> ids of the whole prompt. read: new ids -> the calls in them.
    """

    def __init__(self, model: Any, prompt: Callable[[str], list[int]], read: Callable[[list[int]], Answer]) -> None:
        self.model, self.prompt, self.read = model, prompt, read

    def ask(self, request: str, most: int) -> Timed:
        """One question by itself; the clock runs from the request's text to the last id."""
        return self._timed(request, roomy_cache(self.model), most)

    def _timed(self, request: str, cache: DynamicCache, most: int) -> Timed:
        started, worked = time.perf_counter(), time.process_time()
        ids = self.prompt(request)
        new, first = _generate(self.model, ids, cache, most)
        return Timed(new, len(ids), first - started, time.perf_counter() - started, time.process_time() - worked)


class KeptArm(Arm):
    """An arm that keeps the cache of what all its prompts begin with.

    Args:
        shared: two requests; what their prompts have in common at the head is run here, once.

    Attributes:
        seconds: that this took.
    """

    def __init__(self, arm: Arm, shared: tuple[str, str]) -> None:
        super().__init__(arm.model, arm.prompt, arm.read)
        one, other = (arm.prompt(request) for request in shared)
        self.length = next((at for at, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)) - 1)
        started = time.perf_counter()
        self.cache = roomy_cache(arm.model)
        with torch.inference_mode():
            arm.model(input_ids=_row(one[: self.length], arm.model), past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.seconds = time.perf_counter() - started

    def ask(self, request: str, most: int) -> Timed:
        """Only what stands behind the common part is run: all prompts of the arm have it."""
        timed = self._timed(request, self.cache, most)
        self.cache.crop(self.length - self.cache.get_seq_length())  # so many are taken off
        return timed


@torch.inference_mode()
def _generate(model: Any, ids: list[int], cache: DynamicCache, most: int) -> tuple[list[int], float]:
    """Greedy ids behind a prompt, of which the cache may hold the head, and the clock at the first of them."""
    stops, new, first = stop_ids(model), [], 0.0
    rest = _row(ids[cache.get_seq_length():], model)
    while len(new) < most:
        logits_V = model(input_ids=rest, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
        new.append(int(logits_V.argmax()))
        first = first or time.perf_counter()
        if new[-1] in stops:
            break
        rest = _row(new[-1:], model)
    return new, first


def _row(ids: list[int], model: Any) -> torch.Tensor:
    return torch.tensor([ids], device=model.get_input_embeddings().weight.device)


def open_arms(names: Sequence[str], checkpoints: dict[str, Path], material: Material, k: int) -> dict[str, Arm]:
    """The arms of one size, each checkpoint opened once.

    Args:
        checkpoints: format -> folder. k: descriptions that are retrieved.
    """
    opened = {kind: load_checkpoint(checkpoints[kind]) for kind in dict.fromkeys(TRAINED[name] for name in names)}
    retrievers = open_retrievers(names, material)
    lines = descriptions.lines(material.functions)
    every = [lines[name] for name in material.names]
    arms: dict[str, Arm] = {}
    for name in names:
        model, processor = opened[TRAINED[name]]
        if name == TOKENS:
            arms[name] = _tokens_arm(model, processor, material.functions)
            continue

        def shown(request: str, name: str = name) -> list[str]:
            return [lines[one] for one in retrievers[name].top(request, k)] if name in retrievers else every

        arms[name] = _described_arm(model, processor, material.functions, shown)
        if name == KEPT:
            arms[name] = KeptArm(arms[name], ("a", "b"))
    return arms


def open_retrievers(names: Sequence[str], material: Material) -> dict[str, Retriever]:
    """Arm -> what chooses its descriptions, for the arms that retrieve; the last kind's texts of functions have their training requests too."""
    lines = descriptions.lines(material.functions)
    documents = {name: lines[name] for name in material.names}
    found: dict[str, Retriever] = {}
    if BM25 in names:
        found[BM25] = Bm25(documents)
    if LSA in names:
        found[LSA] = Lsa(documents)
    if LSA_REQUESTS in names:
        texts = {name: [text] for name, text in documents.items()}
        for row in material.train:
            texts[row["calls"][0]["name"]].append(row["request"])
        found[LSA_REQUESTS] = Lsa({name: " ".join(text) for name, text in texts.items()})
    return found


def _tokens_arm(model: Any, processor: Any, functions: FunctionSet) -> Arm:
    def read(ids: list[int]) -> Answer:
        calls = parse_calls(ids, processor.tokenizer, functions)
        fault = calls.errors[0].kind if calls.errors else None
        return Answer(processor.tokenizer.decode(ids), ids, calls=[one.to_dict() for one in calls], fault=fault)

    return Arm(model, lambda request: _encoded(processor, [{"role": "user", "text": request}]), read)


def _described_arm(model: Any, processor: Any, functions: FunctionSet, shown: Callable[[str], list[str]]) -> Arm:
    return Arm(model, lambda request: _encoded(processor, descriptions.turns(request, shown(request))),
               lambda ids: descriptions.read_call(ids, processor.tokenizer, functions))


def _encoded(processor: Any, turns: list[dict]) -> list[int]:
    return encode_conversation(processor.tokenizer, turns, 0, processor.image_seq_length, add_generation_prompt=True).input_ids
