"""Which type every tensor of a file is written in, as llama.cpp's own quantiser chooses.

Source: ggml-org/llama.cpp, src/llama-quant.cpp.
"""

from __future__ import annotations

import re

from omnivision.export.gguf.packages import gguf

QUANTIZATIONS = ("f16", "q8_0", "q4_k_m")
PICTURE_TYPES = ("f16", "q8_0", "q5_0", "q4_0")
FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q5_0": 8, "q4_k_m": 15}  # general.file_type
# What q4_k_m falls back to where a row is no multiple of 256.
SMALLER_BLOCKS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}
IN_FULL = ("v.patch_embd.weight", "v.position_embd.weight")  # small, and read in fp32


def type_of(name: str, shape: tuple[int, ...], quantization: str, blocks: int, kept: bool = False, tied: bool = True) -> int:
    """The GGMLQuantizationType of a tensor.

    Args:
        name: in GGUF.
        shape: rows first.
        quantization: one of QUANTIZATIONS, or of PICTURE_TYPES.
        blocks: of the language model.
        kept: whether it stays in fp32.
        tied: whether the embeddings are the head too.
    """
    kinds = gguf().GGMLQuantizationType
    if len(shape) == 1 or name in IN_FULL or kept:
        return kinds.F32
    return kinds[_fitting(_wanted(name, quantization, blocks, tied), shape[-1])]


def _wanted(name: str, quantization: str, blocks: int, tied: bool) -> str:
    if quantization != "q4_k_m":
        return quantization.upper()
    if name == ("token_embd.weight" if tied else "output.weight"):
        return "Q6_K"
    block = re.fullmatch(r"blk\.(\d+)\.(attn_v|ffn_down)\.weight", name)
    return "Q6_K" if block and _more_bits(int(block[1]), blocks) else "Q4_K"


def _more_bits(block: int, blocks: int) -> bool:
    """The first and the last eighth, and every third of those between."""
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2


def _fitting(kind: str, columns: int) -> str:
    if kind in SMALLER_BLOCKS and columns % 256:
        kind = SMALLER_BLOCKS[kind]
    return "F16" if kind not in ("F16", "Q4_K", "Q6_K") and columns % 32 else kind
