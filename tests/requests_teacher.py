"""A teacher behind HTTP that writes good requests, and spoils some of them in ways that a checker has to see."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

from endpoint_server import QUICK, Server

from omnivision.endpoint import Client, Endpoint, Ledger
from omnivision.functions import FunctionSet
from omnivision.requests import prompts
from omnivision.requests.checks import Checks
from omnivision.requests.sieve import Sieve
from omnivision.requests.teacher import Teacher

TOOLS = [
    {"name": "send_message", "description": "Send a text message to a contact.", "parameters": {"type": "object", "properties": {
        "to": {"type": "string"}, "text": {"type": "string"}}, "required": ["to", "text"]}},
    {"name": "find_contact", "description": "Find the phone number of a contact.", "parameters": {"type": "object", "properties": {
        "name": {"type": "string"}}, "required": ["name"]}},
    {"name": "set_volume", "description": "Set the volume.", "parameters": {"type": "object", "properties": {
        "level": {"type": "integer", "minimum": 0, "maximum": 60}, "device": {"enum": ["phone", "speaker"]}}, "required": ["level"]}},
    {"name": "current_volume", "description": "Get the volume that is set.", "returns": {"type": "integer"}},
]
SENTENCES = {
    ("send_message", "en"): "{n}: write {to} that {text}", ("send_message", "zh"): "{n}告诉{to}这件事：{text}",
    ("find_contact", "en"): "{n}, which number has {name}?", ("find_contact", "zh"): "{n}，{name}的电话是多少？",
    ("set_volume", "en"): "{n}, make it {level}", ("set_volume", "zh"): "{n}，音量调到{level}",
    ("current_volume", "en"): "{n}, how loud is it?", ("current_volume", "zh"): "{n}，现在音量多大？",
}
OPENINGS = {"en": "well listen hey look quick now okay right so then morning evening sorry thanks anyway finally".split(),
            "zh": "喂 听着 你好 快点 现在 好吧 对了 那么 早上好 晚上好 抱歉 谢谢 总之 终于 嗨 哎".split()}
SPOILT = ("unsaid", "schema", "wrong_language", "twice", "malformed", "extra_argument")


class Writer:
    """What the teacher says: a pure function of the question; counts what it was paid for."""

    def __init__(self, spoil: float = 0.0, stubborn: bool = False) -> None:
        self.spoil, self.stubborn = spoil, stubborn
        self.spoilt: Counter = Counter()

    def __call__(self, body: dict) -> str:
        system, told = body["messages"][0]["content"], json.loads(body["messages"][1]["content"])
        rng = random.Random(json.dumps(told))
        if system == prompts.LOOK_AGAIN:
            return json.dumps({"function": "set_volume" if self.stubborn else self.serving(told["request"])})
        language = next(code for code, name in prompts.NAMES.items() if name == told["language"])
        entries = [self.entry(told, language, rng) for _ in range(told["number"])]
        return "```json\n" + json.dumps({"requests": entries}, ensure_ascii=False) + "\n```"

    def entry(self, told: dict, language: str, rng: random.Random) -> object:
        opening = " ".join(rng.sample(OPENINGS[language], 3)).replace(" ", " " if language == "en" else "")
        if "functions" in told:
            return {"request": f"{opening}, {rng.choice(['sing', 'dance', 'sleep'])}" if language == "en" else f"{opening}，跳舞吧"}
        name = told["function"]["name"]
        fields = told["function"]["parameters"]["properties"]
        arguments = {field: rng.randint(0, 60) if field == "level" else rng.choice(["Ann", "Li Wei", "the bus is late", "coffee at noon"])
                     for field in fields if field != "device"}
        request = SENTENCES[name, language].format(n=opening, **arguments)
        kind = rng.choice(SPOILT) if rng.random() < self.spoil else ""
        self.spoilt[kind] += 1
        if kind == "malformed":
            return rng.choice([{"request": 3}, "text", {"arguments": {}}, {"request": request, "arguments": []}, None])
        if kind == "wrong_language":
            request = SENTENCES[name, "zh" if language == "en" else "en"].format(n=rng.choice(OPENINGS["zh" if language == "en" else "en"]), **arguments)
        if kind == "twice":
            request = SENTENCES[name, language].format(n=OPENINGS[language][0], **arguments)
        if kind == "unsaid" and arguments:
            arguments = {field: 99 if field == "level" else "somebody else" for field in arguments}
        if kind == "schema":
            arguments = {field: [1] for field in arguments}
        if kind == "extra_argument":
            arguments = {**arguments, "colour": "red"}
        return {"request": request, "arguments": arguments}

    def serving(self, request: str) -> str | None:
        marks = {"write": "send_message", "告诉": "send_message", "number": "find_contact", "电话": "find_contact", "make it": "set_volume",
                 "音量调": "set_volume", "how loud": "current_volume", "多大": "current_volume"}
        return next((name for mark, name in marks.items() if mark in request), None)


def serve(writer: Writer, choose=lambda question, number: "good", port: int = 0) -> Server:
    """A server that says what the writer does, unless `choose` names another behaviour."""
    def behave(question: str, number: int) -> str:
        name = choose(question, number)
        return f"good:{writer(server.received[number]['body'])}" if name == "good" else name

    server = Server(behave, port=port)
    return server


def write(folder: Path, url: str, wanted: dict, split: str = "train", second_look: bool = False, **settings) -> tuple[Sieve, Teacher]:
    """Has rows written for the tools above."""
    functions = FunctionSet.from_json(TOOLS)
    sieve = Sieve(Checks(functions))
    endpoint = Endpoint(url, "teacher", **{**QUICK, "max_tokens": 4096, **settings})
    with Ledger(folder / "ledger.jsonl") as ledger, Client(endpoint, ledger) as client:
        teacher = Teacher(client, functions, sieve, 0, second_look)
        teacher.write(wanted, split)
    return sieve, teacher
