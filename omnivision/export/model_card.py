"""README.md of an export: the hub's fields, the figures of its verification, and where the model came from."""

from __future__ import annotations

import json
from pathlib import Path

from omnivision.export.folder import file_hash

FILE = "README.md"
DATA = "data_manifest.json"  # of the run, beside final/
HAND_OVER = "omnivision.json"  # of a stage, in final/


def add_card(folder: Path, manifest: dict, source: Path, license_id: str, figures: list[str], library: str = "transformers") -> dict:
    """Write the card into an export that has passed; returns the manifest with its hash.

    Args:
        folder: of the export.
        manifest: of the export.
        source: the checkpoint.
        license_id: the hub's identifier. What the weights and data that the model was made from allow is not known here.
        figures: lines of what was measured.
        library: the hub's name for what loads the files.
    """
    stage = _json(source / HAND_OVER)
    data = {name: one for name, one in _json(source.parent / DATA).items() if isinstance(one, dict) and "sha256" in one}
    lines = ["---", f"license: {license_id}", f"library_name: {library}", "pipeline_tag: image-text-to-text", "tags:", "- omnivision", "---", "",
             f"# {source.resolve().parent.name} / {source.resolve().name}", "", "## Measured", "", *[f"- {one}" for one in figures], "", "## Made from", "",
             f"- weights: `{file_hash(source / 'model.safetensors')}` (SHA-256 of model.safetensors)" if (source / "model.safetensors").is_file()
             else "- weights in several files",
             f"- stage: {stage.get('stage', 'unknown')}, its parent's hash: {stage.get('parent') or 'none'}"]
    lines += [f"- data: `{Path(name).name}`, {one.get('rows', '?')} rows, SHA-256 `{one['sha256']}`" for name, one in data.items()] or ["- data: not recorded"]
    lines += ["", "## Licence", "", f"- weights: {license_id}",
              "- language model, vision tower and data keep their own licences; whoever publishes this model names them here", ""]
    (folder / FILE).write_text("\n".join(lines), encoding="utf-8")
    return {**manifest, "sha256": {**manifest["sha256"], FILE: file_hash(folder / FILE)}}


def _json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
