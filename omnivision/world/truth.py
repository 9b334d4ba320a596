"""What is true of a picture of the embedded world, apart from how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the drawn picture


@dataclass(frozen=True)
class Region:
    """A part of a drawn picture with the words for it (used to train the vision tower)."""

    box: Box
    label: str  # "red cat", "Mexico", "42"
    kind: str  # "object", "text", "mark"


@dataclass(frozen=True)
class Item:
    """One object in a scene; centre and size in fractions of the picture's side."""

    kind: str  # key of the vocabulary (its English name)
    x: float
    y: float
    size: float
    color: str | None = None  # set only where the hue was shifted explicitly


@dataclass(frozen=True)
class Scene:
    """Objects at a place, in one drawing style."""

    place: str  # "kitchen", "street", ...
    style: str  # "noto", "twemoji", "openmoji"
    items: tuple[Item, ...]
    seed: int = 0  # background, distractor texture
    sign: str | None = None  # a short word written on a sign in the scene, if any
    sign_at: tuple[float, float] | None = None  # centre of that sign, in fractions of the side


@dataclass(frozen=True)
class Chart:
    """A chart of a slice of a real table."""

    form: str  # one of the chart kinds
    title: str
    labels: tuple[str, ...]  # category names, in drawing order
    series: tuple[str, ...]  # series names (one entry for single-series charts)
    values: tuple[tuple[float, ...], ...]  # [series][label]
    colors: tuple[str, ...]  # colour name per series (or per slice for pies)
    language: str = "en"
    source: str = ""  # package and table
    slice_id: str = ""  # names the slice apart from drawing, order and language: never in both train and evaluation
    seed: int = 0


@dataclass(frozen=True)
class Sign:
    """A short text in a picture."""

    text: str
    language: str
    color: str
    font: int = 0
    seed: int = 0


@dataclass(frozen=True)
class QA:
    """A question about a picture with its true answer."""

    question: str
    answer: str
    kind: str  # "exist", "count", "color", "position", "relation", "caption", "chart_value", ...
    language: str = "en"
    meta: dict = field(default_factory=dict)
