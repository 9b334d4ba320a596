"""report.html of a quickstart: gathers what the steps left in the folder."""

from __future__ import annotations

import json
import random
from pathlib import Path

from omnivision.report.report import build_report, read_metrics
from omnivision.runs import read_json_lines

STAGES = ("align", "sft", "dpo", "functions")
TARGETS = {"pope_f1": 80.0, "chartqa": 30.0, "actions": 60.0}
SHOWN = {"pope_adversarial": 3, "chartqa": 4, "open": 4, "actions": 4}  # pictures by task


def write_report(out: Path, result: dict) -> Path:
    """Builds the page from quickstart.json's content and the run's files."""
    export = result["export"]
    return build_report({
        "title": "omnivision quickstart",
        "lead": "A vision-language model of OmniVision's shape, built, trained in its stages, judged and exported on this machine. "
                "Pictures, questions and truth come from the embedded world; no score was measured on a picture seen in training.",
        "facts": [("Parameters", f"{result['parameters']:,}"), ("Image tokens", "729 patches to 81"),
                  ("Pairs for DPO", str(result["pairs"].get("pairs", 0)))],
        "scores": score_rows(result),
        "targets": TARGETS,
        "curves": [{"stage": s, "rows": read_metrics(out / s / "metrics.jsonl")} for s in STAGES],
        "samples": samples(out),
        "pairs": pairs(out),
        "export": [{"file": name, "bytes": size} for name, size in export.get("bytes", {}).items()],
        "export_check": {k: export[k] for k in ("top1_agreement", "questions", "max_abs_logprob_diff", "compute") if k in export},
        "seconds": result["seconds"],
        "notes": ["Blind is the last model with every picture replaced by grey.",
                  "The held-out drawing style (OpenMoji) appears in no training picture, nor in the tower's."],
    }, out / "report.html")


def score_rows(result: dict) -> list[dict]:
    """Rows of the score table in the order of the road."""
    rows = []
    for stage in ("untrained", "blind", *STAGES):
        if stage in result["details"]:
            found = result["details"][stage]
            rows.append({"stage": stage, "seen": _columns(found["eval"]), "held_out": _columns(found.get("eval_held_out", {}))})
    return rows


def _columns(found: dict) -> dict:
    names = {"pope": "pope_f1", "chartqa": "chartqa", "open": "open", "actions": "actions"}
    columns = {title: {k: found[task][k] for k in ("score", "stderr", "n")} for task, title in names.items() if task in found}
    adversarial = found.get("pope_adversarial")
    if adversarial:
        columns["pope_false_yes"] = {"score": adversarial["metrics"]["false_yes_rate"], "n": adversarial["n"] // 2}
    return columns


def samples(out: Path) -> list[dict]:
    """Pictures with the answers after each stage, the same ones for every run."""
    shown = []
    for task, count in SHOWN.items():
        answers = {stage: _samples(out / stage / "eval" / task / "samples.jsonl") for stage in STAGES}
        first = next((found for found in answers.values() if found), {})
        for question_id in random.Random(0).sample(sorted(first), min(count, len(first))):
            row = first[question_id]
            label = row.get("label", row.get("calls"))
            shown.append({
                "image": out / "world" / row["image"], "question": row["text"], "note": task.replace("_", " "),
                "truth": ", ".join(map(str, label)) if isinstance(label, list) and task != "actions" else _said(label),
                "answers": [{"stage": stage, "text": _said(found[question_id]["answer"]), "right": found[question_id]["official"]["score"] >= 1.0}
                            for stage, found in answers.items() if question_id in found],
            })
    return shown


def _said(value) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _samples(path: Path) -> dict[str, dict]:
    if not path.is_file():
        return {}
    return {row["question_id"]: row for row in read_json_lines(path)}


def pairs(out: Path, count: int = 6) -> list[dict]:
    """Some minimal edits, the longest answers first: there the edit is easiest to see."""
    path = out / "pairs.jsonl"
    if not path.is_file():
        return []
    rows = read_json_lines(path)
    rows.sort(key=lambda row: len(row["rejected"]), reverse=True)
    return [{"images": [out / "world" / image for image in row["images"]],
             **{key: row[key] for key in ("prompt", "rejected", "chosen", "edit_spans")}} for row in rows[:count]]
