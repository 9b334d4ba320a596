"""`omnivision export report`: what an export takes on the disk and in memory, and how fast it answers, in its engine."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from omnivision.data.image import open_image
from omnivision.errors import ConfigError, DataError
from omnivision.export.folder import check_hashes

if TYPE_CHECKING:
    from omnivision.export.reference import Question

HELP = "bytes, peak memory, time to the first token and decoding rate of an export in its engine"
DESCRIPTION = (
    "Asks one of the export's own questions about a picture in a process that holds nothing but the engine, for every type, and sets the "
    "figures beside the published size of OmniVision-968M."
)
EXAMPLE = "omnivision export report phone"
PUBLISHED = "Published for OmniVision-968M: 988 MB of memory and 948 MB on disk, FP16. Its language model alone has 494,032,768 x 2 bytes = 988 MB " \
            "(its file 994 MB); with the picture part FP16 is about 1.95 GB."
ALONE = Path(__file__).parent / "gguf" / "alone.py"
LIMIT = 1800  # seconds of one process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `report`."""
    parser.add_argument("folder", metavar="DIR", help="what `omnivision export gguf` or `onnx` wrote")


def run(args: argparse.Namespace) -> dict:
    """Measures every type that the folder holds."""
    return report(args.folder)


def report(folder: str | Path) -> dict:
    """Bytes and speed by type.

    Returns:
        {"format", "question", "types": {type: {"files": {name: bytes}, "disk_bytes", "peak_bytes", "seconds_to_first_token", "tokens_per_second"}}}

    Raises:
        ConfigError: no export, or one that has no engine of its own (fp16). DataError: a file that changed; no question about a picture; the
            engine fails.
    """
    from omnivision.export.reference import read_reference

    folder = Path(folder)
    manifest = check_hashes(folder)
    question = next((one for one, _ in read_reference(folder) if one.image is not None), None)
    if question is None:
        raise DataError("The reference has no question about a picture", str(folder), "Export again with one.")
    measure = {"gguf": _gguf, "onnx": _onnx}.get(manifest["format"])
    if measure is None:
        raise ConfigError(f"An export of the kind {manifest['format']!r} has no engine of its own", str(folder),
                          "Give an export of gguf or onnx; `omnivision bench` measures a checkpoint.")
    return {"format": manifest["format"], "question": question.text, "types": measure(folder, question)}


def _gguf(folder: Path, question: Question) -> dict[str, dict]:
    from omnivision.export.gguf.check import checked_manifest, prepared_picture

    manifest = checked_manifest(folder)
    found = {}
    with tempfile.TemporaryDirectory() as room:
        picture = Path(room) / "picture.png"
        prepared_picture(question, manifest["picture"]).save(picture)
        for name, files in manifest["files"].items():
            said = _said([str(ALONE), *(str(folder / file) for file in files), str(picture), question.text], f"{folder}, {name}")
            found[name] = _figures(folder, files, said)
    return found


def _onnx(folder: Path, question: Question) -> dict[str, dict]:
    from omnivision.export.onnx_files import runner
    from omnivision.export.onnx_files.check import named_variants

    found = {}
    with tempfile.TemporaryDirectory() as room:
        picture = Path(room) / "picture.png"
        open_image(question.image).save(picture)
        for name in named_variants(folder):
            files = [one.relative_to(folder).as_posix() for one in sorted((folder / "onnx").iterdir()) if _variant(one) == name]
            # the runner from here: what stands in the folder as run.py is whatever came with it
            said = _said([runner.__file__, "--folder", str(folder), "--variant", name, "--image", str(picture), "--json", "--", question.text],
                         f"{folder}, {name}")
            found[name] = _figures(folder, files, said)
    return found


def _variant(file: Path) -> str:
    """Which variant a graph, or the weights beside it, belongs to."""
    from omnivision.export.onnx_files.runner import SUFFIXES

    stem = file.name.partition(".onnx")[0]
    return next((name for name, suffix in SUFFIXES.items() if suffix and stem.endswith(suffix)), "fp32")


def _said(command: list[str], where: str) -> dict:
    """What a Python program prints as its last line."""
    # -P: the program's own folder holds modules with names of the standard library's
    done = subprocess.run([sys.executable, "-P", *command], capture_output=True, text=True, timeout=LIMIT, check=False)
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise DataError(f"The engine did not answer: {' '.join(done.stderr.split())[-300:]}", where, "Verify the export with `omnivision export verify`.") from error


def _figures(folder: Path, files: list[str], said: dict) -> dict:
    sizes = {name: (folder / name).stat().st_size for name in files}
    return {"files": sizes, "disk_bytes": sum(sizes.values()), **{key: said[key] for key in ("peak_bytes", "seconds_to_first_token", "tokens_per_second")}}


def show(result: dict) -> None:
    """A table, and what has been published."""
    print("| type | on disk (MB) | peak memory (MB) | first token (s) | tokens/s |\n|---|---|---|---|---|")
    for name, one in result["types"].items():
        rate = "–" if one["tokens_per_second"] is None else f"{one['tokens_per_second']:.1f}"
        print(f"| {name} | {one['disk_bytes'] / 1e6:,.1f} | {one['peak_bytes'] / 1e6:,.1f} | {one['seconds_to_first_token']:.3f} | {rate} |")
    print(PUBLISHED)
