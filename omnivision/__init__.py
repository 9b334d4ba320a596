"""Train, evaluate and export sub-billion vision-language models for edge devices.

Importing this package registers the model with transformers' Auto classes:
`AutoModelForImageTextToText.from_pretrained(folder)` and `AutoProcessor.from_pretrained(folder)` then know it.
"""

from omnivision import torchvision_remedy

torchvision_remedy.hook()  # before anything can import torchvision

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor  # noqa: E402

from omnivision.model.configuration import OmniVisionConfig  # noqa: E402
from omnivision.model.modeling import OmniVisionForConditionalGeneration, OmniVisionModel  # noqa: E402
from omnivision.model.processing import OmniVisionProcessor  # noqa: E402

__version__ = "0.1.0"
__all__ = ["OmniVisionConfig", "OmniVisionForConditionalGeneration", "OmniVisionModel", "OmniVisionProcessor"]

AutoConfig.register(OmniVisionConfig.model_type, OmniVisionConfig, exist_ok=True)
AutoModel.register(OmniVisionConfig, OmniVisionModel, exist_ok=True)
AutoModelForImageTextToText.register(OmniVisionConfig, OmniVisionForConditionalGeneration, exist_ok=True)
AutoProcessor.register(OmniVisionConfig, OmniVisionProcessor, exist_ok=True)
