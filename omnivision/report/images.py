"""Pictures as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from omnivision.data.image import open_image
from omnivision.data.pictures import Packed
from omnivision.errors import DataError

LONGEST_SIDE = 480  # pixels; twice what the page shows, for sharp screens


def data_uri(file: str | Path | Packed) -> str | None:
    """A picture inlined as PNG or JPEG, whichever is smaller; None when it cannot be read."""
    try:
        picture = open_image(file)
    except (DataError, OSError):
        return None  # one broken picture must not cost the report; the page says so in its place
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    png, jpeg = io.BytesIO(), io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    picture.save(jpeg, "JPEG", quality=88)
    kind, body = min((("png", png.getvalue()), ("jpeg", jpeg.getvalue())), key=lambda pair: len(pair[1]))
    return f"data:image/{kind};base64,{base64.b64encode(body).decode()}"
