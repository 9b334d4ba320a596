"""What was measured, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from omnivision.statistics import median_interval

TRUSTED = 0.15  # cores that others may use in a round that counts
COLUMNS = ("run", "samples/s", "preparation (s)", "whole job (s)", "peak memory (GiB)", "of that imports",
           "step time, ratio (95 %)", "CPU time, ratio", "whole job, ratio", "memory, ratio", "without imports")


def rows(found: dict, job: int, samples: Sequence[int], counted: float = 1.0) -> tuple[list[dict], int]:
    """(a row for each arm, how many rounds were quiet); every arm is compared with the first.

    Args:
        found: of `timed`. job: samples of the whole job. samples: of each arm in a round. counted: share of the steps that were timed.
    """
    quiet = [one for one in found["rounds"] if one["others"] <= TRUSTED]
    rounds, lines = quiet or found["rounds"], []
    for at, (preparation, memory) in enumerate(zip(found["preparation"], found["memory"], strict=True)):
        runs = [one["arms"][at] for one in rounds]
        speed = samples[at] / statistics.median(run["seconds"] for run in runs)
        as_much = samples[0] / samples[at]
        ratios = [as_much * one["arms"][at]["seconds"] / one["arms"][0]["seconds"] for one in rounds]
        cpu = statistics.median(as_much * one["arms"][at]["cpu"] / one["arms"][0]["cpu"] for one in rounds)
        told = [counted * sum(line["teraflop"] for line in run["logged"]) / run["seconds"] for run in runs
                if run["logged"] and all("teraflop" in line for line in run["logged"])]
        lines.append({"speed": speed, "preparation": preparation, "job": preparation + job / speed, "memory": memory, "steady": median_interval(ratios), "cpu": cpu,
                      "rate": statistics.median(told) if told else None})
    return lines, len(quiet)


def table(names: Sequence[str], lines: Sequence[dict], whole: bool = True, products: float | None = None) -> list[str]:
    """Markdown; how many times the first arm is better than each other one.

    Args:
        whole: whether preparation was measured, and with it the whole job. products: TFLOP/s that the device reached in one; None leaves the share of it out.
    """
    head = [*COLUMNS, *(["TFLOP/s of the model's products", "share of the device's own"] if products else [])]
    made = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, line in zip(names, lines, strict=True):
        steady, low, high = line["steady"]
        (peak, imports), (least, its) = ((one["memory"]["peak_gib"], one["memory"]["imports_gib"]) for one in (line, lines[0]))
        times = [f"{steady:.2f} ({low:.2f} to {high:.2f})", f"{line['cpu']:.2f}", f"{line['job'] / lines[0]['job']:.2f}",
                 f"{peak / least:.2f}", f"{(peak - imports) / (least - its):.2f}"]
        if not whole:
            times[2] = "–"
        job = [f"{line['preparation']:.1f}", f"{line['job']:.1f}"] if whole else ["–", "–"]
        cells = [name, f"{line['speed']:.2f}", *job, f"{peak:.2f}", f"{imports:.2f}", *(times if line is not lines[0] else ["1"] * len(times))]
        if products:
            cells += [f"{line['rate']:.0f}", f"{line['rate'] / products:.1%}"] if line["rate"] is not None else ["–", "–"]
        made.append("| " + " | ".join(cells) + " |")
    return made
