"""Models that are not ours: LLaVA, Qwen2-VL and Idefics3 from a folder, and one behind an endpoint that misbehaves."""

from __future__ import annotations

import base64
import io
import json

import eval_benchmarks
import other_models
import pytest
from endpoint_server import Server
from omnivision_eval.any_model import AnyModel
from omnivision_eval.main import main
from omnivision_eval.models import source_of
from omnivision_eval.prompts import Picture, Prompt
from omnivision_eval.run import Settings, evaluate
from omnivision_eval.served import Served
from PIL import Image

from omnivision.endpoint import Endpoint
from omnivision.errors import ConfigError, ResumableError
from omnivision.export.folder import write_manifest
from omnivision.export.gguf.tiles import prepared


@pytest.fixture(scope="module")
def pope(tmp_path_factory):
    return eval_benchmarks.pope(tmp_path_factory.mktemp("pope"), images=3)


def prompts(count=7):
    """About three pictures, one prompt about none."""
    shown = [(Picture(str(i % 3), eval_benchmarks.picture(i % 3)),) if i != 4 else () for i in range(count)]
    return [Prompt(f"Is there a {'very ' * i}big cat?", pictures, 6) for i, pictures in enumerate(shown)]


def one_at_a_time(model, processor, prompt):
    """transformers' own generate on one prompt, without padding."""
    content = [*({"type": "image", "image": one.source} for one in prompt.pictures), {"type": "text", "text": prompt.text}]
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
                                           return_tensors="pt")
    return model.generate(**inputs, max_new_tokens=prompt.max_new_tokens, do_sample=False)[0, inputs["input_ids"].shape[1]:].tolist()


@pytest.mark.parametrize("name", other_models.FAMILIES)
def test_batches_answer_as_transformers_does_one_at_a_time(name):
    model, processor = other_models.make(name)
    asked = prompts()
    expected = {prompt: one_at_a_time(model, processor, prompt) for prompt in asked}
    for size in (1, 3, 8):
        found = AnyModel(model, processor).answer_all(asked, size)
        assert {prompt: list(answer.ids) for prompt, answer in found.items()} == expected
    assert len({tuple(ids) for ids in expected.values()}) == len(asked)
    blind = AnyModel(model, processor, blank=True).answer_all([Prompt("What?", one.pictures, 4) for one in asked], 4)
    assert len(set(blind.values())) == 2, "with the grey picture, and without any"


def test_answers_are_greedy_whatever_the_model_s_own_settings_say():
    model, processor = other_models.make("llava")
    asked = prompts(3)
    plain = AnyModel(model, processor).answer_all(asked, 3)
    model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, do_sample=True, temperature=5.0)
    assert one_at_a_time(model, processor, asked[0]) != list(plain[asked[0]].ids)  # they would say something else
    assert AnyModel(model, processor).answer_all(asked, 3) == plain


@pytest.mark.parametrize("name", other_models.FAMILIES)
def test_a_folder_of_another_family_is_evaluated(name, pope, tmp_path, capsys):
    model, processor = other_models.make(name)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    capsys.readouterr()
    argv = ["pope_random", "--model", str(tmp_path / "model"), "--data", str(pope), "--out", str(tmp_path / "out"), "--json"]
    assert main(argv) == 0
    one = json.loads(capsys.readouterr().out)["tasks"]["pope_random"]
    assert one["n"] == 18 and one["missing"] == 0
    answers = [json.loads(line)["answer"] for line in (tmp_path / "out" / "pope_random" / "samples.jsonl").read_text().splitlines()]
    assert len(set(answers)) > 3


def test_a_processor_that_drops_pictures_is_noticed(pope):
    model, processor = other_models.make("llava")
    template = processor.chat_template
    processor.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        AnyModel(model, processor)
    processor.chat_template = template.replace("<image>", "")
    with pytest.raises(ConfigError, match="does not take a prompt with its pictures"):
        evaluate(AnyModel(model, processor), pope, ["pope_random"])
    processor.chat_template = template
    opened = AnyModel(model, processor)
    opened._image_token = 5  # a config that names another id than the processor writes
    with pytest.raises(ConfigError, match="1 pictures has 0 image tokens"):
        evaluate(opened, pope, ["pope_random"])


def test_a_hub_id_is_told_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_of("HuggingFaceTB/SmolVLM-256M-Instruct").kind == "any"
    with pytest.raises(ConfigError, match="does not exist"):
        source_of("./runs/tiny")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match="does not exist"):
        source_of("runs/sft")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no model"):
        source_of("empty")


# --- behind an endpoint

def served(server, folder, **settings):
    folder.mkdir(exist_ok=True)
    return Served(Endpoint(server.url, settings.pop("name", "tiny"), timeout=5, backoff=0.01, attempts=2), folder / "answers", **settings)


PIXEL = (2, 0)  # whose red is odd in some pictures


def by_picture(body):
    """What a model would say that sees: Yes about a picture with an odd red there."""
    parts = body["messages"][-1]["content"]
    url = parts[0]["image_url"]["url"]
    red = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getpixel(PIXEL)[0]
    return "Yes." if red % 2 else "No."


@pytest.fixture
def server():
    with Server() as one:
        yield one


def test_an_endpoint_is_shown_the_pictures_and_asked_once(server, pope, tmp_path):
    server.choose = lambda question, number: f"good:{by_picture(server.received[number]['body'])}"
    found = evaluate(served(server, tmp_path), pope, ["pope"], tmp_path)
    truth = {f"COCO_{at}.jpg": "Yes." if eval_benchmarks.picture(at).getpixel(PIXEL)[0] % 2 else "No." for at in range(3)}
    assert set(truth.values()) == {"Yes.", "No."}
    for line in (tmp_path / "pope_random" / "samples.jsonl").read_text().splitlines():
        sample = json.loads(line)
        assert sample["answer"] == truth[sample["image"]]
    asked = len(server.received)
    assert asked < found["pope"]["n"] == 54 and {one["body"]["max_tokens"] for one in server.received} == {16}
    evaluate(served(server, tmp_path), pope, ["pope"], tmp_path)
    assert len(server.received) == asked, "the ledger has every answer"


@pytest.mark.parametrize("behaviour", ["status:500", "status:429", "truncated", "reset", "refusal", "error_inside"])
def test_a_reply_that_is_none_is_missing_and_never_an_answer(behaviour, server, pope, tmp_path):
    server.choose = lambda question, number: behaviour if "cat" in question else "good:Yes"
    one = evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path)["pope_random"]
    lost = [s for s in map(json.loads, (tmp_path / "pope_random" / "samples.jsonl").read_text().splitlines()) if s["answer"] is None]
    assert lost and all("cat" in s["text"] for s in lost) and one["missing"] == len(lost) and one["score"] is None
    assert "without an answer" in one["notes"]
    server.choose = lambda question, number: "good:No"
    if behaviour != "refusal":  # which is final
        assert evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path)["pope_random"]["missing"] == 0


def test_another_model_or_none_is_asked_anew_and_blindness_is_grey(server, pope, tmp_path):
    server.choose = lambda question, number: "good:Yes"
    evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path / "one")
    asked = len(server.received)
    evaluate(served(server, tmp_path, name="other"), pope, ["pope_random"], tmp_path / "two")
    assert len(server.received) == 2 * asked
    evaluate(served(server, tmp_path, blank=True), pope, ["pope_random"], tmp_path / "one")
    pictures = [one["body"]["messages"][-1]["content"][0]["image_url"]["url"] for one in server.received]
    assert len(pictures) == 3 * asked and len(set(pictures[:asked])) == 3 and len(set(pictures[2 * asked:])) == 1
    grey = Image.open(io.BytesIO(base64.b64decode(pictures[-1].partition(",")[2])))
    assert grey.getextrema() == ((128, 128),) * 3 and (tmp_path / "one" / "pope_random_blind").is_dir()


def test_a_gguf_export_gets_its_pictures_as_it_wants_them(server, pope, tmp_path, capsys):
    server.choose = lambda question, number: "good:No<|im_end|>"
    settings = {"image_size": 54, "patch_size": 6, "raster": True}
    (tmp_path / "phone").mkdir()
    write_manifest(tmp_path / "phone", {"format": "gguf", "sha256": {}, "picture": settings})
    command = ["pope_random", "--model", server.url, "--model-name", "tiny", "--data", str(pope), "--out", str(tmp_path / "out")]
    assert main([*command, "--export", str(tmp_path / "phone")]) == 0
    asked, sent = len(server.received), set()
    for one in server.received:
        url = one["body"]["messages"][-1]["content"][0]["image_url"]["url"]
        sent.add(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).tobytes())
    assert sent == {prepared(eval_benchmarks.picture(at), 54, 6, True).tobytes() for at in range(3)}
    results = json.loads((tmp_path / "out" / "pope_random" / "results.json").read_text())
    assert results["settings"]["prepared"] == settings and results["valid_rate"] == 100 and results["metrics"]["yes_ratio"] == 0
    with pytest.raises(ConfigError, match="another settings"):  # as they lie on the disk
        main(command)
    main([*command[:-1], str(tmp_path / "other")])
    assert len(server.received) == 2 * asked
    with pytest.raises(ConfigError, match="no export"):
        main([*command, "--export", str(pope)])
    write_manifest(tmp_path / "phone", {"format": "fp16 safetensors", "sha256": {}})
    with pytest.raises(ConfigError, match="no GGUF export"):
        main([*command, "--export", str(tmp_path / "phone")])


def test_an_endpoint_that_is_dead_ends_the_run(server, pope, tmp_path):
    server.choose = lambda question, number: "status:500"
    with pytest.raises(ResumableError, match="10 prompts in a row.*ledger.jsonl"):
        evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path)
    server.choose = lambda question, number: "good:Yes"
    assert evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path)["pope_random"]["missing"] == 0


@pytest.mark.parametrize(("behaviour", "answer"), [("length", "half an ans"), ("empty", "")])
def test_a_long_or_empty_answer_is_an_answer(behaviour, answer, server, pope, tmp_path):
    server.choose = lambda question, number: behaviour
    one = evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path, Settings(limit=4))["pope_random"]
    assert one["missing"] == 0 and one["metrics"]["yes_ratio"] == 100  # the official reading
    assert one["notes"]["empty" if behaviour == "empty" else "cut off"].startswith("4 answers")
    assert {json.loads(line)["answer"] for line in (tmp_path / "pope_random" / "samples.jsonl").read_text().splitlines()} == {answer}


@pytest.mark.parametrize("behaviour", ["thoughts", "thoughts:stop", "good:<think>Let me look, no"])
def test_thoughts_without_an_answer_are_missing(behaviour, server, pope, tmp_path):
    server.choose = lambda question, number: behaviour if "cat" in question else "good:<think>Not there? No.</think>\n\nYes."
    one = evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path)["pope_random"]
    samples = [json.loads(line) for line in (tmp_path / "pope_random" / "samples.jsonl").read_text().splitlines()]
    lost = [sample for sample in samples if "cat" in sample["text"]]
    assert {sample["answer"] for sample in lost} == {None} and one["missing"] == len(lost) > 0 and one["score"] is None
    assert {sample["answer"] for sample in samples if sample not in lost} == {"Yes."} and "thoughts" in one["notes"]["without an answer"]


def test_endings_that_are_final_say_what_to_do_and_are_no_reason_to_start_again(server, pope, tmp_path):
    server.choose = lambda question, number: "status:400"
    for _ in range(2):
        with pytest.raises(ConfigError, match="10 prompts in a row.*rejected: about 400.*--request-fields.*ledger.jsonl"):
            evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path)


def test_a_service_with_the_newer_name_of_max_tokens_is_evaluated(server, pope, tmp_path):
    server.choose = lambda question, number: "newer:Yes"
    for _ in range(2):
        assert evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path)["pope_random"]["missing"] == 0
    asked = [one["body"] for one in server.received]
    assert {one.get("max_completion_tokens") for one in asked} == {16, None} and len(asked) <= 18 + 4, "told once, four at a time"


def test_fields_of_a_request_are_sent_and_told(server, pope, tmp_path, capsys):
    server.choose = lambda question, number: "length"
    fields = {"max_tokens": 2048, "temperature": None, "chat_template_kwargs": {"enable_thinking": False}}
    command = ["pope_random", "--model", server.url, "--model-name", "tiny", "--data", str(pope), "--out", str(tmp_path / "out")]
    assert main([*command, "--request-fields", json.dumps(fields)]) == 0
    asked = len(server.received)
    assert all(one["body"]["max_tokens"] == 2048 and "temperature" not in one["body"] and one["body"]["chat_template_kwargs"] for one in server.received)
    found = json.loads((tmp_path / "out" / "pope_random" / "results.json").read_text())
    assert found["settings"]["request_fields"] == fields and found["settings"]["max_new_tokens"] == 2048
    assert found["notes"]["cut off"] == "18 answers were still going on after 2048 tokens"
    with pytest.raises(ConfigError, match="another settings"):
        main(command)
    main([*command[:-1], str(tmp_path / "other")])
    assert len(server.received) == 2 * asked
    for wrong in ("{", "[1]", '{"max_tokens": 0}', '{"n": 2}'):
        with pytest.raises(ConfigError, match="no JSON object|longest answer|may not hold n"):
            main([*command, "--request-fields", wrong])


def test_two_endpoints_do_not_write_into_one_folder(server, pope, tmp_path):
    said = []

    def choose(question, number):
        if not said:
            said.append("")
            try:
                evaluate(served(server, tmp_path, name="other"), pope, ["pope_random"], tmp_path / "out")
            except ConfigError as error:
                said[0] = error.what
        return "good:Yes"

    server.choose = choose
    evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path / "out")
    assert said[0].startswith("The folder is in use by process")


def test_the_command_asks_an_endpoint(server, pope, tmp_path, capsys):
    server.choose = lambda question, number: "good:Yes"
    argv = ["pope_random", "--model", server.url, "--data", str(pope)]
    assert main([*argv, "--model-name", "tiny", "--out", str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["pope_random"] == pytest.approx(200 / 3)
    for wrong, said in ((["--out", str(tmp_path)], "model's name"), (["--model-name", "m", "--dtype", "float32"], "--dtype is for a model that is opened"),
                        (["--model-name", "m", "--out", str(tmp_path), "--concurrency", "0"], "concurrency")):
        with pytest.raises(ConfigError, match=said):
            main([*argv, *wrong])
    with pytest.raises(ConfigError, match="--model-name is for a model behind"):
        main(["pope_random", "--model", str(tmp_path), "--model-name", "m", "--data", str(pope)])
