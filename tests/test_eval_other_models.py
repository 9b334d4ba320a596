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
from omnivision.errors import ConfigError


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


@pytest.mark.parametrize("fault", ["no image token in the text", "no chat template"])
def test_a_processor_that_drops_pictures_is_noticed(fault, pope):
    model, processor = other_models.make("llava")
    processor.chat_template = other_models.TEMPLATE.replace("IMAGE", "") if fault.startswith("no image") else None
    with pytest.raises((ConfigError, ValueError), match="image token|chat template|number of image"):
        evaluate(AnyModel(model, processor), pope, ["pope_random"])


def test_a_hub_id_is_told_from_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not source_of("HuggingFaceTB/SmolVLM-256M-Instruct").ours
    with pytest.raises(ConfigError, match="does not exist"):
        source_of("./runs/tiny")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no model"):
        source_of("empty")


# --- behind an endpoint

def served(server, folder, **settings):
    folder.mkdir(exist_ok=True)
    return Served(Endpoint(server.url, "tiny", timeout=5, backoff=0.01, attempts=2, **settings), folder / "answers.ledger.jsonl")


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
    assert asked < found["pope"]["n"] == 54 and {one["body"]["max_tokens"] for one in server.received} == {8}
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


@pytest.mark.parametrize(("behaviour", "answer"), [("length", "half an ans"), ("empty", "")])
def test_a_long_or_empty_answer_is_an_answer(behaviour, answer, server, pope, tmp_path):
    server.choose = lambda question, number: behaviour
    one = evaluate(served(server, tmp_path), pope, ["pope_random"], tmp_path, Settings(limit=4))["pope_random"]
    assert one["missing"] == 0 and one["metrics"]["yes_ratio"] == 100  # the official reading
    assert {json.loads(line)["answer"] for line in (tmp_path / "pope_random" / "samples.jsonl").read_text().splitlines()} == {answer}


def test_the_command_asks_an_endpoint(server, pope, tmp_path, capsys):
    server.choose = lambda question, number: "good:Yes"
    argv = ["pope_random", "--model", server.url, "--data", str(pope)]
    assert main([*argv, "--model-name", "tiny", "--out", str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["pope_random"] == pytest.approx(200 / 3)
    with pytest.raises(ConfigError, match="model's name"):
        main([*argv, "--out", str(tmp_path)])
