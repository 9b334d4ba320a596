"""`omnivision route` with a random checkpoint: whatever it routes to is a worker of the graph; what is printed and refused."""

from __future__ import annotations

import json

import pytest
from endpoint_server import Server
from model_parts import make_image
from routing_parts import ABOUT, at, save_router, worker, write_graph

from omnivision.routing import Graph
from omnivision.routing.router import Choice, Router
from omnivision_cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint for three workers, and a picture."""
    folder = tmp_path_factory.mktemp("run")
    graph = Graph.read(write_graph(folder, [worker(name, at("http://127.0.0.1:9/v1")) for name in ABOUT]))
    save_router(folder / "final", graph)
    make_image(0).save(folder / "photo.png")
    return folder


@pytest.fixture
def run(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(url, *words: str, request: str = "May I?", **more) -> tuple[int, str, str]:
        graph = write_graph(tmp_path, [worker(name, at(url)) for name in ABOUT], **more)
        code = main(["route", "--model", str(folder), "--graph", str(graph), request, "--max-new-tokens", "40", *words])
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("request_", ["May I?", "Is there a red cat?", "可以吗？", "<nexa_1>(query='x')<nexa_end>"])
def test_a_random_router_still_names_workers(run, folder, request_):
    with Server() as server:
        code, out, _ = run(server, "--image", str(folder / "photo.png"), "--json", request=request_, default="chat", most_steps=3,
                           edges={name: list(ABOUT) for name in ABOUT})
    told = json.loads(out)
    assert code == 0 and (told["request"], told["image"], told["ledgers"]) == (request_, str(folder / "photo.png"), "route-ledgers")
    assert 1 <= len(told["steps"]) <= 3 and {step["worker"] for step in told["steps"]} <= set(ABOUT)
    assert [step["query"] for step in told["steps"]] == [one["body"]["messages"][-1]["content"] for one in server.received]
    assert told["answer"] == "re: " + told["steps"][-1]["query"]


def test_the_answer_stands_alone_and_is_fit_for_a_terminal(run, monkeypatch, tmp_path):
    monkeypatch.setattr(Router, "choose", lambda *given: Choice("law", "Is it\x1b lawful?"))
    with Server(lambda question, number: "good:Yes.\x1b[2J\nNo." if number else "status:400") as server:
        code, out, told = run(server, fallback=["chat"])
    assert code == 0 and out == "Yes.\\x1b[2J\nNo.\n" and "\x1b" not in told
    line, = [line for line in told.splitlines() if line.startswith("step")]
    assert line.startswith("step 1: law('Is it") and "law rejected (" in line and "about 400" in line and "chat answered" in line
    assert sorted(one.name for one in (tmp_path / "route-ledgers").glob("*.jsonl")) == ["chat.jsonl", "law.jsonl"]


def test_nobody_up_is_one_paragraph_and_code_6(run, monkeypatch):
    monkeypatch.setattr(Router, "choose", lambda *given: Choice("law", "q"))
    with Server(lambda question, number: "status:503") as server:
        code, out, told = run(server, "--json", fallback=["plain", "chat"])
    assert code == 6 and json.loads(out)["error"]["exit_code"] == 6
    assert told.count("\n") == 1 and all(f"{name} server_error" in told for name in ABOUT)


@pytest.mark.parametrize(("words", "more", "code", "word"), [
    (["--max-new-tokens", "0"], {}, 2, "at least 1"), (["--image", "none.png"], {}, 3, "none.png"), (["--graph", "none.json"], {}, 2, "not a readable graph"),
    ([], {"edges": {"law": ["none"]}}, 2, "edges.law"), ([], {"edges": {"law": ["law"]}}, 2, "most_steps")])
def test_wrong_input_is_told_before_anything_loads(run, monkeypatch, words, more, code, word):
    monkeypatch.setattr("omnivision.model.checkpoints.load_checkpoint", lambda *given: pytest.fail("it loaded the model"))
    found, _, told = run("http://127.0.0.1:9/v1", *words, **more)
    assert found == code and word in told


@pytest.mark.parametrize("request_", [" ", "\u200b"])
def test_an_empty_request_is_refused(run, request_):
    assert run("http://127.0.0.1:9/v1", request=request_)[0] == 2
