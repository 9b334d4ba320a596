"""Evaluation from question files to results.json with a small random model, and the same score through hf-multimodal."""

import json
import shutil

import pytest
import torch
from eval_world import FUNCTIONS, random_model, write_world
from omnivision_eval import lm as lm_module
from omnivision_eval import main as eval_main
from omnivision_eval import run
from omnivision_eval.lm import OmniVisionLM, check_image_reaches_model
from omnivision_eval.run import evaluate

from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet, install_tokens, target_ids

POPE = ("pope_random", "pope_popular", "pope_adversarial")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    model[0].save_pretrained(folder)
    model[1].save_pretrained(folder)
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_results_and_samples(world, model, tmp_path):
    found = evaluate(model, world, ["pope", "chartqa"], tmp_path, batch_size=4)
    one = json.loads((tmp_path / "pope_random" / "results.json").read_text())
    assert one == found["pope_random"]
    assert {"task", "variant", "n", "valid_rate", "missing", "score", "stderr", "by", "model", "data_hash", "settings", "version"} <= one.keys()
    assert one["n"] == 8 and one["variant"] == "official" and 0 <= one["score"] <= 100
    assert found["pope"]["score"] == pytest.approx(sum(found[task]["score"] for task in POPE) / 3)
    samples = lines(tmp_path / "chartqa" / "samples.jsonl")
    assert [s["question_id"] for s in samples] == ["c0", "c1", "c2", "c3"]
    assert samples[0]["ids"] and {"official", "normalised"} <= samples[0].keys()
    assert len({s["answer"] for s in samples}) > 1, "a random model that sees its images does not answer all alike"


def test_nothing_is_drawn_over_the_callers_screen(world, model, capfd):
    finished = []
    evaluate(model, world, ["pope_random", "chartqa"], on_batch=finished.append)
    assert 0 < sum(finished) <= 12 and capfd.readouterr() == ("", "")


def test_lm_evals_own_table_is_our_score(world, model, monkeypatch):
    tables = []
    import lm_eval

    whole = lm_eval.evaluate
    monkeypatch.setattr(lm_eval, "evaluate", lambda *a, **k: tables.append(whole(*a, **k)) or tables[-1])
    found = evaluate(model, world, ["pope_random", "chartqa"])
    assert tables[0]["results"]["world_pope_random"]["f1,none"] == pytest.approx(found["pope_random"]["score"])
    assert tables[0]["results"]["world_pope_random"]["false_yes,none"] == found["pope_random"]["metrics"]["false_yes"]
    assert tables[0]["results"]["world_chartqa"]["relaxed_accuracy,none"] == pytest.approx(found["chartqa"]["score"])


def test_identical_questions_of_the_pope_splits_are_asked_once(world, model, monkeypatch):
    asked = []
    from omnivision import generation

    whole = generation.generate_ids
    monkeypatch.setattr(generation, "generate_ids", lambda m, p, q, i, **k: asked.extend(zip(q, i)) or whole(m, p, q, i, **k))
    evaluate(model, world, ["pope"])
    assert len(asked) == len(set(asked)) < 24


def check_alike(world, checkpoint, folder, table, theirs):
    """lm-eval's table and answers against ours, for a checkpoint that both loaded from its folder."""
    ours = evaluate(checkpoint, world, ["pope_random", "chartqa"], folder)
    assert table["world_pope_random"]["f1,none"] == pytest.approx(ours["pope_random"]["score"])
    assert table["world_chartqa"]["relaxed_accuracy,none"] == pytest.approx(ours["chartqa"]["score"])
    for task in ("pope_random", "chartqa"):
        answers = [s["resps"][0][0] for s in sorted(theirs[f"world_{task}"], key=lambda s: s["doc_id"])]
        assert answers == [s["answer"] for s in lines(folder / task / "samples.jsonl")]


def test_the_same_answers_through_hf_multimodal(world, checkpoint, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(run.TASK_FOLDER), include_defaults=False, metadata={"data_dir": str(world)})
    found = lm_eval.simple_evaluate(
        "hf-multimodal", {"pretrained": str(checkpoint), "convert_img_format": True}, ["world_pope_random", "world_chartqa"],
        task_manager=manager, apply_chat_template=True, batch_size=2, device="cpu", bootstrap_iters=0)
    check_alike(world, checkpoint, tmp_path, found["results"], found["samples"])


@pytest.mark.slow  # ten seconds of it are lm-eval reading its own 13,000 task files
def test_the_same_answers_through_lm_evals_command(world, checkpoint, tmp_path, monkeypatch):
    from omnivision_eval import harness

    monkeypatch.setattr("sys.argv", [
        "lm-eval", "run", "--model", "hf-multimodal", "--model_args", f"pretrained={checkpoint},convert_img_format=True",
        "--apply_chat_template", "--include_path", str(run.TASK_FOLDER), "--tasks", "world_pope_random,world_chartqa",
        "--metadata", json.dumps({"data_dir": str(world)}), "--batch_size", "2", "--device", "cpu",
        "--log_samples", "--output_path", str(tmp_path / "theirs")])
    harness.main()
    table = json.loads(next((tmp_path / "theirs").rglob("results_*.json")).read_text())["results"]
    theirs = {f"world_{task}": lines(next((tmp_path / "theirs").rglob(f"samples_world_{task}_*.jsonl"))) for task in ("pope_random", "chartqa")}
    check_alike(world, checkpoint, tmp_path / "ours", table, theirs)


def test_blind_and_held_out_runs_stand_apart(world, model, tmp_path):
    evaluate(model, world, ["chartqa"], tmp_path)
    evaluate(model, world, ["chartqa"], tmp_path, blank=True)
    evaluate(model, world, ["chartqa"], tmp_path, split="eval_held_out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chartqa", "chartqa_blind", "chartqa_held_out"]
    blind = {s["answer"] for s in lines(tmp_path / "chartqa_blind" / "samples.jsonl")}
    assert len(blind) == 1, "the same question about the same grey picture has one answer"


def test_cached_features_give_the_same_answers(world, model, tmp_path):
    from omnivision.generation import encode_images

    class Cache:
        def features(self, paths, network, processor):
            assert len(set(paths)) == len(paths)
            return [encode_images(network, processor, [path])[0].double() for path in paths]

    evaluate(model, world, ["pope_random"], tmp_path / "pixels")
    evaluate(model, world, ["pope_random"], tmp_path / "cache", features=Cache())
    a, b = (lines(tmp_path / kind / "pope_random" / "samples.jsonl") for kind in ("pixels", "cache"))
    assert [s["answer"] for s in a] == [s["answer"] for s in b]


def test_pictures_without_a_file_are_told_apart_by_their_pixels(model):
    """As other lm-eval tasks give them."""
    from lm_eval.api.instance import Instance
    from PIL import Image

    pictures = [Image.new("RGB", (54, 54), color) for color in ("red", "blue", "red")]
    requests = [Instance("generate_until", {}, ("<image>What?", {"max_gen_toks": 4, "until": []}, {"visual": [p]}), i)
                for i, p in enumerate(pictures)]
    answered = []
    lm = OmniVisionLM(model=model[0], processor=model[1], on_batch=answered.append)
    answers = lm.generate_until(requests)
    assert answers[0] == answers[2] and sum(answered) == 2


def test_an_image_that_does_not_arrive_is_noticed(model, monkeypatch):
    network, processor = random_model()
    with torch.no_grad():
        for weight in network.model.projector.parameters():
            weight.zero_()
    question, image = "Is there a cat in the image?", torch.randn(729, 16)
    with pytest.raises(RuntimeError, match="does not reach"):
        check_image_reaches_model(network, processor, question, image)
    check_image_reaches_model(*model, question, image)
    monkeypatch.setattr(processor, "image_seq_length", 80)
    monkeypatch.setattr(network.config, "image_token_id", 5)
    with pytest.raises(RuntimeError, match="holds 0 image placeholders"):
        check_image_reaches_model(network, processor, question, image)


def test_actions_count_ids_not_letters(world, monkeypatch, tmp_path):
    network, processor = random_model()
    functions = FunctionSet.from_json(FUNCTIONS)
    install_tokens(network, processor.tokenizer, functions)
    right = {"name": "order", "arguments": {"item": "cat"}}
    ids = target_ids(right, processor.tokenizer, functions)
    typed = processor.tokenizer(processor.tokenizer.decode(ids), split_special_tokens=True)["input_ids"]
    said = [ids, typed, ids[:-1], target_ids({"name": "find", "arguments": {"item": "cat"}}, processor.tokenizer, functions)]
    from omnivision import generation

    def fake(model, processor, questions, images, **_):
        model.model.get_image_features(image_features=torch.zeros(len(images), 729, 16))
        return [said[int(str(image).rsplit("/", 1)[1][0])] for image in images]

    monkeypatch.setattr(generation, "generate_ids", fake)
    found = evaluate((network, processor), world, ["actions"], tmp_path)["actions"]
    assert found["score"] == 25 and found["metrics"]["missed_call"] == 50
    samples = lines(tmp_path / "actions" / "samples.jsonl")
    assert samples[0]["raw"] == samples[1]["raw"], "as text the two answers are alike"
    assert [s["official"]["score"] for s in samples] == [1, 0, 0, 0]
    assert samples[2]["fault"].startswith("unclosed") and not samples[2]["official"]["valid"]


def test_missing_things_are_named(world, model, tmp_path):
    with pytest.raises(ConfigError, match="no checkpoint"):
        evaluate(tmp_path / "nowhere", world, ["pope"])
    with pytest.raises(ConfigError, match="no benchmark `vqa`"):
        evaluate(model, world, ["vqa"])
    with pytest.raises(DataError, match="chartqa.jsonl"):
        evaluate(model, tmp_path, ["chartqa"])
    broken = shutil.copytree(world, tmp_path / "broken")
    (broken / "images" / "eval" / "2.png").unlink()
    with pytest.raises(DataError, match="2.png"):
        evaluate(model, broken, ["chartqa"])
    (broken / "eval" / "pope_random.jsonl").write_text('{"question_id": 1}\n')
    with pytest.raises(DataError, match="pope_random.jsonl:1"):
        evaluate(model, broken, ["pope_random"])


def test_command_prints_one_object(world, checkpoint, tmp_path, capsys):
    argv = ["chartqa", "--model", str(checkpoint), "--data", str(world), "--out", str(tmp_path), "--limit", "2", "--json"]
    assert eval_main.main(argv) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["tasks"]["chartqa"]["n"] == 2 and "chartqa" in err
    with pytest.raises(ConfigError):
        eval_main.main([*argv, "--limit", "0"])


def test_three_thousand_questions_cost_little_beside_the_model(tmp_path, model, monkeypatch):
    import time

    world = write_world(tmp_path / "large", images=500)
    from omnivision import generation

    def fake(network, _processor, questions, images, **_):
        network.model.projector(torch.zeros(len(set(images)), 729, 16))
        return [[40, 41, 258]] * len(questions)

    monkeypatch.setattr(generation, "generate_ids", fake)
    monkeypatch.setattr(lm_module, "check_image_reaches_model", lambda *_: None)
    start = time.process_time()
    assert isinstance(OmniVisionLM(model=model[0], processor=model[1]), OmniVisionLM)
    assert evaluate(model, world, ["pope"], tmp_path / "out")["pope"]["n"] == 3000
    assert time.process_time() - start < 10
