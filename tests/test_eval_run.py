"""Evaluation from question files to results.json with a small random model, and the same score through hf-multimodal."""

import json
import shutil

import pytest
import torch
from eval_world import FUNCTIONS, checkpoint, model, random_model, world, write_world  # noqa: F401 - fixtures are found by name
from omnivision_eval import compare
from omnivision_eval import main as eval_main
from omnivision_eval import results
from omnivision_eval.models import source_of
from omnivision_eval.ours import Ours, check_image_reaches_model
from omnivision_eval.run import Settings, evaluate

from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet, install_tokens, target_ids

POPE = ("pope_random", "pope_popular", "pope_adversarial")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_results_and_samples(world, model, tmp_path):
    found = evaluate(model, world, ["pope", "chartqa"], tmp_path, Settings(batch_size=4))
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
    evaluate(model, world, ["pope_random", "chartqa"], on_batch=lambda *one: finished.append(one))
    assert finished[0] == (0, 12) and finished[-1] == (12, 12) and capfd.readouterr() == ("", "")


def test_identical_questions_of_the_pope_splits_are_asked_once(world, model):
    asked = []

    class Listening(Ours):
        def answer(self, prompts, prepared):
            asked.extend((one.text, one.pictures) for one in prompts)
            return super().answer(prompts, prepared)

    evaluate(Listening(model.model, model.processor), world, ["pope"])
    assert len(asked) == len(set(asked)) < 24


def test_blind_and_held_out_runs_stand_apart(world, model, tmp_path):
    evaluate(model, world, ["chartqa"], tmp_path)
    evaluate(Ours(model.model, model.processor, blank=True), world, ["chartqa"], tmp_path)
    evaluate(model, world, ["chartqa"], tmp_path, Settings(split="eval_held_out"))
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["chartqa", "chartqa_blind", "chartqa_held_out"]
    blind = {s["answer"] for s in lines(tmp_path / "chartqa_blind" / "samples.jsonl")}
    assert len(blind) == 1, "the same question about the same grey picture has one answer"


def test_cached_features_give_the_same_answers(world, model, tmp_path):
    from omnivision.generation import encode_images

    class Cache:
        def get(self, paths):
            assert len(set(paths)) == len(paths)
            return [encode_images(model.model, model.processor, [path])[0].double() for path in paths]

    evaluate(model, world, ["pope_random"], tmp_path / "pixels")
    evaluate(Ours(model.model, model.processor, features=Cache()), world, ["pope_random"], tmp_path / "cache")
    a, b = (lines(tmp_path / kind / "pope_random" / "samples.jsonl") for kind in ("pixels", "cache"))
    assert [s["answer"] for s in a] == [s["answer"] for s in b]


def test_an_image_that_does_not_arrive_is_noticed(model, monkeypatch):
    network, processor = random_model()
    with torch.no_grad():
        for weight in network.model.projector.parameters():
            weight.zero_()
    question, image = "Is there a cat in the image?", torch.randn(729, 16)
    with pytest.raises(ConfigError, match="does not reach"):
        check_image_reaches_model(network, processor, question, image)
    check_image_reaches_model(model.model, model.processor, question, image)
    monkeypatch.setattr(processor, "image_seq_length", 80)
    monkeypatch.setattr(network.config, "image_token_id", 5)
    with pytest.raises(ConfigError, match="holds 0 image placeholders"):
        check_image_reaches_model(network, processor, question, image)


def test_actions_count_ids_not_letters(world, tmp_path):
    network, processor = random_model()
    functions = FunctionSet.from_json(FUNCTIONS)
    install_tokens(network, processor.tokenizer, functions)
    right = {"name": "order", "arguments": {"item": "cat"}}
    ids = target_ids(right, processor.tokenizer, functions)
    typed = processor.tokenizer(processor.tokenizer.decode(ids), split_special_tokens=True)["input_ids"]
    said = [ids, typed, ids[:-1], target_ids({"name": "find", "arguments": {"item": "cat"}}, processor.tokenizer, functions)]

    class Saying(Ours):
        def answer(self, prompts, prepared):
            return [self._read(said[int(prompt.pictures[0].source.rsplit("/", 1)[1][0])]) for prompt in prompts]

    found = evaluate(Saying(network, processor, functions), world, ["actions"], tmp_path)["actions"]
    assert found["score"] == 25 and found["metrics"]["missed_call"] == 50
    samples = lines(tmp_path / "actions" / "samples.jsonl")
    assert samples[0]["raw"] == samples[1]["raw"], "as text the two answers are alike"
    assert [s["official"]["score"] for s in samples] == [1, 0, 0, 0]
    assert samples[2]["fault"].startswith("unclosed") and not samples[2]["official"]["valid"]


def test_missing_things_are_named(world, model, tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        source_of(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no benchmark `vqa`"):
        evaluate(model, world, ["vqa"])
    with pytest.raises(DataError, match="ChartQA's questions are missing.*test/test_human.json"):
        evaluate(model, tmp_path, ["chartqa"])
    with pytest.raises(DataError, match="open.jsonl"):
        evaluate(model, tmp_path, ["open"])
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


def test_three_thousand_questions_cost_little_beside_the_model(tmp_path, model):
    import time

    world = write_world(tmp_path / "large", images=500)

    class Quick(Ours):
        def answer(self, prompts, prepared):
            return [self._read([40, 41, 258])] * len(prompts)

    start = time.process_time()
    assert evaluate(Quick(model.model, model.processor), world, ["pope"], tmp_path / "out")["pope"]["n"] == 3000
    assert time.process_time() - start < 10


def test_a_model_saved_over_another_does_not_share_its_folder(world, checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    out = tmp_path / "out"
    evaluate(source_of(tmp_path / "model"), world, ["pope"], out)
    assert len({json.loads((out / task / "results.json").read_text())["model_hash"] for task in (*POPE, "pope")}) == 1
    evaluate(source_of(tmp_path / "model"), world, ["chartqa"], out)
    random_model(seed=1)[0].save_pretrained(tmp_path / "model")
    with pytest.raises(ConfigError, match="another model in the same place"):
        evaluate(source_of(tmp_path / "model"), world, ["chartqa"], out)
    for broken in ("[]", "{", "{}"):
        (out / "chartqa" / "results.json").write_text(broken)
        with pytest.raises(DataError, match="results"):
            evaluate(source_of(tmp_path / "model"), world, ["chartqa"], out)


def test_one_checkpoint_under_two_paths_is_one_model(world, checkpoint, tmp_path, monkeypatch):
    evaluate(source_of(checkpoint), world, ["chartqa"], tmp_path / "out")
    monkeypatch.chdir(checkpoint.parent)
    evaluate(source_of(checkpoint.name), world, ["pope_random"], tmp_path / "out")
    assert compare.compare([tmp_path / "out"])["runs"]["out"].keys() == {"chartqa", "pope_random"}
    assert len(compare._models(compare.compare([tmp_path / "out"])["runs"]["out"])) == 1


def test_a_model_without_functional_tokens_is_not_asked_for_calls(world, model, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(Ours, "answer", lambda *_: pytest.fail("it was asked"))
    (tmp_path / "runner.json").write_text('{"variants": ["fp32"]}')
    for one in (model, source_of(checkpoint), source_of(tmp_path)):
        with pytest.raises(ConfigError, match="actions is scored from generated ids of functional tokens"):
            evaluate(one, world, ["pope", "actions"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "runner.json").write_text('{"functions": {"names": {}, "end": 3}}')
    shutil.copytree(checkpoint, tmp_path / "acting")
    FunctionSet.from_json(FUNCTIONS).save(tmp_path / "acting")
    assert source_of(tmp_path).makes_calls and source_of(tmp_path / "acting").makes_calls


def test_results_of_another_run_are_not_overwritten(world, model, tmp_path):
    first = evaluate(model, world, ["chartqa"], tmp_path)
    again = evaluate(model, world, ["chartqa"], tmp_path, Settings(batch_size=2))
    assert again["chartqa"]["settings"].pop("batch_size") == 2 and first["chartqa"]["settings"].pop("batch_size") == 32
    assert again == first
    for change, said in ((Settings(limit=2), "another settings"), (Settings(split="eval_held_out", limit=2), None)):
        if said:
            with pytest.raises(ConfigError, match=said):
                evaluate(model, world, ["chartqa"], tmp_path, change)
        else:
            evaluate(model, world, ["chartqa"], tmp_path, change)  # lies beside
    other = Ours(*random_model(seed=1))
    other.name = "another"
    with pytest.raises(ConfigError, match="another model"):
        evaluate(other, world, ["pope_random"], tmp_path)
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(ConfigError, match="cannot be made"):
            evaluate(model, world, ["chartqa"], tmp_path / place)


def test_no_second_run_writes_into_a_folder_until_the_first_has_written(world, model, checkpoint, tmp_path, monkeypatch):
    said, write = [], results.write

    def writing(folder, *more):
        for one in (model, source_of(checkpoint)):
            with pytest.raises(ConfigError, match="in use by process") as caught:
                evaluate(one, world, ["pope_random"], tmp_path)
            said.append(caught.value.where)
        return write(folder, *more)

    monkeypatch.setattr(results, "write", writing)
    evaluate(model, world, ["chartqa"], tmp_path)
    assert said == [str(tmp_path)] * 2
    monkeypatch.undo()
    evaluate(model, world, ["chartqa"], tmp_path)
