"""A small world, a model that answers wrongly about it, and a teacher behind HTTP: what tests of the pair factory share."""

from __future__ import annotations

import base64
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import train_world
from endpoint_server import Server

from omnivision.data.rows import read_rows
from omnivision.pairs import prompts
from omnivision.pairs.main import parser, run
from omnivision.pairs.teacher import Oracle, Task

IMAGE = "images/dpo/000000.png"

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

    monkeypatch.setattr("omnivision.generation.generate_whole", generate)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return train_world.road(tmp_path_factory)["sft"]


def options(folder, model, *more):
    return parser().parse_args(["--model", str(model), "--data", str(folder / "world" / "dpo.jsonl"), "--image-root", str(folder / "world"),
                                "--out", str(folder / "pairs.jsonl"), *more])


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
    """The report of a run whose teacher is a server."""
    return run(options(folder, model, "--teacher", server.url, "--teacher-model", "sloppy", "--timeout", "5", *more))
