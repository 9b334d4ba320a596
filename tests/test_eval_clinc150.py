"""CLINC150: the published layout as rows and functions, and its figures from generated calls, by hand and with a model that answers as told."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from eval_world import random_model
from omnivision_eval import actions, clinc150, results
from omnivision_eval import main as eval_main
from omnivision_eval.answer import Answer
from omnivision_eval.margin import Margins
from omnivision_eval.ours import Ours
from omnivision_eval.run import evaluate

from omnivision.data import clinc150 as layout
from omnivision.data.noise import noisy
from omnivision.data.rows import read_rows
from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet, install_tokens, target_ids
from omnivision.generation import generate_ids

INTENTS = ("alarm", "change_ai_name", "yes")
PUBLISHED = {  # four requests an intent in train, one in val and test
    "train": [[f"{intent} please {at}", intent] for intent in INTENTS for at in range(4)], "oos_train": [["why is it so", "oos"], ["no idea", "oos"]],
    "val": [[f"{intent} now", intent] for intent in INTENTS], "oos_val": [["who are they", "oos"]],
    "test": [[f"the {intent}", intent] for intent in INTENTS], "oos_test": [["what is over there", "oos"], ["how do birds fly", "oos"]],
}


@pytest.fixture
def data(tmp_path):
    """A folder with the published file, beside others."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "data_full.json").write_text(json.dumps(PUBLISHED))
    (folder / "functions.json").write_text("[]")
    (folder / "domains.json").write_text('{"banking": ["alarm"]}')
    return folder


def test_rows_and_functions_of_the_stage(data, tmp_path, capsys):
    assert layout.main(["--data", str(data), "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out) == {"train": 12, "train_oos": 2, "val": 3, "val_oos": 1, "test": 3, "test_oos": 2}
    functions = FunctionSet.load(tmp_path / "out")
    assert [one.name for one in functions.functions] == [*INTENTS, "irrelevant"] and functions["change_ai_name"].description == "Change ai name."
    rows = read_rows(tmp_path / "out" / "train.jsonl")
    assert {(row.request, row.calls[0]["name"]) for row in rows} == {(text, intent) for text, intent in PUBLISHED["train"]}
    assert [row.request for row in rows] != [text for text, _ in PUBLISHED["train"]], "in a random order"
    assert all(row.images == () and row.calls[0]["arguments"] == {} for row in rows)
    assert {row.calls[0]["name"] for row in read_rows(tmp_path / "out" / "train_oos.jsonl")} == {"irrelevant"}


def test_copies_are_noisy_but_for_the_first(data, tmp_path):
    assert layout.convert(data, tmp_path, copies=5)["train"] == 60
    said = Counter((row.request, row.calls[0]["name"]) for row in read_rows(tmp_path / "train.jsonl"))
    own = {(text, intent) for text, intent in PUBLISHED["train"]}
    assert own <= set(said) and Counter(intent for (_, intent), count in said.items() for _ in range(count)) == dict.fromkeys(INTENTS, 20)
    assert len(set(said) - own) > 10 and all(text.strip() for text, _ in said)


def test_noise_by_hand():
    text = "please set an alarm for seven"
    assert noisy(text, random.Random(0), dropped=0, misspelt=0) == text
    assert noisy(text, random.Random(0), dropped=1, misspelt=0) in text.split()
    worse = noisy(text, random.Random(0), dropped=0, misspelt=1).split()
    assert worse[1:3] == ["set", "an"] and all(a != b for a, b in zip(worse, text.split(), strict=True) if len(b) >= 4)
    assert {noisy("abcd", random.Random(seed), 0, 1) for seed in range(60)} == {"bcd", "acd", "abd", "aabcd", "abbcd", "abccd", "bacd", "acbd", "abdc"}


def test_a_development_part_of_every_intent(data, tmp_path):
    made = layout.convert(data, tmp_path / "a", dev=25)
    assert (made["train"], made["train_oos"], made["dev"], made["dev_oos"], made["test"]) == (9, 1, 3, 1, 3)
    dev = json.loads((tmp_path / "a" / "dev.json").read_text())
    assert Counter(intent for _, intent in dev["val"]) == dict.fromkeys(INTENTS, 1) and len(dev["oos_val"]) == 1
    kept = {row.request for name in ("train", "train_oos") for row in read_rows(tmp_path / "a" / f"{name}.jsonl")}
    parted = {text for texts in dev.values() for text, _ in texts}
    assert kept | parted == {text for name in ("train", "oos_train") for text, _ in PUBLISHED[name]} and not kept & parted
    layout.convert(data, tmp_path / "b", dev=25)
    layout.convert(data, tmp_path / "c", dev=25, seed=1)
    same, other = ((tmp_path / folder / "dev.json").read_text() for folder in "bc")
    assert json.loads(same) == dev != json.loads(other)


@pytest.mark.parametrize(("content", "message"), [
    ({"train": [["a", "b"], ["c"]]}, r"train\[1\]"), ({"val": [["a", "b"]]}, "no train split"), ({"train": [[" ", "b"]]}, "not a request and its intent")])
def test_broken_files_are_named(tmp_path, content, message):
    (tmp_path / "one.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        layout.convert(tmp_path / "one.json", tmp_path / "out")


def test_a_folder_with_another_conversion_is_left_alone(data, tmp_path):
    layout.convert(data, tmp_path / "a", dev=25)
    kept = (tmp_path / "a" / "dev.json").read_bytes()
    with pytest.raises(ConfigError, match="holds another conversion"):
        layout.convert(data, tmp_path / "a")
    assert (tmp_path / "a" / "dev.json").read_bytes() == kept


def test_the_file_of_a_folder_is_told_by_its_layout(data, tmp_path):
    assert layout.layout_file(data).name == "data_full.json"
    (data / "small.json").write_text(json.dumps({"val": PUBLISHED["val"]}))
    with pytest.raises(DataError, match="2 files.*data_full.json, small.json"):
        layout.read_splits(data)
    with pytest.raises(DataError, match="0 files"):
        layout.read_splits(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        layout.read_splits(tmp_path / "none.json")


def test_test_is_read_before_val_and_any_file_will_do(data, tmp_path):
    whole = clinc150.load(data, "clinc150")
    assert [row["label"] for row in whole.rows] == [*INTENTS, "oos", "oos"] and whole.notes == {"split": "test"}
    (tmp_path / "dev.json").write_text(json.dumps({"val": PUBLISHED["val"], "oos_val": PUBLISHED["oos_val"]}))
    assert [row["question_id"] for row in clinc150.load(tmp_path / "dev.json", "clinc150").rows] == ["val-0", "val-1", "val-2", "val-3"]
    (tmp_path / "train.json").write_text(json.dumps({"train": PUBLISHED["train"]}))
    with pytest.raises(DataError, match="neither a test nor a val"):
        clinc150.load(tmp_path / "train.json", "clinc150")


def call(name):
    return {"name": name, "arguments": {}}


GRADES = [  # label, calls, fault, said
    ("alarm", [call("alarm")], None, "alarm"), ("alarm", [call("yes")], None, "yes"), ("alarm", [call("alarm"), call("yes")], None, "alarm"),
    ("alarm", [call("yes"), call("alarm")], None, "yes"), ("oos", [call("irrelevant")], None, "oos"), ("oos", [], None, "oos"),
    ("oos", [call("irrelevant"), call("alarm")], None, "oos"), ("alarm", [], None, "oos"), ("alarm", [call("alarm")], "unclosed: x", None),
    ("oos", [], "syntax: x", None),
]


@pytest.mark.parametrize(("label", "calls", "fault", "said"), GRADES)
def test_the_first_call_is_the_answer(label, calls, fault, said):
    graded = clinc150.grade({"label": label}, Answer("", calls=calls, fault=fault))["official"]
    assert graded == {"said": said, "score": float(said == label), "valid": fault is None}


def test_figures_by_hand():
    said = [("alarm", "alarm"), ("alarm", "alarm"), ("yes", "oos"), ("yes", None), ("oos", "oos"), ("oos", "yes"), ("oos", "oos")]
    rows = [{"question_id": at, "unit": at, "image": None, "text": "", "label": label} for at, (label, _) in enumerate(said)]
    answers = [Answer("", calls=[call("irrelevant" if one == "oos" else one)] if one else [], fault=None if one else "syntax: x") for _, one in said]
    found = results.results_of("clinc150", clinc150, results.samples_of(clinc150, rows, answers), {})
    assert found["score"] == 50 == found["metrics"]["in_scope_accuracy"] and found["stderr"] > 0
    assert found["metrics"]["oos_recall"] == pytest.approx(200 / 3) and found["metrics"]["oos_precision"] == pytest.approx(200 / 3)
    assert found["metrics"]["overall_accuracy"] == pytest.approx(400 / 7) and found["valid_rate"] == pytest.approx(600 / 7)


def test_an_answer_without_ids_is_refused_and_a_saved_intent_is_not():
    with pytest.raises(DataError, match="generated ids"):
        clinc150.grade({"label": "yes", "question_id": "q"}, Answer("yes"))
    assert clinc150.grade({"label": "yes"}, "yes\n")["official"]["score"] == 1


def test_auroc_by_hand():
    assert clinc150.auroc([3.0, 1.0], [2.0, 1.0]) == pytest.approx(62.5), "pairs 1, 1, 0, a tie"
    assert clinc150.auroc([2.0], [1.0]) == 100 and clinc150.auroc([1.0], [1.0]) == 50


@pytest.fixture(scope="module")
def acting():
    """A random model with the functions of the intents."""
    network, processor = random_model()
    functions = layout.functions_of(INTENTS)
    install_tokens(network, processor.tokenizer, functions)
    return network, processor, functions


def test_margins_belong_to_their_answers_in_any_order(acting):
    network, processor, functions = acting
    asked = ["a very long request about many things", "short", "one of middling length", "b"]

    def margins(batch):
        watch = Margins(processor.tokenizer, functions)
        found = generate_ids(network, processor, batch, [None] * len(batch), 3, len(batch), constrain=watch)
        return found, [watch.of(ids) for ids in found]

    ids, together = margins(asked)
    alone = [margins([one]) for one in asked]
    assert ids == [one[0][0] for one in alone] and together == pytest.approx([one[1][0] for one in alone], abs=1e-4)
    assert len(set(together)) == 4


def test_margins_are_of_irrelevant_against_the_best_other(acting):
    _, processor, functions = acting
    watch, rows = Margins(processor.tokenizer, functions), [[], []]
    logits = torch.zeros(2, len(processor.tokenizer))
    for token, value in zip(functions.tokens, (1.0, 4.0, 2.0, 3.0), strict=True):
        logits[:, processor.tokenizer.convert_tokens_to_ids(token)] = torch.tensor([value, -value])
    assert watch(logits, rows) is logits and [watch.of(row) for row in rows] == [-1.0, -2.0]
    rows[0].append(1)
    watch(-logits, rows)
    assert watch.of(rows[0]) == -1.0 and watch.of(rows[1]) == -1.0 and watch.of([]) is None, "only where an answer begins"


class Told(Ours):
    """Calls what stands in the request, or nothing."""

    def answer(self, prompts, prepared):
        names = [next((intent for intent in INTENTS if intent in one.text), "irrelevant") for one in prompts]
        return [self._read(target_ids(call(name), self.processor.tokenizer, self.functions), margin=float(name == "irrelevant")) for name in names]


def test_from_the_published_file_to_results(acting, data, tmp_path):
    found = evaluate(Told(*acting), data, ["clinc150"], tmp_path / "out")["clinc150"]
    assert found["score"] == 100 and found["metrics"]["oos_recall"] == 100 and found["oos_auroc"] == 100 and found["n"] == 5
    assert found["notes"]["split"] == "test" and "5 of 5,500" in found["notes"]["part"]
    samples = [json.loads(line) for line in (tmp_path / "out" / "clinc150" / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["ids"] and samples[0]["margin"] == 0 and samples[0]["official"]["said"] == "alarm"


def test_a_random_model_through_the_command(acting, data, tmp_path, capsys):
    network, processor, functions = acting
    for part in (network, processor):
        part.save_pretrained(tmp_path / "model")
    functions.save(tmp_path / "model")
    capsys.readouterr()  # what saving says
    file = str(data / "data_full.json")
    argv = ["clinc150", "--model", str(tmp_path / "model"), "--data", file, "--out", str(tmp_path / "out"), "--constrain", "--json"]
    assert eval_main.main(argv) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["tasks"]["clinc150"]
    assert found["n"] == 5 and 0 <= found["oos_auroc"] <= 100 and "oos_recall" in err and "oos_auroc" in err
    assert eval_main.main(argv) == 0, "it goes on from its journal"
    assert json.loads(capsys.readouterr().out)["tasks"]["clinc150"] == found


def test_saved_intents_are_scored(data, tmp_path, capsys):
    lines = [{"question_id": f"test-{at}", "text": label} for at, label in enumerate([*INTENTS, "oos", "yes"])]
    (tmp_path / "saved.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert eval_main.main(["clinc150", "--predictions", str(tmp_path / "saved.jsonl"), "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]["clinc150"]
    assert found["score"] == 100 and found["metrics"]["oos_recall"] == 50 and "oos_auroc" not in found


@pytest.mark.official_data
def test_the_published_requests(official_data, tmp_path):
    assert layout.convert(official_data / "clinc150", tmp_path, dev=10) == {
        "train": 13500, "train_oos": 90, "val": 3000, "val_oos": 100, "dev": 1500, "dev_oos": 10}
    functions = FunctionSet.load(tmp_path)
    assert len(functions) == 151 and len({one.description for one in functions.functions}) == 151
    rows = clinc150.load(official_data / "clinc150", "clinc150").rows
    assert len(rows) == 3100 and Counter(row["kind"] for row in rows) == {"in scope": 3000, "out of scope": 100}


def test_figures_of_nothing_are_none():
    inside = clinc150.metrics(np.array([3.0, 4.0, 0.0, 0.0, 0.0, 4.0]))
    assert inside["in_scope_accuracy"] == 75 and inside["oos_recall"] is inside["oos_precision"] is None
    silent = clinc150.metrics(np.array([3.0, 4.0, 0.0, 2.0, 0.0, 6.0]))
    assert silent["oos_recall"] == 0 and silent["oos_precision"] is None
    assert actions.metrics(np.array([1.0, 2.0, 1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0]))["over_call"] is None
