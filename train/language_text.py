"""Text of the embedded world for the tiny language model: plans of pictures with dialogues about them.

The language model reads the weighted sum of a plan's embeddings in the place of image tokens (see strip_plans), so that afterwards
a projector only has to say in embeddings what the plan says in words. Pictures' truth is used; no pixel is seen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from omnivision.constants import IGNORE_INDEX, IMAGE_TOKEN
from omnivision.model.conversation import encode_conversation
from omnivision.world.art import TRAIN_STYLES
from omnivision.world.actions import Action, counting_actions, further_actions, make_action, pointing_actions
from omnivision.world.captions import DESCRIBE, LAYOUT, caption, layout
from omnivision.world.chart import draw_chart, make_chart
from omnivision.world.chart_questions import chart_caption, chart_questions
from omnivision.world.scene import make_scene
from omnivision.world.scene_questions import existence_questions, lookup_questions, open_questions, scene_questions
from omnivision.world.sign import NAMES, draw_sign, make_sign
from omnivision.world.sign_questions import sign_caption, sign_questions
from omnivision.world.truth import QA, Region, Scene
from omnivision_train.data import bucket
from omnivision_train.strip_plans import STRIPS, Plan, plan

DRILLS = {"existence": 0.15, "lookup": 0.15, "chart": 0.2, "action": 0.3, "pointing": 0.1, "counting": 0.1}  # shares of drills
TOGETHER = 4  # batches that are written at once, so that neighbours of one length share a batch
MOST_MISSED = 0.5  # up to this share of a lesson's (strip, region) pairs is left out


@dataclass(frozen=True)
class Lesson:
    """One training sequence before tokenisation: what the plan shows and the dialogue about it."""

    regions: list[Region]
    dialogue: list[QA]


def scene_regions(scene: Scene, size: int = 216) -> list[Region]:
    """Where a scene's objects lie, from its truth alone (drawing would turn and crop them a little)."""
    regions = []
    for item in scene.items:
        half = item.size * size / 2
        x, y = item.x * size, item.y * size
        label = f"{item.color} {item.kind}" if item.color else item.kind
        regions.append(Region((round(x - half), round(y - half), round(x + half), round(y + half)), label, "object"))
    if scene.sign:
        x, y = (round(v * size) for v in scene.sign_at)
        regions.append(Region((x - 40, y - 8, x + 40, y + 8), scene.sign, "text"))
    return regions


def call_text(call: dict) -> str:
    """A call as code: recycle(item='bottle', bin='glass')."""
    return f"{call['name']}({', '.join(f'{k}={v!r}' for k, v in call['arguments'].items())})"


def lesson(rng: random.Random, questions: int = 8) -> Lesson:
    """A random plan and dialogue: scenes, charts, signs and actions."""
    language = "zh" if rng.random() < 0.25 else "en"
    kind = rng.random()
    if kind < 0.52:
        scene = make_scene(rng, TRAIN_STYLES[0], min_kinds=1, max_kinds=5, with_sign=rng.random() < 0.15)
        asked = scene_questions(scene, rng, language, questions) + open_questions(scene, rng, language, 2)
        asked.append(QA(DESCRIBE[language], caption(scene, language), "caption", language))
        asked.append(QA(LAYOUT[language], layout(scene, language), "layout", language))
        return Lesson(scene_regions(scene), asked)
    if kind < 0.75:
        chart = make_chart(rng, "train", language)
        asked = chart_questions(chart, rng, questions)
        if chart.language == "en":
            asked.append(QA(DESCRIBE["en"], chart_caption(chart), "caption"))
        return Lesson(draw_chart(chart)[1], asked)
    if kind < 0.80:
        sign = make_sign(rng, language)
        asked = [*sign_questions(sign, rng), QA(DESCRIBE["en"], sign_caption(sign), "caption")]
        return Lesson(draw_sign(sign)[1], asked)
    action = make_action(rng, "train", "zh" if rng.random() < 0.4 else "en")
    return Lesson(scene_regions(action.scene), [_request(action), *scene_questions(action.scene, rng, language, 2)])


def drill(rng: random.Random, shares: dict[str, float] = DRILLS) -> Lesson:
    """A picture with questions that need nothing but looking: is a thing there, where, in which colour, how many, which is leftmost.

    Without drills a small model learns the language of answers long before it looks anything up in the plan:
    after 2,000 steps of mixed lessons it still answered existence at chance (0.50), after 140 steps of drills at 0.65;
    and with drills of existence only it answered "where" at chance after 4,500 steps. Which object lies farthest to a side
    stood at chance after seven runs, and at 0.72 after 400 steps of that drill alone.
    """
    language = "zh" if rng.random() < 0.2 else "en"
    make = {"existence": existence_drill, "lookup": lookup_drill, "chart": chart_drill, "action": action_drill,
            "pointing": pointing_drill, "counting": counting_drill}[rng.choices(list(shares), list(shares.values()))[0]]
    return make(rng, language)


def existence_drill(rng: random.Random, language: str = "en", questions: int = 16) -> Lesson:
    """Existence questions only, as many yes as no."""
    scene = make_scene(rng, TRAIN_STYLES[0], min_kinds=2, max_kinds=6)
    asked = existence_questions(scene, rng, language, questions)
    positive = [qa for qa in asked if qa.answer in ("Yes", "有")]
    negative = [qa for qa in asked if qa not in positive]
    return Lesson(scene_regions(scene), positive + rng.sample(negative, min(len(negative), max(2, len(positive)))))


def lookup_drill(rng: random.Random, language: str = "en") -> Lesson:
    """Where, in which colour, how many, and the whole layout, of a scene with few objects."""
    scene = make_scene(rng, TRAIN_STYLES[0], min_kinds=1, max_kinds=4, max_items=5)
    asked = [*lookup_questions(scene, rng, language), QA(LAYOUT[language], layout(scene, language), "layout", language)]
    return Lesson(scene_regions(scene), asked)


def action_drill(rng: random.Random, language: str = "en") -> Lesson:
    """All requests that a scene serves, in several wordings: mostly which object lies farthest to a side."""
    action = make_action(rng, "train", language)
    further = [one for _ in range(4) for one in further_actions(rng, action, 10)]
    asked = {one.request: _request(one) for one in (*further, action)}
    return Lesson(scene_regions(action.scene), list(asked.values()))


def pointing_drill(rng: random.Random, language: str = "en") -> Lesson:
    """Which object lies farthest to a side, for every side where that is clear."""
    while True:
        scene = make_scene(rng, TRAIN_STYLES[0], min_kinds=2, max_kinds=4, max_items=6)
        if asked := pointing_actions(rng, scene, language):
            return Lesson(scene_regions(scene), [_request(action) for action in asked])


def counting_drill(rng: random.Random, language: str = "en") -> Lesson:
    """How many there are of each kind, asked for in words and in calls, where at least one stands there several times."""
    while True:
        scene = make_scene(rng, TRAIN_STYLES[0], min_kinds=1, max_kinds=3, max_items=6, with_sign=rng.random() < 0.6)
        scene = replace(scene, sign=rng.choice(NAMES)) if scene.sign else scene
        asked = [qa for qa in lookup_questions(scene, rng, language) if qa.kind == "count"]
        if any(qa.answer != "1" for qa in asked):
            requests = [_request(action) for action in counting_actions(rng, scene, language)]
            return Lesson(scene_regions(scene), asked + requests)


def _request(action: Action) -> QA:
    return QA(action.request, "; ".join(call_text(call) for call in action.calls), "action", action.language)


def chart_drill(rng: random.Random, language: str = "en", questions: int = 8) -> Lesson:
    """Values and extremes of a chart, no arithmetic."""
    chart = make_chart(rng, "train", language)
    asked = [qa for qa in chart_questions(chart, rng, 40) if qa.kind in ("chart_value", "chart_highest", "chart_lowest", "chart_color")]
    return Lesson(draw_chart(chart)[1], asked[:questions])


class Lessons(Dataset):
    """Batches of tokenised lessons, several at an index and each index from a seed of its own: any can be the first.

    Args:
        tokenizer: of the language model. seed: of them all. batch: sequences a batch.
        drills: so many sequences at the start are drills. drill_share: share of drills afterwards.
        drill_kinds: how often each kind of drill is drawn, see DRILLS.
        max_length: tokens a sequence; dialogues are cut between turns, never inside one: one question with its answer may be longer.
        mistaken: up to this share of a lesson's (strip, region) pairs says another label, see plan.
    """

    def __init__(self, tokenizer, seed: int, batch: int, max_length: int = 384, drills: int = 0, drill_share: float = 0.0,
                 drill_kinds: dict[str, float] = DRILLS, mistaken: float = 0.0) -> None:
        self.tokenizer, self.seed, self.batch, self.max_length = tokenizer, seed, batch, max_length
        self.drills, self.drill_share, self.drill_kinds, self.mistaken = drills, drill_share, drill_kinds, mistaken
        self._words: dict[str, list[int]] = {}

    def __getitem__(self, index: int) -> list[dict]:
        rng, count = random.Random(f"{self.seed}/language/{index}"), TOGETHER * self.batch
        encoded = [self.encode(rng, self.draw(rng, number)) for number in range(index * count, (index + 1) * count)]
        encoded.sort(key=lambda one: len(one[0]))  # neighbours of one length save padding
        groups = [encoded[i : i + self.batch] for i in range(0, count, self.batch)]
        rng.shuffle(groups)
        return [self.collate(group) for group in groups]

    def draw(self, rng: random.Random, number: int) -> Lesson:
        """The lesson of this number in the curriculum."""
        return drill(rng, self.drill_kinds) if number < self.drills or rng.random() < self.drill_share else lesson(rng)

    def words(self, text: str) -> list[int]:
        """Ids of a region's words, remembered."""
        if text not in self._words:
            self._words[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._words[text]

    def encode(self, rng: random.Random, one: Lesson) -> tuple[list[int], list[int], Plan]:
        """(ids, labels, plan) of a lesson that fits the length."""
        turns: list[dict] = []
        dialogue = rng.sample(one.dialogue, len(one.dialogue))
        for asked in dialogue:
            turns += [{"role": "user", "text": asked.question}, {"role": "assistant", "text": asked.answer}]
        while True:
            encoded = encode_conversation(self.tokenizer, turns, 1, STRIPS)
            if len(encoded.input_ids) <= self.max_length or len(turns) == 2:
                return encoded.input_ids, encoded.labels, plan(one.regions, self.words, rng, rng.uniform(0, MOST_MISSED), self._mistaken(rng))
            turns = turns[:-2]

    def _mistaken(self, rng: random.Random) -> float:
        return rng.uniform(0, self.mistaken) if self.mistaken else 0.0

    def collate(self, encoded: list[tuple[list[int], list[int], Plan]]) -> dict[str, torch.Tensor]:
        """Right-padded tensors, and where the image tokens stand."""
        longest = bucket(max(len(ids) for ids, _, _ in encoded))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _, _ in encoded])
        labels = torch.tensor([labels + [IGNORE_INDEX] * (longest - len(labels)) for _, labels, _ in encoded])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _, _ in encoded])
        plan_ids = torch.from_numpy(np.stack([one.ids_SK for _, _, one in encoded]))
        plan_weights = torch.from_numpy(np.stack([one.weights_SK for _, _, one in encoded]))
        image = ids == self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        return {"input_ids": ids, "labels": labels, "attention_mask": mask, "plan_ids_BSK": plan_ids,
                "plan_weights_BSK": plan_weights, "image_BL": image}
