"""The model as lm-eval sees it: `generate_until` for questions about images, through omnivision's own generation."""

from __future__ import annotations

import contextlib
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.models  # noqa: F401 - lm-eval lists its own models only while its registry is empty; ours would hide them
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from PIL import Image

from omnivision.errors import ConfigError

from .answer import Answer
from .world import PLACEHOLDER

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

GREY = (128, 128, 128)  # the picture of the blind row: it says nothing, and no training picture looks like it


@register_model("omnivision")
class OmniVisionLM(LM):
    """Answers lm-eval's requests with an OmniVision model.

    Args:
        pretrained: a checkpoint folder; or give `model` and `processor`, already loaded.
        model, processor: a loaded model in evaluation mode and its processor.
        functions: the FunctionSet whose tokens count as calls; by default the checkpoint's own functions.json.
        batch_size: questions at a time.
        blank: show a grey picture instead of every image.
        on_batch: called with the number of answers that each batch finished.
        features: a feature cache with `.features(paths, model, processor)` -> one (patches, width) tensor a path.

    Raises:
        ConfigError: no such checkpoint.
    """

    MULTIMODAL = True

    def __init__(self, pretrained: str | Path | None = None, *, model: Any = None, processor: Any = None,
                 functions: Any = None, batch_size: int | str = 32, blank: bool = False, features: Any = None,
                 on_batch: Callable[[int], None] | None = None, device: str | None = None, **_harness_arguments) -> None:
        super().__init__()
        if model is None:
            model, processor = load_checkpoint(pretrained, device)
            functions = functions or load_functions(pretrained)
        self.model, self.processor, self.functions = model, processor, functions
        self.batch_size = int(batch_size or 32)
        self.blank, self.features, self.on_batch = blank, features, on_batch
        self._answers: dict[tuple, Answer] = {}  # (image, question, length) -> answer: POPE's splits share positives
        self._checked = False

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Answers in the order of the requests; an identical question about the same image is asked once."""
        wanted: dict[int, dict[tuple, Any]] = defaultdict(dict)  # length -> key -> image
        keys = []
        for request in requests:
            context, settings, shown = request.args
            image, question = shown["visual"], context.replace(PLACEHOLDER, "", 1)
            if len(image) != 1 or PLACEHOLDER in question:
                raise ValueError(f"one image a question is supported, got {len(image)} and the text {context!r}")
            key = (_identity(image[0]), question, int(settings["max_gen_toks"]))
            keys.append(key)
            if key not in self._answers:
                wanted[key[2]].setdefault(key, image[0])
        for length, asked in wanted.items():
            self._answer(asked, length)
        return [self._answers[key] for key in keys]

    def apply_chat_template(self, chat_history: list[dict], add_generation_prompt: bool = True) -> str:
        """The bare question: generation renders the template itself, from the same file as training."""
        if len(chat_history) != 1:
            raise ValueError(f"few-shot examples are not supported, got {len(chat_history)} turns")
        return chat_history[0]["content"]

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The processor's own."""
        return self.processor.chat_template

    @property
    def tokenizer_name(self) -> str:
        """Name for lm-eval's request cache."""
        return str(self.processor.tokenizer.name_or_path).replace("/", "__")

    def loglikelihood(self, requests):
        """Not offered: the benchmarks generate."""
        raise NotImplementedError("model type `omnivision` answers generate_until only")

    def loglikelihood_rolling(self, requests):
        """Not offered: the benchmarks generate."""
        raise NotImplementedError("model type `omnivision` answers generate_until only")

    def _answer(self, asked: dict[tuple, Any], length: int) -> None:
        from omnivision.generation import generate_ids

        questions = [question for _, question, _ in asked]
        images = self._pictures(list(asked.values()))
        if not self._checked:
            check_image_reaches_model(self.model, self.processor, questions[0], images[0])
            self._checked = True
        with _count_images(self.model) as projected:
            answers = generate_ids(self.model, self.processor, questions, images,
                                   max_new_tokens=length, batch_size=self.batch_size, on_batch=self.on_batch)
        shown = 1 if self.blank else len({image for image, _, _ in asked})
        assert sum(projected) >= shown, f"{shown} images were asked about, {sum(projected)} reached the projector"
        for key, ids in zip(asked, answers, strict=True):
            self._answers[key] = self._read(ids)

    def _pictures(self, images: list) -> list:
        if self.blank:
            return [features_of(self.model, self.processor, Image.new("RGB", (64, 64), GREY))] * len(images)
        paths = [_identity(image) for image in images]
        if self.features is not None and all(isinstance(path, str) for path in paths):
            distinct = list(dict.fromkeys(paths))
            weight = next(self.model.parameters())
            known = zip(distinct, self.features.features(distinct, self.model, self.processor), strict=True)
            by_path = {path: features.to(weight.device, weight.dtype) for path, features in known}
            return [by_path[path] for path in paths]
        return [path if isinstance(path, str) else image for path, image in zip(paths, images, strict=True)]

    def _read(self, ids: list[int]) -> Answer:
        tokenizer = self.processor.tokenizer
        text = tokenizer.decode(ids, skip_special_tokens=True)
        if self.functions is None:
            return Answer(text, ids)
        from omnivision.functions.calls import parse_calls

        raw = tokenizer.decode(ids, skip_special_tokens=False)
        found = parse_calls(ids, tokenizer, self.functions)
        fault = f"{found.errors[0].kind}: {found.errors[0].message}" if found.errors else None
        return Answer(text, ids, raw, [{"name": c.name, "arguments": c.arguments} for c in found], fault)


def features_of(model: Any, processor: Any, image: Any) -> Any:
    """Tower features (patches, width) of a picture or file; features are passed through."""
    import torch

    from omnivision.generation import encode_images

    return image if isinstance(image, torch.Tensor) else encode_images(model, processor, [image])[0]


def check_image_reaches_model(model: Any, processor: Any, question: str, image: Any) -> None:
    """Shows one question with its image and with another: the placeholders must be there, and the logits must differ.

    A wrong image token drops every image without a word, and the model then answers as if blind.

    Raises:
        RuntimeError: the prompt has another number of placeholders than one image needs, or the image changes nothing.
    """
    import torch

    content = [{"type": "image"}, {"type": "text", "text": question}]
    grey = Image.new("RGB", (8, 8), GREY)  # only for the count: the features below take its place
    encoded = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt", processor_kwargs={"images": [grey]})
    ids = encoded["input_ids"].to(model.device)
    places = int((ids == model.config.image_token_id).sum())
    if places != processor.image_seq_length:
        raise RuntimeError(f"the prompt holds {places} image placeholders (id {model.config.image_token_id}), one image needs "
                           f"{processor.image_seq_length}: processor and model do not belong together")
    features = features_of(model, processor, image).to(model.device, model.dtype)[None]
    with torch.no_grad():
        seen, other = (model(input_ids=ids, image_features=f, logits_to_keep=1).logits for f in (features, -features))
    if torch.equal(seen, other):
        raise RuntimeError("another image gives the same logits: the image does not reach the language model")


@contextlib.contextmanager
def _count_images(model: Any) -> Iterator[list[int]]:
    """Collects how many images pass the projector."""
    counts: list[int] = []
    hook = model.model.projector.register_forward_hook(lambda _module, _inputs, tokens: counts.append(len(tokens)))
    try:
        yield counts
    finally:
        hook.remove()


def load_checkpoint(folder: str | Path | None, device: str | None = None) -> tuple[Any, Any]:
    """A model in evaluation mode and its processor.

    Raises:
        ConfigError: the folder is missing or holds no checkpoint.
    """
    import torch

    from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor

    if not folder or not (Path(folder) / "config.json").is_file():
        raise ConfigError("There is no checkpoint (no config.json)", str(folder), "Give a folder that training wrote, such as runs/NAME/sft/final.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = OmniVisionForConditionalGeneration.from_pretrained(folder)
    return model.to(device).eval(), OmniVisionProcessor.from_pretrained(folder)


def load_functions(folder: str | Path, tokenizer: Any = None) -> Any:
    """The function table beside a checkpoint or a data folder, or None.

    Args:
        folder: where functions.json may lie.
        tokenizer: if given, a table whose tokens it does not know is None too (the stage was not trained).
    """
    from omnivision.constants import FUNCTION_FILE
    from omnivision.functions import FunctionSet, functional_tokens

    if not (Path(folder) / FUNCTION_FILE).is_file():
        return None
    functions = FunctionSet.from_json(Path(folder) / FUNCTION_FILE)
    try:
        if tokenizer is not None:
            functional_tokens(tokenizer, functions)
    except ConfigError:
        return None
    return functions


def _identity(image: Any) -> Any:
    """What tells one image from another: its file, or a digest of its pixels."""
    if isinstance(image, str | Path):
        return str(image)
    return getattr(image, "filename", None) or (image.size, hashlib.sha256(image.tobytes()).digest())
