#!/usr/bin/env python3
"""Answers questions about pictures with the ONNX files beside this file. No torch, no transformers.

    pip install numpy pillow onnxruntime tokenizers
    python run.py --image photo.jpg "How many cups are there?"
    python run.py --questions questions.jsonl --image-root pictures --answers answers.jsonl

Legend: B rows (1 here), L positions, D width, V vocabulary, T image tokens, H and W height and width.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import sys
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer

SETTINGS = "runner.json"
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}  # of EXIF's orientation
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_int8"}


class Runner:
    """The three graphs, the tokenizer and the prompt of one folder.

    Args:
        folder: what `omnivision export onnx` wrote.
        variant: fp32, fp16 or int8; None is the first that is there.
        threads: of onnxruntime; 0 is all cores.
    """

    def __init__(self, folder: str | Path, variant: str | None = None, threads: int = 0) -> None:
        self.folder = Path(folder)
        self.settings = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        self.variant = variant or self.settings["variants"][0]
        if self.variant not in self.settings["variants"]:
            raise ValueError(f"the folder holds {', '.join(self.settings['variants'])}, not {self.variant}")
        self.tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.tokenizer.encode_special_tokens = True  # a control token that a user types is letters
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.vision, self.embedding, self.decoder = (self._session(name, options) for name in ("vision_encoder", "embed_tokens", "decoder_model_merged"))
        self.cache_names = [one.name for one in self.decoder.get_inputs() if one.name.startswith("past_key_values.")]
        self.levels = _levels(self.settings)

    def _session(self, name: str, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        file = self.folder / "onnx" / f"{name}{SUFFIXES[self.variant]}.onnx"
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def prompt(self, question: str, with_image: bool) -> list[int]:
        """Ids of a question in the model's chat format; the question's own text never becomes a control token."""
        head, tail = self.settings["prompts"]["image" if with_image else "text"]
        return [*head, *self.tokenizer.encode(question, add_special_tokens=False).ids, *tail]

    def pixels(self, picture: Image.Image) -> np.ndarray:
        """Pixels (1, 3, H, W) of an RGB picture: squashed by Pillow's bicubic filter, then normalised."""
        squashed_HWC = np.asarray(picture.resize(self.settings["size"], Image.Resampling(self.settings["resample"])))
        return np.stack([self.levels[channel][squashed_HWC[..., channel]] for channel in range(3)])[None]

    def embed(self, ids: list[int], picture: Image.Image | None) -> np.ndarray:
        """Embeddings (1, L, D) of a prompt, with the picture's tokens in their places."""
        embeds_BLD = self.embedding.run(None, {"input_ids": np.array([ids], np.int64)})[0]
        if picture is not None:
            features_BTD = self.vision.run(None, {"pixel_values": self.pixels(picture)})[0]
            embeds_BLD[0, np.array(ids) == self.settings["image_token_id"]] = features_BTD[0]
        return embeds_BLD

    def steps(self, question: str, picture: Image.Image | None) -> Iterator[np.ndarray]:
        """Logits (V) of one token after another; each time the most likely one is read on."""
        embeds_BLD, cache = self.embed(self.prompt(question, picture is not None), picture), self._empty()
        while True:
            logits_V, cache = self._step(embeds_BLD, cache)
            yield logits_V
            embeds_BLD = self.embed([int(logits_V.argmax())], None)

    def tokens(self, question: str, picture: Image.Image | None, max_new_tokens: int) -> Iterator[int]:
        """The most likely answer, one id after another, with the id that ends it."""
        for logits_V in islice(self.steps(question, picture), max_new_tokens):
            yield (new := int(logits_V.argmax()))
            if new in self.settings["stop_token_ids"]:
                return

    def _empty(self) -> dict[str, np.ndarray]:
        shapes = {one.name: one.shape for one in self.decoder.get_inputs()}
        return {name: np.zeros((1, shapes[name][1], 0, shapes[name][3]), np.float32) for name in self.cache_names}

    def _step(self, embeds_BLD: np.ndarray, cache: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        known, new = cache[self.cache_names[0]].shape[2], embeds_BLD.shape[1]
        inputs = {"inputs_embeds": embeds_BLD, "attention_mask": np.ones((1, known + new), np.int64), "position_ids": np.arange(known, known + new)[None]}
        outputs = self.decoder.run(None, {**inputs, **cache})
        names = [one.name.replace("present.", "past_key_values.") for one in self.decoder.get_outputs()[1:]]
        return outputs[0][0, -1], dict(zip(names, outputs[1:], strict=True))

    def text(self, ids: list[int]) -> str:
        """Ids as text, without control tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def calls(self, ids: list[int]) -> list[dict[str, Any]]:
        """Calls of functions among generated ids: {"name", "arguments"}, or {"name", "error"} where the arguments are no plain values.

        Only functional tokens make a call, text that spells one is text. A call with another inside is an error here, and the inner one
        is none: it was asked for as a part of the outer one.
        """
        functions, calls, start, depth, nested = self.settings.get("functions"), [], 0, 0, False
        for index, one in enumerate(ids if functions else []):
            if str(one) in functions["names"]:
                start, nested = (start, True) if depth else (index, False)
                depth += 1
            elif one == functions["end"] and depth:
                depth -= 1
                if not depth:
                    calls.append(_unread(functions, ids[start], "a call begins inside it") if nested else
                                 self._call(functions, ids[start], ids[start + 1:index]))
        return [*calls, _unread(functions, ids[start], "it does not end")] if depth else calls

    def _call(self, functions: dict, token: int, inside: list[int]) -> dict[str, Any]:
        if set(inside) & set(functions["control"]):
            return _unread(functions, token, "a control token among its arguments")
        try:
            arguments = read_arguments(self.tokenizer.decode(inside, skip_special_tokens=False), functions["arguments"][str(token)])
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            return _unread(functions, token, str(error) or type(error).__name__)
        return {"name": functions["names"][str(token)], "arguments": arguments}


def _unread(functions: dict, token: int, why: str) -> dict[str, Any]:
    return {"name": functions["names"][str(token)], "error": why}


def read_arguments(text: str, expected: dict[str, Any]) -> dict[str, Any]:
    """"(item='red cat', count=2)" as a dictionary. Python's parser in literal mode: nothing is evaluated.

    Args:
        expected: "known" and "required" names, and whether "others" may come. Values are not held against the function's schema.

    Raises:
        ValueError, SyntaxError, MemoryError or RecursionError: anything else than one list of plain values, or names that are doubled,
            unknown or missing.
    """
    source = f"f{text}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape is the model's affair
        call = ast.parse(source, mode="eval").body
    whole = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "f" and ast.get_source_segment(source, call) == source
    if not whole or len(call.args) > len(expected["known"]):
        raise ValueError("not an argument list")
    pairs = [*zip(expected["known"], call.args)]
    for keyword in call.keywords:  # **{'from': 1} holds a name that Python reserves
        if keyword.arg is None and not isinstance(keyword.value, ast.Dict):
            raise ValueError("** before something that is no dictionary")
        pairs += [(keyword.arg, keyword.value)] if keyword.arg else zip(map(_value, keyword.value.keys), keyword.value.values)
    if not all(isinstance(name, str) for name, _ in pairs):
        raise ValueError("an argument's name is no text")
    arguments = {name: _value(node) for name, node in pairs}
    missing = set(expected["required"]) - set(arguments)
    unknown = set() if expected["others"] else set(arguments) - set(expected["known"])
    if len(arguments) != len(pairs) or missing or unknown:
        raise ValueError(f"an argument comes twice, is missing {sorted(missing)} or unknown {sorted(unknown)}")
    return arguments


def _value(node: ast.AST | None) -> Any:
    """What JSON can hold: text, numbers, truth values, None, lists and objects."""
    if isinstance(node, ast.Constant) and _is_scalar(node.value):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and type(number := _value(node.operand)) in (int, float):
        return -number
    if isinstance(node, ast.List):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(key) for key in node.keys]
        if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
            return dict(zip(keys, map(_value, node.values)))
    raise ValueError(f"{type(node).__name__} is not a plain value")


def _is_scalar(value: Any) -> bool:
    """Text that UTF-8 can hold, a finite number that can be printed, a truth value or None."""
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, int):
        return abs(value) < 10**300
    return value is None or isinstance(value, float) and math.isfinite(value)


def open_picture(file: str | Path) -> Image.Image:
    """A JPEG, PNG or WebP file as RGB: upright, transparency on white."""
    with Image.open(file, formats=("JPEG", "PNG", "WEBP")) as picture:
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            raise ValueError(f"{file} is an animation")
        depth = Path(file).read_bytes()[24] if picture.format == "PNG" else 8  # bits of a sample
        picture.load()
        try:  # the one tag: ImageOps.exif_transpose writes the others anew, and fails at odd ones
            value = picture.getexif().get(0x0112)
            turn = TURNS.get(value) if isinstance(value, int) else None
        except Exception:  # broken EXIF is no reason to lose whole pixels
            turn = None
        clear = picture.info.get("transparency")
        if picture.mode == "I;16":
            levels = np.asarray(picture)
            values = ((levels.astype(np.uint32) + 128) // 257).astype(np.uint8)
            picture = Image.fromarray(values if clear is None else np.where(levels == clear, np.uint8(255), values))
        elif picture.has_transparency_data:
            if depth in (2, 4) and picture.mode == "L":  # Pillow scales the pixels to 8 bits, and not the transparent level
                picture.info["transparency"] = clear * 255 // (2**depth - 1)
            elif depth == 16 and picture.mode == "RGB":
                picture.info["transparency"] = tuple(level >> 8 for level in clear)
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
        whole = picture.convert("RGB")
        return whole if turn is None else whole.transpose(turn)


def _levels(settings: dict[str, Any]) -> np.ndarray:
    """What each of the 256 levels of a channel becomes (3, 256), in the arithmetic of transformers' image processor."""
    scaled = (np.arange(256, dtype=np.float64) * settings["rescale_factor"]).astype(np.float32)
    mean, std = (np.array(settings[name], np.float32)[:, None] for name in ("image_mean", "image_std"))
    return (scaled - mean) / std


def main(argv: list[str] | None = None) -> int:
    """Answers one question, or a file of them: their answers stand in `ANSWERS.partial` until the last is there."""
    options = _options(argv)
    runner = Runner(options.folder, options.variant, options.threads)
    if not options.questions:
        answer = _answer(runner, options.question, open_picture(options.image) if options.image else None, options)
        print(json.dumps({**answer, "peak_bytes": _peak_bytes()}, ensure_ascii=False) if options.json else _shown(answer))
        return 0
    rows, answers = _rows(Path(options.questions), options.image_root), Path(options.answers)
    partial = answers if answers.exists() and not answers.is_file() else answers.with_name(f"{answers.name}.partial")  # a pipe has no other name
    with partial.open("w", encoding="utf-8") as out:
        for row in rows:
            answer = _answer(runner, row["text"], open_picture(row["image"]) if row["image"] else None, options)
            out.write(json.dumps({"question_id": row["question_id"], **answer}, ensure_ascii=False) + "\n")
    if partial != answers:
        partial.replace(answers)
    return 0


def _rows(file: Path, image_root: str | None) -> list[dict[str, Any]]:
    """Rows of a question file: "question_id", "text", and as "image" the path of the picture or None.

    Raises:
        ValueError: a row that holds something else, or whose picture leaves the folder of the pictures.
    """
    rows, root = [], Path(image_root or file.parent)
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("image"), (str, type(None))):
                raise ValueError(f"{file}:{number} is no JSON object with a text, and where there is one the name of an image")
            rows.append({"question_id": row.get("question_id"), "text": row["text"], "image": _inside(root, row["image"]) if row.get("image") else None})
    return rows


def _inside(root: Path, image: str) -> Path:
    """A picture's path.

    Raises:
        ValueError: it leaves the folder of the pictures.
    """
    path = (root / image).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"the picture {image!r} lies outside of {root}")
    return path


def _answer(runner: Runner, question: str, picture: Image.Image | None, options: argparse.Namespace) -> dict[str, Any]:
    ids, seconds, start = [], [], perf_counter()
    for new in runner.tokens(question, picture, options.max_new_tokens):
        ids.append(new)
        seconds.append(perf_counter() - start)
    decoding = seconds[-1] - seconds[0]
    return {"text": runner.text(ids), "ids": ids, "calls": runner.calls(ids), "seconds_to_first_token": round(seconds[0], 4),
            "tokens_per_second": round((len(ids) - 1) / decoding, 2) if decoding else None}


def _peak_bytes() -> int | None:
    """The most memory that this process held; None where the system does not say.

    Linux' getrusage counts what the process held before it became this program: what its parent held.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _shown(answer: dict[str, Any]) -> str:
    lines = [json.dumps(call, ensure_ascii=False) for call in answer["calls"]]
    return "\n".join(lines or [answer["text"]])


def _options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Answers questions about pictures with the ONNX files beside this file.",
                                     epilog='example: python run.py --image photo.jpg "How many cups are there?"')
    parser.add_argument("question", nargs="?")
    parser.add_argument("--image", metavar="FILE", help="JPEG, PNG or WebP")
    parser.add_argument("--questions", metavar="FILE", help="JSON lines with text, and where there are any image and question_id")
    parser.add_argument("--image-root", metavar="DIR", help="where image paths start (else the question file's folder)")
    parser.add_argument("--answers", metavar="FILE", help="where the answers to --questions go, as JSON lines")
    parser.add_argument("--variant", choices=SUFFIXES, help="which files to run (default: the best that is there)")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default 128)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of onnxruntime (default: all cores)")
    parser.add_argument("--folder", default=Path(__file__).resolve().parent, metavar="DIR", help="the export (default: this file's folder)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(argv)
    if (options.question is None) == (options.questions is None):
        parser.error("give a question, or --questions FILE")
    if options.questions and not options.answers:
        parser.error("--questions needs --answers FILE")
    if options.questions and Path(options.questions).resolve() == Path(options.answers).resolve():
        parser.error("--answers would replace the file of --questions")
    if options.max_new_tokens < 1:
        parser.error(f"--max-new-tokens is {options.max_new_tokens}; at least 1 is needed")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")
