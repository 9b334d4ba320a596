"""LoRA: low-rank changes of the language model's matrices, and the rows of the functional tokens as they are.

Low-rank changes leave a new token's row where it starts, and a head tied to the table reads that same row: peft trains rows
by their ids, in the table and in the head that shares it.

Legend: B rows, L positions, D language width, N trained rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omnivision.errors import ConfigError
from omnivision_train.config import ADAPTER, FunctionsConfig
from omnivision_train.frozen_layers import check_count

NAME = "default"  # peft's name of the one adapter
KINDS = (f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight", f".trainable_tokens_delta.{NAME}")
LANGUAGE = "model.language_model"


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter and not to the model below it."""
    return name.endswith(KINDS)


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains under LoRA, by name; empty where the model has no adapters."""
    return {name: parameter for name, parameter in model.named_parameters() if is_adapter(name)}


def add_adapters(model, config: FunctionsConfig, token_ids: Iterable[int]) -> None:
    """Puts adapters into a model, which then answers as before: the second factors are 0 and the rows are the table's.

    Args:
        model: with its tokens installed; on the meta device too. token_ids: of the rows that train.

    Raises:
        ConfigError: settings that no adapter can have, or targets that are no matrices of the language model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    check_settings(model, config)
    ids = sorted(token_ids)
    table = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    rows = {table: ids} | ({} if model.config.tie_word_embeddings else {"lm_head": ids})
    targets = "|".join(map(re.escape, config.lora_targets))
    check_count(model, config.frozen_layers)
    layers = "|".join(map(str, range(config.frozen_layers, model.config.text_config.num_hidden_layers)))
    place = rf"layers\.({layers})\." if config.frozen_layers else ""
    inject_adapter_in_model(LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, base_model_name_or_path=config.start,
        target_modules=rf"{re.escape(LANGUAGE)}\.{place}(.*\.)?({targets})", trainable_token_indices=rows if ids else None), model)
    for module in _row_layers(model).values():
        module.register_buffer("ids_N", torch.tensor(ids, device=module.base_layer.weight.device), persistent=False)
        module.forward_adapters = partial(_apart, module)


def _apart(layer, x: Tensor, active_adapters=None) -> Tensor:
    """The table's rows or the head's columns, those of the adapter in their places.

    peft copies the table with the rows in it, in every pass, and takes a gradient as large: for Qwen2.5's table 136 million
    numbers each, for the head of all of its products once more.

    Args:
        x: token ids for a table, hidden states for a head.
    """
    table, rows_ND, result = layer.base_layer, layer.trainable_tokens_delta[NAME], layer.base_layer(x)
    if isinstance(table, nn.Linear):
        return result.index_copy_(-1, layer.ids_N, nn.functional.linear(x, rows_ND))
    places_BL = torch.searchsorted(layer.ids_N, x).clamp(max=len(rows_ND) - 1)
    own_BLD = nn.functional.embedding(places_BL, rows_ND) * getattr(table, "embed_scale", 1.0)
    return torch.where((layer.ids_N[places_BL] == x).unsqueeze(-1), own_BLD, result)


def _row_layers(model) -> dict[str, nn.Module]:
    """peft's layers for the rows of tokens, by name: of the table, and of the head."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, TrainableTokensLayer)}


def check_settings(model, config: FunctionsConfig) -> None:
    """Refuses what peft would take in silence, or not at all.

    Raises:
        ConfigError: a rank above the sides of a matrix, a dropout that leaves nothing, targets that are not there.
    """
    matrices: dict[str, list[nn.Linear]] = {}
    for name, module in model.get_submodule(LANGUAGE).named_modules():
        if isinstance(module, nn.Linear):
            matrices.setdefault(name.rpartition(".")[2], []).append(module)
    missing = [target for target in config.lora_targets if target not in matrices]
    if missing or not config.lora_targets:
        raise ConfigError(f"The language model has no matrix {' and no '.join(missing)}" if missing else "No matrices are named",
                          "lora_targets", f"Name some of {', '.join(matrices)}.")
    side, target = min((min(module.weight.shape), target) for target in config.lora_targets for module in matrices[target])
    if not 0 < config.lora_rank <= side:
        raise ConfigError(f"The rank is {config.lora_rank}, and {target} has {side} rows or columns", "lora_rank",
                          f"Give 1 to {side}, or 0 to train the whole model.")
    if not 0 <= config.lora_dropout < 1:
        raise ConfigError(f"The dropout is {config.lora_dropout}", "lora_dropout", "Give 0 or more, and less than 1.")
    if config.lora_alpha <= 0:
        raise ConfigError(f"Adapters are scaled by lora_alpha / lora_rank, and lora_alpha is {config.lora_alpha}", "lora_alpha", "Give a number above 0.")


def merged(model, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the model without adapters that answers as the one with them.

    Args:
        model: with adapters; only its shape is read. weights: all of its weights by name, whole and in fp32.
    """
    from peft.tuners.lora import LoraLayer

    plain = {_plain(name): value for name, value in weights.items() if not is_adapter(name)}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            first, second = (weights[f"{name}.lora_{factor}.{NAME}.weight"] for factor in "AB")
            plain[f"{name}.weight"] = plain[f"{name}.weight"] + module.scaling[NAME] * (second @ first)
    for name, module in _row_layers(model).items():
        if module.tied_adapter is None:
            place = _plain(f"{name}.weight")
            plain[place] = plain[place].index_copy(0, module.ids_N.cpu(), weights[f"{name}.trainable_tokens_delta.{NAME}"])
    return plain


def save_adapter(model, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes the adapter into a checkpoint, as peft's `PeftModel.from_pretrained` reads it.

    It has a folder of its own: transformers would put one that lies beside the merged weights on top of them.
    """
    folder = folder / ADAPTER
    folder.mkdir(parents=True, exist_ok=True)
    save_file({_saved(name): value for name, value in weights.items() if is_adapter(name)}, folder / "adapter_model.safetensors")
    model.peft_config[NAME].save_pretrained(folder)


def load_adapter(model, folder: Path) -> dict[str, Tensor]:
    """A checkpoint's adapter by the names of the model's parameters."""
    saved = load_file(folder / ADAPTER / "adapter_model.safetensors")
    return {name: saved[_saved(name)] for name in adapter_parameters(model)}


def _plain(name: str) -> str:
    return name.replace(".token_adapter.", ".").replace(".base_layer.", ".")


def _saved(name: str) -> str:
    return "base_model.model." + name.replace(f".{NAME}", "")
