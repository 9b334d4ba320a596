"""`omnivision bench --early-exit`: what self-speculative decoding gains over plain greedy decoding, on the same questions in turn."""

from __future__ import annotations

import statistics
import time
from typing import Any

from omnivision.errors import ConfigError


def measure(one: Any, questions: list[tuple[Any, str]], rounds: int, new_tokens: int, layer: int | None) -> dict[str, float]:
    """Medians over rounds, after one that is not counted; both ways read the prompt, and answers end where they end.

    Args:
        one: a bench.Subject. questions: (picture, text) each. new_tokens: of the longest answer. layer: to leave at; None is the config's.

    Raises:
        ConfigError: the model is not ours, or has no such exit.
    """
    from omnivision import OmniVisionForConditionalGeneration
    from omnivision.early_exit import exit_layer_of, generate_speculatively

    if not isinstance(one.model, OmniVisionForConditionalGeneration):
        raise ConfigError("Early exits are of this project's models", one.name, "Give a checkpoint that `omnivision train` wrote.")
    layer, inputs = exit_layer_of(one.model, layer), [one.inputs(picture, text) for picture, text in questions]
    seconds: dict[str, list[float]] = {"plain": [], "early": []}
    for number in range(rounds + 1):
        started = time.perf_counter()
        plain = [generate_speculatively(one.model, prompt, new_tokens, layer, draft=0) for prompt in inputs]  # the same loop
        between = time.perf_counter()
        early = [generate_speculatively(one.model, prompt, new_tokens, layer) for prompt in inputs]
        ended = time.perf_counter()
        if number:
            seconds["plain"].append(between - started)
            seconds["early"].append(ended - between)
    drafted, accepted = sum(one.drafted for one in early), sum(one.accepted for one in early)
    same = sum(left.ids == right.ids for left, right in zip(plain, early, strict=True))
    ratios = [a / b for a, b in zip(seconds["plain"], seconds["early"], strict=True)]
    return {"layer": layer, "layers": one.model.config.text_config.num_hidden_layers, "questions": len(questions), "same_answers": same,
            "accepted": accepted / max(1, drafted), "plain_tokens_per_second": sum(len(one.ids) for one in plain) / statistics.median(seconds["plain"]),
            "early_tokens_per_second": sum(len(one.ids) for one in early) / statistics.median(seconds["early"]),
            "times_plain": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}


def text(name: str, found: dict[str, float]) -> str:
    """Lines for a reader."""
    return (f"{name}: {found['layer']} of {found['layers']} layers draft; {found['accepted']:.1%} of the drafted tokens are accepted; "
            f"{found['same_answers']} of {found['questions']} answers are the plain ones\n"
            f"{found['plain_tokens_per_second']:.1f} tokens/s plain, {found['early_tokens_per_second']:.1f} with early exits: "
            f"{found['times_plain']:.2f} times ({found['least']:.2f} to {found['most']:.2f})")
