"""`omnivision plan`: parameters by part, what training a stage holds in memory, steps and time, before anything loads.

The model is built on the meta device: its shapes are real, its memory is not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

from omnivision_train.config import TRAINS, StageConfig
from omnivision_train.memory import GIB, WEIGHT, Held, Part, count_parts, training_memory


def main(argv: list[str]) -> int:
    """Prints the plan; exit code 4 where --memory is given and the stage cannot fit."""
    parser = argparse.ArgumentParser(prog="omnivision plan", description="Parameters and training memory before anything loads.",
                                     epilog="example: omnivision plan --preset 968m --stage sft --ranks 4 --zero 2")
    parser.add_argument("--preset", metavar="NAME", help="968m (default), small or tiny")
    parser.add_argument("--model", metavar="DIR", help="a checkpoint, instead of a preset")
    parser.add_argument("--config", metavar="FILE", help="a stage's YAML: its preset, stage and precision are taken where no flag says otherwise")
    parser.add_argument("--stage", choices=sorted(TRAINS), help="what is trained (default sft)")
    parser.add_argument("--precision", choices=sorted(WEIGHT), help="of weights and gradients (default bf16)")
    parser.add_argument("--ranks", type=int, default=1, metavar="N", help="processes that share the state (default 1)")
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), help="DeepSpeed's ZeRO stage (default: the file's, else 0)")
    parser.add_argument("--memory", type=float, metavar="GIB", help="memory of one device: says whether the stage can fit")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of the data (default: those of the file's data, counted)")
    parser.add_argument("--seconds-per-step", type=float, metavar="S", help="measured: then the time is told")
    parser.add_argument("--metrics", metavar="FILE", help="metrics.jsonl of a run with these settings: its median seconds a step")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    if options.ranks < 1:
        parser.error(f"--ranks is {options.ranks}; at least 1 is needed")

    settings = _settings(options)
    zero = options.zero if options.zero is not None else int(settings.pop("zero_stage", 0))
    settings.pop("zero_stage", None)
    steps = plan_steps(options) if options.config else {}
    parts = count_parts(_model_config(settings, options.model))
    held = training_memory(parts, settings["stage"], settings["precision"], options.ranks, zero, "vision_lr" in settings)
    settings.pop("vision_lr", None)
    total = sum(one.total for one in held)
    fits = options.memory is None or total <= options.memory * GIB
    if options.json:
        print(json.dumps({**settings, "ranks": options.ranks, "zero": zero, "steps": steps,
                          "parameters": {part.name: part.parameters for part in parts} | {"total": sum(part.parameters for part in parts)},
                          "bytes": {name: size * sum(part.parameters for part in parts) for name, size in WEIGHT.items()},
                          "training_bytes": {one.name: {**one._asdict(), "total": one.total} for one in held},
                          "training_total": total, "fits": fits}))
        return 0 if fits else 4
    print(_text(settings, parts, held, options.ranks, zero))
    if steps:
        print(steps_text(steps))
    if not fits:
        from omnivision.errors import PlanError

        raise PlanError(f"Weights, gradients and optimizer take {total / GIB:.1f} GiB a rank before any activation; {options.memory:g} GiB are there",
                        f"stage {settings['stage']}", "Use more ranks with --zero 2 or 3, LoRA, or a smaller preset.")
    return 0


def plan_steps(options: argparse.Namespace) -> dict[str, Any]:
    """Rows, global batch, optimizer steps and, where a step's time is given or measured, seconds of a stage's file.

    Raises:
        ConfigError: a file that is no configuration of a stage, or metrics that measure no step.
    """
    from omnivision.config_files import load_config
    from omnivision_train.main import config_class

    named = Path(options.config).stem
    stage = options.stage or (named if named in TRAINS else "sft")
    config = load_config(config_class(stage), options.config)
    missing = [file for file in (*config.data, *getattr(config, "replay", [])) if not Path(file).is_file()]
    rows = options.rows
    if rows is None and config.data and not missing:
        rows = _rows_of(config)
    batch = config.batch_size * config.accumulation * options.ranks
    steps = config.max_steps if config.max_steps > 0 else None if rows is None else math.ceil(math.ceil(rows / batch) * config.epochs)
    seconds = options.seconds_per_step or (_measured(Path(options.metrics)) if options.metrics else None)
    return {"rows": rows, "missing": missing, "global_batch": batch, "epochs": config.epochs, "steps": steps, "seconds_per_step": seconds,
            "seconds": steps * seconds if steps and seconds else None}


def steps_text(steps: dict[str, Any]) -> str:
    """The lines about steps and time."""
    if steps["steps"] is None:
        return f"\nsteps: unknown, since {', '.join(steps['missing']) or 'no data'} cannot be counted; give --rows N"
    rows = f"{steps['rows']:,} rows, " if steps["rows"] is not None else ""
    text = f"\nsteps: {steps['steps']:,} ({rows}{steps['global_batch']} a step, {steps['epochs']:g} epochs)"
    if steps["seconds"] is None:
        return text + "\ntime: give --seconds-per-step S, or --metrics FILE of a run with these settings"
    hours, rest = divmod(round(steps["seconds"]), 3600)
    return text + f"\ntime: {hours} h {rest // 60:02} min {rest % 60:02} s at {steps['seconds_per_step']:.3g} s a step"


def _rows_of(config: Any) -> int:
    """Rows that a stage trains on: for functions, requests about one picture share a row, and others are mixed in."""
    most, total = getattr(config, "requests_per_row", 1), 0
    for file in config.data:
        lines = _lines(Path(file), config.limit)
        images = [str(json.loads(line).get("images")) for line in lines] if most > 1 else lines
        total += sum(-(-len(list(group)) // most) for _, group in itertools.groupby(images)) if most > 1 else len(lines)
    return total + sum(len(_lines(Path(file), config.replay_limit)) for file in getattr(config, "replay", []))


def _lines(file: Path, limit: int | None) -> list[bytes]:
    with file.open("rb") as lines:
        return list(itertools.islice((line for line in lines if line.strip()), limit))


def _measured(file: Path) -> float:
    from omnivision.errors import ConfigError

    try:
        logged = [json.loads(line) for line in file.read_text().splitlines()]
        pauses = [(later["seconds"] - earlier["seconds"]) / (later["step"] - earlier["step"]) for earlier, later in zip(logged, logged[1:])
                  if later["step"] > earlier["step"] and later["seconds"] > earlier["seconds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"The metrics cannot be read: {error}", str(file), "Give the metrics.jsonl of a stage.") from error
    if not pauses:
        raise ConfigError("The metrics measure no step: two lines are needed", str(file), "Give those of a longer run.")
    return statistics.median(pauses)


def _settings(options: argparse.Namespace) -> dict[str, str]:
    """Flags first, then the file, then the defaults."""
    written: dict[str, Any] = {}
    if options.config:
        from omnivision.config_files import read_yaml

        written = read_yaml(options.config)
    named = Path(options.config).stem if options.config else ""
    defaults = {"preset": "968m", "stage": named if named in TRAINS else "sft", "precision": "bf16"}
    settings = {name: getattr(options, name) or written.get(name) or default for name, default in defaults.items()}
    if options.config:
        settings["zero_stage"] = str(written.get("zero_stage", StageConfig.zero_stage))
    if written.get("vision_lr") is not None:
        settings["vision_lr"] = str(written["vision_lr"])
    if settings["precision"] == "auto":
        settings["precision"] = "bf16"
    for name, known in (("stage", TRAINS), ("precision", WEIGHT)):
        if settings[name] not in known:
            from omnivision.errors import ConfigError

            raise ConfigError(f"`{name}` is {settings[name]!r}; known: {', '.join(known)}", options.config or "command line", f"Give --{name}.")
    return settings


def _model_config(settings: dict[str, str], folder: str | None) -> Any:
    if folder:
        from omnivision import OmniVisionConfig
        from omnivision_cli.checkpoints import model_folder

        settings["preset"] = folder
        return OmniVisionConfig.from_pretrained(model_folder(folder))
    from omnivision.presets import preset_config

    return preset_config(settings["preset"])


def _text(settings: dict[str, str], parts: list[Part], held: list[Held], ranks: int, zero: int) -> str:
    whole, total = sum(part.parameters for part in parts), sum(one.total for one in held)
    size, unit = (GIB, "GiB") if total > GIB else (GIB / 1024, "MiB")
    lines = [f"{settings['preset']}: {whole:,} parameters; {whole * 4 / size:.2f} {unit} in fp32, {whole * 2 / size:.2f} {unit} in bf16", "",
             f"training {settings['stage']} in {settings['precision']}, a rank of {ranks}, ZeRO {zero} ({unit}):",
             f"  {'part':<15}{'parameters':>14}  {'':<8}{'weights':>9}{'gradients':>10}{'optimizer':>10}{'total':>9}"]
    for part, one in zip(parts, held):
        numbers = (one.weights / size, one.gradients / size, one.optimizer / size, one.total / size)
        lines.append(f"  {part.name:<15}{part.parameters:>14,}  {'trained' if one.trained else 'frozen':<8}"
                     "{:>9.2f}{:>10.2f}{:>10.2f}{:>9.2f}".format(*numbers))
    lines += [f"  {'together':<15}{whole:>14,}{total / size:>48.2f}", "",
              "Activations come on top: they grow with batch size and length, gradient checkpointing shrinks them."]
    return "\n".join(lines)
