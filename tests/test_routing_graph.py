"""A graph's file: what it gives the router, and what is refused by the name of its key."""

from __future__ import annotations

import json

import pytest
from routing_parts import ABOUT, at, worker, write_graph

from omnivision.data.rows import read_rows
from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet
from omnivision.routing import Graph, training_row, turn

HERE = at("http://127.0.0.1:9/v1")
TWO = [worker("law", HERE, good_for=["contracts", "tenancy"]), worker("plain", HERE)]


def read(tmp_path, workers=None, **more) -> Graph:
    return Graph.read(write_graph(tmp_path, TWO if workers is None else workers, **more))


def test_each_worker_is_a_function_of_one_query(tmp_path):
    functions = read(tmp_path).functions()
    assert [one.name for one in functions.functions] == ["irrelevant", "law", "plain"]
    assert functions["law"].description == "Answers questions of law. Good for: contracts, tenancy."
    assert functions["law"].faults({"query": "q"}) == [] and functions["law"].faults({"query": ""}) and functions["law"].faults({})
    functions.save(tmp_path)
    assert FunctionSet.load(tmp_path) == functions


def test_a_worker_added_at_the_end_moves_nobody(tmp_path):
    before, after = read(tmp_path).functions(), read(tmp_path, [*TWO, worker("chat", HERE)]).functions()
    assert after.keeping(before) == after
    with pytest.raises(ConfigError, match="was 'law' and is now 'plain'"):
        read(tmp_path, TWO[::-1]).functions().keeping(before)


def test_who_stands_in_for_whom(tmp_path):
    graph = read(tmp_path, [worker("law", HERE), worker("plain", HERE, fallback=[]), worker("chat", HERE, fallback=["law"])], fallback=["chat", "law"])
    assert {name: [one.name for one in graph.order(name)] for name in ABOUT} == {"law": ["law", "chat"], "plain": ["plain"], "chat": ["chat", "law"]}


def test_folders_lie_beside_the_file_and_waiting_is_short(tmp_path):
    graph = read(tmp_path, [worker("law", {"folder": "law/final"}), worker("plain", {"base_url": "http://h/v1", "model": "m", "extra": {"top_k": 1}})])
    assert graph.workers[0].checkpoint.folder == tmp_path / "law" / "final"
    endpoint = graph.workers[1].endpoint
    assert (endpoint.timeout, endpoint.attempts) == (30, 2) and json.loads(endpoint.body("k", [{}]))["top_k"] == 1


BAD_WORKERS = [
    ({"name": "law", "description": "d"}, "lies nowhere", r"workers\[0\] \(law\), endpoint, checkpoint"),
    ({**TWO[0], "checkpoint": {"folder": "x"}}, "lies in two places", "endpoint, checkpoint"),
    ({**TWO[0], "name": "irrelevant"}, "cannot be named 'irrelevant'", "name"),
    ({**TWO[0], "name": "../law"}, "cannot be named", "name"),
    ({**TWO[0], "description": " "}, "has no description", "description"),
    ({**TWO[0], "endpoint": {**HERE, "base_url": "ftp://h"}}, "no http or https URL", r"workers\[0\] \(law\), base_url"),
    ({**TWO[0], "endpoint": {**HERE, "timeout": 0}}, "timeout is 0", r"workers\[0\] \(law\), timeout"),
    ({**TWO[0], "endpoint": {**HERE, "key": "sk"}}, "Unknown key `endpoint.key`", r"workers\[0\] \(law\)"),
    ({**TWO[0], "descripton": "d"}, "Unknown key `descripton`", "workers"),
    (worker("law", {"folder": "x", "max_new_tokens": 0}), "at least 1", "max_new_tokens"),
    (worker("law", {"folder": "x"}, system="s"), "no system text", "system"),
]


@pytest.mark.parametrize(("first", "what", "where"), BAD_WORKERS)
def test_a_bad_worker_is_named_with_its_key(tmp_path, first, what, where):
    with pytest.raises(ConfigError, match=what) as caught:
        read(tmp_path, [first, TWO[1]])
    assert caught.match(where) and str(tmp_path / "graph.json") in caught.value.where


@pytest.mark.parametrize(("more", "what", "key"), [
    ({"edges": {"low": ["plain"]}}, "no worker named 'low'.*'law'", "edges"),
    ({"edges": {"law": ["plane"]}}, "no worker named 'plane'.*'plain'", "edges.law"),
    ({"default": "x"}, "no worker named 'x'.*Known: law, plain", "default"),
    ({"fallback": ["x"]}, "no worker named 'x'", "fallback"),
    ({"workers": [worker("law", HERE, fallback=["x"])]}, "no worker named 'x'", "workers.law.fallback"),
    ({"workers": []}, "no worker", "workers"),
    ({"workers": [TWO[0], TWO[0]]}, "two workers named 'law'", "workers"),
    ({"edges": {"law": ["plain"], "plain": ["law"]}}, "circle .*nothing limits", "most_steps"),
    ({"edges": {"law": ["law"]}}, "circle", "most_steps"),
    ({"most_steps": 0}, "most_steps is 0", "most_steps"),
])
def test_a_bad_graph_is_named_with_its_key(tmp_path, more, what, key):
    with pytest.raises(ConfigError, match=what) as caught:
        read(tmp_path, **{"workers": TWO, **more})
    assert caught.value.where == f"{tmp_path / 'graph.json'}: {key}"


def test_a_circle_with_a_limit_is_a_graph(tmp_path):
    assert read(tmp_path, edges={"law": ["plain"], "plain": ["law"]}, most_steps=4).most_steps == 4


@pytest.mark.parametrize(("text", "what"), [(None, "not a readable graph"), ("{", "not a readable graph"), ("[]", "no JSON object"),
                                            ('{"workers": [], "workers": []}', "'workers' stands twice"), ('{"edges": {}}', "Missing: `workers`")])
def test_what_is_no_graph(tmp_path, text, what):
    if text is not None:
        (tmp_path / "graph.json").write_text(text)
    with pytest.raises(ConfigError, match=what):
        Graph.read(tmp_path / "graph.json")


def test_the_turn_is_one_text():
    assert turn("May I?") == "May I?"
    assert turn("May I?", [("law", "Yes."), ("plain", "Sure.")]) == "May I?\n\nAnswer of law: Yes.\n\nAnswer of plain: Sure."
    assert turn("?", [("law", "x" * 1001)]).endswith("x" * 1000 + "…") and turn("?", [("law", "x" * 1000)]).endswith("x")
    assert turn("?", [("law", "x" * 1001)], most=None).endswith("x" * 1001)


def test_rows_to_train_a_router(tmp_path):
    graph = read(tmp_path)
    rows = [training_row(graph, "May I?", "law", "Is it lawful?"), training_row(graph, "May I?", None, answers=[("law", "Yes.")]),
            training_row(graph, "May I?", "plain", "Say it plainly.", [("law", "Yes.")], ["a.png"])]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    read_back = read_rows(tmp_path / "rows.jsonl")
    assert [one.calls[0]["name"] for one in read_back] == ["law", "irrelevant", "plain"]
    assert read_back[1].request == "May I?\n\nAnswer of law: Yes." and read_back[2].images == ("a.png",)
    with pytest.raises(DataError, match="no function named 'lew'"):
        training_row(graph, "May I?", "lew", "q")
    with pytest.raises(DataError):
        training_row(graph, "May I?", "law", "")
