"""Settings of the stages: one frozen dataclass, a subclass where a stage has keys of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from omnivision.data.room import MOST_GIB
from omnivision.errors import ConfigError

FOLLOWS = {  # what a stage may start from; "imported" by `omnivision export import`
    "align": (), "sft": ("align", "sft", "imported"), "dpo": ("sft", "imported"), "functions": ("sft", "dpo", "functions", "imported", "untrained"),
}
TRAINS = {  # parts of the model by stage
    "align": ("projector",),
    "sft": ("projector", "language_model"),
    "dpo": ("projector", "language_model"),
    "functions": ("projector", "language_model"),
}
ADAPTER = "adapter"  # the part that trains alone under LoRA, and its folder in a checkpoint

BATCH = ["batch_size", "accumulation", "processes"]  # whose product is the global batch, which stays
MAY_CHANGE = {  # keys that may differ when a run goes on
    *BATCH, "zero_stage", "offload_optimizer", "deepspeed", "gradient_checkpointing", "compile", "loss_kernel", "feature_cache", "picture_cache",
    "cache_gib", "attention", "precompute_reference", "reference_cache", "share", "needed_logits_only",
    "threads", "workers", "save_steps", "keep_checkpoints", "log_steps", "report_to", "out",
}

POSITIVE = ("batch_size", "accumulation", "epochs", "max_length", "processes", "threads", "save_steps", "keep_checkpoints", "log_steps", "grounding_batch",
            "cache_gib", "requests_per_row", "beta", "edit_weight", "exit_every")
NOT_NEGATIVE = ("lr", "vision_lr", "grounding_lr", "workers", "grounding_steps", "grounding_contrast", "warmup", "weight_decay", "max_grad_norm", "sft_weight",
                "token_weight", "frozen_layers", "exit_loss")


def check_numbers(config: Any, positive: tuple[str, ...], not_negative: tuple[str, ...]) -> None:
    """Refuses numbers with which nothing could run, all at once; keys that a config has not, or that are None, are passed over.

    Raises:
        ConfigError: names every such key with its value.
    """
    given = {key: value for key in (*positive, *not_negative) if (value := getattr(config, key, None)) is not None}
    wrong = [key for key, value in given.items() if not (0 < value < math.inf or (value == 0 and key in not_negative))]  # NaN is neither
    if wrong:
        raise ConfigError(f"{', '.join(f'`{key}` is {given[key]:g}' for key in wrong)}", ", ".join(wrong),
                          " ".join(f"Give {key} {'0 or more' if key in not_negative else 'a number above 0'}." for key in wrong))


@dataclass(frozen=True)
class StageConfig:
    """What every stage knows. Batch size is per device; the global batch is batch_size x accumulation x ranks."""

    out: str = "runs/run"  # the stage writes to <out>/<stage>
    start: str | None = None  # final/ of the stage before; None builds the model from the next three
    preset: str = "968m"
    vision: str | None = "webli"
    language: str | None = "Qwen/Qwen2.5-0.5B-Instruct"
    projector: str = "raster"
    projector_gelu: Literal["erf", "tanh"] = "erf"  # tanh: as stock llama.cpp computes it
    data: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)  # rows that do not train: their loss is told before and after
    passes: list[float] = field(default_factory=list)  # over each file of `data` in an epoch; empty: one each
    weights: list[float] = field(default_factory=list)  # instead: each file's share of an epoch's rows
    image_root: str = "."
    urls: str | None = None  # folder for pictures that rows name by URL; None refuses such rows
    max_bad_fraction: float = 0.01  # of the rows; more bad ones stop the run, so many are left out and named
    limit: int | None = None
    batch_size: int = 8
    accumulation: int = 1
    epochs: float = 1.0
    max_steps: int = -1
    lr: float = 2e-5
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: matrices by Muon, the rest by AdamW; needs zero_stage 0
    schedule: Literal["constant", "constant_with_warmup", "cosine", "inverse_sqrt", "linear"] = "cosine"  # transformers'
    warmup: float = 0.03  # share of all steps
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int = 2048
    group_by_length: bool = True  # batches of rows of like length; not in dpo
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    attention: Literal["auto", "eager", "lean", "sdpa"] = "auto"  # by device, precision and length, see attention.py
    gradient_checkpointing: bool = False
    compile: bool | None = None  # layers through torch.compile: the first steps take longer, later ones less; None: on a GPU, see compiled.py
    loss_kernel: Literal["auto", "chunked", "liger"] = "auto"  # of the loss over the vocabulary, not in dpo; auto: liger on a GPU, see loss_kernel.py
    zero_stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: bool = False
    deepspeed: str | dict[str, Any] | None = None  # a JSON file or mapping of one's own
    feature_cache: str | None = None  # folder; the frozen tower then runs once per picture
    picture_cache: str | None = None  # folder; pictures are then decoded and squashed once, with the same pixels
    cache_gib: float = MOST_GIB  # that each of the two caches may hold; a full one adds nothing more
    processes: int = 1  # on a CPU; on GPUs the launcher's flags say it
    threads: int | None = None
    save_steps: int = 500
    keep_checkpoints: int = 2
    log_steps: int = 10
    report_to: Literal["none", "tensorboard", "wandb"] = "none"  # beside metrics.jsonl, which is written always
    workers: int = 0
    seed: int = 42

    def __post_init__(self) -> None:
        check_numbers(self, POSITIVE, NOT_NEGATIVE)
        if self.max_steps == 0:
            raise ConfigError("`max_steps` is 0: nothing would train", "max_steps", "Give a number above 0, or -1 for `epochs`.")


@dataclass(frozen=True)
class AlignConfig(StageConfig):
    """Stage 1: the projector alone, on captions."""

    lr: float = 1e-3
    batch_size: int = 32
    grounding_steps: int = 0  # steps on regions before captions, see grounding.py
    grounding_lr: float = 2e-3
    grounding_batch: int = 16
    grounding_contrast: float = 1.0  # weight of telling labels apart beside saying them
    grounding_data: list[str] = field(default_factory=list)  # rows with regions; empty: those of `data`


@dataclass(frozen=True)
class SftConfig(StageConfig):
    """Stage 2: projector and language model, on visual questions; the vision tower too where it has a rate."""

    vision_lr: float | None = None  # learning rate of the vision tower; None leaves it frozen
    layer_dropout: float = 0.0  # how often the last layer is dropped for a row; earlier ones less, the first never
    exit_layer: int | None = None  # an early exit after so many layers, which drafts; None trains none
    exit_loss: float = 0.0  # weight of the earlier layers' losses (LayerSkip's e_scale); goes with exit_layer
    exit_curriculum: Literal["rotational", "gradual"] = "rotational"
    exit_every: int = 4  # rotational: every so manyth exit is on at a step


@dataclass(frozen=True)
class DpoConfig(StageConfig):
    """Stage 3: projector and language model, on minimal-edit pairs."""

    lr: float = 5e-7
    beta: float = 0.1
    sft_weight: float = 0.0  # share of the chosen answer's own cross-entropy added to the loss
    edit_weight: float = 1.0  # of the tokens inside of the edit; 1 is plain DPO
    precompute_reference: bool = True  # its log-probs once, before training; else a second model stays in memory
    reference_cache: str | None = None  # folder of these log-probs, for several runs; None: the run's own
    share: Literal["edit", "prompt", "none"] = "edit"  # what chosen and rejected run through the model once: up to the first edit, the prompt
    needed_logits_only: bool = True  # the head runs on the tokens that the loss reads


@dataclass(frozen=True)
class FunctionsConfig(StageConfig):
    """Functional tokens: projector and language model, or adapters of the language model, on requests with calls."""

    functions: str = "functions.json"
    lr: float = 5e-5
    requests_per_row: int = 1  # requests about the same picture that share its image tokens in one conversation
    train_table: bool = True  # the whole embedding table; false: of it only the rows of functional tokens
    token_weight: float = 1.0  # weight of functional tokens in the cross-entropy
    frozen_layers: int = 0  # of the language model, from the first: they and what lies below them stay as they are
    lora_rank: int = 0  # of the adapters that then train alone, with the rows of functional tokens; 0: the whole model
    lora_alpha: int = 32  # adapters count lora_alpha / lora_rank times
    lora_dropout: float = 0.0
    lora_targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"])  # matrices with adapters
    replay: list[str] = field(default_factory=list)  # rows of an earlier stage mixed in, against forgetting
    replay_limit: int | None = None


def new_shape(config: StageConfig):
    """The OmniVisionConfig of a model that is made anew; the sources of its parts have shapes of their own."""
    from omnivision.presets import preset_config

    return preset_config(config.preset, projector_layout=config.projector, projector_gelu=config.projector_gelu)


def passes_over(config: StageConfig) -> int:
    """How often the model runs on a batch, both before the backward pass: twice where functional tokens weigh more."""
    return 2 if getattr(config, "token_weight", 1.0) != 1.0 else 1


def trained_parts(config: StageConfig, stage: str) -> tuple[str, ...]:
    """Parts of the model that train: the stage's, and the vision tower where it has a rate; of a model with adapters these alone; none below layers that are held."""
    if getattr(config, "lora_rank", 0):
        return (ADAPTER,)
    if getattr(config, "frozen_layers", 0):
        return ("language_model",)
    return (*TRAINS[stage], *(["vision_tower"] if getattr(config, "vision_lr", None) is not None else []))
