"""The model as three ONNX graphs: pictures to image tokens, ids to embeddings, embeddings and cache to logits.

Legend: B rows, L new positions, K positions of the cache, I images, T image tokens of one, D language width, V vocabulary.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from omnivision.errors import ConfigError, one_line
from omnivision.export.checkpoint import Checkpoint
from omnivision.export.streaming import is_empty
from omnivision.model.modeling import OmniVisionForConditionalGeneration

OPSET = 20
VISION, EMBEDDING, DECODER = "vision_encoder", "embed_tokens", "decoder_model_merged"  # names that transformers.js looks for
Tables = dict[nn.Parameter, Callable[[], np.ndarray]]  # what stands in the place of a weight -> reads it
BATCH, NEW, PAST = (torch.export.Dim(name) for name in ("batch_size", "sequence_length", "past_sequence_length"))


def graphs(checkpoint: Checkpoint) -> Iterator[tuple[str, ir.Model]]:
    """The three graphs by name. They are traced without weights, and read them from the checkpoint when they are written.

    Raises:
        ConfigError: an architecture that cannot be expressed.
    """
    model = checkpoint.hollow_model()
    tables: Tables = {values: partial(checkpoint.stored.load, name) for name, values in model.named_parameters()}
    model.set_attn_implementation("eager")  # plain products: every engine has them
    past = _example_cache(model)  # first, for it costs nothing where it refuses
    _exchange_linears(model, tables)
    for name, trace in ((VISION, _vision), (EMBEDDING, _embedding), (DECODER, lambda model, tables: _decoder(model, tables, past))):
        try:
            graph = trace(model, tables)
        except Exception as error:  # torch's exporter has a class for each of its stages
            kind = f"{model.config.text_config.model_type} with {model.config.vision_config.model_type}"
            raise ConfigError(f"the graph {name} cannot be expressed in ONNX: {one_line(error)}", kind,
                              "Export FP16 or GGUF, or use a model with plain attention.") from error
        yield name, graph


def _vision(model: OmniVisionForConditionalGeneration, tables: Tables) -> ir.Model:
    shape = model.config.vision_config
    pixels_ICHW = torch.zeros(2, shape.num_channels, shape.image_size, shape.image_size)
    return _trace(_Vision(model), tables, {"pixel_values": pixels_ICHW}, {"pixel_values": {0: BATCH}}, ["image_features"])


def _embedding(model: OmniVisionForConditionalGeneration, tables: Tables) -> ir.Model:
    ids_BL = torch.zeros(2, 3, dtype=torch.long)
    return _trace(_Embedding(model), tables, {"input_ids": ids_BL}, {"input_ids": {0: BATCH, 1: NEW}}, ["inputs_embeds"])


def _decoder(model: OmniVisionForConditionalGeneration, tables: Tables, past: list[tuple[Tensor, Tensor]]) -> ir.Model:
    (rows, _, known, _), new, width = past[0][0].shape, 3, model.config.text_config.hidden_size
    inputs = {"inputs_embeds": torch.zeros(rows, new, width), "attention_mask": torch.ones(rows, known + new, dtype=torch.long),
              "position_ids": torch.arange(known, known + new).repeat(rows, 1), "past_key_values": past}
    shapes = {"inputs_embeds": {0: BATCH, 1: NEW}, "attention_mask": {0: BATCH, 1: torch.export.Dim.DYNAMIC}, "position_ids": {0: BATCH, 1: NEW},
              "past_key_values": [({0: BATCH, 2: PAST}, {0: BATCH, 2: PAST}) for _ in past]}
    cached = [f"{layer}.{part}" for layer in range(len(past)) for part in ("key", "value")]
    graph = _trace(_Decoder(model), tables, inputs, shapes, ["logits", *(f"present.{name}" for name in cached)],
                   ["inputs_embeds", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in cached)])
    _name_total(graph.graph)
    return graph


class _Vision(nn.Module):
    def __init__(self, model: OmniVisionForConditionalGeneration) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values)


class _Embedding(nn.Module):
    def __init__(self, model: OmniVisionForConditionalGeneration) -> None:
        super().__init__()
        self.embed_tokens = model.get_input_embeddings()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed_tokens(input_ids)


class _Decoder(nn.Module):
    def __init__(self, model: OmniVisionForConditionalGeneration) -> None:
        super().__init__()
        self.language_model, self.lm_head = model.model.language_model, model.lm_head

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, position_ids: Tensor,
                past_key_values: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        cache = DynamicCache(past_key_values)
        out = self.language_model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, position_ids=position_ids,
                                  past_key_values=cache, use_cache=True)
        return self.lm_head(out.last_hidden_state), *(part for layer in cache.layers for part in (layer.keys, layer.values))


class _Product(nn.Module):
    """A linear layer as x @ W: ONNX has no transposed product, and a copy of each weight would double the memory."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().t(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


def _exchange_linears(module: nn.Module, tables: Tables) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            product = _Product(child)
            tables[product.weight] = partial(_transposed, tables[child.weight])
            setattr(module, name, product)
        else:
            _exchange_linears(child, tables)


def _transposed(load: Callable[[], np.ndarray]) -> np.ndarray:
    return load().T


def _example_cache(model: OmniVisionForConditionalGeneration) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of two rows and positions, from the language model itself: no config has to be understood."""
    cache = DynamicCache(config=model.config.text_config)
    with torch.inference_mode():
        model.model.language_model(inputs_embeds=torch.zeros(2, 2, model.config.text_config.hidden_size), past_key_values=cache, use_cache=True)
    other = sorted({type(layer).__name__ for layer in cache.layers if type(layer) is not DynamicLayer})
    if other or not cache.layers:
        raise ConfigError(f"the language model keeps {', '.join(other) or 'no keys and values'} instead of plain keys and values",
                          f"text_config.model_type {model.config.text_config.model_type}", "Use a model with full attention in every layer.")
    return [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]


def _trace(module: nn.Module, tables: Tables, inputs: dict[str, Any], shapes: dict[str, Any], outputs: list[str], names: list[str] | None = None) -> ir.Model:
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of PyTorch's own parts, which a reader can do nothing about
        program = torch.onnx.export(module.eval(), (), kwargs=inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, optimize=True,
                                    verbose=False, input_names=names or list(inputs), output_names=outputs)
    _read_when_written(program.model, module, tables)
    return program.model


def _read_when_written(model: ir.Model, module: nn.Module, tables: Tables) -> None:
    """Puts what reads them in the place of the weights that were not there while the graph was traced."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for value in model.graph.initializers.values():
        parameter = parameters.get(value.name)
        if parameter is not None and is_empty(parameter):
            load = tables[parameter]
            value.const_value = ir.LazyTensor(lambda load=load: ir.tensor(load()), ir.DataType.FLOAT, ir.Shape(parameter.shape), name=value.name)


def _name_total(graph: ir.Graph) -> None:
    """The mask's length is a symbol of the tracer's; readers look for this name."""
    total = next(value for value in graph.inputs if value.name == "attention_mask")
    total.shape = ir.Shape([total.shape[0], "total_sequence_length"])
    for value in graph.outputs:
        if value.name.startswith("present."):
            value.shape = ir.Shape([value.shape[0], value.shape[1], "total_sequence_length", value.shape[3]])
