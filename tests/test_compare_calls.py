"""Functional tokens beside descriptions: equal material for all arms, honest retrieval, answers read alike, figures by hand, a small whole run."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import train_world
from model_parts import make_tokenizer
from omnivision_eval.calls_comparison import catalogue, descriptions, material, plot, retrieval, summary, table, training
from omnivision_eval.calls_comparison.arms import ALL, ARMS, KEPT, TOKENS, open_arms
from omnivision_eval.calls_comparison.main import Plan, compare
from omnivision_eval.calls_comparison.measure import questions_of
from omnivision_eval.calls_comparison.words import VERBS

from omnivision import OmniVisionProcessor
from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet
from omnivision.generation import generate_ids

SIZE = 30  # needs more rows of the table than the test's language model has spare


@pytest.fixture(scope="module")
def given():
    return material.made(60, 120, 90, seed=1)


def train_here(words, log):
    """A training command in this process."""
    from omnivision_cli.main import main

    with train_world.one_process():
        assert main(words) == 0


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    start = train_world.world(tmp_path_factory).start("functions")
    return Plan(str(start), tmp_path_factory.mktemp("calls") / "out", (SIZE,), 32, questions=4, k=2,
                overrides=("max_steps=2", "optimizer=adamw"))


@pytest.fixture(scope="module")
def result(plan):
    return compare(plan, train_here, memory=lambda *_: 0.25)


# -- what the arms are given


def test_the_catalogue_has_a_thousand_functions_and_a_smaller_one_is_its_head():
    pairs = catalogue.pairs(1000, seed=1)
    functions = FunctionSet.from_json([catalogue.tool(*pair) for pair in pairs])
    assert len(functions) == 1001 == len({one.description for one in functions.functions})
    assert catalogue.pairs(20, seed=1) == pairs[:20] != catalogue.pairs(20, seed=2)
    with pytest.raises(ConfigError, match="Give 1 to 1000"):
        catalogue.pairs(1001, seed=1)


def test_wordings_sentences_and_names_are_apart_in_training_and_questions(given):
    plain, pairs = 0, catalogue.pairs(1000, seed=1)
    for pair in pairs:
        train, asked = (catalogue.wordings(*pair, split) for split in ("train", "eval"))
        assert len(train) == 5 and len(asked) == 1 and not set(train) & set(asked)
        plain += asked[0] in [clause.replace("{thing}", pair[1]) for clause in VERBS[pair[0]].clauses]
    assert 450 < plain < 550  # half of them in the description's word for the thing
    train, asked = given.train, given.questions
    assert not {row["request"] for row in train} & {row["request"] for row in asked}
    names = [{row["calls"][0]["arguments"].get("name") for row in rows} - {None} for rows in (train, asked)]
    assert min(map(len, names)) > 20 and not names[0] & names[1]


def test_requests_call_every_function_as_often_and_fit_its_schema(given):
    calls = [row["calls"][0] for row in given.train]
    assert all(sum(call["name"] == name for call in calls) == 2 for name in given.names)
    assert not [fault for call in calls for fault in given.functions[call["name"]].faults(call["arguments"])]
    assert all(str(value) in row["request"] for row in given.train for value in row["calls"][0]["arguments"].values())


def test_given_files_take_the_place_of_the_catalogue(given, tmp_path):
    given.functions.save(tmp_path)
    asked = train_world.write_lines(tmp_path / "asked.jsonl", given.questions)
    files = material.Files(tmp_path / "functions.json", train_world.write_lines(tmp_path / "train.jsonl", given.train), asked)
    few = material.read(files, 10, 20, 5, seed=1)
    assert len(few.names) == 10 and len(few.train) == 20 and len(few.questions) == 5
    assert {row["calls"][0]["name"] for row in few.train + few.questions} <= set(few.names)
    with pytest.raises(ConfigError, match="there are 60 functions"):
        material.read(files, 61, 20, 5, seed=1)
    train_world.write_lines(asked, [{**given.questions[0], "calls": given.questions[0]["calls"] * 2}])
    with pytest.raises(DataError, match="2 calls"):
        material.read(files, 60, 20, 5, seed=1)


def test_rows_of_every_format_are_the_same_requests_in_the_same_order(given):
    lines = descriptions.lines(given.functions)
    for kind, fewest, most in (("listed", 5, 10), ("retrieved", 5, 5)):
        rows = training.described_rows(given, kind, 5, seed=1)
        counts = set()
        for row, origin in zip(rows, given.train, strict=True):
            system, user, answer = row["turns"]
            call, shown = origin["calls"][0], system["text"].splitlines()[1:]
            assert row["id"] == origin["id"] and user["text"] == origin["request"] and json.loads(answer["text"]) == call
            assert lines[call["name"]] in shown and len(set(shown)) == len(shown)
            counts.add(len(shown))
        assert min(counts) == fewest and max(counts) == most


# -- retrieval


def test_bm25_by_hand():
    found = retrieval.Bm25({"one": "red cat", "two": "red red dog", "three": "a bird"})
    where, weight = found.weights["red"]
    rarity = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    lengths = np.array([2, 3]) / (7 / 3)
    times = np.array([1, 2])
    assert where.tolist() == [0, 1]
    assert weight == pytest.approx(rarity * times * 2.5 / (times + 1.5 * (0.25 + 0.75 * lengths)))
    assert found.top("The red dog?", 2) == ["two", "one"]
    assert found.top("DOG_cat", 3)[2] == "three"


def test_both_retrievers_find_functions_by_their_own_words_and_recall_counts_them(given):
    lines = descriptions.lines(given.functions)
    documents = {name: lines[name] for name in given.names}
    own = [{"request": line, "calls": [{"name": name}]} for name, line in documents.items()]
    for kind in (retrieval.Bm25, retrieval.Lsa):
        found = kind(documents)
        assert retrieval.recall(found, own, 1) > 95
        assert 10 < retrieval.recall(found, given.questions, 5) < 95  # neither hopeless nor trivial
        assert len(found.top("no such word", 5)) == 5
    swapped = [{**row, "calls": [{"name": given.names[0]}]} for row in own[1:11]]
    assert retrieval.recall(retrieval.Bm25(documents), swapped, 1) == 0


# -- answers


def test_a_function_in_one_line():
    tool = {"name": "move", "description": "Move it.", "parameters": {"type": "object", "required": ["day"], "properties": {
        "day": {"type": "string", "enum": ["Monday", "Friday"]}, "times": {"type": ["integer", "null"]}}}}
    assert descriptions.line(FunctionSet.from_json([tool])["move"]) == "move(day: Monday|Friday, times?: integer|null): Move it."


@pytest.mark.parametrize(("schema", "kind"), [
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string|null"), ({"$ref": "#/$defs/shade"}, "dark|light"), ({"const": "auto"}, "auto"),
    ({"enum": [True, 1, None]}, "true|1|null"), ({"type": "array", "items": {"type": "integer"}}, "list[integer]"), ({"type": "array"}, "array"), ({}, "any"), (True, "any"),
    ({"type": "object", "properties": {"x": {"type": "number"}, "y": {}}, "required": ["x"]}, "{x: number, y?: any}"), ({"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}, "string"),
    ({"$ref": "#/$defs/tree"}, "{kids?: list[{kids?: array}]}")])
def test_a_description_says_what_the_schema_says(schema, kind):
    """Functional tokens are held to all of it: an arm that is not told would lose for that."""
    definitions = {"shade": {"enum": ["dark", "light"]}, "tree": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}}
    tool = {"name": "f", "description": "Do it.", "parameters": {"type": "object", "properties": {"a": schema}, "$defs": definitions}}
    assert descriptions.line(FunctionSet.from_json([tool])["f"]) == f"f(a?: {kind}): Do it."


@pytest.mark.parametrize(("text", "fault"), [
    ('{"name": "rate_song", "arguments": {"name": "Bo", "stars": 3}}', None),
    (' {"arguments": {"stars": 3, "name": "Bo"}, "name": "rate_song"}', None),
    ('{"name": "rate_song", "arguments": {"name": "Bo", "stars": 9}}', "schema"),
    ('{"name": "rate_song", "arguments": {"name": "Bo", "stars": 3, "more": 1}}', "unknown_argument"),
    ('{"name": "rate_bird", "arguments": {}}', "unknown function"),
    ('{"name": ["rate_song"], "arguments": {}}', "syntax"),
    ('{"name": "rate_song", "arguments": "none"}', "syntax"),
    ('{"name": "rate_song", "arguments": {"name": "Bo", "stars": 3}} and so', "syntax"),
    ('{"name": "rate_song", "arguments": {"name": "Al", "name": "Bo", "stars": 3}}', "syntax"),
    ('{"name": "rate_song", "arguments": {"name": "Bo", "stars": NaN}}', "syntax"),
    ("[" * 100000, "syntax"),
    ("rate_song", "syntax"),
])
def test_a_call_in_json_is_held_to_the_schema(text, fault):
    functions, tokenizer = FunctionSet.from_json([catalogue.tool("rate", "song")]), make_tokenizer()
    answer = descriptions.read_call(tokenizer.encode(text, add_special_tokens=False), tokenizer, functions)
    assert answer.fault == fault
    assert answer.calls == ([] if fault else [{"name": "rate_song", "arguments": {"name": "Bo", "stars": 3}}])


# -- figures


def test_rates_and_ratios_by_hand():
    assert summary.rate([1.0] * 8) == {"rate": 100, "low": 100, "high": 100}
    half = summary.rate([1.0, 0.0] * 50)
    assert half["rate"] == 50 and 38 < half["low"] < 44 and 56 < half["high"] < 62
    assert summary.ratio(np.array([2.0, 4.0, 6.0]))["median"] == 4
    assert summary.ratio(np.full(5, 3.0)) == {"median": 3, "low": 3, "high": 3}


def test_only_the_arm_with_everything_in_its_prompt_is_asked_fewer_questions():
    assert [questions_of(ALL, size, 200) for size in (20, 100, 500, 1000, 5000)] == [200, 60, 12, 6, 5]
    assert {questions_of(arm, 1000, 200) for arm in ARMS if arm != ALL} == {200}


# -- the whole


def test_every_arm_is_in_the_results(plan, result):
    arms = result["sizes"][str(SIZE)]["arms"]
    assert list(arms) == list(ARMS) and {arm["n"] for arm in arms.values()} == {4}
    assert arms[ALL]["prompt_tokens"] == arms[KEPT]["prompt_tokens"] > SIZE * 20 > arms[TOKENS]["prompt_tokens"]
    assert arms[ALL]["prompt_ratio"] > arms["bm25"]["prompt_ratio"] > arms[TOKENS]["prompt_ratio"] == 1
    assert arms[KEPT]["same_as_all"] == 100 and 0 < arms[KEPT]["kept_tokens"] < arms[KEPT]["prompt_tokens"]
    assert {arm for arm in arms if "recall" in arms[arm]} == {"bm25", "lsa", "lsa + requests"}
    assert all(0 < arm["first_ms"] <= arm["call_ms"] for arm in arms.values())
    assert arms[TOKENS]["times_tokens"] == {"median": 1, "low": 1, "high": 1}


def test_the_table_and_the_plot_have_every_arm_of_every_size(plan, result):
    assert (plan.out / "table.md").read_text() == table.table(result) + "\n"
    two = {"sizes": {"10": result["sizes"][str(SIZE)], **result["sizes"]}}
    written = table.table(two)
    assert written.count(f"\n| {SIZE} | ") == written.count("\n| 10 | ") == len(ARMS) and " 0.25 |" in written
    drawn = plot.draw(two)
    assert drawn.count("<polyline") == 3 * len(ARMS) and drawn.count("<circle") == 6 * len(ARMS)
    ElementTree.fromstring(drawn)


def test_an_arm_answers_as_generation_does_and_keeps_its_head(plan, result):
    given = material.made(SIZE, 32, 4, plan.seed)
    folder = plan.out / f"{SIZE}-functions"
    arms = open_arms([TOKENS, ALL, KEPT], {kind: folder / kind / "functions" / "final" for kind in ("tokens", "listed")}, given, 2)
    for name, arm in arms.items():
        processor = OmniVisionProcessor.from_pretrained(arm.model.name_or_path)
        # beyond the cache's room; then what is left of longer answers must not show
        for row, most in ((given.questions[0], 280), (given.questions[1], 12), (given.questions[0], 12)):
            lines = [] if name == TOKENS else [descriptions.line(given.functions[one]) for one in given.names]
            turns = descriptions.turns(row["request"], lines) if lines else row["request"]
            assert arm.ask(row["request"], most).ids == generate_ids(arm.model, processor, [turns], [None], most)[0]


def test_every_format_took_the_same_steps_over_the_same_rows(plan, result):
    found = [plan.out / f"{SIZE}-functions" / kind for kind in training.FORMATS]
    assert len({tuple(row["id"] for row in train_world.read_lines(one / "rows.jsonl")) for one in found}) == 1
    assert [train_world.read_lines(one / "functions" / "metrics.jsonl")[-1]["step"] for one in found] == [2, 2, 2]


def test_what_is_finished_is_not_done_again(plan, result):
    def refuse(*_):
        raise AssertionError("it was done before")

    done = plan.out / f"{SIZE}-functions" / "4-questions.json"
    done.unlink()  # as if it had been stopped after its answers
    again = compare(plan, refuse, memory=lambda *_: 0.25)
    assert again["sizes"] == result["sizes"]


def test_a_folder_belongs_to_one_comparison(plan, result):
    with pytest.raises(ConfigError, match="another k"):
        compare(replace(plan, k=3), train_here)


@pytest.mark.slow
def test_the_script_trains_and_measures_in_processes_of_their_own(root, plan, tmp_path):
    words = ["--start", plan.start, "--out", str(tmp_path / "out"), "--quick", "--sizes", "3", "--rows", "8", "--json", "optimizer=adamw"]
    said = subprocess.run([sys.executable, str(root / "scripts" / "compare_calls.py"), *words], capture_output=True, text=True, check=True)
    arms = json.loads(said.stdout)["sizes"]["3"]["arms"]
    assert all(0.1 < arm["peak_gib"] < 8 for arm in arms.values())
