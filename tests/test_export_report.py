"""The report of an ONNX export runs the package's own runner."""

from __future__ import annotations

import json

from model_parts import make_image

from omnivision.export import report
from omnivision.export.onnx_files import runner
from omnivision.export.reference import Question


def test_code_that_came_with_an_export_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "vision_encoder.onnx").write_bytes(b"1234")
    (tmp_path / "runner.json").write_text(json.dumps({"variants": ["fp32"], "prompts": {}}))
    (tmp_path / "run.py").write_text("print('{\"peak_bytes\": 1, \"seconds_to_first_token\": 1, \"tokens_per_second\": 1}')")
    make_image(1).save(tmp_path / "a.png")
    asked = []

    def said(command, where):
        asked.append(command)
        return {"peak_bytes": 5, "seconds_to_first_token": 1.0, "tokens_per_second": 2.0}

    monkeypatch.setattr(report, "_said", said)
    found = report._onnx(tmp_path, Question("--json is what?", tmp_path / "a.png"))
    assert found["fp32"]["files"] == {"onnx/vision_encoder.onnx": 4}
    options = runner._options(asked[0][1:])
    assert asked[0][0] == runner.__file__ and options.folder == str(tmp_path) and options.question == "--json is what?" and options.json
