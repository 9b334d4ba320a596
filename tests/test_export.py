"""FP16 export: whole or not at all, proved in a new process, and every way it must refuse."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from functools import partial
from pathlib import Path

import export_parts
import pytest
import torch
from model_parts import make_image, make_model
from omnivision_cli.failures import TERMINATED
from omnivision_cli.main import main as command
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2Config
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP

from omnivision.errors import ConfigError, DataError, ResumableError, is_disk_full
from omnivision.export import fp16, fp16_check, verify
from omnivision.export.folder import whole_or_nothing
from omnivision.export.fp16_limits import refuse_activations, scan_weights, watch_activations
from omnivision.export.main import main
from omnivision.export.model_card import add_card
from omnivision.export.reference import Question, gather_questions, greedy_steps, next_token, plain_questions, read_questions
from omnivision.functions import Function, FunctionSet
from omnivision.generation import generate_ids
from omnivision.runs import file_hash

QUESTIONS = ["Is there a red cat in the image?", "图中有几只猫？", "How many <|im_end|> are\u2028there?"]


FUNCTIONS = FunctionSet((Function("order", "Order a cat."),))
save_checkpoint = partial(export_parts.save_checkpoint, functions=FUNCTIONS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("run") / "final")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "images").mkdir()
    rows = [{"text": QUESTIONS[0]}]
    for index in range(8):
        make_image(index).save(folder / "images" / f"{index}.png")
        rows += [{"text": text, "image": f"images/{index}.png"} for text in QUESTIONS]
    (folder / "ask.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return folder / "ask.jsonl"


@pytest.fixture(scope="module")
def exported(checkpoint, questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("phone") / "model"
    return out, fp16.export_fp16(checkpoint, out, questions, count=25, scan_pictures=11)


@pytest.fixture
def in_process(monkeypatch):
    """Spares the tests of refusals a new interpreter each."""
    for module in (fp16, verify):
        monkeypatch.setattr(module, "verify_in_new_process", verify.verify_folder)


def test_an_export_is_fp16_in_the_hubs_layout_and_agrees(exported, checkpoint):
    out, result = exported
    assert result["top1_agreement"] == 100 and result["questions"] == 25
    assert 0 < result["max_abs_logprob_diff"] < 0.1  # rounded, and not by much
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "functions.json",
        "reference.jsonl",
        "reference/",
    } <= set(result["bytes"])
    assert all(tensor.dtype == torch.float16 for tensor in load_file(out / "model.safetensors").values())
    assert result["bytes"]["model.safetensors"] < 0.52 * (checkpoint / "model.safetensors").stat().st_size
    assert len(list((out / "reference").iterdir())) == 8  # one file a picture, however many questions
    assert FunctionSet.load(out) == FunctionSet.load(checkpoint)
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    model = AutoModelForImageTextToText.from_pretrained(out)
    assert model.dtype == torch.float16
    assert AutoProcessor.from_pretrained(out).tokenizer.convert_tokens_to_ids("<nexa_0>") > 0


def test_the_reference_is_the_fp32_checkpoints(exported, checkpoint, questions):
    out, _ = exported
    row = json.loads((out / "reference.jsonl").read_text(encoding="utf-8").splitlines()[1])
    model, processor = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32), AutoProcessor.from_pretrained(checkpoint)
    ids, logprobs = next_token(model, processor, Question(row["text"], questions.parent / "images" / "0.png"))
    assert row["input_ids"] == ids and row["top_ids"][0] == int(logprobs.argmax())
    assert row["top_logprobs"][0] == pytest.approx(float(logprobs.max()), abs=1e-4)


def test_the_reference_takes_the_most_likely_token(checkpoint, questions):
    model, processor = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32), AutoProcessor.from_pretrained(checkpoint)
    asked = Question(QUESTIONS[0], questions.parent / "images" / "0.png")
    expected, (ids, steps) = generate_ids(model, processor, [asked.text], [asked.image], 12)[0], greedy_steps(model, processor, asked, 12)
    assert [int(step.argmax()) for step in steps] == expected and ids == next_token(model, processor, asked)[0]
    model.generation_config.repetition_penalty, model.generation_config.eos_token_id = 9.0, [expected[3]]
    assert [int(step.argmax()) for step in greedy_steps(model, processor, asked, 12)[1]] == expected[:1 + expected.index(expected[3])]


def test_verify_prints_json_alone_on_stdout(exported, in_process, capsys):
    out, result = exported
    assert main(["verify", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        key: result[key] for key in ("format", "bytes", "top1_agreement", "questions", "max_abs_logprob_diff", "compute")
    }
    assert main(["verify", str(out)]) == 0
    assert "100.00 % of 25 questions" in capsys.readouterr().out


def test_json_stays_alone_when_a_library_prints(monkeypatch, capsys):
    def noisy(*_, **__):
        print("a library logs to stdout")
        return {"questions": 1}

    monkeypatch.setattr(fp16, "export_fp16", noisy)
    assert main(["fp16", "--model", "a", "--out", "b", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"questions": 1} and "a library" in printed.err


def damage_bit(folder):
    file = folder / "model.safetensors"
    body = bytearray(file.read_bytes())
    body[-3] ^= 1
    file.write_bytes(body)


def damage_template(folder):
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("<|im_start|>", "<|im_start|> "))
    rehash(folder)


def damage_reference(folder):
    (folder / "reference.jsonl").write_text("{}\n")
    rehash(folder)


def damage_dtype(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor.float() for name, tensor in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    rehash(folder)


def rehash(folder):
    manifest = json.loads((folder / "export.json").read_text())
    manifest["sha256"] = {name: file_hash(folder / name) for name in manifest["sha256"]}
    (folder / "export.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage, message",
    [
        (damage_bit, "model.safetensors has changed"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (damage_template, "prompt has changed"),
        (damage_reference, "reference.jsonl:1"),
        (damage_dtype, "float32"),
        (lambda folder: (folder / "reference" / "more.txt").touch(), "reference/more.txt is no part of the export"),
        (lambda folder: (folder / "reference" / "export.json").touch(), "reference/export.json is no part of the export"),
        (lambda folder: (folder / "more").symlink_to(folder.parent), "more is no part of the export"),
    ],
)
def test_a_damaged_export_does_not_verify(exported, tmp_path, damage, message):
    copy = tmp_path / "copy"
    shutil.copytree(exported[0], copy)
    damage(copy)
    with pytest.raises(DataError, match=message):
        fp16_check.verify(copy)


def test_errors_of_the_new_process_come_back_typed(tmp_path, monkeypatch, capsys):
    def run(command, **_):
        assert command[1:4] == ["-P", "-m", "omnivision.export.verify"]
        monkeypatch.setattr("sys.argv", command[3:])
        code = verify._child()
        return subprocess.CompletedProcess(command, code, capsys.readouterr().out, "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ConfigError, match="no export") as caught:
        verify.verify_in_new_process(tmp_path)
    assert caught.value.where.endswith("export.json") and caught.value.remedy
    (tmp_path / "export.json").write_text('{"format": "fp16 safetensors", "sha256": {"a": "b"}}')
    with pytest.raises(DataError, match="a is missing"):
        verify.verify_in_new_process(tmp_path)
    (tmp_path / "export.json").write_text('{"format": "wax", "sha256": {}}')
    with pytest.raises(ConfigError, match="'wax'"):
        verify.verify_in_new_process(tmp_path)


def test_verification_runs_nothing_of_the_users_folder(tmp_path, monkeypatch):
    for name in ("json", "tokenizers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of the folder')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no export"):  # what the library itself says
        verify.verify_in_new_process(tmp_path)


def test_a_terminated_export_leaves_nothing_and_starts_anew(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fp16, "verify_in_new_process", lambda folder: signal.raise_signal(signal.SIGTERM))
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert command(["export", "fp16", "--model", str(checkpoint), "--out", str(tmp_path / "out"), "--count", "1"]) == TERMINATED
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert "an export starts anew" in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_dead_process_is_no_agreement(tmp_path, monkeypatch):
    dead = subprocess.CompletedProcess([], -9, "", "Killed")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: dead)
    with pytest.raises(DataError, match="-9"):
        verify.verify_in_new_process(tmp_path)


def refused(out, error, message, *args, **kwargs):
    with pytest.raises(error, match=message):
        fp16.export_fp16(*args, out_dir=out, **{"scan_pictures": 0, **kwargs})
    assert not out.exists() and list(out.parent.glob("*.part")) == [] and list(out.parent.glob(".*")) == []


def test_an_existing_folder_is_never_touched(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        fp16.export_fp16(checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [lambda out: (out / "other").mkdir(parents=True), Path.touch])
def test_a_folder_that_another_export_made_meanwhile_is_not_touched(tmp_path, make):
    out = tmp_path / "phone"
    with pytest.raises(ConfigError, match="exists already"), whole_or_nothing(out):
        make(out)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("mask, rights", [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_a_finished_folder_has_the_rights_that_the_umask_leaves(tmp_path, mask, rights):
    before = os.umask(mask)
    try:
        with whole_or_nothing(tmp_path / "phone") as folder:
            (folder / "a").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "phone").stat().st_mode & 0o777 == rights and [one.name for one in (tmp_path / "phone").iterdir()] == ["a"]


def set_to(value):
    return lambda model: next(model.model.projector.parameters()).view(-1)[0].fill_(value)


@pytest.mark.parametrize("value, message", [(float("nan"), "not finite.*projector"), (1e6, "projector.*beyond FP16.*--keep-fp32")])
def test_numbers_that_fp16_cannot_hold_are_named(tmp_path, value, message):
    checkpoint = save_checkpoint(tmp_path / "final", change=set_to(value))
    refused(tmp_path / "out", DataError, message, checkpoint, count=1)


def test_a_kept_layer_may_be_large_but_not_a_nan(tmp_path):
    layer = {"projector.weight": torch.tensor([1e6])}
    assert scan_weights(layer.items()).beyond and not scan_weights(layer.items(), ["projector"]).beyond
    checkpoint = save_checkpoint(tmp_path / "final", change=set_to(float("inf")))
    with pytest.raises(DataError, match="not finite.*before it diverged") as caught:
        fp16.export_fp16(checkpoint, tmp_path / "out", count=1, keep=("model.projector",), scan_pictures=0)
    assert "--keep-fp32" not in str(caught.value) and caught.value.where == str(checkpoint)


def test_errors_name_the_folder_that_was_to_be(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(fp16, "verify_in_new_process", lambda folder: refuse(folder))
    monkeypatch.chdir(tmp_path)

    def refuse(folder):
        raise DataError(f"{folder.resolve()}/a is odd", str(folder))

    with pytest.raises(DataError) as caught:
        fp16.export_fp16(checkpoint, "phone", count=1, scan_pictures=0)
    assert (caught.value.what, caught.value.where) == ("phone/a is odd", "phone")


def test_a_folder_that_cannot_be_made_is_a_wrong_flag(checkpoint, tmp_path, in_process):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "phone", Path("/proc/nope/phone"), tmp_path / ("a" * 256)):
        with pytest.raises(ConfigError, match="output folder cannot be made: "):
            fp16.export_fp16(checkpoint, out)
    fp16.export_fp16(checkpoint, tmp_path / ("a" * 255), count=1, scan_pictures=0)  # the longest name there is


def test_a_disk_without_room_for_the_folder_is_full(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(ResumableError, match="disk is full"), whole_or_nothing(tmp_path / "a" / "b"):
        pass
    assert is_disk_full(RuntimeError("No device (os error 28)")) and not is_disk_full(ConfigError("a"))


def test_large_activations_are_named(tmp_path):
    def grow(model):
        model.model.language_model.layers[0].mlp.down_proj.weight.mul_(3e4)

    checkpoint = save_checkpoint(tmp_path / "final", change=grow)
    refused(tmp_path / "out", DataError, r"layer model\.language_model\.layers\.0.*--keep-fp32 model\.language_model,", checkpoint, count=2)


def test_a_layer_that_would_overflow_can_be_kept(tmp_path, in_process):
    def grow(model):  # what linear_1 gives is beyond FP16, and linear_2 makes it small again
        model.model.projector.linear_1.weight.mul_(3e4)
        model.model.projector.linear_2.weight.div_(3e4)

    checkpoint = save_checkpoint(tmp_path / "final", change=grow)
    refused(tmp_path / "out", DataError, r"linear_1.*--keep-fp32 model\.projector,", checkpoint, count=2)
    alone = ("model.projector.linear_1", "model.projector.linear_2")  # between them the numbers would be FP16 again
    refused(tmp_path / "out", DataError, r"linear_1.*--keep-fp32 model\.projector,", checkpoint, count=2, keep=alone)
    fp16.export_fp16(checkpoint, tmp_path / "out", count=2, keep=("model.projector",), scan_pictures=0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    kinds = {name: value.dtype for name, value in model.named_parameters()}
    assert {kind for name, kind in kinds.items() if name.startswith("model.projector.")} == {torch.float32}
    assert {kind for name, kind in kinds.items() if not name.startswith("model.projector.")} == {torch.float16}
    assert model.dtype == torch.float16 and fp16_check.verify(tmp_path / "out", "float16")["top1_agreement"] == 100
    for layer, message in (("nothing", "no layer 'nothing'"), ("model.projector.act", "has no weights"), ("model.language_model.layers", "does not run itself")):
        refused(tmp_path / "other", ConfigError, message, checkpoint, keep=(layer,))


@pytest.mark.parametrize("layer", ["model.projector.linear_1", "model.projector.linear_2", "model.projector"])
def test_any_part_of_the_projector_can_be_kept(checkpoint, tmp_path, in_process, layer):
    fp16.export_fp16(checkpoint, tmp_path / "out", count=2, keep=(layer,), scan_pictures=0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert {name for name, values in model.named_parameters() if values.dtype == torch.float32} == {
        name for name, _ in model.named_parameters() if name.startswith(f"{layer}.")}
    assert fp16_check.verify(tmp_path / "out", "float16")["top1_agreement"] == 100


@pytest.mark.parametrize("own", [torch.float32, torch.float16, torch.bfloat16])
def test_the_projector_reads_features_in_its_own_type(own):
    projector, seen = make_model().model.projector.to(own), []
    projector.linear_1.register_forward_pre_hook(lambda layer, args: seen.append(args[0].dtype))
    for given in (torch.float32, torch.float16, torch.bfloat16):
        assert projector(torch.zeros(1, 81, 32, dtype=given)).dtype == own
    assert seen == [own] * 3


def test_an_export_can_be_exported_again(checkpoint, tmp_path, in_process):
    fp16.export_fp16(checkpoint, tmp_path / "kept", count=1, keep=("model.projector",), scan_pictures=0)
    fp16.export_fp16(tmp_path / "kept", tmp_path / "out", count=1, scan_pictures=0)
    assert {values.dtype for values in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float16}
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "out").model.projector.linear_1.weight.dtype == torch.float16


def test_a_tied_head_is_kept_with_the_language_model(checkpoint, tmp_path, in_process):
    refused(tmp_path / "out", ConfigError, "Give both: lm_head model.language_model", checkpoint, count=1, keep=("lm_head",))
    fp16.export_fp16(checkpoint, tmp_path / "out", count=1, keep=("lm_head", "model.language_model"), scan_pictures=0)
    assert load_file(tmp_path / "out" / "model.safetensors")["model.language_model.embed_tokens.weight"].dtype == torch.float32


def test_kept_layers_have_to_fit_the_others(tmp_path, in_process):
    text = {**make_model().config.text_config.to_dict(), "tie_word_embeddings": False}
    checkpoint = save_checkpoint(tmp_path / "final", text_config=text)
    refused(tmp_path / "out", DataError, "kept in fp32 do not fit", checkpoint, count=2, keep=("model.language_model",))
    fp16.export_fp16(checkpoint, tmp_path / "out", count=2, keep=("model.language_model", "lm_head"), scan_pictures=0)


def test_the_model_card_says_what_was_measured(exported, checkpoint):
    card = (exported[0] / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: other\n") and "100.00 % of 25 questions" in card and "over 11 pictures" in card
    assert file_hash(checkpoint / "model.safetensors") in card
    assert "README.md" in json.loads((exported[0] / "export.json").read_text())["sha256"]


def test_the_model_card_finds_the_run_of_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "run" / "final").mkdir(parents=True)
    (tmp_path / "run" / "data_manifest.json").write_text(json.dumps({"world/sft.jsonl": {"rows": 7, "sha256": "abc"}}))
    monkeypatch.chdir(tmp_path / "run" / "final")
    add_card(tmp_path, {"sha256": {}}, Path("."), "mit", [])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "# run / final" in card and "`sft.jsonl`, 7 rows, SHA-256 `abc`" in card
    (tmp_path / "run" / "data_manifest.json").write_text("{")
    with pytest.raises(DataError, match="data_manifest.json"):
        add_card(tmp_path, {"sha256": {}}, Path("."), "mit", [])


def test_activations_are_looked_at_over_as_many_different_pictures(checkpoint, tmp_path, in_process, monkeypatch):
    seen, ask = [], fp16.next_token
    monkeypatch.setattr(fp16, "next_token", lambda model, processor, question: (seen.append(question.image.read_bytes()), ask(model, processor, question)))
    result = fp16.export_fp16(checkpoint, tmp_path / "out", count=2, scan_pictures=5)
    asked = [file.read_bytes() for file in (tmp_path / "out" / "reference").iterdir()]
    assert result["activations"]["pictures"] == len({*seen, *asked}) == 5


def test_an_export_that_answers_otherwise_is_not_left_behind(tmp_path, in_process):
    def crowd(model):  # rows that differ by less than FP16's step at 1
        head = model.lm_head.weight
        head.copy_(1 + 2e-5 * torch.randn_like(head))

    checkpoint = save_checkpoint(
        tmp_path / "final",
        change=crowd,
        text_config={**make_model().config.text_config.to_dict(), "tie_word_embeddings": False},
    )
    refused(tmp_path / "out", DataError, "the gate is 99 %", checkpoint, count=20)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_checkpoint_without_a_file_is_refused(checkpoint, tmp_path, file):
    copy = tmp_path / "final"
    shutil.copytree(checkpoint, copy)
    (copy / file).unlink()
    refused(tmp_path / "out", (ConfigError, DataError), "final", copy, count=1)


def test_a_partial_or_cut_checkpoint_is_refused(checkpoint, tmp_path):
    copy = tmp_path / "final"
    shutil.copytree(checkpoint, copy)
    tensors = load_file(copy / "model.safetensors")
    gone = next(name for name in tensors if "projector" in name)
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != gone}, copy / "model.safetensors", {"format": "pt"}
    )
    refused(tmp_path / "out", DataError, f"1 tensors are missing.*{gone}", copy, count=1)
    body = (checkpoint / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(body[: len(body) // 2])
    refused(tmp_path / "out", DataError, "cannot be read", copy, count=1)


def test_functions_of_another_checkpoint_are_refused(checkpoint, tmp_path):
    copy = tmp_path / "final"
    shutil.copytree(checkpoint, copy)
    FunctionSet((Function("order", "Order."),), "other").save(copy)
    refused(tmp_path / "out", ConfigError, "<other_0>", copy, count=1)


def test_a_full_disk_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # as safetensors says it

    monkeypatch.setattr(fp16, "_write", full)
    refused(tmp_path / "out", ResumableError, "disk is full", checkpoint, count=1)


def test_an_interrupt_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fp16, "verify_in_new_process", stop)
    refused(tmp_path / "out", KeyboardInterrupt, None, checkpoint, count=1)


def test_questions_are_spread_over_the_file(questions):
    picked = read_questions(questions, None, 5)
    assert len(picked) == 5 and picked[0].image is None
    assert [question.image.stem for question in picked[1:]] == ["1", "3", "4", "6"]
    assert len(read_questions(questions, None, 999)) == 25


def test_every_export_is_asked_about_a_picture(questions, tmp_path):
    (tmp_path / "words.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n', encoding="utf-8")
    *texts, drawn = gather_questions(tmp_path / "words.jsonl", None, 9, tmp_path / "room")
    assert [one.text for one in texts] == ["a", "b"] and drawn.image.is_file()
    assert gather_questions(questions, None, 5, tmp_path / "room") == read_questions(questions, None, 5)


@pytest.mark.parametrize(
    "line, message",
    [
        ("nonsense", "ask.jsonl:1"),
        ("[]", "ask.jsonl:1"),
        ('{"text": 3}', "must be strings"),
        ('{"text": "a", "image": "../secret.png"}', "outside"),
        ('{"text": "a", "image": "none.png"}', "no image"),
        ("", "empty"),
    ],
)
def test_bad_question_files(tmp_path, line, message):
    (tmp_path / "secret.png").touch()
    folder = tmp_path / "world"
    folder.mkdir()
    (folder / "ask.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        read_questions(folder / "ask.jsonl", None, 3)
    with pytest.raises(DataError, match="no question file"):
        read_questions(folder / "none.jsonl", None, 3)


def test_a_text_file_as_image_is_refused(checkpoint, tmp_path):
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "ask.jsonl").write_text('{"text": "a", "image": "a.png"}')
    refused(tmp_path / "out", DataError, "no image that can be read", checkpoint, questions=tmp_path / "ask.jsonl")


def test_plain_questions_are_the_same_every_time(tmp_path):
    first, second = plain_questions(tmp_path / "a", 7), plain_questions(tmp_path / "b", 7)
    assert len(first) == len({question.image for question in first}) == 7
    assert [one.image.read_bytes() for one in first] == [one.image.read_bytes() for one in second]


def test_scans_count_by_hand():
    layer = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1e-9, 0.0], [-3.0, 65504.0]]))
    scan = scan_weights(layer.state_dict().items())
    assert (scan.flushed_to_zero, scan.largest, scan.largest_tensor, scan.beyond) == (1, 65504.0, "weight", [])
    with watch_activations(layer) as largest:
        layer(torch.ones(1, 2))
        layer(torch.full((1, 2), float("nan")))
        layer(torch.ones(1, 2))
    assert largest[""] != largest[""]  # a NaN once is a NaN
    with pytest.raises(DataError, match="nan"):
        refuse_activations(largest)
    assert not layer._forward_hooks


def test_a_product_outside_of_any_module_is_seen():
    """As in a gated MLP: both branches fit FP16, what the last layer is given does not, and what it gives does again."""
    mlp = Qwen2MLP(Qwen2Config(hidden_size=2, intermediate_size=2, hidden_act="relu"))
    with torch.no_grad():
        for layer, size in ((mlp.gate_proj, 300.0), (mlp.up_proj, 300.0), (mlp.down_proj, 1e-3)):
            layer.weight.copy_(size * torch.eye(2))
    with watch_activations(mlp) as largest:
        mlp(torch.ones(1, 2))
    assert largest["gate_proj"] == largest["up_proj"] == 300 and largest[""] < 100 and largest["down_proj"] == 90_000
    with pytest.raises(DataError, match="down_proj reach 9e.04"):
        refuse_activations(largest)
