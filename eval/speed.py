"""How much quicker a benchmark is than asking one question after another, for the same answers.

    python -m omnivision_eval.speed --model runs/tiny/sft/final --data pope --images 40

Three ways answer the same questions in turn, round after round: `transformers`, one at a time (the picture is opened and the whole
prompt runs for every question); any model's way, left-padded batches; ours, with what the questions about a picture share computed once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnivision.data.flags import within
from omnivision.errors import DataError, OmniError
from omnivision_cli.failures import describe, report

from .benchmarks import MODULES, expand
from .pictures import few_faults, look_at
from .prompts import Prompt
from .task_data import chosen, load_task, prompt_of

ALONE, PADDED, OURS = "one at a time", "padded batches", "omnivision eval"


def prompts_of(data: str, tasks: list[str], images: int) -> list[list[Prompt]]:
    """Different prompts about each of the first pictures.

    Raises:
        DataError: there are none, or as `load_task`.
    """
    groups: dict[Any, dict[Prompt, None]] = {}
    for task in expand(tasks, MODULES, "that a model can answer"):
        loaded = load_task(task, data)
        for row in loaded.rows:
            row["shown"] = chosen(row["pictures"], "first")
        rows = [row for row in loaded.rows if row["shown"] and (row["shown"][0] in groups or len(groups) < images)
                and groups.setdefault(row["shown"][0], {}) is not None]
        seen = look_at([row["shown"][0] for row in rows])
        for row, fault in zip(rows, few_faults(task, rows, seen, loaded.remedy), strict=True):
            if fault:
                continue
            groups[row["shown"][0]][prompt_of(loaded, row, seen)] = None
    found = [list(group) for group in groups.values() if group]
    if not found:
        raise DataError("No question has a picture", data, "Name another task.")
    return found


def ways(model: Any, processor: Any, batch_size: int) -> dict[str, Callable[[list[Prompt]], list[str]]]:
    """Name -> what answers prompts that way."""
    from .any_model import AnyModel
    from .ours import Ours

    padded, ours = AnyModel(model, processor), Ours(model, processor)
    return {
        ALONE: lambda prompts: [_alone(model, processor, prompt) for prompt in prompts],
        PADDED: lambda prompts: list(map(padded.answer_all(prompts, batch_size).get, prompts)),
        OURS: lambda prompts: list(map(ours.answer_all(prompts, batch_size).get, prompts)),
    }


def _alone(model: Any, processor: Any, prompt: Prompt) -> str:
    import torch

    from omnivision.data.image import open_image

    content = [*({"type": "image", "image": open_image(one.source)} for one in prompt.pictures), {"type": "text", "text": prompt.text}]
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
                                           return_tensors="pt").to(model.device)
    with torch.inference_mode():
        found = model.generate(**inputs, max_new_tokens=prompt.max_new_tokens, do_sample=False)
    return processor.batch_decode(found[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)[0].strip()


def measure(model: Any, processor: Any, groups: list[list[Prompt]], rounds: int, batch_size: int) -> dict[str, Any]:
    """Questions a second of each way, over rounds that each have their own pictures: as many as there are pictures at most.

    Returns:
        `rates` (way -> one a round), `ratios` (way -> times one at a time, one a round), `equal` (way -> share of answers as one at a time gives).
    """
    arms = ways(model, processor, batch_size)
    for answer in arms.values():
        answer(groups[0][:2])  # warms up
    rates: dict[str, list[float]] = {name: [] for name in arms}
    same: dict[str, list[bool]] = {name: [] for name in arms}
    rounds = min(rounds, len(groups))
    for number in range(rounds):
        prompts = [prompt for group in groups[number::rounds] for prompt in group]
        order, said = list(arms), {}
        for name in order[number % len(order):] + order[:number % len(order)]:
            start = time.perf_counter()
            said[name] = arms[name](prompts)
            rates[name].append(len(prompts) / (time.perf_counter() - start))
        for name in arms:
            same[name] += [one == other for one, other in zip(said[name], said[ALONE], strict=True)]
    ratios = {name: [rate / alone for rate, alone in zip(rates[name], rates[ALONE], strict=True)] for name in arms}
    return {"questions": sum(map(len, groups)), "images": len(groups), "rates": rates, "ratios": ratios,
            "equal": {name: statistics.mean(one) for name, one in same.items()}}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"{found['questions']} questions about {found['images']} pictures:", "",
             "| way | questions/s (median) | times one at a time (least to most) | same answers |", "|---|---|---|---|"]
    for name, rates in found["rates"].items():
        ratios = found["ratios"][name]
        lines.append(f"| {name} | {statistics.median(rates):.2f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
                     f"{found['equal'][name]:.1%} |")
    return "\n".join(lines)


def random_model(preset: str) -> tuple[Any, Any]:
    """A preset's shape with random weights and the stand-in's tokenizer."""
    import torch

    from omnivision.model.build import WEIGHTS, build_model, load_tokenizer
    from omnivision.presets import preset_config

    torch.manual_seed(0)
    model, processor = build_model(preset_config(preset), tokenizer=load_tokenizer(str(WEIGHTS / "tiny-language")))
    return model.eval(), processor


def main(argv: list[str] | None = None) -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m omnivision_eval.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", metavar="DIR", help="a checkpoint of ours")
    model.add_argument("--preset", help="968m, small or tiny, with random weights")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR")
    parser.add_argument("--tasks", nargs="+", default=["pope"], metavar="TASK")
    parser.add_argument("--images", type=within("--images", int, 1), default=40, metavar="N")
    parser.add_argument("--rounds", type=within("--rounds", int, 1), default=5, metavar="N")
    parser.add_argument("--batch-size", type=within("--batch-size", int, 1), default=32, metavar="N")
    parser.add_argument("--json", action="store_true")
    try:
        _measured(parser.parse_args(argv))
    except OmniError as error:
        sys.exit(report(describe(error), as_json=False))


def _measured(options: argparse.Namespace) -> None:
    if options.preset:
        opened = random_model(options.preset)
    else:
        from omnivision.model.checkpoints import load_checkpoint

        opened = load_checkpoint(options.model)
    found = measure(*opened, prompts_of(options.data, options.tasks, options.images), options.rounds, options.batch_size)
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
