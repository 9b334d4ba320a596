"""`omnivision config show|schema`: a recipe's configuration with every default, and the keys it knows."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from omnivision_train.main import CHAIN, RECIPES, STAND_INS, config_class

EXAMPLE = "example: omnivision config show --config train/configs/vision.yaml seed=2"


def main(argv: list[str]) -> int:
    """Prints YAML (show) or a JSON schema; with --json one object in both cases."""
    parser = argparse.ArgumentParser(prog="omnivision config", description="A resolved configuration, or every key of a recipe.", epilog=EXAMPLE)
    parser.add_argument("action", choices=("show", "schema"))
    parser.add_argument("--config", metavar="FILE", help="a recipe's YAML, or a chain's (show)")
    parser.add_argument("--recipe", choices=sorted(RECIPES), help="which recipe (default: what the file is named after; of a chain all stages)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(argv)  # overrides may stand before and after flags

    from omnivision.config_files import load_config, schema
    from omnivision_train.chain import stage_configs

    recipe = options.recipe or recipe_of(options.config)
    if options.config and options.action == "show" and (stages := stage_configs(options.config, options.overrides, options.recipe)):
        shown = {name: _resolved(name, config, options.json) for name, config in stages.items()}
        sys.stdout.write(json.dumps({"recipe": CHAIN, "stages": shown}, ensure_ascii=False) + "\n" if options.json
                         else "\n".join(f"# {name}\n{text}" for name, text in shown.items()))
        return 0
    if recipe is None and options.action == "show":
        from omnivision.errors import ConfigError

        raise ConfigError("Which recipe the configuration is for cannot be told", options.config or "command line",
                          f"Add --recipe {'|'.join(sorted(RECIPES))}.")
    if options.action == "schema":
        print(json.dumps({name: schema(config_class(name)) for name in ([recipe] if recipe else RECIPES)}, indent=None if options.json else 2))
        return 0
    shown = _resolved(recipe, load_config(config_class(recipe), options.config, options.overrides), options.json)
    sys.stdout.write(json.dumps({"recipe": recipe, **shown}, ensure_ascii=False) + "\n" if options.json else shown)
    return 0


def _resolved(recipe: str, config, as_json: bool) -> str | dict:
    """Every key, and the JSON for DeepSpeed that is derived from them: a text, or the two as one object."""
    import yaml

    from omnivision.config_files import dump_config
    from omnivision_train.deepspeed_config import deepspeed_config

    text = dump_config(config)
    deepspeed = None if recipe in STAND_INS else deepspeed_config(config)
    if as_json:
        return {"config": yaml.safe_load(text), "deepspeed": deepspeed}
    return text if deepspeed is None else f"{text}\n# DeepSpeed's JSON, derived from the keys above\n{json.dumps(deepspeed, indent=2)}\n"


def recipe_of(path: str | None) -> str | None:
    """`train/configs/vision.yaml` is for `vision`, and so are `vision-long.yaml` and `vision_2.yaml`."""
    stem = Path(path).stem.replace("_", "-").split("-")[0] if path else None
    return stem if stem in RECIPES else None
