"""Builds a model from parts: a preset or config, a tower, a language model and its tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import (AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel,
                          PreTrainedTokenizerBase)
from transformers.models.siglip.modeling_siglip import SiglipVisionModel

from omnivision.constants import END_OF_TEXT, IMAGE_TOKEN, TURN_END, TURN_START, VISION_END, VISION_START
from omnivision.errors import ConfigError, one_line
from omnivision.model.caches import check_cache
from omnivision.model.checkpoints import load_whole
from omnivision.model.configuration import OmniVisionConfig
from omnivision.model.modeling import OmniVisionForConditionalGeneration
from omnivision.model.processing import OmniVisionProcessor, siglip_image_processor
from omnivision.model.vision import load_tower
from omnivision.presets import preset_config

CONTROL_TOKENS = (TURN_START, TURN_END, VISION_START, VISION_END, IMAGE_TOKEN)
WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
# heads that do more than one matrix product; fusion would keep the model but change its logits
HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier", "lm_head_multiplier")


def build_model(preset: str | OmniVisionConfig = "968m", vision: str | None = None, language: str | None = None, *,
                tokenizer: str | PreTrainedTokenizerBase | None = None, dtype: torch.dtype = torch.float32,
                ) -> tuple[OmniVisionForConditionalGeneration, OmniVisionProcessor | None]:
    """Puts a tower and a language model together, with a new projector between them.

    Args:
        preset: a preset's name, or a config. Its projector settings hold; the shapes of tower and language model
            are those of the sources where sources are given.
        vision: "webli", "tiny" (the stand-in of the package), a folder in open_clip's layout, a transformers SigLIP folder or hub id; None is random.
        language: "tiny", folder or hub id of any causal language model; None is random.
        tokenizer: folder, hub id or object; None is the language model's.
        dtype: of all weights.

    Returns:
        The model in evaluation mode and its processor (None where neither language nor tokenizer is given).

    Raises:
        ConfigError: a source that is not there, or that does not fit the config.
    """
    wanted = preset_config(preset) if isinstance(preset, str) else preset
    vision, language = stand_in(vision, "vision"), stand_in(language, "language")
    tower, image_processor = load_tower(vision, dtype) if vision else (None, None)
    lm = load_language_model(language, dtype) if language else None
    words = load_tokenizer(tokenizer or language)
    if lm is not None and words is not None and len(words) > lm.get_input_embeddings().num_embeddings:
        lm.resize_token_embeddings(len(words))  # only ever grows: Qwen's spare rows stay
    try:
        config = _config(wanted, tower, lm, words)
    except ValueError as error:
        raise ConfigError(str(error), f"vision: {vision}, language: {language}") from error
    model = _assemble(config, tower, lm, dtype)
    if words is None:
        return model, None
    model.generation_config = _generation_config(words)
    image_processor = image_processor or siglip_image_processor(config.vision_config.image_size)
    return model, OmniVisionProcessor(image_processor, words, image_seq_length=config.image_seq_length)


def stand_in(source: str | None, part: str) -> str | None:
    """"tiny" names the stand-in that travels with the package; everything else is what it says."""
    return str(WEIGHTS / f"tiny-{part}") if source == "tiny" else source


def load_language_model(source: str, dtype: torch.dtype) -> PreTrainedModel:
    """Loads a causal language model from a folder or the hub, safetensors only, without code from outside."""
    folder = Path(source).expanduser()
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConfigError("The folder holds no config.json", f"language: {source}", "Give a folder written by save_pretrained.")
    try:
        model = load_whole(AutoModelForCausalLM, source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError("The language model is neither a local folder nor on the reachable hub, or holds no safetensors "
                          f"({one_line(error)})", f"language: {source}",
                          "Name an existing folder, or connect to the hub.") from error
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if table.embedding_dim != model.config.hidden_size:  # image tokens are put among the table's rows
        raise ConfigError(f"The language model's table is {table.embedding_dim} wide and its layers {model.config.hidden_size}", f"language: {source}",
                          "Use a model whose two are the same (Qwen2.5, Llama, SmolLM2, ...).")
    extras = [name for name in HEAD_EXTRAS if getattr(model.config, name, None) not in (None, 1.0)]
    if head is None or head.bias is not None or extras:
        raise ConfigError(f"The language model's head is more than one matrix ({', '.join(extras) or 'bias'})",
                          f"language: {source}", "Use a model with a plain head (Qwen2.5, Llama, SmolLM2, ...).")
    check_cache(model, f"language: {source}")
    return model


def load_tokenizer(source: str | PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase | None:
    """Loads a tokenizer and adds what the chat format needs: ChatML's and the image's control tokens, a pad token."""
    if source is None:
        return None
    words = source
    if isinstance(source, str | Path):
        try:
            words = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(f"The tokenizer cannot be read ({one_line(error)})", str(source),
                              "Put tokenizer.json and tokenizer_config.json into the language model's folder.") from error
    if words.vocab_size < 256:  # without its files transformers makes an empty tokenizer of the config's class, silently
        raise ConfigError(f"The tokenizer has only {words.vocab_size} tokens; its files are probably missing", str(source),
                          "Put tokenizer.json and tokenizer_config.json into the language model's folder.")
    known, added = words.get_vocab(), words.added_tokens_decoder
    special = {str(token) for token in added.values() if token.special}  # others would be read in what a user types
    new = [token for token in CONTROL_TOKENS if token not in special]
    if new:
        words.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    if words.pad_token is None:
        words.pad_token = END_OF_TEXT if END_OF_TEXT in known else words.eos_token or TURN_END
    return words


def _config(wanted: OmniVisionConfig, tower: SiglipVisionModel | None, lm: PreTrainedModel | None,
            words: PreTrainedTokenizerBase | None) -> OmniVisionConfig:
    fields = {key: getattr(wanted, key) for key in OmniVisionConfig.__annotations__ if key != "tie_word_embeddings"}
    if tower is not None:
        fields["vision_config"] = tower.config
    if lm is not None:
        fields["text_config"] = lm.config
    elif words is not None and len(words) > wanted.text_config.vocab_size:
        raise ValueError(f"The tokenizer has {len(words)} tokens but the config only {wanted.text_config.vocab_size} rows.")
    if words is not None:
        fields["image_token_id"] = words.convert_tokens_to_ids(IMAGE_TOKEN)
    return OmniVisionConfig(**fields)


def _assemble(config: OmniVisionConfig, tower: SiglipVisionModel | None, lm: PreTrainedModel | None,
              dtype: torch.dtype) -> OmniVisionForConditionalGeneration:
    """Builds the shell without memory and puts the parts into it, so that nothing large exists twice."""
    with torch.device("meta"):
        model = OmniVisionForConditionalGeneration(config)
    inner = model.model
    inner.vision_tower = tower if tower is not None else SiglipVisionModel._from_config(config.vision_config).to(dtype)
    inner.language_model = lm.base_model if lm is not None else AutoModel.from_config(config.text_config).to(dtype)
    embedding = inner.get_input_embeddings().weight
    if config.tie_word_embeddings:
        model.lm_head.weight = embedding
    elif lm is not None:
        model.lm_head = lm.get_output_embeddings()
    else:
        model.lm_head = nn.Linear(*reversed(model.lm_head.weight.shape), bias=False, dtype=dtype)
    inner.projector.to_empty(device="cpu").to(dtype)
    for layer, std in inner.projector.initial_stds(float(embedding.detach().float().std())).items():
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    model.config.dtype = dtype
    return model.eval()


def _generation_config(words: PreTrainedTokenizerBase) -> GenerationConfig:
    """Greedy, ending with the turn or the text."""
    known = words.get_vocab()
    ends = [known[token] for token in (TURN_END, END_OF_TEXT) if token in known]
    return GenerationConfig(eos_token_id=ends, pad_token_id=words.pad_token_id, do_sample=False)
