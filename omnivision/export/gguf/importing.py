"""The released OmniVLM pair of GGUF files as a checkpoint of this project.

Text: architecture qwen2. Picture: architecture siglip of Nexa's fork of llama.cpp, whose fc1 is called ffn_down and fc2 ffn_up,
projector mm.0, GELU, mm.2, and a pooling head that nothing reads.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from omnivision import OmniVisionConfig, OmniVisionForConditionalGeneration, OmniVisionProcessor
from omnivision.constants import END_OF_TEXT, IMAGE_TOKEN, TURN_END
from omnivision.errors import ConfigError, DataError, one_line
from omnivision.export.folder import count_bytes, is_list, whole_or_nothing
from omnivision.export.gguf.names import picture_names, text_names
from omnivision.export.gguf.packages import gguf
from omnivision.export.gguf.reading import GgufFile
from omnivision.export.gguf.vocabulary import RENAMED
from omnivision.model.build import load_tokenizer
from omnivision.model.layouts import TILES
from omnivision.model.processing import siglip_image_processor
from omnivision.runs import IMPORTED, write_hand_over

POOLING_HEAD = ("v.head.", "v.attn_pool.", "v.pool", "v.probe")
HEAD_WIDTH = 72  # of so400m; asked for only where the file does not say how many heads there are


def import_pair(text_file: str | Path, picture_file: str | Path, out_dir: str | Path) -> dict:
    """Write a checkpoint in fp32 (quantised numbers are not numbers of FP16), with the note that lets a stage start from it.

    Args:
        text_file, picture_file: the pair.
        out_dir: the new folder, in the hub's layout; it appears whole or not at all.

    Returns:
        {"out", "bytes": {file: n}, "parameters", "left_out": names of tensors that have no place here}

    Raises:
        ConfigError: no such file, or another kind of model. DataError: a broken file, a missing tensor or an unknown one.
    """
    text, picture, out = GgufFile(Path(text_file)), GgufFile(Path(picture_file)), Path(out_dir)
    _check_kind(text, "qwen2")
    _check_kind(picture, "siglip")
    words = _tokenizer(text)
    try:
        config = OmniVisionConfig(vision_config=_vision(picture), text_config=_language(text), **_projector(picture),
                                  image_token_id=words.convert_tokens_to_ids(IMAGE_TOKEN))
        with torch.device("meta"):
            hollow = OmniVisionForConditionalGeneration(config)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, KeyError, AttributeError) as error:  # what numbers of no model lead to
        raise DataError(f"the two files make no model: {one_line(error)}", f"{text.file}, {picture.file}", "Give the two files of one model.") from error
    with whole_or_nothing(out) as folder:
        model = _filled(hollow, text, picture)
        model.generation_config = GenerationConfig(eos_token_id=words.convert_tokens_to_ids([TURN_END, END_OF_TEXT]), pad_token_id=words.pad_token_id,
                                                   do_sample=False)
        model.save_pretrained(folder)
        mean, std = (picture.settings.get(f"siglip.vision.image_{one}", [0.5] * 3) for one in ("mean", "std"))
        pictures = siglip_image_processor(config.vision_config.image_size, mean, std)
        OmniVisionProcessor(pictures, words, image_seq_length=config.image_seq_length).save_pretrained(folder)
        sizes = count_bytes(folder)
        write_hand_over(folder, IMPORTED, None)
    return {"out": str(out), "bytes": sizes, "parameters": sum(one.numel() for one in model.parameters()), "left_out": sorted(_left_out(picture))}


def _check_kind(file: GgufFile, arch: str) -> None:
    found = file.setting("general.architecture")
    if found != arch:
        raise ConfigError(f"the file's architecture is {found!r}, not {arch!r}", str(file.file),
                          "Give the text file (qwen2) and the mmproj file (siglip) of the released OmniVLM.")


def _language(text: GgufFile) -> dict:
    def said(key: str):
        return text.setting(f"qwen2.{key}")

    turned = {key: value for key, value in text.settings.items() if key.startswith("qwen2.rope.")}
    plain = {"qwen2.rope.freq_base": said("rope.freq_base"), "qwen2.rope.scaling.type": "none",
             "qwen2.rope.dimension_count": said("embedding_length") // said("attention.head_count")}
    other = [f"{key} is {value}" for key, value in turned.items() if plain.get(key) != value]
    if other:
        raise DataError(f"positions are turned in a way that the checkpoint would not: {', '.join(other)}", str(text.file), "Give a file of OmniVLM.")
    return {"model_type": "qwen2", "vocab_size": text.shape("token_embd.weight")[0], "hidden_size": said("embedding_length"),
            "intermediate_size": said("feed_forward_length"), "num_hidden_layers": _blocks(text, "qwen2.block_count"),
            "num_attention_heads": said("attention.head_count"), "num_key_value_heads": said("attention.head_count_kv"),
            "max_position_embeddings": said("context_length"), "rms_norm_eps": round(said("attention.layer_norm_rms_epsilon"), 12),
            "rope_parameters": {"rope_type": "default", "rope_theta": said("rope.freq_base")},
            "tie_word_embeddings": "output.weight" not in text.names}


def _vision(picture: GgufFile) -> dict:
    width, _, patch, _ = picture.shape("v.patch_embd.weight")
    blocks = _blocks(picture, "siglip.vision.block_count")
    return {"hidden_size": width, "intermediate_size": picture.shape("v.blk.0.ffn_down.weight")[0], "num_hidden_layers": blocks,
            "num_attention_heads": picture.settings.get("siglip.vision.attention.head_count", width // HEAD_WIDTH),
            "image_size": picture.setting("siglip.vision.image_size"), "patch_size": patch, "hidden_act": "gelu",
            "layer_norm_eps": round(picture.settings.get("siglip.vision.attention.layer_norm_epsilon", 1e-6), 12), "vision_use_head": False}


def _blocks(file: GgufFile, key: str) -> int:
    """How many blocks a file says it has. Each is made before one of its tensors is missed: more than there are tensors would take for ever."""
    said = file.setting(key)
    if not 1 <= said <= len(file.names):
        raise DataError(f"{key} is {said}, and the file holds {len(file.names)} tensors", str(file.file), "Fetch it again.")
    return said


def _projector(picture: GgufFile) -> dict:
    hidden, joined = picture.shape("mm.0.weight")
    width = picture.shape("v.patch_embd.weight")[0]
    if joined % width or joined // width not in TILES:
        raise DataError(f"the projector reads {joined} numbers, no group of patches of {width}", str(picture.file), "Give a file of OmniVLM.")
    return {"projector_layout": "raster", "projector_group": joined // width, "projector_hidden_size": hidden, "projector_gelu": "erf"}


def _picture_names(picture: GgufFile, blocks: int) -> dict[str, str]:
    return picture_names(blocks, post_norm="v.post_ln.weight" in picture.names, released=True)


def _left_out(picture: GgufFile) -> set[str]:
    return {name for name in picture.names if name.startswith(POOLING_HEAD)}


def _filled(model: OmniVisionForConditionalGeneration, text: GgufFile, picture: GgufFile) -> OmniVisionForConditionalGeneration:
    config = model.config
    names = {text: text_names(config.text_config.num_hidden_layers, config.tie_word_embeddings),
             picture: _picture_names(picture, config.vision_config.num_hidden_layers)}
    unknown = sorted((text.names - set(names[text])) | (picture.names - set(names[picture]) - _left_out(picture)))
    if unknown:
        what = f"{len(unknown)} tensors have no place in the model and would be dropped, the first is {unknown[0]}"
        raise DataError(what, f"{text.file}, {picture.file}", "Give the pair of files of the released OmniVLM.")
    state = {theirs: file.load(ours) for file, table in names.items() for ours, theirs in table.items()}
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    for name, values in state.items():
        if values.shape != wanted[name]:
            what = f"{name} has shape {tuple(values.shape)}, expected {tuple(wanted[name])}"
            raise DataError(what, f"{text.file}, {picture.file}", "Give the two files of one model.")
        if not values.isfinite().all():
            raise DataError(f"{name} holds numbers that are not finite", f"{text.file}, {picture.file}", "Fetch the files again.")
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    if missing:
        raise DataError(f"{len(missing)} tensors are missing, the first is {missing[0]}", f"{text.file}, {picture.file}", "Fetch the files again.")
    model.tie_weights()
    return model.eval()


def _tokenizer(text: GgufFile) -> PreTrainedTokenizerFast:
    """Qwen2's tokenizer from the keys of a text file.

    Raises:
        DataError: other keys than those of a byte-level BPE, or ids that do not come out as they stand in the file.
    """
    tokens, kinds, joined = (text.setting(f"tokenizer.ggml.{one}") for one in ("tokens", "token_type", "merges"))
    if not (is_list(tokens, str) and is_list(kinds, int) and is_list(joined, str) and len(tokens) == len(kinds)):
        raise DataError("tokens, token_type and merges of the tokenizer are no lists that belong together", str(text.file), "Fetch it again.")
    if text.setting("tokenizer.ggml.model") != "gpt2":
        raise DataError(f"the tokenizer is {text.settings['tokenizer.ggml.model']!r}, not a byte-level BPE", str(text.file), "Give a file of OmniVLM.")
    pre = text.settings.get("tokenizer.ggml.pre", "qwen2")
    if pre != "qwen2":
        raise DataError(f"the tokenizer cuts texts as {pre!r}, not as Qwen2's", str(text.file), "Give a file of OmniVLM.")
    types, back = gguf().TokenType, {ours: theirs for theirs, ours in RENAMED.items()}
    normal = {token: row for row, (token, kind) in enumerate(zip(tokens, kinds)) if kind == types.NORMAL}
    added = {back.get(token, token): row for row, (token, kind) in enumerate(zip(tokens, kinds))
             if kind in (types.CONTROL, types.USER_DEFINED) and token != f"[PAD{row}]"}  # older converters call spare rows user-defined
    control = [token for token, row in added.items() if kinds[row] == types.CONTROL]
    merges = [tuple(one.split(" ", 1)) for one in joined]
    odd = [one for one in merges if len(one) != 2 or not {*one, "".join(one)} <= normal.keys()]
    if odd:  # tokenizers' own error for some of them ends the process
        raise DataError(f"{len(odd)} merges join no tokens to a token, the first is {' '.join(odd[0])!r}", str(text.file), "Fetch it again.")
    backend = Tokenizer(models.BPE(vocab=normal, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), "isolated"),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(tokenizer_object=backend)
    words.add_tokens([AddedToken(token, special=kinds[row] == types.CONTROL, normalized=False) for token, row in added.items()])
    words.add_special_tokens({"additional_special_tokens": control})
    words.add_special_tokens({"eos_token": TURN_END, "pad_token": END_OF_TEXT})
    moved = [token for token, row in {**normal, **added}.items() if words.convert_tokens_to_ids(token) != row]
    if moved:
        raise DataError(f"{len(moved)} tokens would get other ids, the first is {moved[0]!r}", str(text.file), "Give a file of OmniVLM.")
    return load_tokenizer(words)
