"""`omnivision train STAGE --config FILE [key=value ...] [-- launcher flags]`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
from pathlib import Path

from omnivision_train.launch import free_port, launch, leave_processes, rank_and_ranks, under_launcher

RECIPES = {  # verb -> (config class, recipe)
    "align": ("omnivision_train.config:AlignConfig", "omnivision_train.supervised:align"),
    "sft": ("omnivision_train.config:SftConfig", "omnivision_train.supervised:sft"),
    "dpo": ("omnivision_train.config:DpoConfig", "omnivision_train.dpo:dpo"),
    "functions": ("omnivision_train.config:FunctionsConfig", "omnivision_train.functions:functions"),
    "vision": ("omnivision_train.vision:VisionConfig", "omnivision_train.vision:train"),
    "language": ("omnivision_train.language:LanguageConfig", "omnivision_train.language:train"),
}
STAND_INS = ("vision", "language")
CHAIN = "chain"  # all stages, see chain.py


def main(argv: list[str]) -> int:
    """Trains one stage, here or (with launcher flags, or `processes` above 1) under DeepSpeed's launcher."""
    argv, flags = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(
        prog="omnivision train", description="Trains one stage and prints the folder of the result.",
        epilog="example: omnivision train sft --config train/configs/sft.yaml batch_size=4 -- --num_gpus 8",
    )
    parser.add_argument("recipe", choices=(*RECIPES, CHAIN))
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML; its first lines are the command that runs it")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override a key of the file")
    options = parser.parse_intermixed_args(argv)
    from omnivision.config_files import load_config  # here: --help answers without torch
    from omnivision.errors import ConfigError, ResumableError
    from omnivision.runs import HAND_OVER

    if options.recipe == CHAIN and under_launcher():
        raise ConfigError("`chain` starts its stages itself, and runs under a launcher", "launcher", "Use `omnivision train chain ... -- --num_gpus N`.")
    if options.recipe in STAND_INS and flags:
        raise ConfigError(f"`{options.recipe}` trains in one process", f"-- {' '.join(flags)}", "Leave the launcher's flags out.")
    if options.recipe == CHAIN:
        from omnivision_train.chain import chain

        with contextlib.redirect_stdout(sys.stderr):
            folder = chain(options.config, options.overrides, flags)
        _tell(folder, options.json)
        return 0
    config = load_config(config_class(options.recipe), options.config, options.overrides)
    processes = getattr(config, "processes", 1)
    if options.recipe not in STAND_INS and not under_launcher() and (flags or processes > 1):
        launch([word for word in argv if word != "--json"], flags or ["--num_accelerators", str(processes), "--master_port", str(free_port())])
        folder = Path(config.out) / options.recipe / "final"
        if not (folder / HAND_OVER).is_file():  # DeepSpeed's runner says 0 as well where its own launcher was killed
            raise ResumableError("The training processes have ended without a result", str(folder), "The same command resumes from the last checkpoint.")
        _tell(folder, options.json)
        return 0
    launched = under_launcher()  # a process alone sets the same variables once it trains
    with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed and transformers print their logs
        folder = _load(RECIPES[options.recipe][1])(config)
    if rank_and_ranks()[0] == 0:  # one result, however many processes
        _tell(folder, options.json)
    if launched:
        leave_processes()
    return 0


def _tell(folder: Path, as_json: bool) -> None:
    print(json.dumps({"folder": str(folder)}) if as_json else folder, flush=True)


def config_class(recipe: str) -> type:
    """The dataclass that a recipe's YAML fills."""
    return _load(RECIPES[recipe][0])


def _load(target: str):
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


if __name__ == "__main__":
    from omnivision_cli.main import main as command

    sys.exit(command(["train", *sys.argv[1:]]))
