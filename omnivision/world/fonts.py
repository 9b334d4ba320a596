"""Latin and Chinese fonts out of installed packages, loaded once a process.

Latin: Open Sans and Noto Serif (both OFL) and Pillow's own Aileron. Chinese: WenQuanYi Micro Hei.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from ..errors import DataError

FAMILIES = {  # family: (package, file)
    "sans": ("fontpkg_open_sans", "files/OpenSans[wdth,wght].ttf"),
    "serif": ("fontpkg_noto_serif", "files/NotoSerif[wdth,wght].ttf"),
    "cjk": ("paperang_p2_fonts_cjk", "fonts/wqy-microhei.ttc"),
}
LATIN_FONTS = (("sans", 400), ("sans", 700), ("serif", 400), ("serif", 700), ("aileron", 400), ("sans", 600))


def package_file(package: str, name: str) -> Path:
    """The path of a file that an installed package carries, without importing the package.

    Raises:
        DataError: the package or the file is missing.
    """
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        if (Path(place) / name).is_file():
            return Path(place) / name
    raise DataError(
        f"The package {package} is missing or does not carry {name}",
        "the embedded world",
        "Run `bash scripts/quickstart.sh` once: it installs the pinned packages.",
    )


@lru_cache(maxsize=512)
def font(family: str, size: int, weight: int = 400) -> ImageFont.FreeTypeFont:
    """A cached font.

    Args:
        family: "sans", "serif", "cjk" or "aileron" (Pillow's own, one weight).
        size: pixels per em.
        weight: 300 to 800, for the families with a weight axis.
    """
    if family == "aileron":
        return ImageFont.load_default(size)
    path = package_file(*FAMILIES[family])
    # The basic layout engine: no ligatures are needed, and it is the same with or without libraqm.
    loaded = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    if family != "cjk":
        axes = loaded.get_variation_axes()
        loaded.set_variation_by_axes([_axis_value(axis, weight) for axis in axes])
    return loaded


def _axis_value(axis: dict, weight: int) -> int:
    """The weight on the weight axis, the default on any other (width)."""
    name = axis["name"].decode() if isinstance(axis["name"], bytes) else axis["name"]
    return min(max(weight, axis["minimum"]), axis["maximum"]) if name == "Weight" else axis["default"]


def has_chinese(text: str) -> bool:
    """Whether a text needs the Chinese font."""
    return any("\u3000" <= char <= "\u9fff" or "\uff00" <= char <= "\uffef" for char in text)


def font_for(text: str, size: int, weight: int = 400, family: str = "sans") -> ImageFont.FreeTypeFont:
    """The Chinese font for a text with Chinese characters, else the Latin family asked for."""
    return font("cjk", size) if has_chinese(text) else font(family, size, weight)
