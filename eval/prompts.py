"""What a model is asked: a text and pictures, once, however many questions of however many tasks say the same."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

from omnivision.data.pictures import Packed


@dataclass(frozen=True)
class Picture:
    """A picture that can be shown; two with the same bytes are one.

    Args:
        digest: of its bytes.
        source: a file, a picture inside a table, or pixels.
    """

    digest: str
    source: str | Packed | Image.Image = field(compare=False)

    @classmethod
    def of(cls, image: Image.Image) -> Picture:
        """A picture that is open already, named by its pixels as a model sees them."""
        from omnivision.model.processing import as_read

        shown = as_read(image)
        return cls(hashlib.sha256(f"{shown.size}".encode() + shown.tobytes()).hexdigest(), image)


class Prompt(NamedTuple):
    """One thing to ask.

    Attributes:
        text: as the benchmark words it.
        pictures: none, one or several, in order.
        max_new_tokens: the longest answer.
    """

    text: str
    pictures: tuple[Picture, ...]
    max_new_tokens: int

    @property
    def key(self) -> str:
        """Names the prompt by its content."""
        content = [self.text, [picture.digest for picture in self.pictures], self.max_new_tokens]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def batches_of(prompts: Iterable[Prompt], batch_size: int) -> list[list[Prompt]]:
    """Batches that depend on the prompts alone, whatever was answered before: a run that goes on has the same ones.

    Prompts of a batch have as many pictures and as long answers as each other; those about one picture stay together, and
    pictures whose longest text is alike, so that little is padded.
    """
    groups: dict[tuple[int, int], dict[tuple[Picture, ...], list[Prompt]]] = defaultdict(lambda: defaultdict(list))
    for prompt in dict.fromkeys(prompts):
        alone = prompt.pictures or (prompt.text,)  # texts without a picture share nothing
        groups[len(prompt.pictures), prompt.max_new_tokens][alone].append(prompt)
    batches = []
    for _, by_picture in sorted(groups.items(), key=lambda one: one[0]):
        ordered = [sorted(members, key=lambda one: len(one.text)) for members in by_picture.values()]
        ordered.sort(key=lambda members: len(members[-1].text))
        whole = [prompt for members in ordered for prompt in members]
        batches += [whole[at:at + batch_size] for at in range(0, len(whole), batch_size)]
    return batches


def pictures_of(prompts: Sequence[Prompt]) -> list[Picture]:
    """The different pictures of some prompts, in order."""
    return list(dict.fromkeys(picture for prompt in prompts for picture in prompt.pictures))
