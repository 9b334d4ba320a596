"""Preference rows to batches.

Shapes: R rows of the batch, L tokens, B pairs, N tokens that are read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from omnivision.constants import IGNORE_INDEX
from omnivision.data.pictures import locate
from omnivision.data.rows import Row
from omnivision.errors import DataError
from omnivision.model.conversation import encode_conversation
from omnivision_train.activations import Batch
from omnivision_train.data import Collator, bucket
from omnivision_train.pair_trie import PADDING, Layout, Pair, Share, lay_out


class Pairs(Dataset):
    """Encoded preferences.

    Args:
        rows: as read. processor: of the model. image_root: folder that image paths are relative to.
        max_length: a pair is never cut: that could cut the edit, or an image token.
        leave_out: called with what is wrong with a row that is left out; None raises it.

    Raises:
        DataError: a row that is no preference, whose answers are equal, or that is too long.
    """

    def __init__(self, rows: Sequence[Row], processor, image_root: str | Path, max_length: int,
                 leave_out: Callable[[DataError], None] | None = None) -> None:
        self.samples: list[Pair] = []
        for row in rows:
            try:
                self.samples.append(encode_pair(row, processor, image_root, max_length))
            except DataError as error:
                if leave_out is None:
                    raise
                leave_out(error)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Pair:
        return self.samples[index]

    def with_reference(self, log_probs: Sequence[tuple[list[float], list[float]]]) -> None:
        """Gives every pair what the reference thinks of it."""
        self.samples = [replace(pair, reference=known) for pair, known in zip(self.samples, log_probs, strict=True)]


def encode_pair(row: Row, processor, image_root: str | Path, max_length: int) -> Pair:
    """A row's ids.

    Raises:
        DataError: see Pairs.
    """
    if not row.prompt or row.chosen == row.rejected:
        raise DataError(f"Row {row.id} is no preference: chosen {row.chosen!r}, rejected {row.rejected!r}", row.source,
                        "Remove it, or make pairs with `omnivision data pairs`.")
    prompt, chosen = _encode_side(row, row.chosen, processor)
    _, rejected = _encode_side(row, row.rejected, processor)
    if chosen == rejected:
        raise DataError(f"Row {row.id}: chosen {row.chosen!r} and rejected {row.rejected!r} are the same tokens", row.source,
                        "Remove the row: the model cannot tell its answers apart.")
    length = len(prompt) + max(len(chosen), len(rejected))
    if length > max_length:
        raise DataError(f"Row {row.id} has {length} tokens with its longer answer, more than max_length {max_length}",
                        row.source, "Raise `max_length`, or remove the row.")
    return Pair(prompt, chosen, rejected, tuple(locate(image, image_root) for image in row.images), row.id, row.part)


def _encode_side(row: Row, answer: str, processor) -> tuple[list[int], list[int]]:
    """Ids before the answer, and of the answer with its end token; the template writes nothing after it that matters."""
    turns = [{"role": "user", "text": row.prompt}, {"role": "assistant", "text": answer, "loss": True}]
    encoded = encode_conversation(processor.tokenizer, turns, len(row.images), processor.image_seq_length)
    start = next(at for at, label in enumerate(encoded.labels) if label != IGNORE_INDEX)
    return encoded.input_ids[:start], [label for label in encoded.labels if label != IGNORE_INDEX]


@dataclass
class PairCollator(Collator):
    """Right-padded batches of pairs.

    Args:
        share, edit_weight, whole_chosen: see pair_trie.lay_out.

    A batch holds `input_ids`, `branches` and `position_ids` (R, L); `image_at` and `logits_at` (S), see the model's forward; and of each token
    that is read `kept_at` (its place among those with logits), `targets`, `slots` (its sum: B chosen ones, then B rejected ones) and
    `weights` (N). `reference` are the reference's weighted sums (2B), where they are known.
    """

    share: Share = "edit"
    edit_weight: float = 1.0
    whole_chosen: bool = False

    def __call__(self, pairs: Sequence[Pair]) -> dict[str, Tensor | list | int]:
        layouts = [lay_out(pair, self.share, self.edit_weight, self.whole_chosen) for pair in pairs]
        rows = [row for layout in layouts for row in layout.rows]
        longest = bucket(max(len(row.ids) for row in rows), self.step)
        padded = {"input_ids": self.processor.tokenizer.pad_token_id, "branches": PADDING, "position_ids": 0}
        batch = {key: torch.tensor([list(column) + [fill] * (longest - len(column)) for column in columns])
                 for (key, fill), columns in zip(padded.items(), zip(*rows, strict=True), strict=True)}
        read = self._read(layouts, longest)
        pictured = [pair for pair, layout in zip(pairs, layouts, strict=True) for _ in layout.rows]
        known = {"reference": torch.tensor(_weighted_sums(layouts, pairs))} if all(pair.reference for pair in pairs) else {}
        return {**batch, **read, **known, **self.pictures(pictured), "image_at": self.image_at(batch["input_ids"]), "pairs": len(pairs),
                "row_ids": [pair.id for pair in pairs], "num_tokens": sum(len(row.ids) for row in rows), "num_supervised": len(read["logits_at"])}

    def largest(self, pairs: Sequence[Pair], batch_size: int) -> Batch:
        """The batch of the longest pair, with as many tokens read and pictures as pairs have on average."""
        layouts = [lay_out(pair, self.share, self.edit_weight, self.whole_chosen) for pair in pairs]
        longest = max(len(row.ids) for layout in layouts for row in layout.rows)
        read = sum(len({(token.row, token.place) for token in layout.tokens}) for layout in layouts)
        return Batch(batch_size, bucket(longest), batch_size * read // len(pairs), batch_size * sum(len(pair.images) for pair in pairs) // len(pairs))

    def _read(self, layouts: Sequence[Layout], length: int) -> dict[str, Tensor]:
        tokens = [(pair, layout, token) for pair, layout in enumerate(layouts) for token in layout.tokens]
        places_N = torch.tensor([(pair * len(layout.rows) + token.row) * length + token.place for pair, layout, token in tokens])
        logits_at, kept_at = places_N.unique(return_inverse=True)
        return {"logits_at": logits_at, "kept_at": kept_at, "targets": torch.tensor([token.target for *_, token in tokens]),
                "slots": torch.tensor([token.side * len(layouts) + pair for pair, _, token in tokens]),
                "weights": torch.tensor([token.weight for *_, token in tokens])}


def _weighted_sums(layouts: Sequence[Layout], pairs: Sequence[Pair]) -> list[float]:
    """The reference's weighted log-probs of all chosen answers, then of all rejected ones, from the first edit on."""
    sums = [0.0] * (2 * len(pairs))
    for number, (pair, layout) in enumerate(zip(pairs, layouts, strict=True)):
        for side, known in enumerate(pair.reference):
            weights = [token.weight for token in layout.tokens if token.side == side][-len(known) :]
            sums[side * len(pairs) + number] = sum(weight * value for weight, value in zip(weights, known, strict=True))
    return sums
