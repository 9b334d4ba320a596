"""Train, evaluate and export sub-billion vision-language models for edge devices.

Importing this package registers the model with transformers' Auto classes:
`AutoModelForImageTextToText.from_pretrained(folder)` and `AutoProcessor.from_pretrained(folder)` then know it.
The command line reads its arguments before it loads torch and transformers, and imports `omnivision.model.auto` itself.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from omnivision import torchvision_remedy

if TYPE_CHECKING:
    from omnivision.model.configuration import OmniVisionConfig
    from omnivision.model.modeling import OmniVisionForConditionalGeneration, OmniVisionModel
    from omnivision.model.processing import OmniVisionProcessor

__version__ = "0.1.0"
__all__ = ["OmniVisionConfig", "OmniVisionForConditionalGeneration", "OmniVisionModel", "OmniVisionProcessor"]
_HOME = {"OmniVisionConfig": "configuration", "OmniVisionForConditionalGeneration": "modeling", "OmniVisionModel": "modeling",
         "OmniVisionProcessor": "processing"}

torchvision_remedy.hook()  # before anything can import torchvision


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"omnivision.model.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "omnivision_cli" not in sys.modules:
    importlib.import_module("omnivision.model.auto")
