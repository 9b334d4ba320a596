"""How fast the stages are here, and how much memory they take, beside stock TRL on the same rows.

    python -m omnivision_train.speed --preset 968m --out runs/speed

Parts have the preset's shape and random weights, rows are the embedded world's. Every stage runs as its own command; the first
steps, which warm up, are not counted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from omnivision.runs import read_json_lines

STAGES = ("align", "sft", "dpo", "functions")
STOCK = "sft, stock TRL"
SETTLED = 5  # steps before the first that counts
COLUMNS = {"tokens_per_second": "tokens/s", "peak_share": "share of peak", "peak_memory_gib": "peak memory (GiB)"}


def main(argv: list[str] | None = None) -> int:
    """Prints a table and writes speed.json."""
    parser = argparse.ArgumentParser(prog="python -m omnivision_train.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="968m", help="968m (default), small or tiny")
    parser.add_argument("--out", default="runs/speed", metavar="DIR", help="folder that does not exist")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, default=25, metavar="N", help=f"of each run, the first {SETTLED} are not counted (default 25)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="our sft and stock TRL in turn so many times (default 2)")
    parser.add_argument("--stock", metavar="FILE", help=argparse.SUPPRESS)  # one run of stock TRL, in a process of its own
    options = parser.parse_args(argv)
    out = Path(options.out)
    if options.stock:
        Path(options.stock).write_text(json.dumps(stock_sft(out, options)))
        return 0
    if options.steps <= SETTLED + 1:
        parser.error(f"--steps is {options.steps}; more than {SETTLED + 1} are needed")
    prepare(out, options)
    found, start = {}, None
    for stage in options.stages:
        found[stage], start = ours(out, stage, start, options)
    if "sft" in options.stages:
        pairs = [(ours(out, "sft", out / "align" / "final", options, f"round-{number}")[0], stock(out, options, number)) for number in range(options.rounds)]
        for name, runs in zip(("sft", STOCK), zip(*pairs, strict=True), strict=True):
            found[name] = {key: statistics.mean(run[key] for run in runs) for key in runs[0]} | {
                "spread": max(run["tokens_per_second"] for run in runs) - min(run["tokens_per_second"] for run in runs)}
    (out / "speed.json").write_text(json.dumps({"preset": options.preset, "batch_size": options.batch_size, "device": device(), "found": found}, indent=1))
    print(table(found, options, device()))
    return 0


def device() -> str:
    """The GPU's name, or how many threads torch has."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def table(found: dict[str, dict[str, float]], options: argparse.Namespace, where: str) -> str:
    """Markdown, one line a run."""
    lines = [f"{options.preset}, {options.batch_size} rows a step, {where}:", "", "| run | " + " | ".join(COLUMNS.values()) + " |",
             "|---" * (len(COLUMNS) + 1) + "|"]
    shown = {"tokens_per_second": "{:,.0f}", "peak_share": "{:.1%}", "peak_memory_gib": "{:.1f}"}
    for name, run in found.items():
        cells = [shown[key].format(run[key]) if key in run else "–" for key in COLUMNS]
        if run.get("spread"):
            cells[0] += f" ± {run['spread'] / 2:,.0f}"
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def prepare(out: Path, options: argparse.Namespace) -> None:
    """Random parts of the preset's shape, and rows for every stage."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, SiglipVisionModel

    from omnivision.model.build import WEIGHTS
    from omnivision.presets import preset_config
    from omnivision.world.build import build_world

    out.mkdir(parents=True)
    shape, words = preset_config(options.preset), AutoTokenizer.from_pretrained(WEIGHTS / "tiny-language")
    torch.manual_seed(0)
    SiglipVisionModel._from_config(shape.vision_config).save_pretrained(out / "vision")
    AutoModelForCausalLM.from_config(shape.text_config).save_pretrained(out / "language")
    words.save_pretrained(out / "language")
    rows = options.steps * options.batch_size
    build_world(out / "world", sizes={stage: max(1, rows // (1 if stage == "align" else 4)) for stage in STAGES}, size=shape.vision_config.image_size)
    questions = read_json_lines(out / "world" / "sft.jsonl")
    rng = random.Random(0)
    with (out / "pairs.jsonl").open("w") as file:
        for number in range(rows):
            row, other = rng.choice(questions), rng.choice(questions)
            question, answer = row["turns"][0]["text"], row["turns"][1]["text"]
            file.write(json.dumps({"id": str(number), "images": row["images"], "prompt": question, "chosen": answer,
                                   "rejected": other["turns"][1]["text"] + " not"}) + "\n")


def ours(out: Path, stage: str, start: Path | None, options: argparse.Namespace, folder: str = "") -> tuple[dict[str, float], Path]:
    """One run of a stage by its own command: (what it measured, final/)."""
    data = out / "pairs.jsonl" if stage == "dpo" else out / "world" / f"{stage}.jsonl"
    words = [f"out={out / folder}", f"preset={options.preset}", f"vision={out / 'vision'}", f"language={out / 'language'}", f"data=[{data}]",
             f"image_root={out / 'world'}", f"batch_size={options.batch_size}", f"max_steps={options.steps}", "log_steps=1", "warmup=0.0",
             f"start={start or 'null'}", f"workers={2 if torch.cuda.is_available() else 0}"]
    words += [f"functions={out / 'world' / 'functions.json'}"] if stage == "functions" else []
    (out / "stage.yaml").write_text("seed: 1\n")
    subprocess.run([sys.executable, "-m", "omnivision_cli", "train", stage, "--config", str(out / "stage.yaml"), *words], check=True,
                   stdout=sys.stderr)
    run = out / folder / stage
    lines = read_json_lines(run / "metrics.jsonl")[SETTLED:]
    return {key: statistics.mean(line[key] for line in lines) for key in COLUMNS if key in lines[0]}, run / "final"


def stock(out: Path, options: argparse.Namespace, number: int) -> dict[str, float]:
    """The same for TRL's SFTTrainer as it is."""
    file = out / f"stock-{number}.json"
    subprocess.run([sys.executable, "-m", "omnivision_train.speed", "--out", str(out), "--preset", options.preset, "--steps", str(options.steps),
                    "--batch-size", str(options.batch_size), "--stock", str(file)], check=True, stdout=sys.stderr)
    return json.loads(file.read_text())


def stock_sft(out: Path, options: argparse.Namespace) -> dict[str, float]:
    """TRL's SFTTrainer on the same model and rows: its own collator, loss and loop, no DeepSpeed."""
    import time

    from datasets import Dataset, Image
    from trl import SFTConfig, SFTTrainer

    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision.memory import peak_gib
    from omnivision_train.stages import set_trainable
    from omnivision_train.throughput import Flops, device_peak

    class Timed(SFTTrainer):
        """Notes when each step ends, and its tokens and pictures."""

        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            self.ends: list[float] = []
            self.seen: list[dict[str, int]] = []

        def training_step(self, model, inputs, num_items_in_batch=None):
            mask, labels = inputs["attention_mask"], inputs["labels"]
            self.seen.append({"tokens": int(mask.sum()), "supervised": int((labels != -100).sum()), "pictures": len(inputs.get("pixel_values", ()))})
            loss = super().training_step(model, inputs, num_items_in_batch)
            loss.item()  # the GPU has finished once it can be read
            self.ends.append(time.perf_counter())
            return loss

    start = out / "align" / "final"
    attention = None if torch.cuda.is_available() else "eager"
    model = OmniVisionForConditionalGeneration.from_pretrained(start, attn_implementation=attention)
    set_trainable(model, "sft")
    rows = read_json_lines(out / "world" / "sft.jsonl")
    data = Dataset.from_list([{"images": [str(out / "world" / image) for image in row["images"]],
                               "messages": [{"role": turn["role"], "content": turn["text"]} for turn in row["turns"]]} for row in rows])
    trainer = Timed(model=model, processing_class=OmniVisionProcessor.from_pretrained(start), train_dataset=data.cast_column("images", [Image()]), args=SFTConfig(
        output_dir=str(out / "stock"), per_device_train_batch_size=options.batch_size, max_steps=options.steps, learning_rate=2e-5, max_length=None,
        bf16=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False, save_strategy="no",
        report_to="none", dataloader_num_workers=2 if torch.cuda.is_available() else 0, seed=1))
    trainer.train()
    seconds, seen = trainer.ends[-1] - trainer.ends[SETTLED - 1], trainer.seen[SETTLED:]
    totals = {key: sum(step[key] for step in seen) for key in seen[0]}
    peak = {"peak_share": Flops(model, encoded=False).of(**totals) / seconds / device_peak()} if device_peak() else {}
    return {"tokens_per_second": totals["tokens"] / seconds, "peak_memory_gib": peak_gib(), **peak}


if __name__ == "__main__":
    sys.exit(main())
