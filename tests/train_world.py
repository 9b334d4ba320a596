"""A dozen small pictures, parts of a tiny model, and stages run in the tests' own process."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import torch
from model_parts import CONTROL, SHAPE, make_config, make_tokenizer
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen2Config, SiglipVisionConfig, SiglipVisionModel

from omnivision.data.rows import Row, read_rows
from omnivision.runs import write_hand_over

PICTURES = 12
THINGS = ("cat", "dog", "apple", "kite", "bus", "cup")
FUNCTIONS = [{"type": "function", "function": {"name": name, "description": f"{name} a thing", "parameters": {
    "type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}}} for name in ("order", "find")]
STAGES = ("align", "sft", "dpo", "functions")


@dataclass(frozen=True)
class World:
    """Folders of the tests' data and of the parts that models are built from."""

    folder: Path

    @property
    def vision(self) -> str:
        return str(self.folder / "vision")

    @property
    def language(self) -> str:
        return str(self.folder / "language")

    def file(self, stage: str) -> str:
        """The rows of a stage."""
        return str(self.folder / f"{stage}.jsonl")

    def start(self, stage: str) -> Path | None:
        """What a stage may start from: new weights with the note of a stage that it follows; None for the first one."""
        from omnivision_train.config import FOLLOWS

        if not FOLLOWS[stage]:
            return None
        before = FOLLOWS[stage][0]
        final = self.folder / "starts" / before / "final"
        if not final.is_dir():
            for part in build(self):
                part.save_pretrained(final)
            write_hand_over(final, before, None)
        return final

    def rows(self, stage: str) -> list[Row]:
        """The same, read."""
        return read_rows(self.file(stage))


def once(make):
    """Makes a thing once a test session, whichever modules ask for it (pytest's factory itself cannot be hashed)."""
    made = {}

    @wraps(make)
    def found(factory):
        key = factory.getbasetemp()
        if key not in made:
            made[key] = make(factory)
        return made[key]

    return found


@once
def world(factory) -> World:
    """The one small world of a test session. `factory` is pytest's tmp_path_factory."""
    return written(factory.mktemp("train_world"))


def written(folder: Path, layers: int = 1) -> World:
    """A small world whose language model has so many layers."""
    made = World(folder)
    _write_parts(made, layers)
    _write_rows(made)
    return made


def _write_parts(made: World, layers: int) -> None:
    torch.manual_seed(0)
    tower = SiglipVisionModel(SiglipVisionConfig(**{**SHAPE, "num_hidden_layers": 1, "num_attention_heads": 2}))
    words = make_tokenizer(CONTROL[:6])  # without functional tokens
    shape = {**make_config().text_config.to_dict(), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers,
             "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(words) + 16}
    shape.pop("layer_types", None)
    with torch.no_grad():  # as large as trained ones: a wrong picture has to change the loss
        for weight in tower.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
    tower.save_pretrained(made.vision)
    AutoModelForCausalLM.from_config(Qwen2Config(**shape)).save_pretrained(made.language)
    words.save_pretrained(made.language)


def _write_rows(made: World) -> None:
    rng = random.Random(0)
    (made.folder / "images").mkdir()
    names = [f"images/{number}.png" for number in range(PICTURES)]
    for name in names:
        Image.frombytes("RGB", (54, 54), rng.randbytes(54 * 54 * 3)).save(made.folder / name)
    rows = {stage: [] for stage in STAGES}
    for number, name in enumerate(names):
        thing, other = THINGS[number % 6], THINGS[(number + 1) % 6]
        rows["align"].append(conversation(f"a{number}", [name], [("Describe the image.", f"A {thing} and a {other}.")]))
        rows["sft"].append(conversation(f"s{number}", [name] if number < 8 else [], [
            (f"Is there a {thing} in the image?", "Yes"), ("How many apples are there?", str(number % 3)), ("What is it?", thing)]))
        rows["dpo"].append({"id": f"d{number}", "images": [name], "prompt": f"What is left of the {other}?", "chosen": thing,
                            "rejected": "a red " + other})
        rows["functions"].append({"id": f"f{number}", "images": [name], "request": f"Get me the {thing}.",
                                  "calls": [{"name": ("order", "find")[number % 2], "arguments": {"item": thing}}]})
    for stage, lines in rows.items():
        write_lines(Path(made.file(stage)), lines)
    (made.folder / "functions.json").write_text(json.dumps(FUNCTIONS))


def conversation(name: str, images: list[str], pairs: list[tuple[str, str]]) -> dict:
    """An internal row of questions and answers."""
    turns = []
    for question, answer in pairs:
        turns += [{"role": "user", "text": question, "loss": False}, {"role": "assistant", "text": answer, "loss": True}]
    return {"id": name, "images": images, "turns": turns}


def write_lines(path: Path, rows: list[dict]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict]:
    """What a JSON-lines file holds."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def settings(made: World, out: Path, stage: str, start: Path | None = None, **changes):
    """A stage's config of small, exact steps: fp32, every step logged. `start` is by default the world's own."""
    from omnivision_train import config

    start = start or made.start(stage)
    cls = {"align": config.AlignConfig, "sft": config.SftConfig, "dpo": config.DpoConfig, "functions": config.FunctionsConfig}[stage]
    shared = {"out": str(out), "start": str(start) if start else None, "preset": "tiny", "vision": made.vision, "language": made.language,
              "data": [made.file(stage)], "image_root": str(made.folder), "batch_size": 2, "max_steps": 3, "lr": 5e-3, "warmup": 0.0,
              "precision": "fp32", "log_steps": 1, "save_steps": 100, "max_length": 256, "seed": 3}
    if stage == "functions":
        shared["functions"] = str(made.folder / "functions.json")
    return cls(**{**shared, **changes})


def recipe(stage: str):
    """The function that trains a stage."""
    from omnivision_train import dpo, functions, supervised

    return {"align": supervised.align, "sft": supervised.sft, "dpo": dpo.dpo, "functions": functions.functions}[stage]


def train(config, stage: str) -> Path:
    """Runs a stage here; returns its final/."""
    with one_process():
        return recipe(stage)(config)


@contextmanager
def one_process():
    """The variables of a launcher, the signal handler and the global state that a run sets, for its time only."""
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    environment, handler, threads = dict(os.environ), signal.getsignal(signal.SIGTERM), torch.get_num_threads()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, handler)
        torch.set_num_threads(threads)
        AcceleratorState._reset_state(reset_partial_state=True)
        unset_hf_deepspeed_config()
        gc.collect()


@once
def road(factory) -> dict[str, Path]:
    """The four stages after one another, three steps each: stage -> final/."""
    made, out = world(factory), factory.mktemp("road")
    found: dict[str, Path] = {}
    for before, stage in zip((None, *STAGES), STAGES):
        found[stage] = train(settings(made, out, stage, found.get(before), feature_cache=str(out / "features")), stage)
    return found


def build(made: World, seed: int = 0):
    """A new (model, processor) of the tests' parts."""
    from omnivision.model.build import build_model

    torch.manual_seed(seed)
    return build_model("tiny", made.vision, made.language)


def weights(final: Path) -> dict[str, torch.Tensor]:
    """All tensors of a saved model by name."""
    return {name: tensor for file in sorted(final.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def losses(final: Path) -> list[float]:
    """The loss of every step of the stage that wrote this final/."""
    return [line["loss"] for line in read_lines(final.parent / "metrics.jsonl")]
