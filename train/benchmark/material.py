"""What all arms train on: a start with random weights, photos, and rows of one question and one answer."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from pathlib import Path

import torch

from omnivision.errors import ConfigError
from omnivision.hardware import device
from omnivision.runs import read_json, write_hand_over, write_json, write_text

PROMPT = "Describe the image."
GATE, GATE_ROWS = "first", 24  # a folder with the first rows alone: asking whether arms agree takes three small steps


def prepare(out: Path, options: argparse.Namespace) -> Path:
    """Writes vision/, language/, sft-start/ and dpo-start/ (the same weights) of the preset's shape, photos/, and a folder of rows about them; returns that folder.

    Answers are random words, half to one and a half times `options.words` of them; those of a pair differ in one word.

    Raises:
        ConfigError: the folder has material of another shape, or other photos.
    """
    rows = out / f"{options.rows}-rows-of-{options.words}-words"
    write_parts(out, options.preset, options.photos)
    if not rows.exists():
        from transformers import AutoTokenizer

        partial = rows.with_name(f"{rows.name}.partial")
        (partial / GATE).mkdir(parents=True, exist_ok=True)
        write_rows(partial, options.rows, options.words, word_list(AutoTokenizer.from_pretrained(out / "language")), options.photos)
        for file in partial.glob("*.jsonl"):
            write_text(partial / GATE / file.name, "".join(file.read_text().splitlines(keepends=True)[:GATE_ROWS]))
        partial.rename(rows)
    return rows


def write_parts(out: Path, preset: str, photos: int) -> None:
    """What rows of any number and length are about, and models to begin from."""
    wanted, note = {"preset": preset, "photos": photos}, out / "material.json"
    if note.is_file() and read_json(note) == wanted:
        return
    if out.exists():
        raise ConfigError("The folder has material of another shape, or other photos", str(out), "Give another --out, or remove it.")
    from transformers import AutoModelForCausalLM, AutoTokenizer, SiglipVisionModel

    from omnivision.data.picture_speed import make_photos
    from omnivision.model.build import WEIGHTS, build_model
    from omnivision.presets import preset_config

    (out / "photos").mkdir(parents=True)
    make_photos(out / "photos", photos)
    shape, words = preset_config(preset), AutoTokenizer.from_pretrained(WEIGHTS / "tiny-language")
    torch.manual_seed(0)
    with torch.device(device()):  # a billion random numbers
        SiglipVisionModel._from_config(shape.vision_config).save_pretrained(out / "vision")
        AutoModelForCausalLM.from_config(shape.text_config).save_pretrained(out / "language")
    words.save_pretrained(out / "language")
    model, processor = build_model(shape, vision=str(out / "vision"), language=str(out / "language"))
    for part in (model, processor):
        part.save_pretrained(out / "sft-start")
    shutil.copytree(out / "sft-start", out / "dpo-start", copy_function=os.link)
    for stage, before in (("sft", "align"), ("dpo", "sft")):
        write_hand_over(out / f"{stage}-start", before, None)
    write_json(note, wanted)


def word_list(tokenizer) -> list[str]:
    """Lower-case words of a tokenizer that are one token each after a blank."""
    pieces = (tokenizer.decode([token]) for token in range(len(tokenizer)))
    return sorted({piece.strip() for piece in pieces if piece.startswith(" ") and piece.strip().isascii() and piece.strip().isalpha() and piece.islower()})


def write_rows(out: Path, rows: int, mean: int, words: list[str], photos: int) -> None:
    """rows.jsonl: conversations; pairs.jsonl: the same answers, and each with one word replaced. `photos` are asked about in turn."""
    rng = random.Random(0)
    with (out / "rows.jsonl").open("w") as conversations, (out / "pairs.jsonl").open("w") as pairs:
        for number in range(rows):
            answer = rng.choices(words, k=rng.randint(mean - mean // 2, mean + mean // 2))
            edited, place = list(answer), rng.randrange(len(answer))
            edited[place] = rng.choice([word for word in words if word != answer[place]])
            about = {"id": str(number), "images": [f"{number % photos}.jpg"]}
            turns = [{"role": "user", "text": PROMPT, "loss": False}, {"role": "assistant", "text": " ".join(answer), "loss": True}]
            conversations.write(json.dumps({**about, "turns": turns}) + "\n")
            pairs.write(json.dumps({**about, "prompt": PROMPT, "chosen": " ".join(answer), "rejected": " ".join(edited)}) + "\n")
