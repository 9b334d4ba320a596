"""Arguments that every training verb shares: --config FILE, key=value overrides, --json."""

from __future__ import annotations

import argparse
from pathlib import Path

from omnivision.config_files import load_config

CONFIGS = Path(__file__).parent / "configs"


def recipe_config(cls: type, name: str, argv: list[str]):
    """Parses a recipe's command line into its config.

    Args:
        cls: the recipe's frozen dataclass. name: the verb, and the default file under train/configs.
        argv: the words after the verb.
    """
    parser = argparse.ArgumentParser(
        prog=f"omnivision train {name}",
        epilog=f"example: omnivision train {name} --config train/configs/{name}.yaml seed=2",
    )
    parser.add_argument("--config", help="YAML file (default: the shipped one)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    known = parser.parse_intermixed_args(argv)
    path = known.config or CONFIGS / f"{name}.yaml"
    return load_config(cls, path, known.overrides)
