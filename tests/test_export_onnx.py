"""ONNX export: the graphs in onnxruntime against the checkpoint, the runner without torch, and every way it must refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import export_parts
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from model_parts import make_config, make_image
from PIL import Image

from omnivision.data.image import open_image
from omnivision.errors import ConfigError, DataError, ResumableError
from omnivision.export import verify
from omnivision.export.checkpoint import open_checkpoint
from omnivision.export.fp16_limits import WeightScan
from omnivision.export.folder import hashes_of, read_manifest, write_manifest
from omnivision.export.main import main
from omnivision.export.onnx_files import check, graphs, runner, storage, target, writing
from omnivision.functions import Function, FunctionSet, parse_calls, target_ids
from omnivision.generation import generate_ids
from omnivision.model.checkpoints import load_checkpoint
from omnivision.model.layouts import membership

QUESTIONS = ["Is there a red cat in the image?", "图中有几只猫？", "How many <|im_end|> are there?"]
ORDER = Function("order", "Order a cat.", {"type": "object", "properties": {"item": {"type": "string"}, "count": {"type": "integer"}}, "required": ["item"]})
# What a machine of the runner lacks: importing it there would fail.
WITHOUT_TORCH = "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'omnivision'])); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


save_checkpoint = partial(export_parts.save_checkpoint, functions=FunctionSet((ORDER,)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "final")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    rows = [{"text": QUESTIONS[0]}]
    for index in range(4):
        make_image(index).save(folder / f"{index}.png")
        rows += [{"question_id": f"{index}", "text": text, "image": f"{index}.png"} for text in QUESTIONS]
    (folder / "ask.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "ask.jsonl"


@pytest.fixture(scope="module")
def exported(checkpoint, questions, tmp_path_factory):
    """One export with every variant; the decoder's weights lie beside it, the vision tower's within."""
    out = tmp_path_factory.mktemp("phone") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "verify_in_new_process", verify.verify_folder)
        patch.setattr(target, "check_gate", lambda *_: None)  # 8 bits do not serve random weights
        patch.setattr(writing, "ONE_FILE", 230_000)
        return out, target.export_onnx(checkpoint, out, ["int8", "fp32", "fp16"], questions, count=25)


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_checkpoint(checkpoint, "cpu")


def test_every_variant_answers_as_the_checkpoint(exported):
    out, result = exported
    found = result["variants"]
    assert list(found) == ["fp32", "fp16", "int8"] and result["questions"] == 13 and result["format"] == "onnx"
    check.check_gate({**result, "variants": {name: found[name] for name in ("fp32", "fp16")}}, out)
    assert found["fp32"]["max_abs_logprob_diff"] < 1e-4 < found["fp16"]["max_abs_logprob_diff"] < 0.05
    assert found["fp32"]["equal_answers"] == 13
    assert found["fp16"]["max_abs_engine_diff"] < 1e-4 and found["int8"]["max_abs_engine_diff"] is None
    assert found["int8"]["top1_agreement"] > 60
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_the_layout_is_the_one_that_transformers_js_looks_for(exported):
    out, result = exported
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "llava" and config["transformers.js_config"]["dtype"] == "fp32"
    for suffix in ("", "_fp16", "_int8"):
        assert {f"onnx/{name}{suffix}.onnx" for name in ("vision_encoder", "embed_tokens", "decoder_model_merged")} <= set(result["bytes"])
    assert config["transformers.js_config"]["use_external_data_format"] == {"decoder_model_merged.onnx": True}
    assert "onnx/decoder_model_merged.onnx_data" in result["bytes"]
    decoder = onnxruntime.InferenceSession(out / "onnx" / "decoder_model_merged.onnx")
    shapes = {one.name: one.shape for one in [*decoder.get_inputs(), *decoder.get_outputs()]}
    assert shapes["inputs_embeds"][:2] == ["batch_size", "sequence_length"] and shapes["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert shapes["past_key_values.1.value"] == ["batch_size", 2, "past_sequence_length", 12] and "present.1.value" in shapes


def test_stored_bytes_shrink_as_they_should(exported):
    size = {file.name: sum(value.const_value.nbytes for value in ir.load(file).graph.initializers.values()) for file in (exported[0] / "onnx").glob("*.onnx")}
    for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"):
        assert size[f"{name}_int8.onnx"] < 0.75 * size[f"{name}_fp16.onnx"] < 0.45 * size[f"{name}.onnx"]


def test_rows_of_a_batch_may_be_padded_on_the_left(exported, loaded):
    model, _ = loaded
    decoder = onnxruntime.InferenceSession(exported[0] / "onnx" / "decoder_model_merged.onnx")
    torch.manual_seed(1)
    embeds_BLD = torch.randn(2, 7, 48)
    mask_BL = torch.tensor([[1] * 7, [0, 0, 0, 1, 1, 1, 1]])
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        hidden = model.model.language_model(inputs_embeds=embeds_BLD, attention_mask=mask_BL, position_ids=positions_BL).last_hidden_state
        expected_BLV = model.lm_head(hidden).numpy()
    cache = {one.name: np.zeros((2, 2, 0, 12), np.float32) for one in decoder.get_inputs() if one.name.startswith("past")}
    for start, stop in ((0, 4), (4, 6), (6, 7)):  # a prompt, several tokens on top of it, one token
        inputs = {"inputs_embeds": embeds_BLD[:, start:stop].numpy(), "attention_mask": mask_BL[:, :stop].numpy(),
                  "position_ids": positions_BL[:, start:stop].numpy()}
        logits_BLV, *present = decoder.run(None, {**inputs, **cache})
        cache = dict(zip(cache, present))
        real = mask_BL[:, start:stop].bool().numpy()
        np.testing.assert_allclose(logits_BLV[real], expected_BLV[:, start:stop][real], atol=1e-4)


@pytest.mark.parametrize("name", ["rgb.png", "alpha.png", "palette.webp", "turned.jpg", "deep.png", "small.jpg"])
def test_the_runner_sees_the_processors_pixels(exported, loaded, tmp_path, name):
    picture, options = make_image(5, (131, 77)), {}
    if name == "alpha.png":
        picture.putalpha(Image.fromarray(np.arange(131 * 77, dtype=np.uint8).reshape(77, 131)))
    elif name == "deep.png":
        picture = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (77, 131), dtype=np.uint16))
    elif name == "turned.jpg":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    elif name == "small.jpg":
        picture = picture.resize((9, 31))
    picture.save(tmp_path / name, **options)
    seen = runner.Runner(exported[0]).pixels(runner.open_picture(tmp_path / name))
    np.testing.assert_array_equal(seen, loaded[1].pixels([tmp_path / name]).numpy())
    np.testing.assert_array_equal(seen, loaded[1].image_processor([open_image(tmp_path / name)], return_tensors="np")["pixel_values"])


def test_the_runner_works_where_there_is_no_torch(exported, loaded, questions, tmp_path):
    copy = tmp_path / "device"
    shutil.copytree(exported[0], copy)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(copy / "run.py"), "--questions", str(questions), "--answers", str(tmp_path / "answers.jsonl"),
               "--max-new-tokens", "8", "--variant", "fp32", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    images = [questions.parent / row["image"] if row.get("image") else None for row in rows]
    assert [one["ids"] for one in answers] == generate_ids(*loaded, [row["text"] for row in rows], images, 8)
    assert [one["question_id"] for one in answers] == [row.get("question_id") for row in rows]
    assert answers[3]["text"] == loaded[1].tokenizer.decode(answers[3]["ids"], skip_special_tokens=True).strip()


def test_an_export_without_variants_proves_nothing(exported, tmp_path):
    copy = shutil.copytree(exported[0], tmp_path / "copy")
    settings = json.loads((copy / "runner.json").read_text(encoding="utf-8"))
    (copy / "runner.json").write_text(json.dumps({**settings, "variants": []}), encoding="utf-8")
    write_manifest(copy, {**read_manifest(copy), "sha256": hashes_of(copy)})
    with pytest.raises(DataError, match="names no variant"):
        check.verify(copy)


def test_pictures_of_a_question_file_lie_in_its_folder(exported, questions, tmp_path):
    (tmp_path / "ask.jsonl").write_text(json.dumps({"text": QUESTIONS[0], "image": f"../{questions.parent.name}/0.png"}) + "\n")
    with pytest.raises(ValueError, match="lies outside"):
        runner.main(["--folder", str(exported[0]), "--questions", str(tmp_path / "ask.jsonl"), "--answers", str(tmp_path / "answers.jsonl")])


def test_a_question_file_is_judged_before_an_answer_is_written(exported, questions, tmp_path, capsys):
    asked, answers = shutil.copy(questions, tmp_path / "ask.jsonl"), tmp_path / "answers.jsonl"
    given = ["--folder", str(exported[0]), "--image-root", str(questions.parent), "--max-new-tokens", "1", "--questions", str(asked), "--answers"]
    (tmp_path / "same.jsonl").symlink_to(asked)
    with pytest.raises(SystemExit):
        runner.main([*given, str(tmp_path / "same.jsonl")])
    assert "--answers would replace" in capsys.readouterr().err and asked.read_bytes() == questions.read_bytes()
    for line in ('{"question": "What?"}', "[]", '{"text": "a", "image": 3}', "nonsense"):
        asked.write_text(questions.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"ask\.jsonl:15 is no JSON object with a text"):
            runner.main([*given, str(answers)])
    asked.write_text('{"text": "a"}\n\n{"text": "a", "image": "none.png"}\n', encoding="utf-8")
    answers.write_text("older")
    with pytest.raises(FileNotFoundError):
        runner.main([*given, str(answers)])
    assert answers.read_text() == "older" and len((tmp_path / "answers.jsonl.partial").read_text().splitlines()) == 1


@pytest.mark.parametrize("words, message", [(["--image", "none.png", "What?"], "none.png"), (["--variant", "fp16", "What?"], "holds fp32, not fp16")])
def test_the_runner_says_what_is_wrong_in_a_line(exported, tmp_path, words, message):
    copy = shutil.copytree(exported[0], tmp_path / "copy")
    settings = json.loads((copy / "runner.json").read_text(encoding="utf-8"))
    (copy / "runner.json").write_text(json.dumps({**settings, "variants": ["fp32"]}), encoding="utf-8")
    done = subprocess.run([sys.executable, str(copy / "run.py"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("run.py: ") and message in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_runner_answers_one_question(exported, questions, capsys):
    assert runner.main(["--folder", str(exported[0]), "--image", str(questions.parent / "0.png"), "--json", "--max-new-tokens", "3", QUESTIONS[0]]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert runner.main(["--folder", str(exported[0]), "--image", str(questions.parent / "0.png"), "--max-new-tokens", "1", ""]) == 0
    assert 0 < len(answer["ids"]) <= 3 and answer["seconds_to_first_token"] > 0 and answer["peak_bytes"] > 1e7 and answer["calls"] == []
    with pytest.raises(ValueError, match="not int4"):
        runner.Runner(exported[0], "int4")


def test_the_runner_reads_calls_as_the_library_does(exported, loaded):
    words, functions, tiny = loaded[1].tokenizer, FunctionSet.load(exported[0]), runner.Runner(exported[0])
    one = target_ids({"name": "order", "arguments": {"item": "red <nexa_end> cat", "count": 2}}, words, functions)
    both = [*one, *words.encode(" done", add_special_tokens=False), *target_ids({"name": "irrelevant", "arguments": {}}, words, functions)]
    expected = [{"name": call.name, "arguments": call.arguments} for call in parse_calls(both, words, functions)]
    assert tiny.calls(both) == expected and len(expected) == 2
    spelled = words.encode("<nexa_0>(item='x')<nexa_end>", add_special_tokens=False, split_special_tokens=True)
    assert tiny.calls(spelled) == []


@pytest.mark.parametrize("text", ["(item='a', item='b')", "(count=2)", "(item='a', size=3)", "(item=open('x'))", "(item='a'", "(item='a') + 1", "('a', 2, 3)",
                                  "(item='a', **{'count': 1, 'count': 2})", "(item=b'a')", "(item='a', count=(1,))", "(item={1})"])
def test_the_runner_refuses_what_is_no_argument_list(exported, loaded, text):
    words, functions, tiny = loaded[1].tokenizer, FunctionSet.load(exported[0]), runner.Runner(exported[0])
    start, end = (words.convert_tokens_to_ids(token) for token in ("<nexa_0>", "<nexa_end>"))
    ids = [start, *words.encode(text, add_special_tokens=False), end]
    assert not parse_calls(ids, words, functions)
    assert [set(call) for call in tiny.calls(ids)] == [{"name", "error"}]


def test_broken_calls_among_ids(exported, loaded):
    words, tiny = loaded[1].tokenizer, runner.Runner(exported[0])
    start, end, control = (words.convert_tokens_to_ids(token) for token in ("<nexa_0>", "<nexa_end>", "<|im_end|>"))
    item = words.encode("(item='a')", add_special_tokens=False)
    for ids in ([start, *item], [start, *item, control, end], [end, start]):
        assert [set(call) for call in tiny.calls(ids)] == [{"name", "error"}]
    inside = [start, *item[:-1], start, *item, end]
    for ids in ([start, start, *item, end], inside, [*inside, *item[-1:], end]):  # what was asked for as a part of a call is no call
        assert [set(call) for call in tiny.calls(ids)] == [{"name", "error"}]
    assert [set(call) for call in tiny.calls([*inside, *item[-1:], end, start, *item, end])] == [{"name", "error"}, {"name", "arguments"}]
    assert tiny.calls([end]) == []


def rewritten(tmp_path, rewrite, values, kind):
    """Runs a graph of one product or one gather before and after its weights are stored otherwise."""
    table = ir.Value(name="table", const_value=ir.tensor(values, name="table"), shape=ir.Shape(values.shape), type=ir.TensorType(ir.DataType.FLOAT))
    wanted = ir.DataType.FLOAT if kind == "MatMul" else ir.DataType.INT64
    x = ir.Value(name="x", shape=ir.Shape(["rows", "length", values.shape[0]] if kind == "MatMul" else ["rows", "length"]), type=ir.TensorType(wanted))
    node = ir.node(kind, [x, table] if kind == "MatMul" else [table, x])
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], initializers=[table], opset_imports={"": graphs.OPSET}), ir_version=10)
    rewrite(model)
    ir.save(model, tmp_path / "one.onnx")
    assert [value.name for value in model.graph.outputs] == ["y"] and "table" not in model.graph.initializers
    return onnxruntime.InferenceSession(tmp_path / "one.onnx")


def test_products_of_bytes_by_hand(tmp_path):
    dice = np.random.default_rng(0)
    values = dice.normal(size=(70, 32)).astype(np.float32) * np.linspace(0.01, 10, 32, dtype=np.float32)
    values[:, 3] = 0
    session = rewritten(tmp_path, storage.store_int8, values, "MatMul")
    ones = np.eye(70, dtype=np.float32).reshape(10, 7, 70)  # each picks one row of the table, and needs no rounding itself
    step = np.stack([np.abs(values[start:start + 32]).max(0) / 127 for start in (0, 32, 64)]).repeat(32, 0)[:70]
    step[step == 0] = 1
    np.testing.assert_allclose(session.run(None, {"x": ones})[0].reshape(70, 32), np.rint(values / step) * step, rtol=1e-5, atol=1e-6)
    x = dice.normal(size=(2, 3, 70)).astype(np.float32)
    found = session.run(None, {"x": x})[0]
    assert np.abs(found - x @ values).max() < 0.02 * np.abs(x @ values).max() and np.abs(found[..., 3]).max() < 1e-3


def test_rows_of_bytes_and_halves_by_hand(tmp_path):
    values = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32) * np.linspace(0.01, 10, 64, dtype=np.float32)[:, None]
    ids = np.array([[0, 63, 5], [5, 1, 2]])
    found = rewritten(tmp_path, storage.store_int8, values, "Gather").run(None, {"x": ids})[0]
    step = np.abs(values).max(1, keepdims=True) / 127
    np.testing.assert_allclose(found, (np.rint(values / step) * step)[ids], rtol=1e-6)
    half = rewritten(tmp_path, storage.store_fp16, values, "Gather").run(None, {"x": ids})[0]
    np.testing.assert_array_equal(half, values.astype(np.float16).astype(np.float32)[ids])
    assert (tmp_path / "one.onnx").stat().st_size < 64 * 32 * 2 + 500


def tampered(exported, tmp_path, change):
    copy = tmp_path / "copy"
    shutil.copytree(exported[0], copy)
    change(copy)
    write_manifest(copy, {**read_manifest(copy), "sha256": hashes_of(copy)})
    return copy


def test_a_raster_model_written_as_blocks_does_not_verify(exported, tmp_path):
    """Greedy words can agree all the same: the log-probabilities must not."""
    def change(folder):
        file = folder / "onnx" / "vision_encoder.onnx"
        model = ir.load(file)
        features = [node for node in model.graph if node.op_type == "LayerNormalization"][-1].outputs[0]
        order = storage._constant(model.graph, "order", membership("block", 9, 9).flatten().numpy())
        tiles = ir.node("Gather", [features, order], {"axis": 1})
        features.replace_all_uses_with(tiles.outputs[0])
        tiles.replace_input_with(0, features)
        model.graph.insert_after(features.producer(), tiles)
        ir.save(model, file)

    result = verify.verify_folder(tampered(exported, tmp_path, change))
    with pytest.raises(DataError, match="fp32: .* the gate is"):
        check.check_gate({**result, "variants": {"fp32": result["variants"]["fp32"]}}, tmp_path)


@pytest.mark.parametrize("change, message", [
    (lambda folder: (folder / "onnx" / "vision_encoder.onnx").write_bytes(b"no graph"), "fp32 graphs do not load"),
    (lambda folder: (folder / "rounded.jsonl").write_text("[0.5]\n"), "other answers of the rounded weights"),
    (lambda folder: (folder / "rounded.jsonl").unlink(), "no answers of the rounded weights"),
    (lambda folder: (folder / "runner.json").write_text((folder / "runner.json").read_text().replace('"text": [', '"text": [[5], [5]], "other": [')), "another prompt"),
])
def test_a_damaged_export_does_not_verify(exported, tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        verify.verify_folder(tampered(exported, tmp_path, change))


def test_a_flipped_bit_is_seen(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported[0], copy)
    file = copy / "onnx" / "decoder_model_merged.onnx_data"
    body = bytearray(file.read_bytes())
    body[-3] ^= 1
    file.write_bytes(body)
    with pytest.raises(DataError, match="onnx_data has changed"):
        verify.verify_folder(copy)


def refused(out, error, message, *args, **kwargs):
    with pytest.raises(error, match=message):
        target.export_onnx(*args, out_dir=out, **{"count": 1, **kwargs})
    assert not out.exists() and list(out.parent.glob(".*")) == []


def test_a_language_model_without_plain_keys_and_values_is_refused(tmp_path):
    text = {**make_config().text_config.to_dict(), "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0, "layer_types": None}
    refused(tmp_path / "out", ConfigError, "DynamicSlidingWindowLayer.*full attention", save_checkpoint(tmp_path / "final", text_config=text))


def test_what_the_exporter_cannot_trace_is_named(checkpoint, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no symbolic for op")

    monkeypatch.setattr(graphs, "_vision", fail)
    refused(tmp_path / "out", ConfigError, "vision_encoder cannot be expressed in ONNX: no symbolic for op.*qwen2", checkpoint)


def test_a_full_disk_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "graphs", lambda checkpoint: [("vision_encoder", ir.Model(ir.Graph([], [], nodes=[]), ir_version=10))])
    monkeypatch.setattr(ir, "save", full)
    refused(tmp_path / "out", ResumableError, "disk is full", checkpoint)


def test_a_missing_package_is_named(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused(tmp_path / "out", ConfigError, "onnxscript is not installed.*bash scripts/setup.sh", checkpoint)


def test_broken_checkpoints_are_refused(checkpoint, tmp_path):
    copy = tmp_path / "final"
    shutil.copytree(checkpoint, copy)
    body = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(body[: len(body) // 2])
    refused(tmp_path / "out", DataError, "cannot be read", copy)
    refused(tmp_path / "out", ConfigError, "no checkpoint", tmp_path / "none")
    refused(tmp_path / "out", ConfigError, "0 questions", checkpoint, count=0)
    with pytest.raises(ConfigError, match="exists already"):
        target.export_onnx(checkpoint, tmp_path)


def test_numbers_that_fp16_cannot_hold_are_refused(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(target, "scan_weights", lambda tensors: WeightScan(beyond=["projector: 1e6 is beyond FP16's 65504"]))
    refused(tmp_path / "out", DataError, "beyond FP16.*--quantize fp32", checkpoint, variants=["fp16"])


def test_settings_that_engines_do_not_apply_are_told(exported, checkpoint, tmp_path, capsys):
    copy = shutil.copytree(checkpoint, tmp_path / "final")
    said = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**said, "repetition_penalty": 1.3, "num_beams": 1, "temperature": 0.7, "do_sample": True}))
    assert open_checkpoint(copy).not_applied == {"repetition_penalty": 1.3} and exported[1]["not_applied"] == {}
    check.show({**exported[1], "not_applied": open_checkpoint(copy).not_applied})
    assert "not applied here, the most likely token is taken: repetition_penalty 1.3" in capsys.readouterr().out


def test_the_command_line(exported, capsys, monkeypatch):
    monkeypatch.setattr(verify, "verify_in_new_process", lambda *_: {**exported[1], "variants": {"fp32": exported[1]["variants"]["fp32"]}})
    assert main(["verify", str(exported[0])]) == 0
    assert "fp32 in onnxruntime" in (shown := capsys.readouterr().out) and "13 of 13 answers equal" in shown
    with pytest.raises(SystemExit):
        main(["onnx", "--model", "a", "--out", "b", "--quantize", "int4"])


@pytest.mark.network
@pytest.mark.skipif(not shutil.which("npm"), reason="needs node and npm")
def test_transformers_js_answers_the_same(exported, tmp_path):
    """Installs transformers.js from the npm registry. The pictures need no resizing, for its filter is not Pillow's."""
    subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "@huggingface/transformers@4.3.1"], check=True)
    script = shutil.copy(Path(__file__).with_name("ask_transformers_js.mjs"), tmp_path)
    asked = [{"text": QUESTIONS[0]}]
    for index in range(3):
        make_image(index, (54, 54)).save(tmp_path / f"{index}.png")
        asked += [{"text": text, "image": str(tmp_path / f"{index}.png")} for text in QUESTIONS[:2]]
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    for variant in ("default", "fp16", "int8"):
        done = subprocess.run(["node", script, str(exported[0]), str(tmp_path / "asked.json"), variant, "8"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        tiny = runner.Runner(exported[0], "fp32" if variant == "default" else variant)
        expected = [list(tiny.tokens(one["text"], runner.open_picture(one["image"]) if "image" in one else None, 8)) for one in asked]
        assert list(map(json.loads, done.stdout.splitlines())) == expected, variant


# -- asked by the benchmarks


def test_a_benchmark_asks_the_export_what_it_asks_the_checkpoint(exported, checkpoint):
    from omnivision_eval.models import source_of
    from omnivision_eval.prompts import Picture, Prompt

    prompts = [Prompt(text, () if shown is None else (Picture.of(make_image(shown)),), 9) for text, shown in zip(QUESTIONS * 2, (0, 1, 2, None, 0, 3))]
    one, other = source_of(checkpoint).open().answer_all(prompts, 3), source_of(exported[0], dtype="float32").open().answer_all(prompts, 3)
    assert [(answer.ids, str(answer), answer.cut) for answer in other.values()] == [(answer.ids, str(answer), answer.cut) for answer in one.values()]
    blind = source_of(exported[0], blank=True).open().answer_all(prompts, 3)
    for text in QUESTIONS[1:]:  # asked about two pictures each
        assert len({answer.ids for prompt, answer in blind.items() if prompt.pictures and prompt.text == text}) == 1


def test_an_export_of_another_kind_of_asking_is_refused(exported):
    from omnivision_eval.models import source_of
    from omnivision_eval.prompts import Picture, Prompt

    with pytest.raises(ConfigError, match="answers freely"):
        source_of(exported[0], constrain=True)
    with pytest.raises(ConfigError, match="holds fp32, fp16, int8, not bfloat16"):
        source_of(exported[0], dtype="bfloat16").open()
    two = tuple(Picture.of(make_image(index)) for index in range(2))
    with pytest.raises(ConfigError, match="has 2 pictures"):
        source_of(exported[0]).open().answer_all([Prompt("two", two, 3)], 1)


def test_calls_of_an_export_are_read_from_its_ids(exported, loaded):
    from omnivision_eval.exported import Exported

    asked, tokenizer = Exported(exported[0], "fp32"), loaded[1].tokenizer
    ids = target_ids([{"name": "order", "arguments": {"item": "red cat", "count": 2}}], tokenizer, FunctionSet.load(exported[0]))
    assert asked._read(ids, 99).calls == [{"name": "order", "arguments": {"item": "red cat", "count": 2}}]
    broken = asked._read(ids[:-2], 99)
    assert broken.calls == [] and "does not end" in broken.fault


def test_a_report_measures_every_variant(exported):
    from omnivision.export.report import report

    out, result = exported
    found = report(out)["types"]
    assert set(found) == {"fp32", "fp16", "int8"}
    files = [name for one in found.values() for name in one["files"]]
    assert sorted(files) == sorted(name for name in result["bytes"] if name.startswith("onnx/"))  # each file once
    for one in found.values():
        assert one["disk_bytes"] == sum(result["bytes"][name] for name in one["files"]) and 20e6 < one["peak_bytes"] < 400e6
