"""What the reference thinks of every pair, computed once and kept on disk: training then holds one model, not two.

One file per model: a line a pair, with its key, the log-probs of both sides' tokens from the first edit on, and a checksum.
Whatever has part in a value is in its file's name or its key: the weights, the model's configuration, the arithmetic (precision, kind of device,
attention kernels), the pair's ids (and so tokenizer, template and texts), its pictures' bytes and how they become pixels.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from filelock import FileLock
from torch import nn

from omnivision.data.image import DECODER, read_image
from omnivision.data.parallel import cores, in_order
from omnivision.data.room import make_folder
from omnivision_train import precision
from omnivision_train.config import DpoConfig
from omnivision_train.encoding import as_pixels, encode_rest
from omnivision_train.launch import rank_and_ranks
from omnivision_train.pair_loss import token_log_probs
from omnivision_train.pair_trie import CHOSEN, REJECTED, Pair
from omnivision_train.pairs import PairCollator, Pairs
from omnivision_train.ranks import from_first, gathered

AT_ONCE = 16_384  # pairs of a process, after which their log-probs are written

LogProbs = tuple[list[float], list[float]]  # of chosen and rejected


class ReferenceFile:
    """Log-probs by key. Damaged lines count as missing; a file may be shared by runs, and deleted at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        make_folder(self.path.parent, "reference cache")
        self.known: dict[str, LogProbs] = {}
        self.read()

    def read(self) -> None:
        """Takes in what any process has written."""
        lines = self.path.read_bytes().splitlines() if self.path.is_file() else []
        self.known = dict(entry for entry in map(_decoded, lines) if entry)

    def add(self, found: dict[str, LogProbs]) -> None:
        """Writes what is not there yet; where another process was quicker, its values hold."""
        with FileLock(f"{self.path}.lock"), self.path.open("ab+") as file:
            self.read()
            new = {key: values for key, values in found.items() if key not in self.known}
            if file.tell() and not _ends_whole(file):
                file.write(b"\n")  # half a line of a killed process stays behind, and is no line of ours
            file.write("".join(_encoded(key, values) + "\n" for key, values in new.items()).encode())
            file.flush()
            os.fsync(file.fileno())
        self.known |= new


def _ends_whole(file) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def _encoded(key: str, values: LogProbs) -> str:
    texts = [base64.b64encode(np.asarray(side, dtype="<f4").tobytes()).decode() for side in values]
    return json.dumps([key, *texts, zlib.crc32("".join([key, *texts]).encode())])


def _decoded(line: bytes) -> tuple[str, LogProbs] | None:
    try:
        key, *texts, checksum = json.loads(line)
        if len(texts) != 2 or zlib.crc32("".join([key, *texts]).encode()) != checksum:
            return None
        chosen, rejected = (np.frombuffer(base64.b64decode(text), dtype="<f4").tolist() for text in texts)
    except (ValueError, TypeError, AttributeError):
        return None
    return key, (chosen, rejected)


def add_reference(config: DpoConfig, folder: Path, model, collator: PairCollator, all_pairs: Sequence[Pairs], device: torch.device) -> None:
    """Gives all pairs the log-probs of the model as it is now; every process calls it and computes its share of what is missing.

    Args:
        folder: where they are kept. model: the start, before anything has trained. collator: of the run.
    """
    known = ReferenceFile(folder / f"{model_hash(model)}.jsonl")
    flat = [pair for pairs in all_pairs for pair in pairs.samples]
    keys = pair_keys(flat, _arithmetic(config, collator, model, device))
    by_key = dict(zip(keys, flat, strict=True))
    missing = from_first([key for key in by_key if key not in known.known])  # processes that read at different times go by the first one
    rank, ranks = rank_and_ranks()
    for start in range(0, len(missing), AT_ONCE * ranks):  # what is written is not lost to a kill
        mine = missing[start : start + AT_ONCE * ranks][rank::ranks]
        values = reference_log_probs(config, model, collator, [by_key[key] for key in mine], device)
        found = gathered(dict(zip(mine, values, strict=True)))
        if rank == 0:
            known.add({key: value for part in found for key, value in part.items()})
    if rank == 0:
        print(f"reference: log-probs of {len(missing)} of {len(by_key)} pairs computed", file=sys.stderr)
    held = from_first({key: known.known[key] for key in by_key} if rank == 0 else None)
    _hand_out(all_pairs, keys, held)


def _hand_out(all_pairs: Sequence[Pairs], keys: list[str], held: dict[str, LogProbs]) -> None:
    keys = iter(keys)
    for pairs in all_pairs:
        pairs.with_reference([held[next(keys)] for _ in range(len(pairs))])


@torch.no_grad()
def reference_log_probs(config: DpoConfig, model, collator: PairCollator, pairs: Sequence[Pair], device: torch.device) -> list[LogProbs]:
    """The log-probs of both sides' tokens from the first edit on, in the arithmetic that the run trains in."""
    model = (in_bf16(model) if precision.deepspeed_bf16(config) else model).to(device).eval()
    asked = PairCollator(collator.processor, collator.cache, collator.squashed, collator.as_bytes, share=config.share)
    order = sorted(range(len(pairs)), key=lambda at: len(pairs[at].prompt) + sum(map(len, pairs[at].sides)))  # little padding
    found: list[LogProbs | None] = [None] * len(pairs)
    for start in range(0, len(order), config.batch_size):
        numbers = order[start : start + config.batch_size]
        batch = asked([pairs[at] for at in numbers])
        batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
        as_pixels(model, collator.processor, batch)
        with precision.cpu_autocast(config):
            encode_rest(model, batch)
            log_probs_N = token_log_probs(model, batch, config.share, not config.needed_logits_only).cpu()
        slots = batch["slots"].cpu()
        for place, at in enumerate(numbers):
            found[at] = tuple(log_probs_N[slots == side * len(numbers) + place].tolist() for side in (CHOSEN, REJECTED))
    return found


def in_bf16(model: nn.Module) -> nn.Module:
    """A copy with bf16 weights, as DeepSpeed's engine has them: buffers, such as rotary frequencies, stay what they are."""
    model = copy.deepcopy(model)
    for weight in model.parameters():
        weight.data = weight.data.bfloat16()
    return model


def model_hash(model: nn.Module) -> str:
    """Sixteen hex digits that name all weights of a model and its configuration."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def pair_keys(pairs: Iterable[Pair], arithmetic: str) -> list[str]:
    """A key for each pair; every process reads its share of the pictures."""
    pairs = list(pairs)
    pictures = list(dict.fromkeys(image for pair in pairs for image in pair.images))
    hashes = dict(zip(pictures, _shared_out(pictures, lambda picture: hashlib.sha256(read_image(picture)).hexdigest()), strict=True))
    return [hashlib.sha256(json.dumps([arithmetic, pair.prompt, *pair.sides, [hashes[image] for image in pair.images]]).encode()).hexdigest()[:32]
            for pair in pairs]


def _shared_out(things: list, function: Callable) -> list:
    rank, ranks = rank_and_ranks()
    with ThreadPoolExecutor(cores()) as threads:
        parts = gathered(list(in_order(threads, cores(), function, things[rank::ranks])))
    return [parts[at % len(parts)][at // len(parts)] for at in range(len(things))]


def _arithmetic(config: DpoConfig, collator: PairCollator, model, device: torch.device) -> str:
    """What else a value depends on: how numbers are kept and multiplied, and how a picture becomes what the projector sees."""
    precise = "bf16 weights" if precision.deepspeed_bf16(config) else precision.resolved(config)
    kernels = [model.config.vision_config._attn_implementation, model.config.get_text_config()._attn_implementation]
    pictures = ["features" if collator.cache else "pixels", collator.processor.image_processor.to_json_string(), PIL.__version__, DECODER]
    return json.dumps([precise, device.type, *kernels, *pictures])
