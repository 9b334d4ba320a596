"""Objects that are not in a scene, chosen as POPE chooses them: at random, popular ones, or frequent companions."""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np

from omnivision.world.truth import Scene
from omnivision.world.vocabulary import kinds, places


COVERED = {  # kind -> kinds that its name covers as well: with one of them in the picture "no" would be wrong, or hard to defend
    "tree": ("pine tree", "palm tree"), "potted plant": ("cactus",), "bird": ("rooster", "duck", "owl", "penguin", "flamingo", "parrot"),
    "bear": ("panda", "teddy bear"), "truck": ("fire truck",), "ship": ("sailboat",), "cup": ("wine glass", "soda"), "soda": ("cup",),
    "bottle": ("baby bottle", "lotion bottle"), "bread": ("croissant", "sandwich"), "sandwich": ("hamburger", "hot dog"), "hat": ("crown",),
    "box": ("gift",), "keyboard": ("laptop",), "football": ("soccer ball",), "clock": ("watch",), "can": ("soda",),
}
BEHIND = {"forest": ("tree", "pine tree")}  # kinds that a place's background shows


def ambiguous(scene: Scene) -> set[str]:
    """Kinds of which somebody could see more than the scene has items: the name covers another kind that is there, or the background shows them."""
    present = {item.kind for item in scene.items}
    return {kind for kind, covered in COVERED.items() if present.intersection(covered)} | set(BEHIND.get(scene.place, ()))


def doubtful(scene: Scene) -> set[str]:
    """Kinds that are in the scene, or that somebody could say are."""
    return {item.kind for item in scene.items} | ambiguous(scene)


class Cooccurrence:
    """How often kinds appear, alone and together.

    Args:
        single_K: how often each kind appears, in the order of the vocabulary.
        together_KK: how often two kinds appear in one scene; zero on the diagonal.
    """

    def __init__(self, single_K: np.ndarray, together_KK: np.ndarray) -> None:
        self.names = list(kinds())
        self.index = {name: i for i, name in enumerate(self.names)}
        self.together_KK = together_KK
        # Equal scores fall back on popularity, then on the vocabulary's order, so that lists are reproducible.
        self._popular = np.argsort(-single_K, kind="stable")
        self._tie_K = single_K / (1.0 + single_K.max()) * 1e-9

    def popular(self, scene: Scene, n: int) -> list[str]:
        """The n most frequent kinds that are absent."""
        shown, found = doubtful(scene), []
        for i in self._popular:
            if len(found) == n:
                break
            if self.names[i] not in shown:
                found.append(self.names[i])
        return found

    def adversarial(self, scene: Scene, n: int) -> list[str]:
        """The n absent kinds that most often appear together with what is present."""
        present = sorted({self.index[item.kind] for item in scene.items})
        score = self.together_KK[present].sum(axis=0) + self._tie_K
        shown = [self.index[kind] for kind in doubtful(scene)]
        score[shown] = -1.0
        ranked = np.argsort(-score, kind="stable")[: min(n, len(self.names) - len(shown))]
        return [self.names[i] for i in ranked]


@lru_cache(maxsize=1)
def expected_cooccurrence() -> Cooccurrence:
    """What the places' weights let one expect, without drawing a single scene."""
    names = list(kinds())
    share_PK = np.array([[place.weights.get(name, 0) for name in names] for place in places().values()], dtype=float)
    share_PK /= share_PK.sum(axis=1, keepdims=True)
    together = share_PK.T @ share_PK
    np.fill_diagonal(together, 0)
    return Cooccurrence(share_PK.sum(axis=0), together)


def adversarial_negatives(scene: Scene, n: int) -> list[str]:
    """The n absent kinds most often seen with the present ones (expected from the vocabulary)."""
    return expected_cooccurrence().adversarial(scene, n)


def popular_negatives(scene: Scene, n: int) -> list[str]:
    """The n most popular absent kinds (expected from the vocabulary)."""
    return expected_cooccurrence().popular(scene, n)


def random_negatives(scene: Scene, rng: random.Random, n: int) -> list[str]:
    """n absent kinds, each equally likely."""
    shown = doubtful(scene)
    return rng.sample([kind for kind in kinds() if kind not in shown], n)
