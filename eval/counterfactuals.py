"""Counterfactuals: the same requests about a grey picture, and about another request's picture. What then stays right needs no picture."""

from __future__ import annotations

import json
import random
from types import ModuleType
from typing import Any

from omnivision.errors import DataError

from . import results
from .action_table import ALL
from .bootstrap import paired_difference
from .models import grey_picture
from .prompts import Picture, Prompt

TASK = "actions"
SEED = 0
TRIES = 100  # orders of pictures until one fits; of the embedded world's the first does
BLIND, SWAPPED = "blind", "swapped"
CONDITIONS: dict[str, dict[str, Any]] = {BLIND: {"blank": True}, SWAPPED: {"swapped": SEED}}  # name -> what it adds to a result's settings


def changed(condition: str, rows: list[dict], prompts: list[Prompt | None]) -> tuple[list[dict], list[Prompt | None]]:
    """The rows and prompts of a condition.

    Args:
        condition: "blind" or "swapped". rows: questions with `image` and their true `calls`.
        prompts: what is asked about their own pictures; None where a picture cannot be shown, which stays so.

    Returns:
        Rows (with `shown_image`, whose picture they see, where it is another one's) and prompts.

    Raises:
        DataError: the pictures cannot be swapped.
    """
    if condition == BLIND:
        grey = Picture.of(grey_picture())
        return rows, [one and one._replace(pictures=(grey,) * len(one.pictures)) for one in prompts]
    shown = [(row, one) for row, one in zip(rows, prompts, strict=True) if one and one.pictures]  # a request in text alone stays as it is
    pictures = {row["image"]: one.pictures for row, one in shown}
    other = swap([row for row, _ in shown], pictures)
    return ([row | {"shown_image": other.get(row["image"])} for row in rows],
            [one._replace(pictures=pictures[other[row["image"]]]) if one and one.pictures else one for row, one in zip(rows, prompts, strict=True)])


def swap(rows: list[dict], pictures: dict[str, tuple[Picture, ...]], seed: int = SEED) -> dict[str, str]:
    """Gives every picture another one's place: each is shown as often as it has a place, none in its own.

    Args:
        rows: questions with `image` and `calls`. pictures: image -> what is shown of it. seed: of the order.

    Returns:
        Image -> the image whose picture is shown instead: other pixels, and no question of it has the same true calls.

    Raises:
        DataError: there is no such order: too few pictures, or too like each other.
    """
    calls: dict[str, set[str]] = {}
    for row in rows:
        calls.setdefault(row["image"], set()).add(json.dumps(row["calls"], sort_keys=True))
    rng, images = random.Random(seed), list(calls)

    def fits(image: str, other: str) -> bool:
        return pictures[image] != pictures[other] and not calls[image] & calls[other]

    for _ in range(TRIES):
        shown = rng.sample(images, len(images))
        if all(_placed(at, images, shown, fits) for at in range(len(images))):
            return dict(zip(images, shown, strict=True))
    raise DataError(f"The pictures of {len(rows)} requests cannot be swapped so that each request sees one with other true calls", f"{len(images)} pictures",
                    "Ask more requests, about more pictures.")


def _placed(at: int, images: list[str], shown: list[str], fits) -> bool:
    """Whether the picture at a place fits it, if need be after it has changed places with one that then fits too."""
    if fits(images[at], shown[at]):
        return True
    for other in range(len(images)):
        if fits(images[at], shown[other]) and fits(images[other], shown[at]):
            shown[at], shown[other] = shown[other], shown[at]
            return True
    return False


def falls(benchmark: ModuleType, own: list[dict], other: list[dict]) -> dict[str, dict[str, Any]]:
    """How far a score falls, for all requests and each language, paired by picture.

    Args:
        benchmark: its module. own, other: samples of the same questions, with their own pictures and in a condition.

    Returns:
        "all" and each language -> `n`, `score` and `stderr` in the condition, `fall`, `fall_stderr`, `low`, `high` (95 %) and `p`.
    """
    both = [(a, b) for a, b in zip(own, other, strict=True) if a["answer"] is not None and b["answer"] is not None]
    languages = sorted({a["language"] for a, _ in both if a.get("language")})
    return {name: _fall(benchmark, [(a, b) for a, b in both if name in (ALL, a.get("language"))]) for name in (ALL, *languages)}


def _fall(benchmark: ModuleType, both: list[tuple[dict, dict]]) -> dict[str, Any]:
    variant = benchmark.VARIANTS[0]
    own, other = (results.counts_of(benchmark, [pair[side] for pair in both], variant)[1] for side in (0, 1))
    found, pair = results.summary(benchmark, [b for _, b in both], variant), paired_difference(other, own, benchmark.headline)
    return {"n": found["n"], "score": found["score"], "stderr": found["stderr"], "fall": pair["difference"], "fall_stderr": pair["stderr"],
            **{key: pair[key] for key in ("low", "high", "p")}}
