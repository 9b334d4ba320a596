"""One picture of the world by its split and number: what is true of it, how it is drawn, and its rows."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from PIL import Image

from .actions import Action, further_actions, make_action, scene_actions
from .art import HELD_OUT_STYLE, TRAIN_STYLES
from .captions import DESCRIBE, LAYOUT, caption, layout
from .chart import draw_chart, make_chart
from .chart_questions import chart_caption, chart_questions
from .scene import draw_scene, make_scene
from .scene_questions import open_questions, scene_questions
from .sign import NAMES, draw_sign, make_sign
from .sign_questions import sign_caption, sign_questions
from .truth import QA, Chart, Item, Region, Scene, Sign

CHINESE_SHARE, CHINESE_REQUESTS = 0.25, 0.4
SIGN_IN_SCENE, NAME_ON_SIGN = 0.25, 0.5  # shares: of training scenes with a sign, of their signs with a person's name
QUESTIONS = 16  # question-answer pairs of an sft picture: they share its image tokens, so more of them cost little
YES_SHARE = 0.7  # of sft's existence questions: F1 is highest for a model that leans to "Yes", and dpo corrects the lean
PAIR_QUESTIONS, PAIR_OPEN = 2, 6  # short and open questions about a dpo picture: only a longer answer can be wrong in a part
CHART_QUESTIONS, OPEN_QUESTIONS = 5, 5  # per evaluation picture
REQUESTS = {"sft": 2, "functions": 6, "actions": 2}  # at most so many requests a picture
PLAIN_SHARE = 0.5  # share of align's scenes with one or two objects: a caption then says which patches a word means
MIX = {"align": (0.75, 0.90), "sft": (0.70, 0.92)}  # below the first: a scene; below the second: a chart; else a sign
Truth = Scene | Chart | Sign


@dataclass(frozen=True)
class Task:
    """A picture to make.

    Args:
        split: folder of the picture; also decides styles and table slices.
        number: of the picture within its split.
        purpose: "align", "sft", "dpo", "functions", or in evaluation "scenes", "charts", "actions".
    """

    split: str
    number: int
    purpose: str

    @property
    def image(self) -> str:
        """Path of the picture in the world's folder."""
        return f"images/{self.split}/{self.number:06d}.png"


@dataclass
class Recipe:
    """What is true of a picture, and the rows by the file they belong to (without question ids)."""

    truth: Truth
    rows: dict[str, list[dict]] = field(default_factory=dict)


def make_recipe(seed: int, task: Task) -> Recipe:
    """The truth and rows of a picture; the same for a seed wherever and whenever it is made."""
    return _PURPOSES[task.purpose](random.Random(f"{seed}/{task.split}/{task.number}"), task)


def draw(truth: Truth, size: int) -> tuple[Image.Image, list[Region]]:
    """The picture of a truth of any type."""
    draw_it = {Scene: draw_scene, Chart: draw_chart, Sign: draw_sign}[type(truth)]
    return draw_it(truth, size)


def truth_row(task: Task, truth: Truth) -> dict:
    """A line of truth/<split>.jsonl."""
    return {"image": task.image, "type": type(truth).__name__.lower(), **asdict(truth)}


def truth_from_row(row: dict) -> Truth:
    """The truth that a line of truth/<split>.jsonl holds."""
    fields = {key: value for key, value in row.items() if key not in ("image", "type")}
    if row["type"] == "scene":
        fields["items"] = tuple(Item(**item) for item in fields["items"])
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        return Scene(**fields)
    if row["type"] == "chart":
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
        fields["values"] = tuple(map(tuple, fields["values"]))
        return Chart(**fields)
    return Sign(**fields)


def fingerprint(truth: Truth) -> str:
    """What two pictures would share if one leaked into the other's split: objects and places, or a table's slice."""
    if isinstance(truth, Chart):
        return f"chart {truth.slice_id}"
    if isinstance(truth, Sign):
        return f"sign {truth.text}"
    items = sorted((item.kind, item.x, item.y, item.size, item.color or "") for item in truth.items)
    return f"scene {truth.place} {items}"


def _language(rng: random.Random, chinese: float = CHINESE_SHARE) -> str:
    return "zh" if rng.random() < chinese else "en"


def _row(task: Task, pairs: list[tuple[str, str]], language: str, **more) -> dict:
    turns = []
    for question, answer in pairs:
        turns.append({"role": "user", "text": question, "loss": False})
        turns.append({"role": "assistant", "text": answer, "loss": True})
    identity = f"{task.split}-{task.number:06d}"
    return {"id": identity, "images": [task.image], "language": language, "turns": turns, **more}


def _train_scene(rng: random.Random) -> Scene:
    scene = make_scene(rng, rng.choice(TRAIN_STYLES), with_sign=rng.random() < SIGN_IN_SCENE)
    return replace(scene, sign=rng.choice(NAMES)) if scene.sign and rng.random() < NAME_ON_SIGN else scene


def _picture(rng: random.Random, task: Task, language: str) -> Truth:
    draw_at, (scenes, charts) = rng.random(), MIX[task.purpose]
    if draw_at < scenes:
        return _train_scene(rng)
    return make_chart(rng, task.split, language) if draw_at < charts else make_sign(rng, language)


def _align(rng: random.Random, task: Task) -> Recipe:
    """A caption; of a scene also what stands where."""
    language = _language(rng)
    truth = _picture(rng, task, language)
    if isinstance(truth, Scene):
        if rng.random() < PLAIN_SHARE:
            truth = make_scene(rng, rng.choice(TRAIN_STYLES), min_kinds=1, max_kinds=2, max_items=2)
        pairs = [(DESCRIBE[language], caption(truth, language)), (LAYOUT[language], layout(truth, language))]
    else:
        pairs = [(DESCRIBE[language], chart_caption(truth) if isinstance(truth, Chart) else sign_caption(truth, language))]
    return Recipe(truth, {"align": [_row(task, pairs, language)]})


def _sft(rng: random.Random, task: Task) -> Recipe:
    language = _language(rng)
    truth = _picture(rng, task, language)
    asked: list[QA]
    if isinstance(truth, Scene):
        asked = scene_questions(truth, rng, language, QUESTIONS, YES_SHARE)
    elif isinstance(truth, Chart):
        asked = chart_questions(truth, rng, QUESTIONS)
    else:
        asked = sign_questions(truth, rng, language, QUESTIONS)
    rows = {"sft": [_row(task, [(qa.question, qa.answer) for qa in asked], language)]}
    if isinstance(truth, Scene) and (truth.sign is None or truth.sign in NAMES):  # nobody writes to a word
        actions = scene_actions(rng, truth, _language(rng, CHINESE_REQUESTS), REQUESTS["sft"])
        rows["functions"] = _request_rows(task, actions)
    return Recipe(truth, rows)


def _dpo(rng: random.Random, task: Task) -> Recipe:
    """Short questions and open ones, a row each: both are answered wrongly in ways an oracle can fix."""
    language = _language(rng)
    scene = _train_scene(rng)
    asked = scene_questions(scene, rng, language, PAIR_QUESTIONS) + open_questions(scene, rng, language, PAIR_OPEN)
    once = {qa.question: qa for qa in asked}.values()
    rows = [_row(task, [(qa.question, qa.answer)], language, kind=qa.kind, meta=qa.meta) for qa in once]
    return Recipe(scene, {"dpo": [row | {"id": f"{row['id']}-{number}"} for number, row in enumerate(rows)]})


def _functions(rng: random.Random, task: Task) -> Recipe:
    actions = _requests(rng, task)
    return Recipe(actions[0].scene, {"functions": _request_rows(task, actions)})


def _request_rows(task: Task, actions: list[Action]) -> list[dict]:
    return [
        {"id": f"{task.split}-{task.number:06d}-{number}", "images": [task.image], "request": action.request,
         "language": action.language, "calls": list(action.calls)}
        for number, action in enumerate(actions)
    ]


def _requests(rng: random.Random, task: Task) -> list[Action]:
    first = make_action(rng, task.split, _language(rng, CHINESE_REQUESTS))
    return [first, *further_actions(rng, first, REQUESTS[task.purpose] - 1)]


def _scenes(rng: random.Random, task: Task) -> Recipe:
    """Open questions of an evaluation scene; POPE's rows are made of all scenes together."""
    language = _language(rng)
    styles = (HELD_OUT_STYLE,) if task.split == "eval_held_out" else TRAIN_STYLES
    scene = make_scene(rng, rng.choice(styles), with_sign=rng.random() < 0.3)
    rows = [
        {"image": task.image, "text": qa.question, "label": qa.answer, "language": language, "kind": qa.kind, "meta": qa.meta}
        for qa in open_questions(scene, rng, language, OPEN_QUESTIONS)
    ]
    return Recipe(scene, {"open": rows})


def _charts(rng: random.Random, task: Task) -> Recipe:
    chart = make_chart(rng, task.split, _language(rng))
    rows = [
        {"image": task.image, "text": qa.question, "label": [qa.answer], "language": qa.language, "kind": qa.kind}
        for qa in chart_questions(chart, rng, CHART_QUESTIONS)
    ]
    return Recipe(chart, {"chartqa": rows})


def _actions(rng: random.Random, task: Task) -> Recipe:
    actions = _requests(rng, task)
    rows = [
        {"image": task.image, "text": action.request, "language": action.language, "calls": list(action.calls),
         "kind": action.calls[0]["name"]}
        for action in actions
    ]
    return Recipe(actions[0].scene, {"actions": rows})


_PURPOSES: dict[str, Callable[[random.Random, Task], Recipe]] = {
    "align": _align, "sft": _sft, "dpo": _dpo, "functions": _functions,
    "scenes": _scenes, "charts": _charts, "actions": _actions,
}
