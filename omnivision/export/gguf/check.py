"""Does a GGUF export answer in stock llama.cpp as its checkpoint did?"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnivision.data.image import open_image
from omnivision.errors import DataError
from omnivision.export.folder import MANIFEST, check_hashes, count_bytes, not_applied_lines, print_bytes
from omnivision.export.gguf.calls import LONGEST, count_calls
from omnivision.export.gguf.embeddings import read_embeddings
from omnivision.export.gguf.engine import Engine, PictureEngine, Reply
from omnivision.export.gguf.tiles import BLOCK, prepared
from omnivision.export.reference import Question, read_reference
from omnivision.memory import peak_bytes

FORMAT = "gguf"


@dataclass(frozen=True)
class Limit:
    """How far a file may be from fp32."""

    embedding: float  # of an image token's numbers
    relative: float  # the same, as a share of the largest of them
    logprob: float  # of the five most likely tokens


# F16: what rounding and llama.cpp's table of GELU leave. The others are gates against files that are broken, not worse: a raster
# model written as blocks is off by the largest number itself (measured 1.08 of it; q8_0 0.03).
TIE = 0.1  # fp32's two best tokens closer than this are as good as one another: F16 may take either
LIMITS = {"f16": Limit(5e-3, 0.2, 5e-2), "q8_0": Limit(math.inf, 0.2, 0.5), "q4_k_m": Limit(math.inf, 0.2, 2.0)}


@dataclass
class Agreement:
    """One text file with its picture file against the reference."""

    questions: int = 0
    prompts_equal: int = 0
    answers_equal: int = 0
    ties: int = 0  # answers that part where fp32's own two best tokens lie closer than TIE
    apart: int = 0  # all others that part; allowed where the two lie closer than twice the limit
    embedding_diff: float = 0.0
    embedding_relative: float = 0.0
    logprob_diff: float = 0.0
    first_apart: str = ""
    _sum: float = field(default=0.0, repr=False)
    _count: int = field(default=0, repr=False)

    def add_logprobs(self, differences: list[float]) -> None:
        """Of one step."""
        self.logprob_diff = float(np.max([self.logprob_diff, *differences]))  # a NaN stays
        self._sum += sum(differences)
        self._count += len(differences)

    def result(self) -> dict:
        """As JSON."""
        shown = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return {**shown, "mean_logprob_diff": self._sum / max(self._count, 1)}


def verify(folder: str | Path, compute: str = "auto") -> dict:
    """Ask the reference questions of every text file in llama.cpp, and compare prompts, embeddings, log-probs and answers.

    Args:
        folder: what `export gguf` wrote.
        compute: of no meaning here; llama.cpp chooses.

    Returns:
        {"bytes": {file: n}, "parts": {file: {part: n}}, "questions": n, "quantizations": {type: Agreement's fields}, "engine_peak_bytes",
        "not_applied": as Checkpoint's}

    Raises:
        ConfigError: no export. DataError: a file that changed or does not load, no questions.
    """
    folder = Path(folder)
    manifest = checked_manifest(folder)
    rows = list(read_reference(folder))
    if not rows:
        raise DataError("the reference is empty", str(folder), "Export again with at least one question.")
    found = {}
    with _quiet():
        for quantization, (text, picture) in manifest["files"].items():
            agreement = Agreement()
            _compare_embeddings(folder, folder / text, folder / picture, manifest["picture"], agreement)
            engine = Engine(folder / text, folder / picture)
            for question, row in rows:
                ended = row["steps"][-1]["id"] in manifest.get("stop_token_ids", ())  # then it must end by itself: it may write one token more
                reply = engine.ask(question.text, prepared_picture(question, manifest["picture"]), len(row["steps"]) + ended)
                compare(reply, row, LIMITS[quantization], agreement, question)
            calls = count_calls(folder, engine, ((one.text, prepared_picture(one, manifest["picture"])) for one, _ in rows))
            del engine  # ends the server
            found[quantization] = {**agreement.result(), "calls": vars(calls)}
    peak = peak_bytes()
    return {"bytes": count_bytes(folder), "parts": manifest["parts"], "questions": len(rows), "quantizations": found, "engine_peak_bytes": peak,
            "not_applied": manifest.get("not_applied", {})}


def checked_manifest(folder: Path) -> dict:
    """What an export says of itself: every file as it was written, and pairs of text and picture file among them.

    Raises:
        ConfigError: no export. DataError: a file that changed, or no such pairs.
    """
    manifest = check_hashes(folder)
    files, picture, parts = (manifest.get(name) for name in ("files", "picture", "parts"))
    if not (isinstance(files, dict) and files and all(name in LIMITS and _is_pair(pair, manifest["sha256"]) for name, pair in files.items())
            and _prepares(picture) and isinstance(parts, dict) and all(_counts(one) for one in parts.values())):
        raise DataError("it does not say which files make a pair, or how pictures are prepared", str(folder / MANIFEST), "Export again.")
    return manifest


def _is_pair(pair: object, known: Collection[str]) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) and name in known for name in pair)


def _prepares(picture: object) -> bool:
    """Whether these are settings of tiles.prepared."""
    said = picture if isinstance(picture, dict) else {}
    size, patch = (one if isinstance(one, int) else 0 for one in (said.get("image_size"), said.get("patch_size")))
    raster = said.get("raster")
    return 1 <= patch <= size and isinstance(raster, bool) and not (raster and size // patch % BLOCK)


def _counts(bytes_of: object) -> bool:
    return isinstance(bytes_of, dict) and all(isinstance(number, int) for number in bytes_of.values())


def prepared_picture(question: Question, settings: dict):
    """The picture as it is sent; None for a text-only question."""
    if question.image is None:
        return None
    return prepared(open_image(question.image), settings["image_size"], settings["patch_size"], settings["raster"])


def compare(reply: Reply, row: dict, limit: Limit, agreement: Agreement, question: Question) -> None:
    """Adds one answer to the agreement; steps are compared as long as both have written the same."""
    agreement.questions += 1
    agreement.prompts_equal += _is_prompt(reply, row["input_ids"])
    for at, step in enumerate(row["steps"]):
        tops = reply.logprobs[at] if at < len(reply.logprobs) else {}
        if tops is not None:
            lowest = min(tops.values(), default=-math.inf)  # an engine that tells nothing does not agree
            agreement.add_logprobs([abs(tops.get(token, lowest) - value) for token, value in zip(step["top_ids"], step["top_logprobs"])])
        if at >= len(reply.ids) or reply.ids[at] != step["id"]:
            gap = step["top_logprobs"][0] - step["top_logprobs"][1]
            agreement.ties += gap <= TIE
            agreement.apart += gap > TIE
            if gap > 2 * limit.logprob and not agreement.first_apart:
                agreement.first_apart = f"{question.text!r}, token {at}: {reply.ids[at: at + 1]} in place of {step['id']}"
            return
    if len(reply.ids) > len(row["steps"]):
        agreement.apart += 1
        agreement.first_apart = agreement.first_apart or f"{question.text!r}, which goes on behind its end"
        return
    agreement.answers_equal += 1


def _is_prompt(reply: Reply, expected: list[int]) -> bool:
    """The same number of tokens, and the same ids before and after the picture, whose own are no text."""
    before, after = reply.around
    return reply.prompt_tokens == len(expected) and expected[:len(before)] == before and expected[len(expected) - len(after):] == after


def _compare_embeddings(folder: Path, text: Path, picture: Path, settings: dict, agreement: Agreement) -> None:
    expected = read_embeddings(folder)
    if not expected:
        return
    engine = PictureEngine(text, picture, next(iter(expected.values())).shape[1])
    try:
        for name, wanted_TD in expected.items():
            found_TD = engine.embeddings(prepared_picture(Question("", folder / name), settings))
            if found_TD.shape != wanted_TD.shape:
                what = f"a picture has {found_TD.shape[0]} tokens, {wanted_TD.shape[0]} in the reference"
                raise DataError(what, f"{picture.name}, {name}", "Export again.")
            furthest = np.abs(found_TD - wanted_TD).max()
            agreement.embedding_diff = float(np.max([agreement.embedding_diff, furthest]))
            agreement.embedding_relative = float(np.max([agreement.embedding_relative, furthest / np.abs(wanted_TD).max()]))
    finally:
        engine.close()


def check_gate(result: dict, folder: str | Path) -> None:
    """Raises DataError where a file is further from fp32 than its type's limit."""
    for quantization, found in result["quantizations"].items():
        limit, reasons, remedy = LIMITS[quantization], [], "Export in a finer type, or train it with `projector_gelu: tanh`."
        if found["prompts_equal"] < found["questions"]:
            reasons.append(f"{found['questions'] - found['prompts_equal']} of {found['questions']} prompts are other tokens")
            remedy = "Give the checkpoint its own tokenizer again, or use omnivision export onnx."
        if not (found["embedding_diff"] <= limit.embedding and found["embedding_relative"] <= limit.relative):  # a NaN fails too
            reasons.append(f"image embeddings differ by {found['embedding_diff']:.3g} (limit {limit.embedding:g}), "
                           f"{found['embedding_relative']:.2g} of their largest (limit {limit.relative:g})")
        if not found["logprob_diff"] <= limit.logprob:
            reasons.append(f"log-probabilities differ by {found['logprob_diff']:.3g}, the limit is {limit.logprob:g}")
        if found["first_apart"]:
            reasons.append(f"answers differ, first at {found['first_apart']}")
        if found["calls"]["wrong"]:
            reasons.append(f"{found['calls']['wrong']} of {found['calls']['asked']} answers under the grammar are no calls")
        if reasons:
            raise DataError(f"{quantization} in llama.cpp is not the checkpoint: {'; '.join(reasons)}", str(folder), remedy)


def show(result: dict) -> None:
    """The result as a few lines for a reader."""
    print_bytes(result["bytes"])
    for line in not_applied_lines(result):
        print(line)
    for name, parts in result["parts"].items():
        print(f"{name}: {', '.join(f'{part} {number:,}' for part, number in parts.items())} bytes")
    for quantization, found in result["quantizations"].items():
        print(f"{quantization}: prompts equal {found['prompts_equal']}/{found['questions']}, greedy answers equal {found['answers_equal']}, "
              f"parted at a tie of fp32 {found['ties']}, parted elsewhere {found['apart']}; image embeddings within {found['embedding_diff']:.2g}, "
              f"log-probabilities within {found['logprob_diff']:.2g} (mean {found['mean_logprob_diff']:.2g})"
              + _calls_line(found["calls"]))
    print(f"peak memory of the process that ran llama.cpp: {result['engine_peak_bytes'] / 2**20:,.0f} MiB")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """llama.cpp writes hundreds of lines to the process's standard error, where Python's own redirection does not reach."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _calls_line(calls: dict) -> str:
    cut = calls["asked"] - calls["valid"] - calls["wrong"]
    said = f", calls under the grammar {calls['valid']} of {calls['asked']}" if calls["asked"] else ""
    return said + (f" ({cut} not ended within {LONGEST} tokens, which proves nothing)" if cut else "")
