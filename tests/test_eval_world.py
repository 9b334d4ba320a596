"""The embedded world's own questions, answered with the truth and with nonsense."""

import json

import pytest
from eval_world import random_model, write_world
from omnivision_eval.ours import Ours
from omnivision_eval.run import Settings, evaluate
from omnivision_eval.world import is_world, read_rows

from omnivision.errors import DataError
from omnivision.functions import FunctionSet, install_tokens, target_ids
from omnivision.world.build import build_world

SIZES = {"eval_scenes": 12, "eval_charts": 6, "eval_actions": 12, "held_out_scenes": 4, "held_out_actions": 3}
TASKS = ("pope", "chartqa", "open", "actions")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "world"
    build_world(folder, sizes=SIZES, size=54, workers=1, progress=False)
    return folder


@pytest.fixture
def answering(world):
    """A model whose answers are looked up by image and question."""
    network, processor = random_model()
    functions = FunctionSet.from_json(world / "functions.json")
    install_tokens(network, processor.tokenizer, functions)
    answers = {}
    for file in (*(world / "eval").glob("*.jsonl"), *(world / "eval_held_out").glob("*.jsonl")):
        for row in map(json.loads, file.read_text("utf-8").splitlines()):
            if "calls" in row:
                ids = target_ids(row["calls"], processor.tokenizer, functions)
            else:
                label = row["label"] if isinstance(row["label"], str) else row["label"][0]
                ids = processor.tokenizer(label.capitalize() if label in ("yes", "no") else label)["input_ids"]
            answers[str(world.resolve() / row["image"]), row["text"]] = ids

    class Knowing(Ours):
        def answer(self, prompts, prepared):
            return [self._read(answers[one.pictures[0].source, one.text]) for one in prompts]

    return Knowing(network, processor, functions)


@pytest.mark.parametrize("name", ["../secret.png", "/elsewhere/secret.png", "images/../../secret.png", "images/link.png"])
def test_a_picture_outside_of_the_folder_is_refused(tmp_path, name):
    folder = write_world(tmp_path / "world")
    (tmp_path / "secret.png").write_bytes((folder / "images" / "eval" / "0.png").read_bytes())
    (folder / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "eval" / "chartqa.jsonl").write_text(json.dumps({"question_id": "c", "image": name, "text": "How many?", "label": "5"}) + "\n")
    with pytest.raises(DataError, match="outside of the data root"):
        read_rows(folder, "chartqa")


def test_results_in_a_folder_called_eval_are_no_world(world, tmp_path):
    (tmp_path / "eval" / "answers").mkdir(parents=True)
    (tmp_path / "eval" / "pope_random").mkdir()
    (tmp_path / "eval" / "pope_random" / "samples.jsonl").write_text("{}\n")
    assert is_world(world) and not is_world(tmp_path)


@pytest.mark.parametrize(("split", "tasks"), [("eval", TASKS), ("eval_held_out", ("pope", "open", "actions"))])
def test_the_truth_scores_a_hundred_everywhere(world, answering, tmp_path, split, tasks):
    found = evaluate(answering, world, tasks, tmp_path, Settings(split=split))
    assert {task: one["score"] for task, one in found.items()} == pytest.approx(dict.fromkeys(found, 100.0))
    assert found["actions"]["metrics"]["over_call"] == 0 and found["open"]["missing"] == 0
    for task, one in found.items():  # but normalised must not lose what official accepts
        assert all(part["score"] == pytest.approx(100.0) for part in one["variants"].values()), task


def test_a_random_model_answers_every_question_and_scores_little(world, tmp_path):
    network, processor = random_model()
    functions = FunctionSet.from_json(world / "functions.json")
    install_tokens(network, processor.tokenizer, functions)
    found = evaluate(Ours(network, processor, functions), world, TASKS, tmp_path, Settings(limit=12))
    assert found["open"]["score"] < 20 and found["chartqa"]["score"] < 20 and found["actions"]["metrics"]["function"] < 50
    assert found["pope"]["metrics"]["valid_rate"] == 100 and found["pope"]["variants"]["normalised"]["valid_rate"] < 50
