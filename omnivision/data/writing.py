"""How rows become tokens, for tools that have no model: a checkpoint's tokenizer, any other, or the stand-in."""

from __future__ import annotations

from pathlib import Path

IMAGE_TOKENS = 81  # of one picture with the default projector


def stand_in_tokenizer(source: str):
    """(tokenizer with the chat's control tokens, image tokens of one picture).

    Args:
        source: "tiny", a checkpoint of this project, or folder or hub id of a tokenizer.

    Raises:
        ConfigError: there is none.
    """
    from omnivision.model.build import WEIGHTS, load_tokenizer

    if (Path(source) / "processor_config.json").is_file():
        from omnivision import OmniVisionProcessor

        processor = OmniVisionProcessor.from_pretrained(source)
        return processor.tokenizer, processor.image_seq_length
    return load_tokenizer(str(WEIGHTS / "tiny-language") if source == "tiny" else source), IMAGE_TOKENS
