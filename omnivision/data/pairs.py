"""Minimal-edit preference pairs: the model answers, a teacher corrects only the wrong words.

    omnivision data pairs --model DIR --data FILE --image-root DIR --out pairs.jsonl

The teacher is the embedded world's oracle, which knows the truth of every picture. An answer that is right
gives no pair; one that cannot be mended by a minimal edit gives none either; both are counted.

Short answers are rarely mended by a small edit: "No" for "Yes" is another answer. Such pairs move a model's readiness to say
"Yes" and teach nothing about pictures, see docs/training-dpo.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from omnivision.data.rows import Row, read_rows
from omnivision.errors import ConfigError, DataError


MOST_EDITED = 0.8  # share of an answer that a minimal edit may replace


def make_pairs(rows: list[Row], answers: list[str], truths: dict[str, object], model: str = "",
               most_edited: float = MOST_EDITED) -> tuple[list[dict], dict[str, int]]:
    """Preference rows from a model's own answers, and how many answers gave what.

    Args:
        rows: one user turn and one reference assistant turn each. answers: the model's, in the same order.
        truths: image path -> what is true of it.
        model: name or hash kept with each pair.
        most_edited: share of the answer's characters that may be replaced; what needs more is no minimal edit.

    Raises:
        DataError: a row about a picture whose truth is not known.
    """
    from omnivision.world.oracle import correct

    pairs, counts = [], Counter({"right": 0, "pairs": 0, "not_minimal": 0})
    for row, answer in zip(rows, answers, strict=True):
        if row.images[0] not in truths:
            raise DataError(f"The truth of {row.images[0]} is not known", row.source, "Give the world that the data was built in.")
        question, reference = row.turns[0]["text"], row.turns[1]["text"]
        mended = correct(truths[row.images[0]], question, answer, reference)
        if mended is None or not mended.answer.strip() or sum(s.end - s.start for s in mended.spans) > most_edited * len(answer):
            counts["not_minimal"] += 1
        elif mended.answer == answer:
            counts["right"] += 1
        else:
            counts["pairs"] += 1
            pairs.append({
                "id": f"{row.id}-pair", "images": list(row.images), "prompt": question,
                "chosen": mended.answer, "rejected": answer,
                "edit_spans": {"rejected": [[s.start, s.end] for s in mended.spans],
                               "chosen": [[s.new_start, s.new_end] for s in mended.spans]},
                "wrong_words": mended.wrong, "teacher": "world oracle", "model": model,
            })  # fmt: skip
    return pairs, dict(counts)


def read_truths(world: Path, images: Iterable[str]) -> dict[str, object]:
    """The truth of pictures of a built world, by image path."""
    from omnivision.world.recipes import truth_from_row

    truths = {}
    for split in sorted({Path(image).parent.name for image in images}):
        file = world / "truth" / f"{split}.jsonl"
        if not file.is_file():
            raise DataError(f"The truth of the split `{split}` is missing", str(file), "Build the world with `omnivision data world`.")
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            truths[row["image"]] = truth_from_row(row)
    return truths


def main(argv: list[str]) -> int:
    """`omnivision data pairs`."""
    options = parser().parse_args(argv)
    with contextlib.redirect_stdout(sys.stderr):  # libraries' logs: stdout is for the result
        counts = run(options)
    print(json.dumps(counts) if options.json else "  ".join(f"{name} {count}" for name, count in counts.items()))
    return 0


def parser() -> argparse.ArgumentParser:
    """The verb's arguments."""
    arguments = argparse.ArgumentParser(
        prog="omnivision data pairs", description="Minimal-edit preference pairs from a model's own answers.",
        epilog="example: omnivision data pairs --model runs/tiny/sft/final --data world/dpo.jsonl --image-root world --out pairs.jsonl",
    )  # fmt: skip
    arguments.add_argument("--model", required=True, metavar="DIR", help="a checkpoint: final/ of a stage")
    arguments.add_argument("--data", required=True, metavar="FILE", help="rows with one question each")
    arguments.add_argument("--image-root", required=True, metavar="DIR", help="folder of the world that the rows come from")
    arguments.add_argument("--out", required=True, metavar="FILE", help="preference rows, JSON lines")
    arguments.add_argument("--feature-cache", metavar="DIR", help="cached features of the frozen tower")
    arguments.add_argument("--most-edited", type=float, default=MOST_EDITED, metavar="SHARE",
                           help="characters of an answer that an edit may replace (default: %(default)s)")
    arguments.add_argument("--max-new-tokens", type=int, default=64)
    arguments.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    arguments.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return arguments


def run(options: argparse.Namespace) -> dict[str, int]:
    """Answers, corrects, writes; returns the counts."""
    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
    from omnivision.data.features import FeatureCache
    from omnivision.generation import generate_answers

    folder, root, out = Path(options.model), Path(options.image_root), Path(options.out)
    if not (folder / "config.json").is_file():
        raise ConfigError("There is no model in the folder", str(folder), "Give the final/ folder of a stage.")
    rows = [row for row in read_rows(options.data, options.limit) if row.images and len(row.turns) == 2]
    truths = read_truths(root, [row.images[0] for row in rows])
    model = OmniVisionForConditionalGeneration.from_pretrained(folder).eval()
    processor = OmniVisionProcessor.from_pretrained(folder)
    paths = [root / row.images[0] for row in rows]
    images: list = paths
    if options.feature_cache:
        cache = FeatureCache(options.feature_cache, model, processor)
        unique = list(dict.fromkeys(paths))
        known = dict(zip(unique, cache.features(unique), strict=True))
        images = [known[path] for path in paths]
    answers = generate_answers(model, processor, [row.turns[0]["text"] for row in rows], images, options.max_new_tokens)
    pairs, counts = make_pairs(rows, answers, truths, str(options.model), options.most_edited)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text("".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")
    partial.replace(out)
    print(f"{len(rows)} answers: {counts}", file=sys.stderr)
    return counts
