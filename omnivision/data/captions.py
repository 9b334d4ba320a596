"""Records with captions, and COCO's boxes beside them."""

from __future__ import annotations

from omnivision.data.fields import images_of, list_of, short, text_of, turn_of

CAPTION_REQUEST = "Describe the image."  # the user's turn of a record that has a caption alone


def captions(raw: dict) -> list[dict]:
    """A row for each caption of a picture.

    Raises:
        ValueError: no picture, no text, or a question without an answer.
    """
    texts = raw["captions"] if "captions" in raw else [raw["caption"] if "caption" in raw else raw["text"]]
    if "question_id" in raw:
        raise ValueError("it has a question and no answer")
    images, regions = images_of(raw), _regions(raw)
    if not images:
        raise ValueError("it has a caption and no image")
    rows = [{"images": images, "turns": [turn_of("user", CAPTION_REQUEST), turn_of("assistant", text_of(text, "the caption"))]}
            for text in list_of(texts, "captions")]
    if regions and rows:
        rows[0]["regions"] = regions
    if len(rows) > 1:
        name = images[0] if raw.get("id") is None else raw["id"]
        rows = [{**row, "id": f"{name}-{number}"} for number, row in enumerate(rows)]
    return rows


def _regions(raw: dict) -> list[dict]:
    """COCO's boxes (left, top, width, height in pixels) as ours."""
    if not all(key in raw for key in ("objects", "width", "height")):
        return []
    width, height, found = raw["width"], raw["height"], []
    if not raw["objects"]:
        return []
    if not all(type(side) in (int, float) and side > 0 for side in (width, height)):
        raise ValueError(f"`width` and `height` are {short(width)} and {short(height)}, no sides of a picture")
    for one in list_of(raw["objects"], "objects"):
        left, top, across, down = one["bbox"]
        box = [left / width, top / height, (left + across) / width, (top + down) / height]
        found.append({"box": box, "label": one["category"], "kind": "object"})
    return found
