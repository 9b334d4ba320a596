"""README.md of an export: the hub's fields, the figures of its verification, and where the model came from."""

from __future__ import annotations

from pathlib import Path

from omnivision.errors import DataError
from omnivision.runs import HAND_OVER, file_hash, read_json

FILE = "README.md"
DATA = "data_manifest.json"  # of the run, beside final/


def add_card(folder: Path, manifest: dict, source: Path, license_id: str, figures: list[str], library: str = "transformers") -> dict:
    """Write the card into an export that has passed; returns the manifest with its hash.

    Args:
        folder: of the export.
        manifest: of the export.
        source: the checkpoint.
        license_id: the hub's identifier. What the weights and data that the model was made from allow is not known here.
        figures: lines of what was measured.
        library: the hub's name for what loads the files.

    Raises:
        DataError: the run's own files are broken.
    """
    source = source.resolve()
    stage = _json(source / HAND_OVER)
    data = {name: one for name, one in _json(source.parent / DATA).items() if isinstance(one, dict) and "sha256" in one and not one.get("held_out")}
    lines = ["---", f"license: {license_id}", f"library_name: {library}", "pipeline_tag: image-text-to-text", "tags:", "- omnivision", "---", "",
             f"# {source.parent.name} / {source.name}", "", "## Measured", "", *[f"- {one}" for one in figures], "", "## Made from", "",
             f"- weights: `{file_hash(source / 'model.safetensors')}` (SHA-256 of model.safetensors)" if (source / "model.safetensors").is_file()
             else "- weights in several files",
             f"- stage: {stage.get('stage', 'unknown')}, its parent's hash: {stage.get('parent') or 'none'}"]
    lines += [f"- data: `{Path(name).name}`, {one['rows']} rows, SHA-256 `{one['sha256']}`" if "rows" in one else f"- {one.get('part', 'functions')}: `{Path(name).name}`, SHA-256 `{one['sha256']}`"
              for name, one in data.items()] or ["- data: not recorded"]
    lines += ["", "## Licence", "", f"- weights: {license_id}",
              "- language model, vision tower and data keep their own licences; whoever publishes this model names them here", ""]
    (folder / FILE).write_text("\n".join(lines), encoding="utf-8")
    return {**manifest, "sha256": {**manifest["sha256"], FILE: file_hash(folder / FILE)}}


def _json(file: Path) -> dict:
    if not file.is_file():
        return {}
    try:
        said = read_json(file)
        if not isinstance(said, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise DataError(f"broken: {error}", str(file), "Copy it again, or remove it: the model card then says that it is not known.") from error
    return said
