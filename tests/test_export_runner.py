"""What travels with exports reads answers and pictures as the library does. The text is anyone's: it must neither pass nor end the program."""

from __future__ import annotations

import json

import hostile_images
import numpy as np
import pytest
from model_parts import make_image
from PIL import Image

from omnivision.data.image import open_image
from omnivision.export.gguf import tiles
from omnivision.export.onnx_files import runner
from omnivision.export.onnx_files.runner import read_arguments
from omnivision.functions import Function
from omnivision.functions.arguments import Malformed
from omnivision.functions.arguments import read_arguments as read_by_the_library

OPEN = Function("order", "Order.", {"type": "object", "properties": {"item": {}, "count": {}}, "required": ["item"], "additionalProperties": True})
EXPECTED = {"known": ["item", "count"], "required": ["item"], "others": True}
ODD = ["oo(item='a')", "(item='a') # and more", "(item='a')\n", "(item='a')(1)", "(item=1e999)", "(item=-1e999)", r"(item='\ud800')", f"(item=0x{'f' * 5000})",
       "(item='a', **{[1]: 2})", "(item='a', **{1: 2})", "(item='a', **{None: 2})", "(item='a', **{**{'b': 1}})", f"(item={'[' * 300}{']' * 300})",
       f"(item={'-' * 9000}1)", "", "'{1}'", "(item=f'{1}')", "(item=-True)", "(item=...)", "(item=1j)", "(item='a'\0)"]


@pytest.mark.parametrize("text", ODD, ids=[text[:24] for text in ODD])
def test_odd_arguments_are_refused_by_both(text):
    with pytest.raises(Malformed):
        read_by_the_library([text], OPEN)
    with pytest.raises((ValueError, SyntaxError, MemoryError, RecursionError)):
        read_arguments(text, EXPECTED)


@pytest.mark.parametrize("text", ["(item='猫', count=2)", "('a')", "(item=['x', {'y': [None, True, -1.5]}], **{'from': 1})", "(\nitem='a')", " (item='a')",
                                  r"(item='\d')"])
def test_plain_arguments_are_read_alike(text):
    found = read_arguments(text, EXPECTED)
    assert found == read_by_the_library([text], OPEN)[0] and json.loads(json.dumps(found)) == found


def turned(name):
    """How a telephone saves an upright picture: lying, with a note."""
    picture, exif = make_image(5, (131, 77)), Image.Exif()
    exif[0x0112] = 6
    if name.startswith("alpha"):
        picture.putalpha(Image.fromarray(np.arange(131 * 77, dtype=np.uint8).reshape(77, 131)))
    elif name == "deep.png":
        picture = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (77, 131), dtype=np.uint16))
    return picture, exif


@pytest.mark.parametrize("name", hostile_images.ODD)
def test_odd_pictures_are_opened_as_the_library_does(tmp_path, name):
    (file := tmp_path / "picture").write_bytes(hostile_images.ODD[name][0]())
    expected = np.asarray(open_image(file))
    for opened in (runner.open_picture, tiles.opened):
        np.testing.assert_array_equal(np.asarray(opened(file)), expected)


def test_an_animation_is_no_picture_on_a_device_either(tmp_path):
    frames = [make_image(seed) for seed in (1, 2)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    for opened in (runner.open_picture, tiles.opened):
        with pytest.raises(ValueError, match="animation"):
            opened(tmp_path / "a.webp")


@pytest.mark.parametrize("name", ["photo.jpg", "alpha.png", "alpha.webp", "deep.png"])
def test_pictures_are_opened_as_the_library_does(tmp_path, name):
    picture, exif = turned(name)
    picture.save(tmp_path / name, exif=exif)
    expected = open_image(tmp_path / name)
    assert expected.size == (77, 131)
    for opened in (runner.open_picture, tiles.opened):
        np.testing.assert_array_equal(np.asarray(opened(tmp_path / name)), np.asarray(expected))
    tiles.main([str(tmp_path / name), str(tmp_path / "sent.png"), "--size", "56", "--patch", "14"])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sent.png")), np.asarray(tiles.prepared(expected, 56, 14, raster=False)))
