"""The verbs of the console command: what each does, and the "module:function" imported when it is called."""

from __future__ import annotations

from typing import NamedTuple


class Verb(NamedTuple):
    """One verb: the help line and where its `main(argv) -> int | None` is."""

    summary: str
    target: str


VERBS: dict[str, Verb | dict[str, Verb]] = {
    "quickstart": Verb("the whole road on the embedded world, on a CPU", "omnivision_cli.quickstart:main"),
    "data": {
        "world": Verb("build the embedded world", "omnivision.world.build:main"),
        "check": Verb("what is in data and what is wrong with them, row by row", "omnivision.data.check:main"),
        "preview": Verb("one row as the model sees it", "omnivision.data.preview:main"),
        "pairs": Verb("minimal-edit pairs from a model's own answers", "omnivision.pairs.main:main"),
        "requests": Verb("requests for a set of functions, from templates or a teacher, each checked", "omnivision.requests.main:main"),
    },
    "train": Verb("one stage (align, sft, dpo, functions), a chain of them, or a stand-in (vision, language)", "omnivision_train.main:main"),
    "eval": Verb("benchmarks on a model, or on saved answers", "omnivision_eval.main:main"),
    "compare": Verb("tables and plots of several results", "omnivision_eval.compare:main"),
    "bench": Verb("image tokens, latency, speed, memory and size of models", "omnivision_cli.bench:main"),
    "export": Verb("files for devices, proved equal", "omnivision.export.main:main"),
    "chat": Verb("an answer about a picture, streamed", "omnivision_cli.chat:main"),
    "call": Verb("calls of functions for a request about a picture; a dry run unless told", "omnivision_cli.call:main"),
    "route": Verb("an answer through the worker that a router chooses", "omnivision_cli.route:main"),
    "plan": Verb("parameters and training memory before anything loads", "omnivision_cli.plan:main"),
    "config": Verb("show: a resolved configuration; schema: every key", "omnivision_cli.config:main"),
    "doctor": Verb("the environment, and what to fix", "omnivision_cli.doctor:main"),
}


def flat_verbs() -> dict[str, Verb]:
    """Every callable verb by its full name ("data world", "train")."""
    flat: dict[str, Verb] = {}
    for name, entry in VERBS.items():
        if isinstance(entry, Verb):
            flat[name] = entry
        else:
            flat.update({f"{name} {inner}": verb for inner, verb in entry.items()})
    return flat


def help_text() -> str:
    """What `omnivision --help` prints."""
    flat = flat_verbs()
    width = max(map(len, flat))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in flat.items()]
    return "\n".join([
        "usage: omnivision [--debug] VERB ...",
        "",
        "Train, evaluate and export sub-billion vision-language models for edge devices.",
        "",
        "verbs:",
        *lines,
        f"  {'version':<{width}}  print the version",
        "",
        "Every verb takes --json (one JSON object, alone on stdout) and --help (with an example).",
        "--debug prints the traceback of an error.",
        "Exit codes: 0 fine; 1 unexpected; 2 usage or config; 3 bad data; 4 out of memory;",
        "5 diverged; 6 failed but resumable; 130 and 143 interrupted and terminated.",
        "",
        "example: omnivision quickstart --out runs/quickstart",
    ])
