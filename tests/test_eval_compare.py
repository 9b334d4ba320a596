"""Compare reads run folders, pairs questions, and draws the chart."""

import json
import shutil

import pytest
from eval_world import random_model, write_world
from omnivision_eval import bars, compare
from omnivision_eval.ours import Ours
from omnivision_eval.run import evaluate
from PIL import Image

from omnivision.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    world, model = write_world(folder / "world", images=6), Ours(*random_model())
    evaluate(model, world, ["pope", "chartqa"], folder / "sft" / "eval")
    shutil.copytree(folder / "sft", folder / "dpo")
    samples = folder / "dpo" / "eval" / "chartqa" / "samples.jsonl"
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    for row in rows:  # the second run answers every chart question rightly
        row["official"]["score"] = 1.0
    samples.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows[:5])))  # in another order, one unanswered
    return folder


def test_differences_are_paired_by_question(runs, capsys):
    assert compare.main([str(runs / "sft"), str(runs / "dpo" / "eval"), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert list(found["runs"]) == ["sft", "dpo"] and "published" in err
    pair = found["differences"]["dpo"]["chartqa"]
    assert pair["n"] == 5 and pair["difference"] == 100 and pair["low"] == 100
    same = found["differences"]["dpo"]["pope_random"]
    assert same["difference"] == 0 and same["stderr"] == 0
    assert found["published"]["rows"]["OmniVision v1"]["pope"] == 89.4 and "not measured" in found["published"]["note"]


def test_bar_chart(runs, tmp_path):
    """A bar reaches as high as its score, and a missing score leaves its place white."""
    file = tmp_path / "a" / "bars.png"
    bars.draw({"sft": {"pope": (80.0, 1.0), "chartqa": (None, None)}, "dpo": {"pope": (40.0, None)}}, file)
    with Image.open(file) as picture:
        heights = [sum(pixel == color for pixel in picture.crop((0, 66, picture.width, picture.height)).getdata())
                   for color in ((0x48, 0x78, 0xA8), (0xD9, 0x82, 0x2B))]
    assert heights[0] == pytest.approx(2 * heights[1], rel=0.05)
    assert compare.main([str(runs / "sft"), "--plot", str(tmp_path / "run.png")]) == 0 and (tmp_path / "run.png").is_file()


def test_what_is_missing_is_named(runs, tmp_path):
    with pytest.raises(DataError, match="results.json"):
        compare.main([str(tmp_path)])
    with pytest.raises(ConfigError, match="twice"):
        compare.main([str(runs / "sft"), str(runs / "sft" / "eval")])
