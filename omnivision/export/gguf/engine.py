"""llama.cpp in this process: its server for questions, its C interface for a picture's embeddings."""

from __future__ import annotations

import base64
import ctypes
import io
import json
import os
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from omnivision.errors import DataError
from omnivision.export.gguf.packages import xllamacpp

TOP = 50  # most likely tokens that the server tells of each step
CONTEXT = 2048
MARKER = re.compile(r"<__media\w*__>")  # what stands for a picture in a prompt
IMAGE_CHUNK = 1  # MTMD_INPUT_CHUNK_TYPE_IMAGE


@dataclass(frozen=True)
class Reply:
    """What the server answered."""

    prompt_tokens: int
    ids: list[int]
    logprobs: list[dict[int, float] | None]  # of each step, its most likely tokens; None where it ends inside a character
    text: str
    around: tuple[list[int], list[int]]  # ids of the prompt before and after the picture; the whole prompt before where there is none


class Engine:
    """A stock llama-server with a text file and a picture file; ends with the object.

    Raises:
        DataError: llama.cpp does not load the files.
    """

    def __init__(self, text_file: Path, picture_file: Path) -> None:
        package = xllamacpp()
        params = package.CommonParams()
        params.model.path, params.mmproj.path = str(text_file), str(picture_file)
        params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = CONTEXT, 1, CONTEXT, 512
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads()
        params.special = True  # control tokens are written in answers
        params.warmup = params.fit_params = params.ui = False
        self._key = secrets.token_hex()
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is this process, no proxy leads to it
        params.api_keys = [self._key]  # it listens on this machine; nobody else has business there
        try:
            self._server = package.Server(params)
        except RuntimeError as error:
            raise DataError("llama.cpp does not load the files", f"{text_file.name}, {picture_file.name}", "Export again.") from error

    def ask(self, text: str, picture: Image.Image | None, new_tokens: int, grammar: str | None = None) -> Reply:
        """The greedy answer to a question.

        Args:
            text: of the user.
            picture: as tiles.prepared makes it.
            new_tokens: the longest answer.
            grammar: in GBNF; None lets any text through.
        """
        content: list[dict] = [{"type": "text", "text": text}]
        if picture is not None:
            content.insert(0, {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(picture)}"}})
        prompt = self._post("/apply-template", {"messages": [{"role": "user", "content": content}]}, text)["prompt"]
        shown = {"prompt_string": prompt, "multimodal_data": [] if picture is None else [_png(picture)]}
        request = {"prompt": shown, "n_predict": new_tokens, "temperature": 0, "n_probs": TOP, "return_tokens": True, "cache_prompt": False}
        answer = self._post("/completion", {**request, **({"grammar": grammar} if grammar else {})}, text)
        ids, (before, *after) = answer["tokens"], [prompt] if picture is None else MARKER.split(prompt, 1)
        around = tuple(self._post("/tokenize", {"content": part, "parse_special": True}, text)["tokens"] for part in (before, "".join(after)))
        steps = _by_step(ids, answer.get("completion_probabilities", []), lambda some: self._inside_a_character(some, text))
        return Reply(answer["tokens_evaluated"], ids, steps, answer["content"], around)

    def _inside_a_character(self, ids: list[int], text: str) -> bool:
        """Whether tokens end where a character may go on, for the server up to two bytes of any kind behind its first: it tells nothing of such a step."""
        return "\ufffd" in self._post("/detokenize", {"tokens": ids}, text)["content"][-3:]

    def _post(self, path: str, body: dict, text: str) -> dict:
        """One request to the server's own endpoints: those in OpenAI's format do not tell every id."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self._server.listening_address + path, json.dumps(body).encode(), headers)
        try:
            with self._opener.open(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")
            remedy = "Ask a shorter question." if "exceed_context_size" in said else "Export again."
            raise DataError(f"llama.cpp refuses: {said[:300]}", f"{path}, question {text[:60]!r}", remedy) from error


def _by_step(ids: list[int], told: list[dict], inside: Callable[[list[int]], bool]) -> list[dict[int, float] | None]:
    """The most likely tokens of every step; None of one that ends inside a character, and nothing ({}) of any other that the server does not tell.

    Args:
        ids: of the answer. told: of its steps, in order, some left out.
        inside: whether the first tokens of the answer end inside a character. Of a token that stands twice, the one that does not was told.
    """
    found, left = [], list(told)
    for at, token in enumerate(ids):
        later = iter(ids[at + 1:])
        fit_later = all(one["id"] in later for one in left)
        if left and left[0]["id"] == token and not (fit_later and inside(ids[: at + 1])):
            found.append({other["id"]: other["logprob"] for other in left.pop(0)["top_logprobs"]})
        else:
            found.append(None if inside(ids[: at + 1]) else {})
    return found


def threads() -> int:
    """Of the engine: OMP_NUM_THREADS where it is set, else the processors."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) else os.cpu_count() or 1


class PictureEngine:
    """llama.cpp's own picture reader (mtmd), which the server does not show.

    Raises:
        DataError: llama.cpp does not load the files.
    """

    def __init__(self, text_file: Path, picture_file: Path, width: int) -> None:
        self.width = width
        self._library = ctypes.CDLL(xllamacpp().xllamacpp.__file__)
        pointer, settings = ctypes.c_void_p, _Settings
        self._call("llama_backend_init", None)
        self._model = self._call("llama_model_load_from_file", pointer, str(text_file).encode(), self._call("llama_model_default_params", settings))
        self._reader = self._model and self._call("mtmd_init_from_file", pointer, str(picture_file).encode(), pointer(self._model),
                                                  self._call("mtmd_context_params_default", settings))
        if not self._reader:
            raise DataError("llama.cpp does not load the files", f"{text_file.name}, {picture_file.name}", "Export again.")

    def embeddings(self, picture: Image.Image) -> np.ndarray:
        """The image tokens of a prepared picture, as they go into the language model. Shape (T, D)."""
        pointer = ctypes.c_void_p
        bitmap = pointer(self._call("mtmd_bitmap_init", pointer, ctypes.c_uint32(picture.width), ctypes.c_uint32(picture.height),
                                    picture.convert("RGB").tobytes()))
        chunks = pointer(self._call("mtmd_input_chunks_init", pointer))
        text = _Text(self._call("mtmd_default_marker", ctypes.c_char_p), False, True)
        try:
            if self._call("mtmd_tokenize", ctypes.c_int32, pointer(self._reader), chunks, ctypes.byref(text), (pointer * 1)(bitmap), ctypes.c_size_t(1)):
                raise DataError("llama.cpp cannot read a picture", "mtmd_tokenize", "Export again.")
            for index in range(self._call("mtmd_input_chunks_size", ctypes.c_size_t, chunks)):
                chunk = pointer(self._call("mtmd_input_chunks_get", pointer, chunks, ctypes.c_size_t(index)))
                if self._call("mtmd_input_chunk_get_type", ctypes.c_int, chunk) == IMAGE_CHUNK:
                    return self._encoded(chunk)
        finally:
            self._call("mtmd_input_chunks_free", None, chunks)
            self._call("mtmd_bitmap_free", None, bitmap)
        raise DataError("llama.cpp finds no picture in the prompt", "mtmd_tokenize", "Export again.")

    def close(self) -> None:
        """Free what llama.cpp holds."""
        self._call("mtmd_free", None, ctypes.c_void_p(self._reader))
        self._call("llama_model_free", None, ctypes.c_void_p(self._model))

    def _encoded(self, chunk: ctypes.c_void_p) -> np.ndarray:
        tokens = self._call("mtmd_input_chunk_get_n_tokens", ctypes.c_size_t, chunk)
        if self._call("mtmd_encode_chunk", ctypes.c_int32, ctypes.c_void_p(self._reader), chunk):
            raise DataError("llama.cpp cannot encode a picture", "mtmd_encode_chunk", "Export again.")
        numbers = self._call("mtmd_get_output_embd", ctypes.POINTER(ctypes.c_float), ctypes.c_void_p(self._reader))
        return np.ctypeslib.as_array(numbers, shape=(tokens, self.width)).copy()

    def _call(self, name: str, result, *arguments):
        function = getattr(self._library, name)
        function.restype = result
        return function(*arguments)


class _Settings(ctypes.Structure):
    """Any of llama.cpp's parameter structs: returned by one call and handed on by value as the last argument of the next,
    so that its fields need not be known here, only that it is not larger."""

    _fields_ = [("content", ctypes.c_byte * 1024)]


class _Text(ctypes.Structure):
    """mtmd_input_text, with room behind it for fields of later versions."""

    _fields_ = [("text", ctypes.c_char_p), ("add_special", ctypes.c_bool), ("parse_special", ctypes.c_bool), ("later", ctypes.c_byte * 64)]


def _png(picture: Image.Image) -> str:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()
