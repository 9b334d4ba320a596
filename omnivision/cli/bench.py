"""`omnivision bench`: image tokens, time to the first token, speed of decoding, peak memory and bytes, of one model or several.

    omnivision bench --model runs/tiny/sft/final --model other/checkpoint
    omnivision bench --model runs/tiny/sft/final --image-tokens 729,243,81,27,9
    omnivision bench --model runs/tiny/sft/final --early-exit 2

All models answer the same prompts about the same picture, in turn, round after round (A B A B), so that a noisy machine is noisy
for all; medians are told. Peak memory is that of a process of its own which loads the model and answers once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnivision.errors import ConfigError, DataError

PROMPTS = ("Describe the image.", "What objects are in the image?", "Is there a cat in the image?")
PICTURE = (384, 384)


@dataclass
class Subject:
    """One model to be measured."""

    name: str
    folder: Path
    model: Any
    processor: Any

    def inputs(self, picture, prompt: str):
        """A prompt with the picture, on the model's device."""
        messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": prompt}]}]
        made = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
        return made.to(self.model.device)

    def image_tokens(self, picture) -> int:
        """Image placeholders of one prompt.

        Raises:
            ConfigError: there are none: the model would answer blindly, and its times mean nothing.
        """
        from omnivision.model.checkpoints import image_token_id

        count = int((self.inputs(picture, PROMPTS[0])["input_ids"] == image_token_id(self.model.config)).sum())
        if not count:
            raise ConfigError("The prompt holds no image token", self.name, "Its processor and chat template do not take pictures this way.")
        return count


def load(source: str) -> Subject:
    """Any AutoModelForImageTextToText, ours included.

    Raises:
        ConfigError: there is no such model.
    """
    from omnivision.model.checkpoints import load_any, resolved

    return Subject(source, Path(resolved(source)), *load_any(source))


def with_image_tokens(source: str, tokens: int, folder: Path) -> Path:
    """The same tower and language model with a new projector that makes so many tokens of a picture: as fast as a trained one.

    Raises:
        ConfigError: the patches do not divide into so many tokens.
    """
    from omnivision.model.build import build_model
    from omnivision.model.checkpoints import load_checkpoint, model_folder
    from omnivision.model.layouts import TILES

    model, processor = load_checkpoint(source)
    patches, stored = model.config.num_patches, type(model.config).from_pretrained(model_folder(source)).dtype
    if tokens < 1 or patches % tokens or patches // tokens not in TILES:
        possible = ", ".join(str(patches // group) for group in TILES if patches % group == 0)
        raise ConfigError(f"{patches} patches do not divide into {tokens} tokens", "--image-tokens", f"Give some of {possible}.")
    config = type(model.config)(**{**model.config.to_dict(), "projector_group": patches // tokens,
                                   "projector_layout": "identity" if tokens == patches else "raster"})
    made, _ = build_model(config, tokenizer=processor.tokenizer)
    kept = {name: weight for name, weight in model.state_dict().items() if ".projector." not in name}
    made.load_state_dict(kept, strict=False)
    made.to(stored or made.dtype).save_pretrained(folder)  # on a CPU it was read in fp32, which is not what it takes on a disk
    type(processor)(processor.image_processor, processor.tokenizer, image_seq_length=made.config.image_seq_length).save_pretrained(folder)
    return folder


def measure(subjects: list[Subject], rounds: int, new_tokens: int) -> dict[str, dict[str, float]]:
    """Medians over rounds and prompts, after one round that is not counted.

    Args:
        new_tokens: of every answer; models that would stop earlier go on, so that all do the same.
    """
    picture = sample_picture()
    times: dict[str, dict[str, list[float]]] = {one.name: {"prepare": [], "first": [], "decode": []} for one in subjects}
    for number in range(rounds + 1):
        for prompt in PROMPTS:
            for one in subjects:
                prepare, first, decode = _timed(one, picture, prompt, new_tokens)
                if number:
                    for key, value in (("prepare", prepare), ("first", first), ("decode", decode)):
                        times[one.name][key].append(value)
    return {one.name: {
        "image_tokens": one.image_tokens(picture), "parameters": sum(weight.numel() for weight in one.model.parameters()),
        "prepare_ms": 1000 * statistics.median(times[one.name]["prepare"]), "first_token_ms": 1000 * statistics.median(times[one.name]["first"]),
        "tokens_per_second": statistics.median(times[one.name]["decode"]), "bytes": bytes_of(one.folder)} for one in subjects}


def _timed(one: Subject, picture, prompt: str, new_tokens: int) -> tuple[float, float, float]:
    """Seconds to prepare the inputs, seconds from there to the first token, tokens a second after it."""
    import torch

    clock = _Clock()
    started = time.perf_counter()
    inputs = one.inputs(picture, prompt)
    prepared = time.perf_counter()
    with torch.inference_mode():
        one.model.generate(**inputs, max_new_tokens=1 + new_tokens, min_new_tokens=1 + new_tokens, do_sample=False, num_beams=1, streamer=clock)
    _, first, *_, ended = clock.ticks
    return prepared - started, first - prepared, new_tokens / (ended - first)


class _Clock:
    """A streamer that notes when the prompt, and then each token, reaches the CPU."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def put(self, ids) -> None:
        self.ticks.append(time.perf_counter())

    def end(self) -> None:
        pass


def sample_picture():
    """A picture with some of everything: the same for every model and run."""
    from PIL import Image

    return Image.effect_mandelbrot(PICTURE, (-2, -1.5, 1, 1.5), 100).convert("RGB")


def bytes_of(folder: Path) -> int | None:
    """Bytes of a model's files, without what only proves an export and the adapters that are merged already; None for one that is not a folder here."""
    from omnivision.export.folder import PICTURE_FOLDER, REFERENCE_FILE
    from omnivision_train.config import ADAPTER

    left_out = (PICTURE_FOLDER, REFERENCE_FILE, ADAPTER)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.relative_to(folder).parts[0] not in left_out) if folder.is_dir() else None


def peak_memory_gib(source: str) -> float:
    """Of a process that loads the model and answers once; GPU memory where there is a GPU."""
    command = [sys.executable, "-m", "omnivision_cli.bench", "--alone", source]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(said.splitlines()[-1])["peak_memory_gib"]


def answer_alone(source: str) -> None:
    """What the process of peak_memory_gib does."""
    from omnivision.memory import peak_gib

    one = load(source)
    one.model.generate(**one.inputs(sample_picture(), PROMPTS[0]), max_new_tokens=16, do_sample=False)
    print(json.dumps({"peak_memory_gib": peak_gib()}))


def main(argv: list[str]) -> int:
    """Prints a table, or with --json one object."""
    arguments = argparse.ArgumentParser(prog="omnivision bench", description="How fast models answer, and what they need.",
                                        epilog="example: omnivision bench --model runs/tiny/sft/final --image-tokens 729,81,9")
    arguments.add_argument("--model", action="append", required=True, metavar="M", help="checkpoint folder or hub id; again for several")
    arguments.add_argument("--image-tokens", metavar="N,N,…", help="one model, with projectors that make so many tokens of a picture")
    arguments.add_argument("--rounds", type=int, default=5, metavar="N", help="that count (default 5)")
    arguments.add_argument("--new-tokens", type=int, default=32, metavar="N", help="decoded after the first (default 32)")
    arguments.add_argument("--early-exit", type=int, nargs="?", const=0, metavar="LAYER",
                           help="one model: self-speculative against plain decoding; LAYER other than the checkpoint's own")
    arguments.add_argument("--questions", metavar="FILE", help="with --early-exit: JSON lines with text and image (else three questions about a drawing)")
    arguments.add_argument("--image-root", metavar="DIR", help="where image paths start (else the question file's folder)")
    arguments.add_argument("--count", type=int, default=40, metavar="N", help="questions of the file (default 40)")
    arguments.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = arguments.parse_args(argv)
    if options.rounds < 1 or options.new_tokens < 1:
        arguments.error("--rounds and --new-tokens have to be at least 1")
    if (options.image_tokens or options.early_exit is not None) and len(options.model) > 1:
        arguments.error("--image-tokens and --early-exit go with one --model")
    if options.image_tokens and options.early_exit is not None:
        arguments.error("--image-tokens and --early-exit are two measurements: give one of them")
    if options.early_exit is None and (options.questions or options.image_root):
        arguments.error("--questions and --image-root go with --early-exit")
    if options.count < 1:
        arguments.error("--count has to be at least 1")
    if options.early_exit is not None:
        return _early_exit(options)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        sources = options.model
        if options.image_tokens:
            sources = [str(with_image_tokens(options.model[0], tokens, Path(folder) / f"{tokens} tokens")) for tokens in _numbers(options.image_tokens)]
        subjects = [load(source) for source in sources]
        memory = {source: peak_memory_gib(source) for source in sources}
        found = measure(subjects, options.rounds, options.new_tokens)
        found = {(Path(source).name if options.image_tokens else source): {**found[source], "peak_memory_gib": round(memory[source], 3)} for source in sources}
    print(json.dumps(found) if options.json else table(found))
    return 0


def _early_exit(options: argparse.Namespace) -> int:
    from omnivision.data.image import open_image
    from omnivision.export.reference import read_questions
    from omnivision_cli import bench_early_exit

    with contextlib.redirect_stdout(sys.stderr):
        asked = [(sample_picture(), prompt) for prompt in PROMPTS]
        if options.questions:
            asked = [(open_image(one.image), one.text) for one in read_questions(options.questions, options.image_root, options.count) if one.image]
        if not asked:
            raise DataError("No question has a picture", options.questions, "Give rows with text and image.")
        found = bench_early_exit.measure(load(options.model[0]), asked, options.rounds, options.new_tokens, options.early_exit or None)
    print(json.dumps(found) if options.json else bench_early_exit.text(options.model[0], found))
    return 0


def _numbers(text: str) -> list[int]:
    try:
        return [int(one) for one in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--image-tokens is {text!r}", "command line", "Give numbers with commas between: 729,81,9.") from error


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| model | image tokens | prepare (ms) | first token (ms) | tokens/s | peak memory (GiB) | on disk (MB) | parameters |", "|---" * 8 + "|"]
    for name, one in found.items():
        size = "–" if one["bytes"] is None else f"{one['bytes'] / 1e6:,.1f}"
        lines.append(f"| {name} | {one['image_tokens']} | {one['prepare_ms']:.1f} | {one['first_token_ms']:.1f} | {one['tokens_per_second']:.1f} | "
                     f"{one['peak_memory_gib']:.2f} | {size} | {one['parameters']:,} |")
    return "\n".join(lines)


if __name__ == "__main__":
    answer_alone(sys.argv[sys.argv.index("--alone") + 1])
