"""quickstart.json and the closing table: scores by stage, files, seconds."""

from __future__ import annotations

from pathlib import Path

ROWS = ("untrained", "align", "sft", "dpo", "functions", "blind")
COLUMNS = {"pope": "POPE F1", "false_yes": "false yes", "chartqa": "ChartQA", "open": "open", "actions": "actions"}


def result(done: dict[str, dict]) -> dict:
    """The content of quickstart.json from the finished steps' records."""
    stages, held_out, details = {}, {}, {}
    for name, step in done.items():
        if name.startswith("eval "):
            stage = name.removeprefix("eval ")
            stages[stage] = _scores(step["result"]["eval"])
            details[stage] = step["result"]
            if "eval_held_out" in step["result"]:
                held_out[stage] = _scores(step["result"]["eval_held_out"])
    return {
        "stages": stages,
        "held_out_style": held_out,
        "export": done.get("export", {}).get("result", {}),
        "pairs": done.get("pairs", {}).get("result", {}),
        "parameters": done.get("untrained", {}).get("result", {}).get("parameters"),
        "seconds": {name: step["seconds"] for name, step in done.items()},
        "details": details,
    }


def _scores(found: dict) -> dict:
    """task -> score; POPE's false "yes" on the adversarial split (percent of absent objects) beside it."""
    scores = {task: round(entry["score"], 4) for task, entry in found.items() if entry.get("score") is not None}
    adversarial = found.get("pope_adversarial", {}).get("metrics") or {}
    if "false_yes_rate" in adversarial:
        scores["pope_adversarial_false_yes"] = round(adversarial["false_yes_rate"], 4)
    return scores


def text(content: dict, out: Path) -> str:
    """The table that a terminal shows at the end."""
    lines = ["", "Scores on unseen pictures, 0-100 (false yes: lower is better)", ""]
    lines.append(f"{'':<27}" + "".join(f"{title:>11}" for title in COLUMNS.values()))
    for title, rows in (("", content["stages"]), (", held-out style", content["held_out_style"])):
        for stage in ROWS:
            if stage in rows:
                lines.append(f"{stage + title:<27}" + _cells(rows[stage]))
    export = content["export"]
    if export:
        from omnivision.export.folder import device_bytes

        size = device_bytes(export.get("bytes", {})) / 1e6
        lines += ["", f"FP16 export  {out / 'export'}  {size:.1f} MB, same first token on "
                      f"{export.get('top1_agreement', float('nan')):.1f} % of {export.get('questions')} questions"]
    minutes = sum(content["seconds"].values()) / 60
    lines += [f"report       {out / 'report.html'}", f"scores       {out / 'quickstart.json'}", f"time         {minutes:.1f} min"]
    return "\n".join(lines)


def _cells(scores: dict) -> str:
    found = {**scores, "false_yes": scores.get("pope_adversarial_false_yes")}
    return "".join(f"{'-' if found.get(key) is None else format(found[key], '.1f'):>11}" for key in COLUMNS)
