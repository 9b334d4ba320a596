"""Nothing that is saved tells where parts and checkpoints lay on the machine that made it."""

from __future__ import annotations

import json

import pytest
import train_world
from export_parts import save_checkpoint

from omnivision.export import fp16, verify
from omnivision.export.checkpoint import open_checkpoint
from omnivision.export.onnx_files.layout import write_layout
from omnivision.functions import Function, FunctionSet

PARTS = "/home/someone/parts"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One whose config.json names the place of its parts, as transformers writes it."""
    folder = save_checkpoint(tmp_path_factory.mktemp("run") / "final", FunctionSet((Function("order", "Order a cat."),)))
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part]["_name_or_path"] = PARTS
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def files_with(folder, *texts: str) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [path.name for path in files if any(text.encode() in path.read_bytes() for text in texts)]


def test_a_stages_result(tmp_path, tmp_path_factory):
    world = train_world.world(tmp_path_factory)
    final = train_world.train(train_world.settings(world, tmp_path, "align", max_steps=1), "align")
    assert files_with(final, str(world.folder)) == []


def test_an_fp16_export(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(fp16, "verify_in_new_process", verify.verify_folder)
    fp16.export_fp16(checkpoint, tmp_path / "phone")
    assert files_with(tmp_path / "phone", PARTS, str(checkpoint)) == []


def test_the_layout_of_an_onnx_export(checkpoint, tmp_path):
    write_layout(tmp_path, open_checkpoint(checkpoint), ["fp32"], [])
    assert files_with(tmp_path, PARTS, str(checkpoint)) == []
