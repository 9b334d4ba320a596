"""Looks at every picture before a model is opened: what is broken is known, named and counted."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from omnivision.data.image import decode, read_image
from omnivision.data.parallel import in_order
from omnivision.data.pictures import Packed
from omnivision.errors import DataError

from .prompts import Picture
from .results import MISSING_LIMIT

THREADS = 4


def look_at(sources: Sequence[str | Packed]) -> dict[str | Packed, Picture | DataError]:
    """Decodes pictures and forgets the pixels.

    Args:
        sources: files, or pictures inside tables.

    Returns:
        Source -> the picture, or why it cannot be shown.
    """
    different = list(dict.fromkeys(sources))
    with ThreadPoolExecutor(THREADS) as threads:
        return dict(zip(different, in_order(threads, THREADS, _look, different), strict=True))


def _look(source: str | Packed) -> Picture | DataError:
    try:
        data = read_image(source)
        decode(data, str(source))
    except DataError as error:
        return error
    return Picture(hashlib.sha256(data).hexdigest(), source)


def few_faults(task: str, rows: list[dict], seen: dict[str | Packed, Picture | DataError], remedy: str) -> list[DataError | None]:
    """Why each question of a task cannot be shown its pictures, None where it can; too many stop the run before anything is answered.

    Args:
        task: its name. rows: its questions, with the pictures that are `shown`. seen: from `look_at`.
        remedy: which files to put where.

    Raises:
        DataError: more than 1 % of the questions; kinds counted, the first question named.
    """
    faults = [next((seen[one] for one in row["shown"] if isinstance(seen[one], DataError)), None) for row in rows]
    hit = [(row, error) for row, error in zip(rows, faults, strict=True) if error]
    if len(hit) > MISSING_LIMIT * len(rows):
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(getattr(error, "kind", "no picture") for _, error in hit).most_common())
        row, error = hit[0]
        raise DataError(f"The pictures of {len(hit)} of {len(rows)} questions of {task} cannot be shown: {kinds}; the first is question "
                        f"{row['question_id']}: {error.what}", error.where, remedy)
    return faults
