"""Preference pairs from a model's own answers: only the wrong words differ, whoever the teacher is."""

from __future__ import annotations

import base64
import json
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import train_world
import workers
from endpoint_server import Server
from hypothesis import given
from hypothesis import strategies as st

from omnivision.data.rows import Row, read_rows
from omnivision.errors import ConfigError, DataError, ResumableError
from omnivision.pairs import prompts
from omnivision.pairs.factory import correct_all, pair_rows, statistics_of
from omnivision.pairs.gates import Limits, failed_gate, ratios
from omnivision.pairs.main import parser, run
from omnivision.pairs.teacher import Oracle, Task, read_truths
from omnivision.pairs.words import sentences, word_edits
from omnivision.world.truth import Item, Scene

IMAGE = "images/dpo/000000.png"
STREET = Scene("street", "noto", (Item("cat", 0.2, 0.2, 0.3, "red"), Item("apple", 0.5, 0.5, 0.2), Item("apple", 0.55, 0.8, 0.2),
                                  Item("dog", 0.8, 0.2, 0.3)), 5)
REFERENCES = {"Describe the image.": "A red cat, two apples and a dog on a street.", "How many apples are there?": "2",
              "What color is the cat?": "red", "Is there an owl in the image?": "No"}


def row(question, number=0):
    turns = ({"role": "user", "text": question}, {"role": "assistant", "text": REFERENCES[question]})
    return Row(id=f"d{number}", images=(IMAGE,), source=f"dpo.jsonl:{number + 1}", turns=turns)


class Street(Oracle):
    """The oracle, of the one picture."""

    def __init__(self) -> None:
        self.truths = {IMAGE: STREET}


def pairs_of(*answers, **limits):
    """(rows of pairs, counts) of (question, answer) pairs."""
    rows = [row(question, i) for i, (question, _) in enumerate(answers)]
    tasks = [Task(f"{i}/0", one, IMAGE, one.turns[0]["text"], answer, one.turns[1]["text"]) for i, (one, (_, answer)) in enumerate(zip(rows, answers, strict=True))]
    outcomes = correct_all(tasks, Street(), Limits(**limits), second_look=True)
    pairs = pair_rows(outcomes, {"model": "runs/x"})
    return pairs, statistics_of(outcomes, pairs)["outcomes"]


def unchanged(pair, side):
    """An answer with its edited spans taken out."""
    text = pair[side]
    for start, end in reversed(pair["edit_spans"][side]):
        text = text[:start] + text[end:]
    return text


def test_a_right_answer_gives_no_pair():
    pairs, counts = pairs_of(("How many apples are there?", "Two."), ("Describe the image.", REFERENCES["Describe the image."]))
    assert pairs == [] and counts == {"right": 2, "pairs": 0}


def test_garbage_gives_no_pair():
    pairs, counts = pairs_of(("What color is the cat?", "wibble wobble"), ("Describe the image.", ""), ("How many apples are there?", "2 or 3"))
    assert pairs == [] and counts == {"right": 0, "pairs": 0, "unmended": 3}


def test_one_wrong_word_is_all_that_differs():
    answer = "A red cat, two apples and a dog on a farm."
    (pair,), counts = pairs_of(("Describe the image.", answer))
    assert counts["pairs"] == 1 and pair["rejected"] == answer and pair["chosen"] == "A red cat, two apples and a dog on a street."
    assert pair["wrong_words"] == ["farm"]
    ((start, end),) = pair["edit_spans"]["rejected"]
    ((new_start, new_end),) = pair["edit_spans"]["chosen"]
    assert answer[start:end] == "farm" and pair["chosen"][new_start:new_end] == "street"
    assert (pair["id"], pair["images"], pair["prompt"], pair["model"]) == ("d0-pair", [IMAGE], "Describe the image.", "runs/x")


def test_several_wrong_words_are_edited_apart():
    (pair,), _ = pairs_of(("Describe the image.", "A blue cat, three apples and a dog on a street."))
    assert pair["chosen"] == REFERENCES["Describe the image."] and pair["wrong_words"] == ["blue", "three"]
    assert unchanged(pair, "chosen") == unchanged(pair, "rejected") == "A  cat,  apples and a dog on a street."


def test_answers_are_counted_apart_and_keep_their_rows():
    pairs, counts = pairs_of(("How many apples are there?", "3"), ("Is there an owl in the image?", "No"),
                             ("What color is the cat?", "Blue."), ("Is there an owl in the image?", "wibble wobble wibble"), most_edited=1.0)
    assert counts == {"right": 1, "pairs": 2, "unmended": 1}
    assert [(pair["id"], pair["chosen"]) for pair in pairs] == [("d0-pair", "2"), ("d2-pair", "Red.")]


def test_an_edit_of_the_whole_answer_is_not_minimal():
    said = (("How many apples are there?", "3"), ("Describe the image.", "A red cat, two apples and a dog on a farm."))
    pairs, counts = pairs_of(*said)
    assert [pair["id"] for pair in pairs] == ["d1-pair"] and counts == {"right": 0, "pairs": 1, "too_much_edited": 1}
    pairs, counts = pairs_of(*said, most_edited=1.0)
    assert [pair["id"] for pair in pairs] == ["d0-pair", "d1-pair"] and counts["pairs"] == 2
    pairs, counts = pairs_of(*said, most_edited=0.05)  # one of twelve words is edited
    assert pairs == [] and counts["too_much_edited"] == 2


def test_an_unknown_picture_names_the_row():
    with pytest.raises(DataError, match=r"truth of images/other.png is not known \(dpo.jsonl:1\)"):
        list(Street().correct([Task("0/0", Row("d0", ("images/other.png",), "dpo.jsonl:1"), "", "How many apples are there?", "2", "2")]))


def test_a_world_without_truth_is_named(tmp_path):
    with pytest.raises(DataError, match="truth of the split `dpo` is missing.*dpo.jsonl"):
        read_truths(tmp_path, [IMAGE])


GATES = [  # original, corrected, the gate that stops it
    ("A red cat sits on a mat.", "A black cat sits on a mat.", None),
    ("A red cat sits on a mat.", "a red cat sits on a mat", "empty_edit"),
    ("A red cat.", "Two dogs play chess.", "too_much_edited"),
    ("A cat.", "A cat, which is black and sleeps.", "length"),
    ("- a cat\n- a dog", "- a cow\n* a dog\n", None),
    ("- a cat\n- a dog", "a cow and - a dog", "format"),
    ("1. a cat\n2. a dog\n3. a cow", "1. a cat\n2. a pig 3. a cow", "format"),
    ("A red cat sits here.", "A black cat sits here", "format"),
    ("There is a cat. There is a big dog on the right.", "There is a pig. There is a big dog on the right.", None),
    ("A small cat is here. There is a big dog on the right.", "There is a big dog on the right. A small pig is here.", "order"),
    ("街上有一只猫", "街上有两只猫", None), ("街上有一只猫", "there are two cats in the street", "too_much_edited"),
    ("There are two cats", "There are 两 cats", "format"),
    ("3", "2", "too_much_edited"), ("", "2", "too_much_edited"),
]  # fmt: skip


@pytest.mark.parametrize("rejected, chosen, gate", GATES)
def test_gates(rejected, chosen, gate):
    assert failed_gate(rejected, chosen, Limits()) == gate


def test_ratios_by_hand():
    found = ratios("A red cat sits on a mat.", "A big black cat sits on a mat.")  # seven words; one replaced, one put in
    assert (found.edited, found.length) == (round(2 / 8, 4), round(8 / 7, 4))
    assert ratios("街上有一只猫", "街上有两只猫").edited == round(1 / 6, 4)
    assert sentences("One. Two!  三。\n\n- four") == ["One.", "Two!", "三。", "- four"]


@given(st.text("ab .\n猫狗!", max_size=40), st.text("ab .\n猫狗!", max_size=40))
def test_any_two_texts_pass_or_fail_a_gate_and_spans_hold_all_that_differs(rejected, chosen):
    assert failed_gate(rejected, chosen, Limits()) in (None, "empty_edit", "too_much_edited", "length", "format", "order")
    assert failed_gate(rejected, rejected, Limits()) == "empty_edit"
    spans = word_edits(rejected, chosen)
    kept = [re.findall(r"[^\W]|[^\w\s]", unchanged({"rejected": rejected, "chosen": chosen, "edit_spans": spans}, side)) for side in ("rejected", "chosen")]
    assert kept[0] == kept[1]


REPLIES = [('{"right": true}', "right"), ('{"right": false, "answer": "A cat"}', "corrected"), ('{"right": false, "answer": null}', "unmended"),
           ('{"right": false, "answer": " "}', "unmended"), ('```json\n{"right": true}\n```', "right"), ("Sure! The answer is right.", None), ("[]", None),
           ('{"right": "yes"}', None), ('{"answer": "A cat"}', None), ('{"right": false, "answer": 5}', None), ("", None), ('{"right": NaN}', None)]


@pytest.mark.parametrize("text, kind", REPLIES)
def test_replies_are_read_strictly(text, kind):
    if kind is None:
        with pytest.raises(ValueError):
            prompts.read_correction(text)
    else:
        assert prompts.read_correction(text).kind == kind


# -- on a world of its own


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A world with 24 pictures and some two hundred questions."""
    from omnivision.world.build import build_world

    folder = tmp_path_factory.mktemp("pairs")
    build_world(folder / "world", seed=3, sizes={"dpo": 24}, workers=1, progress=False)
    return folder


SWAPPED = {"left": "right", "right": "left", "左": "右", "右": "左", "red": "blue", "blue": "red", "Two": "Three", "two": "three", "cat": "dog", "dog": "cat"}


def mirrored(text):
    """A wrong answer: some words exchanged."""
    return "".join(SWAPPED.get(part, part) for part in re.split(r"(\b(?:left|right|red|blue|Two|two|cat|dog)\b|左|右)", text))


@pytest.fixture
def folder(built, tmp_path, monkeypatch):
    """The world, an empty folder for what is made, and a model that answers with exchanged words."""
    (tmp_path / "world").symlink_to(built / "world")
    rows = read_rows(built / "world" / "dpo.jsonl")
    references = {}
    for one in rows:
        references.setdefault(one.turns[0]["text"], {})[str(built / "world" / one.images[0])] = one.turns[1]["text"]

    def generate(model, processor, questions, images, *rest, **more):
        paths = [image if isinstance(image, str) else None for image in images]
        return [mirrored(references[question].get(path) or next(iter(references[question].values()))) for question, path in zip(questions, paths, strict=True)]

    monkeypatch.setattr("omnivision.generation.generate_answers", generate)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_world.road(tmp_path_factory)["sft"]


def options(folder, model, *more):
    return parser().parse_args(["--model", str(model), "--data", str(folder / "world" / "dpo.jsonl"), "--image-root", str(folder / "world"),
                                "--out", str(folder / "pairs.jsonl"), *more])


def test_the_command_writes_pairs_of_wrong_answers_only(folder, model):
    rows = read_rows(folder / "world" / "dpo.jsonl")
    wrong = [one for one in rows if mirrored(one.turns[1]["text"]) != one.turns[1]["text"]]
    report = run(options(folder, model, "--most-edited", "1", "--html", str(folder / "pairs.html")))
    outcomes = report["outcomes"]
    assert sum(outcomes.values()) == report["answers"] == len(rows) and outcomes["right"] >= len(rows) - len(wrong)
    written = train_world.read_lines(folder / "pairs.jsonl")
    assert len(written) == outcomes["pairs"] > 10 and all(pair["rejected"] != pair["chosen"] for pair in written)
    first = written[0]
    assert set(first) >= {"id", "images", "prompt", "edit_spans", "ratios", "model", "model_hash", "teacher", "seed"} and first["teacher"] == "world oracle"
    read_rows(folder / "pairs.jsonl")  # dpo reads them as they are
    page = (folder / "pairs.html").read_text()
    assert page.count("<article") == min(60, len(written)) and "<del>" in page and "<ins>" in page
    assert run(options(folder, model, "--most-edited", "0.01"))["outcomes"]["pairs"] == 0
    assert not list(folder.rglob("*.partial"))


def test_a_folder_without_a_model_and_wrong_limits_are_refused(folder, model):
    with pytest.raises(ConfigError, match="no model in the folder"):
        run(options(folder, folder))
    for wrong in (["--most-edited", "0"], ["--most-edited", "1.5"], ["--most-longer", "0.5"], ["--samples", "0"], ["--temperature", "-1"], ["--samples", "2"]):
        with pytest.raises(ConfigError, match="--most-edited|--samples"):
            run(options(folder, model, *wrong))
    with pytest.raises(ConfigError, match="model is not named"):
        run(options(folder, model, "--teacher", "http://127.0.0.1:1/v1"))
    with pytest.raises(ConfigError, match="teacher cannot be loaded"):
        run(options(folder, model, "--teacher", str(folder / "none"), "--limit", "2"))


def test_answers_are_given_once(folder, model, monkeypatch):
    """Other gates, or another teacher, do not ask the model again; half a line of a killed run is not taken for an answer."""
    run(options(folder, model))
    (journal,) = (folder / "pairs.work").glob("answers-*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-2]) + lines[-2][:-9])
    asked = []
    original = __import__("omnivision.generation", fromlist=["x"]).generate_answers
    monkeypatch.setattr("omnivision.generation.generate_answers", lambda m, p, questions, *rest, **more: asked.extend(questions) or original(m, p, questions, *rest, **more))
    first = run(options(folder, model, "--most-edited", "0.4"))
    assert len(asked) == 2 and journal.read_bytes().splitlines(keepends=True) == lines
    assert run(options(folder, model, "--most-edited", "0.4")) == first and len(asked) == 2
    run(options(folder, model, "--seed", "7"))
    assert len(asked) == len(lines) + 1  # the header is no answer


def test_sampled_answers_depend_on_their_seed_alone(built, model):
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision.generation import generate_ids

    loaded, processor = OmniVisionForConditionalGeneration.from_pretrained(model), OmniVisionProcessor.from_pretrained(model)
    questions, pictures = ["What is it?", "How many apples are there?", "What is it?"], [built / "world" / IMAGE] * 3
    seeds = ["a", "b", "c"]
    together = generate_ids(loaded, processor, questions, pictures, 8, temperature=1.0, seeds=seeds)
    alone = [generate_ids(loaded, processor, [question], [picture], 8, temperature=1.0, seeds=[seed])[0] for question, picture, seed in
             zip(questions, pictures, seeds, strict=True)]
    assert together == alone and together[0] != together[2]
    cold = generate_ids(loaded, processor, questions, pictures, 8, temperature=1e-4, seeds=seeds)
    assert cold == generate_ids(loaded, processor, questions, pictures, 8)


# -- a teacher behind HTTP


class Sloppy:
    """A model that teaches from the oracle's knowledge, and one time in four does what it was told not to."""

    def __init__(self, world: Path, share: float = 0.25) -> None:
        rows = read_rows(world / "dpo.jsonl")
        self.oracle = Oracle(world, rows)
        self.rows = {}
        for one in rows:
            self.rows.setdefault(one.turns[0]["text"], []).append(one)
        self.bytes = {str(one.images[0]): (world / one.images[0]).read_bytes() for one in rows}
        self.share, self.told = share, []

    def reply(self, body: dict) -> str:
        system, user = body["messages"]
        said = json.loads(user["content"][0]["text"])
        picture = base64.b64decode(user["content"][1]["image_url"]["url"].partition(",")[2])
        one = next(row for row in self.rows[said["question"]] if self.bytes[row.images[0]] == picture)
        task = Task("x", one, "", said["question"], said.get("answer", said.get("original_answer")), one.turns[1]["text"])
        ((_, verdict),) = self.oracle.correct([task])
        if system["content"] == prompts.LOOK_AGAIN:
            ((_, corrected),) = self.oracle.correct([task._replace(answer=said["corrected_answer"])])
            return json.dumps({"right": corrected.kind == "right", "original_right": verdict.kind == "right",
                               "only_needed": verdict.text == said["corrected_answer"]})
        answer = {"right": None, "corrected": verdict.text, "unmended": None}[verdict.kind]
        rng = random.Random(json.dumps(said))
        if verdict.kind == "right" and rng.random() >= self.share:
            return '{"right": true}'
        if answer and rng.random() < self.share:
            self.told.append(said["answer"])
            answer = rng.choice([
                answer + " I hope this helps, let me know if you want to know more about it.", "It is true that " + answer[:1].lower() + answer[1:],
                "Elephants.", " ".join(reversed(answer.split())), "- " + answer, answer.upper() + "\n\nCorrected.", mirrored(answer)])
        elif verdict.kind == "right":
            answer = mirrored(said["answer"]) + " indeed, quite so"  # corrects what is right
        return json.dumps({"right": False, "answer": answer})


def serve(folder, choose=None):
    """A server whose good replies come from the sloppy teacher."""
    sloppy = Sloppy(folder / "world")
    server = Server(choose or (lambda question, number: "good"))
    plain = server.choose

    def chosen(question, number):
        name = plain(question, number)
        if name != "good":
            return name
        body = server.received[number]["body"]
        server.given[body["messages"][0]["content"]] += 1
        return f"good:{sloppy.reply(body)}"

    server.choose, server.sloppy, server.given = chosen, sloppy, Counter()
    return server


def taught(folder, model, server, *more):
    return run(options(folder, model, "--teacher", server.url, "--teacher-model", "sloppy", "--timeout", "5", *more))


def test_what_a_sloppy_teacher_writes_is_minimal_and_true_behind_the_gates(folder, model):
    """At least 95 % of the pairs change nothing but the words that the oracle calls wrong, and all chosen answers are true."""
    with serve(folder) as server:
        report = taught(folder, model, server, "--most-edited", "0.6")
    assert server.sloppy.told and sum(report["outcomes"].values()) == report["answers"]
    assert sum(report["outcomes"].get(gate, 0) for gate in ("too_much_edited", "length", "format", "order", "second_look_disagrees")) > 5
    rows = {one.id: one for one in read_rows(folder / "world" / "dpo.jsonl")}
    oracle, minimal, pairs = Oracle(folder / "world", rows.values()), 0, train_world.read_lines(folder / "pairs.jsonl")
    for pair in pairs:
        one = rows[pair["id"].removesuffix("-pair")]
        tasks = [Task(side, one, "", pair["prompt"], pair[side], one.turns[1]["text"]) for side in ("rejected", "chosen")]
        (_, before), (_, after) = oracle.correct(tasks)
        assert after.kind == "right", pair
        minimal += before.kind == "corrected" and before.text == pair["chosen"]
    assert len(pairs) > 20 and minimal >= 0.95 * len(pairs)


def test_pictures_go_to_the_teacher_as_they_are(folder, model):
    with serve(folder) as server:
        taught(folder, model, server, "--limit", "3")
    sent = [request["body"]["messages"][1]["content"][1]["image_url"]["url"] for request in server.received]
    assert all(base64.b64decode(url.partition(",")[2]).startswith(b"\x89PNG") and url.startswith("data:image/png;base64,") for url in sent)


def test_failures_are_outcomes_and_the_next_start_asks_only_those(folder, model):
    broken = {"status:400": "failed: rejected", "refusal": "failed: refused", "empty": "failed: empty"}
    with serve(folder, lambda question, number: [*broken, "good"][number % 4] if number < 40 else "good") as server:
        first = taught(folder, model, server, "--limit", "40", "--concurrency", "1")
        assert sum(first["outcomes"].values()) == 40 and any(kind.startswith("failed: ") for kind in first["outcomes"])
        asked = len(server.received)
        again = taught(folder, model, server, "--limit", "40", "--concurrency", "1")
        assert again["outcomes"] == first["outcomes"] and len(server.received) == asked


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(folder, model):
    prices = ["--price-in", "1000", "--price-out", "1000"]
    with serve(folder) as server:
        with pytest.raises(ResumableError, match="max_cost"):
            taught(folder, model, server, "--limit", "20", "--max-cost", "5", "--concurrency", "1", *prices)
        asked = len(server.received)
        taught(folder, model, server, "--limit", "20", "--max-cost", "1e9", *prices)
    assert 0 < asked < 40


def test_a_model_on_this_machine_may_teach(folder, model):
    """A model of three training steps writes no JSON: every answer is counted as that."""
    report = run(options(folder, model, "--teacher", str(model), "--limit", "2"))
    assert report["outcomes"] == {"right": 0, "pairs": 0, "failed: wrong_schema": 2} and report["teacher"] == str(model)


CHANCES = ("status:429", "status:500", "status:503", "reset", "truncated", "short_body", "error_inside", "empty", "hang_up")


def factory(tasks, path, url, done) -> None:
    """A process that corrects all tasks and says what became of them."""
    from omnivision.endpoint import Client, Endpoint, Ledger
    from omnivision.pairs.endpoint_teacher import EndpointTeacher

    endpoint = Endpoint(url, "sloppy", concurrency=4, backoff=0.002, timeout=5, attempts=8)
    with Ledger(path) as ledger, Client(endpoint, ledger) as client:
        outcomes = correct_all(tasks, EndpointTeacher(client), Limits(0.6), second_look=True)
    Path(done).write_text(json.dumps([[outcome.task.key, outcome.kind] for outcome in outcomes]))


@pytest.mark.parametrize("items, kills", [(120, 5), pytest.param(500, 20, marks=pytest.mark.slow)])
def test_a_factory_killed_again_and_again_pays_once_and_loses_nothing(folder, tmp_path, items, kills):
    rows = read_rows(folder / "world" / "dpo.jsonl")
    tasks = []
    for number in range(items):
        one = rows[number % len(rows)]
        tasks.append(Task(f"{number}/0", one, str(folder / "world" / one.images[0]), one.turns[0]["text"], mirrored(one.turns[1]["text"]), one.turns[1]["text"]))
    dice = random.Random(items)
    points = sorted(dice.sample(range(2, int(1.1 * items)), kills))
    with serve(folder, lambda question, number: random.Random(number).choice(CHANCES) if random.Random(f"{number}").random() < 0.2 else "good") as server:
        for point in [*points, None]:
            process = workers.CONTEXT.Process(target=factory, args=(tasks, tmp_path / "ledger.jsonl", server.url, tmp_path / "done.json"))
            process.start()
            while point is not None and len(server.received) < point and process.is_alive():
                time.sleep(0.001)
            if point is not None:
                process.kill()
            process.join(120)
            assert process.exitcode == (0 if point is None else -signal.SIGKILL)
        outcomes = json.loads((tmp_path / "done.json").read_text())
    assert [key for key, _ in outcomes] == [task.key for task in tasks] and len({kind for _, kind in outcomes}) > 3
    ledger = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    answered = [line["key"] for line in ledger if line["event"] == "response"]
    assert len(answered) == len(set(answered))  # no question has two answers
    cut_off = sum(1 if line["event"] == "request" else -1 for line in ledger)
    assert 0 < cut_off <= 4 * kills
    assert server.given[prompts.CORRECT] + server.given[prompts.LOOK_AGAIN] <= len(answered) + cut_off  # paid once, but for what a kill cut off
    assert server.given[prompts.CORRECT] <= items + cut_off
