"""`omnivision plan`: parameters by part, what training a stage holds in memory, steps and time, before anything loads.

The model is built on the meta device: its shapes are real, its memory is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnivision.data.flags import within
from omnivision.errors import ConfigError, PlanError
from omnivision.runs import read_json_lines
from omnivision_train.config import TRAINS, StageConfig, new_shape
from omnivision_train.deepspeed_config import zero_settings
from omnivision_train.memory import GIB, WEIGHT, Held, Part, count_parts, held_with_batch, on_meta

if TYPE_CHECKING:
    from omnivision_train.activations import Batch


def main(argv: list[str]) -> int:
    """Prints the plan; exit code 4 where --memory is given and the stage cannot fit."""
    parser = argparse.ArgumentParser(prog="omnivision plan", description="Parameters, training memory, steps and time before anything loads.",
                                     epilog="example: omnivision plan --preset 968m --stage sft --ranks 4 --zero 2")
    parser.add_argument("--preset", metavar="NAME", help="968m (default), small or tiny")
    parser.add_argument("--model", metavar="DIR", help="a checkpoint, instead of a preset")
    parser.add_argument("--config", metavar="FILE", help="a stage's YAML; without it the stage's defaults, in bf16")
    parser.add_argument("--stage", choices=sorted(TRAINS), help="what is trained (default: by the file's name; sft without a file)")
    parser.add_argument("--precision", choices=sorted(WEIGHT), help="of weights and gradients (default: the file's; auto is bf16, with Muon fp32)")
    parser.add_argument("--ranks", type=within("--ranks", int, 1), metavar="N", help="processes that share the state (default: the file's `processes`, else 1)")
    parser.add_argument("--zero", type=int, choices=(0, 1, 2, 3), help="DeepSpeed's ZeRO stage (default: the file's, else 1)")
    parser.add_argument("--length", type=within("--length", int, 1), metavar="N",
                        help="tokens of a row, image tokens included (default: the file's max_length, the most)")
    parser.add_argument("--memory", type=within("--memory", float, 0), metavar="GIB", help="memory of one device: says whether the stage can fit")
    parser.add_argument("--rows", type=within("--rows", int, 1), metavar="N", help="rows of an epoch (default: those of the file's data, counted)")
    parser.add_argument("--seconds-per-step", type=within("--seconds-per-step", float, 0, 1e6), metavar="S", help="measured: then the time is told")
    parser.add_argument("--metrics", metavar="FILE", help="metrics.jsonl of a run with these settings: its median seconds a step")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the stage")
    options = parser.parse_intermixed_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries' logs: stdout is for the plan
        stage, config = _stage(options)
        start = None if options.preset or options.model else config.start
        folder = options.model or (start if start and Path(start).is_dir() else None)
        model = on_meta(_model_config(config, folder), config)
        batch = _batch(config, options.length, model.config.image_seq_length)
        parts = count_parts(model, config)
        held = held_with_batch(model, config, stage, config.precision, config.processes, batch)
        asked = options.config or options.rows or options.metrics or options.seconds_per_step
        steps = plan_steps(config, options) if asked else {}
    total = sum(one.total for one in held)
    fits = options.memory is None or total <= options.memory * GIB
    said = {"preset": folder or config.preset, "stage": stage, "precision": config.precision, "ranks": config.processes,
            "zero": zero_settings(config)[0]}
    if start and not folder:
        print(f"plan: {start}, where the stage starts, is not there: the shape of the preset {config.preset} is assumed (--preset NAME, --model DIR)", file=sys.stderr)
    if options.json:
        print(json.dumps({**said, "batch": asdict(batch), "steps": steps,
                          "parameters": {part.name: part.parameters for part in parts} | {"total": sum(part.parameters for part in parts)},
                          "bytes": {name: size * sum(part.parameters for part in parts) for name, size in WEIGHT.items()},
                          "training_bytes": {one.name: {**asdict(one), "total": one.total} for one in held},
                          "training_total": total, "fits": fits}))
        return 0 if fits else 4
    print(_text(said, parts, held, batch))
    if getattr(config, "lora_rank", 0) and not Path(config.functions).is_file():
        print(f"The rows of functional tokens, which train with the adapters, are not counted: {config.functions} is not there.")
    if steps:
        print(steps_text(steps))
    if not fits:
        raise PlanError(f"The stage takes at least {total / GIB:.1f} GiB a device; {options.memory:g} GiB are there", f"stage {stage}",
                        "Use a smaller batch_size, gradient_checkpointing, more ranks with --zero 2 or 3, or a smaller preset.")
    return 0


def _stage(options: argparse.Namespace) -> tuple[str, StageConfig]:
    """(stage, its settings): flags first, then key=value words, then the file, then the defaults."""
    from omnivision.config_files import load_config
    from omnivision_cli.config import recipe_of
    from omnivision_train.chain import stage_configs
    from omnivision_train.main import config_class

    chain = stage_configs(options.config, options.overrides, options.stage) if options.config else {}
    if chain and options.stage is None:
        raise ConfigError("A chain has several stages", options.config, f"Add --stage {'|'.join(chain)}.")
    stage = options.stage or (recipe_of(options.config) if options.config else "sft")
    if stage not in TRAINS:
        raise ConfigError("Which stage the file is for cannot be told from its name", options.config, f"Add --stage {'|'.join(sorted(TRAINS))}.")
    config = chain[stage] if chain else load_config(config_class(stage), options.config, options.overrides)
    auto = "fp32" if config.optimizer == "muon" else "bf16"  # on a GPU, see precision.resolved
    flags = {"preset": options.preset, "precision": options.precision or (auto if config.precision == "auto" else None),
             "zero_stage": options.zero, "processes": options.ranks}
    return stage, replace(config, **{key: value for key, value in flags.items() if value is not None})


def _batch(config: StageConfig, length: int | None, image_tokens: int) -> Batch:
    """One batch of one device, in which all that is no image token is supervised: the most there can be."""
    from omnivision_train.activations import Batch

    length = length or config.max_length
    if length <= image_tokens:
        raise ConfigError(f"A row of {length} tokens has no room for {image_tokens} image tokens and a text", "--length", "Give more.")
    return Batch(config.batch_size, length, config.batch_size * (length - image_tokens))


def plan_steps(config: StageConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Rows, global batch, optimizer steps and, where a step's time is given or measured, seconds of a stage.

    Raises:
        ConfigError: metrics that measure no step, or settings of the data that cannot be. DataError: data of which nothing can be read.
    """
    from omnivision_train.run_data import check_settings

    missing = [file for file in (*config.data, *getattr(config, "replay", [])) if not Path(file).exists()]  # of the hub's nothing is fetched
    check_settings(config)
    rows = options.rows
    if rows is None and config.data and not missing:
        rows = _rows_of(config)
    batch = config.batch_size * config.accumulation * config.processes
    steps = config.max_steps if config.max_steps > 0 else None if rows is None else math.ceil(math.ceil(rows / batch) * config.epochs)
    seconds = options.seconds_per_step or (_measured(Path(options.metrics)) if options.metrics else None)
    return {"rows": rows, "missing": missing, "global_batch": batch, "epochs": config.epochs, "steps": steps, "seconds_per_step": seconds,
            "seconds": steps * seconds if steps and seconds else None, "grounding_steps": getattr(config, "grounding_steps", 0)}


def steps_text(steps: dict[str, Any]) -> str:
    """The lines about steps and time."""
    if steps["steps"] is None:
        return f"\nsteps: unknown, since {', '.join(steps['missing']) or 'no data'} cannot be counted; give --rows N"
    rows = f"{steps['rows']:,} rows, " if steps["rows"] is not None else ""
    text = f"\nsteps: {steps['steps']:,} ({rows}{steps['global_batch']} a step, {steps['epochs']:g} epochs)"
    text += f"; before them {steps['grounding_steps']:,} steps of grounding, whose time and memory are not told here" if steps["grounding_steps"] else ""
    if steps["seconds"] is None:
        return text + "\ntime: give --seconds-per-step S, or --metrics FILE of a run with these settings"
    hours, rest = divmod(round(steps["seconds"]), 3600)
    return text + f"\ntime: {hours} h {rest // 60:02} min {rest % 60:02} s at {steps['seconds_per_step']:.3g} s a step"


def _rows_of(config: Any) -> int:
    """Rows that an epoch of a stage takes, as its run reads them: for functions, requests about one picture share a row, and others are mixed in."""
    from omnivision.data.rows import load_rows
    from omnivision_train.functions import grouped

    counts = [len(grouped(load_rows(file, config.limit, config.urls).rows, getattr(config, "requests_per_row", 1))) for file in config.data]
    shares = config.passes or [1.0] * len(counts)  # weights share the same sum out otherwise
    replayed = [len(load_rows(file, config.replay_limit, config.urls).rows) for file in getattr(config, "replay", [])]
    return sum(max(1, round(count * share)) for count, share in zip(counts, shares, strict=True)) + sum(replayed)


def _measured(file: Path) -> float:
    try:
        logged = read_json_lines(file)
        pauses = [(later["seconds"] - earlier["seconds"]) / (later["step"] - earlier["step"]) for earlier, later in zip(logged, logged[1:])
                  if later["step"] > earlier["step"] and later["seconds"] > earlier["seconds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"The metrics cannot be read: {error}", str(file), "Give the metrics.jsonl of a stage.") from error
    if not pauses:
        raise ConfigError("The metrics measure no step: two lines are needed", str(file), "Give those of a longer run.")
    return statistics.median(pauses)


def _model_config(config: StageConfig, folder: str | None) -> Any:
    if folder:
        from omnivision import OmniVisionConfig
        from omnivision.model.checkpoints import model_folder

        return OmniVisionConfig.from_pretrained(model_folder(folder))
    return new_shape(config)


def _text(said: dict[str, Any], parts: list[Part], held: list[Held], batch: Batch) -> str:
    whole, total = sum(part.parameters for part in parts), sum(one.total for one in held)
    size, unit = (GIB, "GiB") if total > GIB else (GIB / 1024, "MiB")
    lines = [f"{said['preset']}: {whole:,} parameters; {whole * 4 / size:.2f} {unit} in fp32, {whole * 2 / size:.2f} {unit} in bf16", "",
             f"training {said['stage']} in {said['precision']}, a rank of {said['ranks']}, ZeRO {said['zero']} ({unit}):",
             f"  {'part':<15}{'parameters':>14}  {'':<8}{'weights':>9}{'gradients':>10}{'optimizer':>10}{'activations':>12}{'total':>9}"]
    counts = {part.name: part.parameters for part in parts}
    for one in held:
        numbers = (one.weights / size, one.gradients / size, one.optimizer / size, one.activations / size, one.total / size)
        lines.append(f"  {one.name:<15}{counts.get(one.name, whole):>14,}  {'trained' if one.trained else 'frozen':<8}"
                     "{:>9.2f}{:>10.2f}{:>10.2f}{:>12.2f}{:>9.2f}".format(*numbers))
    lines += [f"  {'together':<15}{'':>14}{total / size:>60.2f}", "",
              f"Activations are what {batch.rows} rows of {batch.length} tokens leave for the backward pass; what kernels take in between comes on top."]
    return "\n".join(lines)
