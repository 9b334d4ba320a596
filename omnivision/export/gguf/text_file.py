"""The language model as a GGUF file of the architecture qwen2."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from omnivision.export.gguf.names import LANGUAGE, text_names
from omnivision.export.stored import StoredTensors
from omnivision.export.gguf.types import FILE_TYPES, type_of
from omnivision.export.gguf.vocabulary import Vocabulary
from omnivision.export.gguf.writing import Planned, write_gguf
from omnivision.model.configuration import OmniVisionConfig

TEMPLATE = Path(__file__).with_name("chat_template.jinja")
ARCH = "qwen2"


def write_text(file: Path, config: OmniVisionConfig, stored: StoredTensors, words: Vocabulary, quantization: str, name: str,
               keep: frozenset[str] = frozenset()) -> list[Planned]:
    """Write the file; returns what stands in it.

    Args:
        file: the new file. config, stored, words: of the checkpoint.
        quantization: see types.py.
        name: general.name.
        keep: checkpoint names of tensors that stay in fp32.
    """
    text = config.text_config
    plan = [Planned(ours, stored.shapes[theirs], _type(ours, theirs, config, stored, quantization, keep), partial(stored.load, theirs))
            for ours, theirs in text_names(text.num_hidden_layers, config.tie_word_embeddings).items()]

    def describe(writer) -> None:
        writer.add_name(name)
        writer.add_file_type(FILE_TYPES[quantization])
        writer.add_context_length(text.max_position_embeddings)
        writer.add_embedding_length(text.hidden_size)
        writer.add_feed_forward_length(text.intermediate_size)
        writer.add_block_count(text.num_hidden_layers)
        writer.add_head_count(text.num_attention_heads)
        writer.add_head_count_kv(text.num_key_value_heads)
        writer.add_layer_norm_rms_eps(text.rms_norm_eps)
        writer.add_rope_freq_base(text.rope_parameters["rope_theta"])
        words.describe(writer)
        writer.add_chat_template(TEMPLATE.read_text(encoding="utf-8"))

    write_gguf(file, ARCH, describe, plan)
    return plan


def _type(ours: str, theirs: str, config: OmniVisionConfig, stored: StoredTensors, quantization: str, keep: frozenset[str]) -> int:
    return type_of(ours, stored.shapes[theirs], quantization, config.text_config.num_hidden_layers, theirs in keep, config.tie_word_embeddings)


def table_rows(stored: StoredTensors) -> int:
    """Rows of the embedding table."""
    return stored.shapes[f"{LANGUAGE}embed_tokens.weight"][0]
