"""The report: what it shows, that it stands alone, and that no text can break out of it."""

from __future__ import annotations

import base64
import html.parser
import io
import math
import re

import pytest
from PIL import Image

from omnivision.errors import DataError
from omnivision.report import build_report, read_metrics
from omnivision.report.charts import loss_chart, nice_ticks
from omnivision.report.images import LONGEST_SIDE, data_uri
from omnivision.pairs.words import word_edits
from omnivision.report.page import marked

HOSTILE = "</style></td><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\"'&\x00\ud800"
VOID = {"meta", "img", "line", "circle", "polyline", "br"}


class Walker(html.parser.HTMLParser):
    """Collects tags and attributes, and whether every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.open, self.words, self.faults = [], [], [], [], []
        self.feed(page)
        self.faults += self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)

    def handle_data(self, data):
        self.words.append(data)


def make_data(picture, words: str = "red cat") -> dict:
    score = {"score": 82.44, "stderr": 1.5, "n": 600}
    return {
        "title": words,
        "lead": words,
        "facts": [(words, words)],
        "scores": [
            {"stage": "untrained", "note": words, "seen": {"pope_f1": {"score": 0.0}}, "held_out": {}},
            {"stage": words, "seen": {"pope_f1": score, "pope_false_yes": score}, "held_out": {"open": score}},
        ],
        "targets": {"pope_f1": 80},
        "curves": [{"stage": words, "rows": [{"step": i, "loss": 3 / (i + 1)} for i in range(90)] + [{"step": 50, "eval_loss": 0.5}]}],
        "samples": [{"image": picture, "question": words, "truth": words, "note": words,
                     "answers": [{"stage": words, "text": words, "right": right} for right in (True, False, None)]}],
        "pairs": [{"images": [picture], "prompt": words, "rejected": words + " one", "chosen": words + " two"}],
        "export": [{"file": words, "bytes": 1_234_567}],
        "export_check": {"top1_agreement": 99.5, "questions": words, "max_abs_logprob_diff": 0.01, "compute": words},
        "seconds": {words: 61.0, "b": 5.25},
        "notes": [words],
    }  # fmt: skip


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "cat.png"
    Image.new("RGB", (900, 300), "red").save(file)
    return file


def test_a_report_shows_every_part_and_is_well_formed(tmp_path, picture):
    page = build_report(make_data(picture), tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    walker = Walker(page)
    assert walker.faults == []
    for words in (
        "82.4",
        "± 1.5 · n 600",
        "target ≥ 80",
        "The held-out style",
        "Minimal edits",
        "1,234,567",
        "99.50 %",
        "1 min 01 s",
        "5.2 s",
    ):
        assert words in page, words
    assert {"svg", "polyline", "del", "ins", "img"} <= set(walker.tags)
    assert page.count('class="mark"') == 3 and all(mark in page for mark in "✓✗")


def test_an_exports_total_leaves_out_what_only_proves_it(tmp_path):
    files = {"model.safetensors": 1000, "config.json": 7, "reference.jsonl": 20, "reference/": 300}
    page = build_report({"export": [{"file": name, "bytes": number} for name, number in files.items()]}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<td class="n">1,007</td>' in page and "1,327" not in page


def test_it_fetches_nothing_and_runs_nothing(tmp_path, picture):
    page = build_report(make_data(picture), tmp_path / "report.html").read_text(encoding="utf-8")
    walker = Walker(page)
    assert not {"script", "link", "iframe", "object", "a"} & set(walker.tags)
    sources = [value for _, name, value in walker.attributes if name in ("src", "href", "xlink:href")]
    assert sources and all(value.startswith("data:image/") for value in sources)
    assert "url(" not in page and "@import" not in page and "http" not in page.replace("http-equiv", "")


def test_hostile_text_stays_text_everywhere(tmp_path, picture):
    hostile = build_report(make_data(picture, HOSTILE), tmp_path / "a.html").read_text(encoding="utf-8")
    plain = build_report(make_data(picture), tmp_path / "b.html").read_text(encoding="utf-8")
    walker = Walker(hostile)
    assert walker.faults == [] and sorted(walker.tags) == sorted(Walker(plain).tags)
    assert not any(name.startswith("on") for _, name, _ in walker.attributes)
    assert "\x00" not in hostile and "<script" not in hostile
    assert "".join(walker.words).count("<script>alert(1)</script>") > 15  # shown, as text


def test_an_empty_report_is_a_page(tmp_path):
    page = build_report({}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert Walker(page).faults == [] and "<h1>Report</h1>" in page and "<section" not in page


def test_a_broken_picture_says_so(tmp_path, picture):
    half = tmp_path / "half.png"
    half.write_bytes(picture.read_bytes()[:60])
    for file in (half, tmp_path / "none.png", tmp_path, None):
        page = build_report({"samples": [{"image": file, "question": "?"}]}, tmp_path / "report.html").read_text(
            encoding="utf-8"
        )
        assert "picture not readable" in page


def test_pictures_are_inlined_small(picture):
    kind, _, body = data_uri(picture).partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    assert Image.open(io.BytesIO(base64.b64decode(body))).size == (LONGEST_SIDE, LONGEST_SIDE // 3)


def test_a_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    out = build_report({"title": "old"}, tmp_path / "report.html")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError):
        build_report({"title": "new"}, out)
    assert "old" in out.read_text(encoding="utf-8") and [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_best_score_is_marked_but_not_the_fewest_false_yes(tmp_path, picture):
    page = build_report(make_data(picture), tmp_path / "report.html").read_text(encoding="utf-8")
    seen = page[page.index("Scores after") : page.index("The held-out style")]
    assert re.findall(r'class="best"><b>([\d.]+)', seen) == ["82.4"]


def test_curves_survive_odd_logs():
    assert loss_chart("a", []) == "" and loss_chart("a", [{"step": 1, "loss": math.nan}, {"epoch": 2}]) == ""
    one = loss_chart("a", [{"step": 1, "loss": 2.0}])
    assert "<svg" in one and "nan" not in one
    rows = [
        {"step": 1, "loss": 9.0},
        {"step": 2, "loss": math.inf},
        {"step": 2, "loss": 1.0},
        {"step": 1, "loss": 3.0},
        {"step": 3, "loss": None},
    ]
    chart = loss_chart("a", rows)
    points = re.search(r'class="raw" points="([^"]*)"', chart).group(1).split()
    assert len(points) == 2 and "inf" not in chart  # the repeated step keeps its last value


@pytest.mark.parametrize("low, high", [(0, 1), (0.31, 0.69), (-3, 1200), (1e-7, 3e-7), (5, 5)])
def test_ticks_are_round_and_inside(low, high):
    ticks = nice_ticks(low, high)
    assert 1 <= len(ticks) <= 7 and all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_word_edits_and_marks():
    rejected, chosen = "Two <red> cats.", "Two blue cats."
    edits = word_edits(rejected, chosen)
    assert marked(rejected, edits["rejected"], "del") == "Two <del>&lt;red&gt;</del> cats."
    assert marked(chosen, edits["chosen"], "ins") == "Two <ins>blue</ins> cats."
    assert word_edits("街上有一只猫", "街上有两只猫") == {"rejected": [[3, 4]], "chosen": [[3, 4]]}
    assert marked("abc", [[2, 99], [-5, 1], [0, 1]], "del") == "<del>a</del>b<del>c</del>"


def test_given_spans_win_over_the_comparison(tmp_path):
    pair = {"prompt": "?", "rejected": "a b", "chosen": "a c", "edit_spans": {"rejected": [[0, 1]], "chosen": []}}
    page = build_report({"pairs": [pair]}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<del>a</del> b" in page and "<ins>" not in page


def test_read_metrics_leaves_out_a_torn_last_line_only(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(file) == [{"step": 1, "loss": 2.0}]
    file.write_text('{"step": 1, "note": "a\u2028b\x85"}\n{"step": 2}\n', encoding="utf-8")
    assert read_metrics(file) == [{"step": 1, "note": "a\u2028b\x85"}, {"step": 2}]
    file.write_text('{"step": 1,\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:1"):
        read_metrics(file)
    with pytest.raises(DataError, match="no metrics file"):
        read_metrics(tmp_path / "none.jsonl")
