"""The files beside the graphs: configs and tokenizer as transformers.js reads them, and what the runner reads.

transformers.js knows its own list of models. Of these, "llava" runs the same three graphs in the same way: text is embedded,
image tokens take the places of the placeholders, the decoder goes on with its cache. The folder names itself so.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from omnivision.export.checkpoint import Checkpoint
from omnivision.export.onnx_files import runner
from omnivision.functions import FunctionSet, functional_tokens
from omnivision.generation import stop_ids
from omnivision.model.conversation import encode_messages
from omnivision.model.modeling import OmniVisionForConditionalGeneration
from omnivision.model.processing import OmniVisionProcessor

RUNNER_FILE = "run.py"
PLACE = -1  # in a prompt's ids: where the question goes


def write_layout(folder: Path, checkpoint: Checkpoint, variants: list[str], external: list[str]) -> None:
    """Writes everything but the graphs.

    Args:
        folder: of the export.
        variants: names of runner.SUFFIXES, the one to take first at the head.
        external: graph files whose weights lie in a file of their own.

    Raises:
        ConfigError: functions that do not belong to the checkpoint.
    """
    source, model, processor = checkpoint.folder, checkpoint.hollow_model(), checkpoint.processor
    processor.tokenizer.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    config = model.config.to_dict()
    _write(folder / "config.json", {
        **config, "model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "image_token_index": config["image_token_id"],
        "transformers.js_config": {"dtype": variants[0], "use_external_data_format": {name: True for name in external}},
    })
    images = processor.image_processor.to_dict()
    _write(folder / "preprocessor_config.json", {**images, "image_processor_type": "SiglipImageProcessor", "processor_class": "LlavaProcessor"})
    _write(folder / "processor_config.json", {
        "processor_class": "LlavaProcessor", "image_token": processor.image_token,
        # transformers.js counts (size / patch)² + additional placeholders: none of the first, all of the second
        "patch_size": images["size"]["height"] + 1, "num_additional_image_tokens": processor.image_seq_length,
    })
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    _write(folder / "tokenizer_config.json", {**tokenizer, "tokenizer_class": "PreTrainedTokenizer", "chat_template": processor.chat_template})
    functions = FunctionSet.beside(source)
    settings = runner_settings(model, processor, variants)
    if functions is not None:
        settings["functions"] = _functions(processor.tokenizer, functions)
        functions.save(folder)
    _write(folder / runner.SETTINGS, settings)
    shutil.copyfile(runner.__file__, folder / RUNNER_FILE)


def runner_settings(model: OmniVisionForConditionalGeneration, processor: OmniVisionProcessor, variants: list[str]) -> dict[str, Any]:
    """What the runner has to know: the prompt as ids around the question, how pixels are made, where an answer ends."""
    images = processor.image_processor
    return {
        "variants": variants,
        "prompts": {"image": _prompt(processor, ["image", "text"]), "text": _prompt(processor, ["text"])},
        "image_token_id": processor.image_token_id,
        "stop_token_ids": sorted(stop_ids(model)),
        "size": [images.size["width"], images.size["height"]],
        "resample": int(images.resample),
        "rescale_factor": images.rescale_factor,
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
    }


def _prompt(processor: OmniVisionProcessor, kinds: list[str]) -> list[list[int]]:
    """The ids before and after the question, by the checkpoint's own template."""
    parts = [{"type": kind, "text": 0} if kind == "text" else {"type": kind} for kind in kinds]
    ids = encode_messages(processor.tokenizer, [{"role": "user", "content": parts}], [[PLACE]], processor.chat_template,
                          processor.image_seq_length, True).input_ids
    place = ids.index(PLACE)
    return [ids[:place], ids[place + 1:]]


def _functions(tokenizer: Any, functions: FunctionSet) -> dict[str, Any]:
    tokens = functional_tokens(tokenizer, functions)
    special = {id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    return {
        "names": {str(id_): function.name for id_, function in zip(tokens.functions, functions.functions, strict=True)},
        "arguments": {str(id_): {"known": list(function.argument_names), "required": list(function.parameters.get("required", [])),
                                 "others": function.takes_others}
                      for id_, function in zip(tokens.functions, functions.functions, strict=True)},
        "end": tokens.end,
        "control": sorted(special | set(tokenizer.all_special_ids)),
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
