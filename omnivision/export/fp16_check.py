"""Does an FP16 export answer as its checkpoint did? Next tokens of the reference questions, through transformers' Auto classes."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText

import omnivision.model.auto  # noqa: F401  registers the model with the Auto classes
from omnivision.errors import DataError, one_line
from omnivision.export.checkpoint import AGAIN, load_processor
from omnivision.export.folder import check_hashes, count_bytes, print_bytes
from omnivision.export.fp16_limits import is_kept
from omnivision.export.reference import next_token, read_reference
from omnivision.export.streaming import SMALL, give_back_at_once, stream
from omnivision.model.checkpoints import load_whole

FORMAT = "fp16 safetensors"
KEEP_MORE = "Keep the layers around them, or those that take what they give, in fp32 too (--keep-fp32)."
GATE = 99.0  # per cent of the questions whose next token must agree


def verify(folder: str | Path, compute: str = "auto") -> dict:
    """Reload an export through transformers' Auto classes and compare next tokens.

    Args:
        folder: what `export fp16` wrote.
        compute: the type of the arithmetic on the FP16 weights. "auto" is float16 on a GPU and
            float32 on a CPU, where half-precision kernels are slow or absent.

    Returns:
        {"bytes": {file: n}, "top1_agreement": per cent, "questions": n,
        "max_abs_logprob_diff": over the reference's best tokens, "compute": type and device}

    Raises:
        ConfigError: no export there. DataError: a file that changed, weights that are not FP16,
        or a tokenizer or template that builds another prompt.
    """
    folder = Path(folder)
    kept = check_hashes(folder).get("kept_in_fp32", [])
    give_back_at_once()
    model, processor = _reloaded(folder)
    other = sorted({str(value.dtype) for name, value in model.named_parameters() if value.dtype != _type(name, kept)})
    if other:
        raise DataError(f"weights in {', '.join(other)}", str(folder), "This is no FP16 export: export again.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if compute == "auto":
        compute = "float16" if device == "cuda" else "float32"
    model.to(device)
    if kept:
        _check_types(model, processor, folder)
    if compute == "float32":
        _compute_in_fp32(model)
    agree, questions, furthest = 0, 0, 0.0
    for question, row in read_reference(folder):
        ids_L, logprobs_V = next_token(model, processor, question)
        if ids_L != row["input_ids"]:
            raise DataError(
                f"the prompt has changed: {len(ids_L)} tokens, {len(row['input_ids'])} in the reference, first different "
                f"at {_first_difference(ids_L, row['input_ids'])}",
                f"question {question.text!r}",
                "Tokenizer or chat template differ from the checkpoint's: export again.",
            )
        expected_K = torch.tensor(row["top_logprobs"])
        furthest = max(furthest, float((logprobs_V[row["top_ids"]] - expected_K).abs().max()))
        agree += int(logprobs_V.argmax()) == row["top_ids"][0]
        questions += 1
    if not questions:
        raise DataError("the reference is empty", str(folder), "Export again with at least one question.")
    return {
        "bytes": count_bytes(folder),
        "top1_agreement": round(100 * agree / questions, 3),
        "questions": questions,
        "max_abs_logprob_diff": furthest,
        "compute": f"{compute} on {device}",
    }


def _reloaded(folder: Path):
    """Model and processor as anyone loads them.

    Raises:
        DataError: an export that is broken or not whole.
    """
    try:
        model = load_whole(AutoModelForImageTextToText, folder, dtype="auto", use_safetensors=True, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise DataError(f"the export cannot be loaded: {one_line(error)}", str(folder), AGAIN) from error
    return model.eval(), load_processor(folder)


def _compute_in_fp32(model: torch.nn.Module) -> None:
    """The same weights in fp32 arithmetic; a part's stand in both types only while it runs."""
    stored = {name: values.data for name, values in model.named_parameters()}
    for name, values in model.named_parameters():
        values.data = stored[name].float() if values.numel() <= SMALL else values.data
    stream(model, lambda name: stored[name].float(), held=0)


def _check_types(model, processor, folder: Path) -> None:
    """One question in the stored types: arithmetic in fp32 would hide a layer that is handed another type than its own."""
    question, _ = next(read_reference(folder), (None, None))
    try:
        finite = question is None or bool(torch.isfinite(next_token(model, processor, question)[1]).all())
    except RuntimeError as error:
        raise DataError(f"the layers kept in fp32 do not fit the others: {one_line(error)}", str(folder), KEEP_MORE) from error
    if not finite:
        raise DataError("the answer in FP16 has numbers that are not finite", str(folder), KEEP_MORE)


def check_gate(result: dict, folder: str | Path) -> None:
    """Raises DataError where too few next tokens agree."""
    # A NaN difference fails too: every comparison with it is false.
    if not (result["top1_agreement"] >= GATE and result["max_abs_logprob_diff"] < float("inf")):
        raise DataError(
            f"the next token agrees on {result['top1_agreement']:.2f} % of {result['questions']} questions, "
            f"the gate is {GATE:g} % (largest log-probability difference {result['max_abs_logprob_diff']:.3g})",
            str(folder),
            "FP16 changes this model's answers: keep it in fp32 or bf16, or train on before exporting.",
        )


def show(result: dict) -> None:
    """The result as a few lines for a reader."""
    print_bytes(result["bytes"])
    print(
        f"next token equal to fp32 on {result['top1_agreement']:.2f} % of {result['questions']} questions "
        f"(fp16 weights, computed in {result['compute']}), largest log-probability difference {result['max_abs_logprob_diff']:.2g}",
    )


def _type(name: str, kept: list[str]) -> torch.dtype:
    return torch.float32 if is_kept(name, kept) else torch.float16


def _first_difference(left: list[int], right: list[int]) -> int:
    return next(
        (index for index, pair in enumerate(zip(left, right)) if pair[0] != pair[1]), min(len(left), len(right))
    )
