"""transformers' TrainingArguments of a stage's configuration."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from omnivision.errors import ConfigError
from omnivision_train import precision
from omnivision_train.compiled import check_compile
from omnivision_train.config import StageConfig
from omnivision_train.deepspeed_config import check_own, deepspeed_config, zero_settings
from omnivision_train.loss_kernel import check_loss_kernel

PATIENCE = 3600  # seconds that processes wait for each other: one may be hashing a terabyte, and torch's half hour would end the job


def training_arguments(config: StageConfig, folder: Path) -> TrainingArguments:
    """transformers' arguments of a stage."""
    on_gpu = torch.cuda.is_available()
    check_optimizer(config)
    check_clipping(config)
    check_own(config)
    check_compile(config)
    check_loss_kernel(config)
    check_dashboard(config)
    made = TrainingArguments(
        output_dir=str(folder / "checkpoints"), per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation, num_train_epochs=config.epochs, max_steps=config.max_steps,
        learning_rate=config.lr, lr_scheduler_type=config.schedule, warmup_steps=config.warmup,
        weight_decay=config.weight_decay, max_grad_norm=config.max_grad_norm, bf16=precision.deepspeed_bf16(config),
        gradient_checkpointing=config.gradient_checkpointing, deepspeed=deepspeed_config(config),
        save_strategy="steps", save_steps=config.save_steps, logging_steps=config.log_steps, report_to="wandb" if config.report_to == "wandb" else "none",
        logging_nan_inf_filter=False,  # StageMixin counts them
        ddp_timeout=PATIENCE, seed=config.seed, data_seed=config.seed, dataloader_num_workers=config.workers,
        dataloader_persistent_workers=config.workers > 0, remove_unused_columns=False, accelerator_config={"non_blocking": on_gpu},
        use_cpu=not on_gpu, disable_tqdm=True, label_names=["labels"],
    )
    # Under ZeRO-3 transformers would part weights while they load; the tower's cache, the copy for dpo and new rows for
    # functions need them whole, and below a billion parameters a rank can hold them until the trainer takes over.
    unset_hf_deepspeed_config()
    return made


def check_dashboard(config: StageConfig) -> None:
    """The dashboard that the config asks for can be used.

    Raises:
        ConfigError: its package is not installed.
    """
    if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
        raise ConfigError(f"The package {config.report_to} is not installed", f"report_to: {config.report_to}",
                          f"pip install {config.report_to}; metrics.jsonl is written in any case.")


def check_clipping(config: StageConfig) -> None:
    """Under DeepSpeed nobody else clips gradients.

    Raises:
        ConfigError: a user's DeepSpeed JSON does not, and they are to be clipped.
    """
    if config.max_grad_norm and "gradient_clipping" not in deepspeed_config(config):
        raise ConfigError(f"The DeepSpeed settings do not clip gradients, and max_grad_norm is {config.max_grad_norm:g}", "deepspeed: gradient_clipping",
                          'Add `"gradient_clipping": "auto"` to them, or set max_grad_norm=0.')


def check_optimizer(config: StageConfig) -> None:
    """Refuses an optimizer that its parallel setting would break.

    Raises:
        ConfigError: a user's DeepSpeed JSON that brings its own; Muon where DeepSpeed flattens or parts the matrices; bf16 weights
            without fp32 ones beside them, which lose every step below their 8 bits (DeepSpeed 0.19.8 at stage 0).
    """
    own = [key for key in ("optimizer", "scheduler") if key in deepspeed_config(config)]
    if own:
        raise ConfigError(f"The DeepSpeed settings have {' and '.join(own)} of their own", f"deepspeed: {config.deepspeed if isinstance(config.deepspeed, str) else '{...}'}",
                          "Remove them: `optimizer`, `lr`, `schedule`, `warmup` and `weight_decay` say it.")
    json_stage, _ = zero_settings(config)
    if json_stage == 0 and precision.deepspeed_bf16(config) and config.optimizer != "muon":
        raise ConfigError("At ZeRO stage 0 DeepSpeed trains bf16 weights alone: small steps would be lost", "zero_stage: 0",
                          "Use zero_stage=1, which on one process costs nothing, or precision=fp32.")
    if config.optimizer != "muon":
        return
    if json_stage != 0 or precision.deepspeed_bf16(config):
        why = f"zero_stage {json_stage} hands it flat pieces" if json_stage else "DeepSpeed's bf16 on a GPU hands it flat pieces"
        raise ConfigError(f"Muon needs whole matrices, and {why}", "optimizer: muon",
                          "Use optimizer=adamw, or zero_stage=0 on a CPU or with precision=fp32.")
