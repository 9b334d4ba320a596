"""The page of `omnivision data check`: counts, histograms, faults and sample pictures, in one file without scripts."""

from __future__ import annotations

from typing import Any

from omnivision.data.overlap import TOLD
from omnivision.data.pictures import locate
from omnivision.data.rows import Row
from omnivision.errors import DataError
from omnivision.report.charts import histogram
from omnivision.report.escape import text
from omnivision.report.images import data_uri
from omnivision.report.page import document, section, table

SHOWN = 20  # rows of a fault on the page


def page(report: dict[str, Any], samples: list[Row], root: str) -> str:
    """HTML of a check's report.

    Args:
        report: check()'s. samples: rows to show. root: of their pictures.
    """
    facts = [("Rows", f"{report['rows']:,}"), ("Bad rows", f"{report['bad_rows']:,} ({report['bad_fraction']:.2%})"), ("Pictures", f"{report['pictures']:,}"),
             ("Tokens", f"{report['tokens_total']:,}"), ("Supervised", f"{report['supervised_share']:.1%}")]
    files = [f'<tr><td>{text(file)}</td><td class="n">{one["rows"]:,}</td><td class="n">{one["unreadable"]:,}</td><td>{text(", ".join(one["formats"]))}</td></tr>'
             for file, one in report["files"].items()]
    charts = [histogram("Tokens of a row", report["lengths"]), histogram("Questions of a row", report["turns"]),
              histogram("Width of a picture (px)", [width for width, _ in report["sizes"]]), histogram("Height of a picture (px)", [height for _, height in report["sizes"]])]
    return document("Data", f"{report['bad_rows']:,} of {report['rows']:,} rows are bad.", facts, [
        section("Files", "", table('<th>file</th><th class="n">rows</th><th class="n">unreadable</th><th>formats</th>', files, "plain")),
        section("Faults", "Rows with a fault marked bad are left out of a run, or stop it; the others are notes.", _faults(report["problems"])),
        *([section("Evaluation sets", *_against(report["against"]))] if "against" in report else []),
        section("How they are spread", "", f'<div class="grid2">{"".join(f"<figure>{chart}</figure>" for chart in charts if chart)}</div>'),
        section("Samples", "Some rows, at random.", f'<div class="grid2">{"".join(_sample(row, root) for row in samples)}</div>'),
    ])


def _faults(problems: dict[str, Any]) -> str:
    if not problems:
        return '<p class="note">None.</p>'
    rows = []
    for kind, one in problems.items():
        rows.append(f'<tr><td>{"<b>bad</b>" if one["bad"] else "note"}</td><td>{text(kind)}</td><td class="n">{one["count"]:,}</td><td>{_named(one["rows"])}</td></tr>')
    return table('<th></th><th>fault</th><th class="n">rows</th><th>which</th>', rows, "plain")


def _against(held: dict[str, Any]) -> tuple[str, str]:
    rows = [f'<tr><td class="n">{len(held[key]):,}</td><td>{text(said)}</td><td>{_named(held[key])}</td></tr>' for key, said in TOLD.items() if held[key]]
    note = f"The rows are compared with {held['pictures']:,} different pictures and {held['questions']:,} questions."
    return note, table('<th class="n">number</th><th>what is not compared</th><th>which</th>', rows, "plain") if rows else ""


def _named(names: list[str]) -> str:
    more = f"<li>and {len(names) - SHOWN:,} more</li>" if len(names) > SHOWN else ""
    return f'<ul>{"".join(f"<li>{text(name)}</li>" for name in names[:SHOWN])}{more}</ul>'


def _sample(row: Row, root: str) -> str:
    pictures = "".join(_picture(image, root) for image in row.images[:1])
    said = [(turn["role"], turn["text"]) for turn in row.turns[:6]] or [("prompt", row.prompt), ("chosen", row.chosen), ("rejected", row.rejected)]
    if row.request:
        said = [("request", row.request), ("calls", str(list(row.calls)))]
    lines = "".join(f"<p><small>{text(role)}</small><br>{text(words[:600])}</p>" for role, words in said)
    return f'<figure>{pictures}<figcaption>{text(row.id)}</figcaption>{lines}</figure>'


def _picture(image, root: str) -> str:
    try:
        inlined = data_uri(locate(image, root))
    except DataError:
        inlined = None
    return f'<img src="{inlined}" alt="" style="max-width:100%">' if inlined else f"<p>{text(str(image))} cannot be shown</p>"
