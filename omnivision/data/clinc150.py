"""CLINC150 as functional tokens: 150 intents become 150 functions without arguments, what is out of scope becomes `irrelevant`.

    python -m omnivision.data.clinc150 --data data/clinc150 --out data/clinc --copies 5

Source: Larson et al. 2019, "An evaluation dataset for intent classification and out-of-scope prediction"; clinc/oos-eval, CC BY 3.0.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from omnivision.constants import FUNCTION_FILE
from omnivision.data.flags import within
from omnivision.data.noise import noisy
from omnivision.data.raw import parse
from omnivision.errors import ConfigError, DataError
from omnivision.functions.function import Function
from omnivision.functions.function_set import IRRELEVANT, FunctionSet
from omnivision.runs import write_json, write_text

SPLITS = ("train", "val", "test")
OUT_OF_SCOPE = "oos"  # the label of requests that fit no intent; their lists are named oos_train, oos_val, oos_test
EXAMPLE = "example: python -m omnivision.data.clinc150 --data data/clinc150 --out data/clinc --copies 5"

Request = tuple[str, str]  # text, intent


def read_splits(path: Path) -> dict[str, list[Request]]:
    """The requests of a file in the published layout.

    Args:
        path: {"train": [[text, intent], ...], "oos_train": ..., "val": ..., ...}, any of the lists; or a folder with one such file.

    Returns:
        Split -> its requests, those out of scope last.

    Raises:
        DataError: no such file, several of them, or an entry that is no pair of texts.
    """
    path = layout_file(path)
    content = _object(path)
    if not isinstance(content, dict) or not all(isinstance(one, list) for one in content.values()):
        raise DataError("The file has not the published layout: an object of lists", str(path), "Take data_full.json of clinc/oos-eval.")
    found = {split: [_request(one, f"{path}, {key}[{at}]") for key in (split, f"{OUT_OF_SCOPE}_{split}")
                     for at, one in enumerate(content.get(key, ()))] for split in SPLITS}
    return {split: requests for split, requests in found.items() if requests}


def layout_file(path: Path) -> Path:
    """The file itself, or the one file of a folder that has the published layout.

    Raises:
        DataError: there is none, or there are several.
    """
    if not path.is_dir():
        return path
    files = [one for one in sorted(path.glob("*.json")) if _lists_of(_object(one))]
    if len(files) != 1:
        named = ", ".join(one.name for one in files) or "none"
        raise DataError(f"The folder has {len(files)} files of CLINC150's layout ({named})", str(path), "Name the file, for example data_full.json of clinc/oos-eval.")
    return files[0]


def functions_of(intents: Iterable[str]) -> FunctionSet:
    """A function for each intent, described by its name in words, and `irrelevant`."""
    return FunctionSet(tuple(Function(intent, intent.replace("_", " ").capitalize() + ".") for intent in sorted(intents)))


def row_of(name: str, request: Request) -> dict:
    """A row of the stage functions."""
    text, intent = request
    called = IRRELEVANT if intent == OUT_OF_SCOPE else intent
    return {"id": name, "images": [], "request": text, "calls": [{"name": called, "arguments": {}}]}


def split_off(requests: list[Request], percent: int, seed: int) -> tuple[list[Request], list[Request]]:
    """A development part of every intent.

    Args:
        requests: of one split. percent: of each intent's requests, rounded up.
        seed: of the choice.

    Returns:
        The others, and the part; both in the file's order.
    """
    rng, by_intent = random.Random(seed), defaultdict(list)
    for at, (_, intent) in enumerate(requests):
        by_intent[intent].append(at)
    chosen = {at for _, places in sorted(by_intent.items()) for at in rng.sample(places, -(-len(places) * percent // 100))}
    return [one for at, one in enumerate(requests) if at not in chosen], [one for at, one in enumerate(requests) if at in chosen]


def copies_of(requests: list[Request], copies: int, rng: random.Random) -> list[Request]:
    """Each request so many times in a random order, once as it is and else noisy."""
    found = [(noisy(text, rng) if copy else text, intent) for copy in range(copies) for text, intent in requests]
    return rng.sample(found, len(found))


def convert(data: Path, out: Path, dev: int = 0, copies: int = 1, seed: int = 0) -> dict[str, int]:
    """Writes functions.json and row files by split: <split>.jsonl in scope, <split>_oos.jsonl out of scope.

    A development part is dev.json as well, in the published layout, for evaluation.

    Args:
        data, out: file or folder, and folder. dev: percent of train. copies: of train's rows. seed: of all that is random.

    Returns:
        Name of a row file -> its rows.

    Raises:
        DataError: as `read_splits`, or there is no train split.
        ConfigError: the folder cannot be made, or holds another conversion.
    """
    splits = read_splits(data)
    if "train" not in splits:
        raise DataError("The file has no train split", str(data), "Name the file that has one.")
    if (out / FUNCTION_FILE).exists():  # a development part of before would be trained on
        raise ConfigError("The folder holds another conversion", str(out), "Give another --out, or remove the folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder cannot be made: {error.strerror}", str(out), "Give another --out.") from error
    functions_of({intent for _, intent in splits["train"]} - {OUT_OF_SCOPE}).save(out)
    if dev:
        splits["train"], splits["dev"] = split_off(splits["train"], dev, seed)
    parts = {name: requests for split, both in splits.items() for name, requests in zip((split, f"{split}_{OUT_OF_SCOPE}"), parted(both), strict=True)}
    if dev:
        write_json(out / "dev.json", {"val": parts["dev"], f"{OUT_OF_SCOPE}_val": parts[f"dev_{OUT_OF_SCOPE}"]})
    rng = random.Random(seed)
    for name in ("train", f"train_{OUT_OF_SCOPE}"):
        parts[name] = copies_of(parts[name], copies, rng)
    for name, requests in parts.items():
        rows = [row_of(f"{name}-{at}", one) for at, one in enumerate(requests)]
        write_text(out / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return {name: len(requests) for name, requests in parts.items()}


def parted(requests: list[Request]) -> tuple[list[Request], list[Request]]:
    """Those in scope, and those out of it."""
    return [one for one in requests if one[1] != OUT_OF_SCOPE], [one for one in requests if one[1] == OUT_OF_SCOPE]


def _lists_of(content: object) -> list[str]:
    """The published names of lists that an object has."""
    names = [*SPLITS, *(f"{OUT_OF_SCOPE}_{split}" for split in SPLITS)]
    return [name for name in names if isinstance(content, dict) and isinstance(content.get(name), list)]


def _object(path: Path) -> dict:
    try:
        return parse(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise DataError("CLINC150's requests cannot be read", str(path), f"{error.strerror}; take data_full.json of clinc/oos-eval.") from error
    except ValueError as error:
        raise DataError(f"The file is no JSON: {error}", str(path), "Copy it again.") from error


def _request(entry: object, where: str) -> Request:
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(one, str) and one.strip() for one in entry):
        raise DataError(f"An entry is {str(entry)[:60]!r}, not a request and its intent", where, "Copy the file again.")
    return entry[0], entry[1]


def main(argv: list[str] | None = None) -> int:
    """Run `python -m omnivision.data.clinc150`."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="a file in the published layout, or the folder that holds it")
    parser.add_argument("--out", required=True, type=Path, help="folder for functions.json and the row files")
    parser.add_argument("--dev", type=within("--dev", int, 0, 50), default=0, metavar="PERCENT", help="of train, kept apart to choose settings by (0)")
    parser.add_argument("--copies", type=within("--copies", int, 1, 100), default=1, metavar="N",
                        help="of each training request, all but the first with words left out and misspelt (1)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (0)")
    options = parser.parse_args(argv)
    print(json.dumps(convert(options.data, options.out, options.dev, options.copies, options.seed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
