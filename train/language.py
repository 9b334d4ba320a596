"""Pretrains the tiny Qwen2-shaped language model on the embedded world's text.

    omnivision train language --config train/configs/language.yaml [key=value ...]

Stand-in for the hub's weights. It learns the world's words, both languages, dialogue in ChatML and how to
answer from a plan (see strip_plans); it never sees a picture.

Shapes: B sequences, L tokens, S strips, K words a strip, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Qwen2Config, Qwen2ForCausalLM

from omnivision.constants import IGNORE_INDEX
from omnivision.errors import ConfigError
from omnivision.hardware import device
from omnivision.model.checkpoints import load_whole
from omnivision_train.data import leave_group
from omnivision_train.language_text import DRILLS, TOGETHER, Lessons
from omnivision_train.language_tokenizer import train_tokenizer
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.pretraining import Pretraining, PretrainingConfig, fit, moved, open_run, open_tokenizer, source_of

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class LanguageConfig(PretrainingConfig):
    """Settings of the language model's pretraining."""

    out: str = "runs/tiny-language"
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 1e6  # Qwen2.5's: with slow rotations a word matches itself across a picture's 81 tokens
    matching_layers: list[int] = field(default_factory=lambda: [0, 1])  # see matching_heads; [] leaves the weights as they are
    vocab_size: int = 4096  # rows of the embedding table
    spare_rows: int = 64  # rows no token uses yet: functional tokens go there
    batch: int = 24
    steps: int = 4000
    decay: float = 0.4  # share of the steps over which the rate falls to zero
    drill_steps: int = 600  # drills only, until the model looks things up in the plan
    drill_share: float = 0.4  # share of such lessons afterwards
    drill_kinds: dict[str, float] = field(default_factory=lambda: dict(DRILLS))  # how often each kind of drill is drawn
    max_length: int = 384
    mistaken: float = 0.0  # up to this share of a sequence's names in strips is another thing's
    blur: float = 0.1  # largest standard deviation of the noise on plans; embeddings have 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        strange, shares = sorted(self.drill_kinds.keys() - DRILLS), self.drill_kinds.values()
        if strange or not all(0 <= share < math.inf for share in shares) or not sum(shares):
            raise ConfigError(f"`drill_kinds` is {self.drill_kinds}", "drill_kinds", f"Give shares of 0 or more, one at least above 0, of {', '.join(DRILLS)}.")
        if self.start is None:
            check_layers(self.matching_layers, self.num_hidden_layers)


def check_layers(layers: list[int], count: int) -> None:
    """Refuses `matching_layers` that a model of `count` layers has not, with ConfigError."""
    if not all(0 <= index < count for index in layers):
        raise ConfigError(f"`matching_layers` is {layers}, but the model has {count} layers", "matching_layers", f"Give numbers from 0 to {count - 1}.")


def plan_embeddings(table_WD: Tensor, ids_BSK: Tensor, weights_BSK: Tensor) -> Tensor:
    """Weighted sum of the rows of each strip's words in a table of W. Shape (B, S, D)."""
    B, S, K = ids_BSK.shape
    sums_ND = F.embedding_bag(ids_BSK.reshape(B * S, K), table_WD, per_sample_weights=weights_BSK.reshape(B * S, K), mode="sum")
    return sums_ND.view(B, S, -1)


def blurred(plans_BSD: Tensor, most: float) -> Tensor:
    """Plans with Gaussian noise, of another strength for every sequence: a young projector's output is no clean plan."""
    strength_B11 = most * torch.rand(len(plans_BSD), 1, 1, device=plans_BSD.device)
    return plans_BSD + strength_B11 * torch.randn_like(plans_BSD)


def losses(model: Qwen2ForCausalLM, batch: dict[str, Tensor], config: LanguageConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """(mean cross-entropy, that and the share of supervised tokens predicted right by name) with plans in the image's place."""
    batch = moved(batch)
    with torch.autocast(device(), dtype=torch.bfloat16, enabled=config.bf16):
        table = model.get_input_embeddings()
        embeds_BLD = table(batch["input_ids"])
        plans_BSD = blurred(plan_embeddings(table.weight, batch["plan_ids_BSK"], batch["plan_weights_BSK"]), config.blur)
        embeds_BLD = embeds_BLD.masked_scatter(batch["image_BL"].unsqueeze(-1), plans_BSD.to(embeds_BLD.dtype))
        hidden_BLD = model.model(inputs_embeds=embeds_BLD, attention_mask=batch["attention_mask"]).last_hidden_state
        target_BL = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
        supervised = target_BL != IGNORE_INDEX
        logits_NV = model.lm_head(hidden_BLD[supervised]).float()
        right = (logits_NV.argmax(-1) == target_BL[supervised]).float().mean()
        loss = F.cross_entropy(logits_NV, target_BL[supervised])
    return loss, {"loss": loss, "token_accuracy": right}


def build(config: LanguageConfig, newest: Path | None = None):
    """(model, tokenizer, its files): from `newest` or `start`, else a fresh Qwen2 model and a tokenizer trained on the world."""
    source = source_of(config, newest, WEIGHTS)
    torch.manual_seed(config.seed)
    tokenizer, files = open_tokenizer(source, lambda: train_tokenizer(config.vocab_size - config.spare_rows, config.seed))
    if source:
        shape = Qwen2Config.from_pretrained(source)
        shape.rope_parameters["rope_theta"] = config.rope_theta
        model = load_whole(Qwen2ForCausalLM, source, config=shape, dtype=torch.float32, use_safetensors=True, attn_implementation="eager")
    else:
        model = Qwen2ForCausalLM(fresh_shape(config, tokenizer))
    if newest is None:
        matching_heads(model, config.matching_layers)
    return model, tokenizer, files


def fresh_shape(config: LanguageConfig, tokenizer) -> Qwen2Config:
    """Qwen2's shape as configured."""
    return Qwen2Config(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"), eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="eager",  # 1.2x faster than sdpa to train on a CPU
    )


@torch.no_grad()
def matching_heads(model: Qwen2ForCausalLM, layers: list[int], logit: float = 10.0) -> None:
    """Lets the last head of some layers begin with looking for the word it stands on.

    Its queries and keys share one projection, so that a position attends to those of like content: "cat" in a question
    to the strips that say "cat". It reads only what distinguishes words (not the mean embedding), through the half of the
    head's dimensions that rotate least. Without it the model saw a picture as a bag of words and answered "where" at chance.

    Args:
        layers: indices. logit: what a word gives for itself, on average over the vocabulary.
    """
    shape = model.config
    check_layers(layers, shape.num_hidden_layers)
    head = shape.hidden_size // shape.num_attention_heads
    slow = [half + i for half in (0, head // 2) for i in range(head // 4, head // 2)]
    for block in (model.model.layers[index] for index in layers):
        words_VD = block.input_layernorm(model.get_input_embeddings().weight)
        mean_D = F.normalize(words_VD.mean(0), dim=0)
        directions_DS = torch.randn(shape.hidden_size, len(slow))
        directions_DS -= mean_D[:, None] * (mean_D @ directions_DS)
        read_SD = torch.linalg.qr(directions_DS)[0].T
        gain = (logit * head**0.5 / (words_VD @ read_SD.T).square().sum(-1).mean()) ** 0.5
        attention = block.self_attn
        for projection in (attention.k_proj, attention.q_proj):
            start = projection.out_features - head
            projection.weight[start:] = 0
            projection.weight[[start + row for row in slow]] = gain * read_SD
            projection.bias[start:] = 0


def train(config: LanguageConfig) -> Path:
    """Pretrains and writes the folder in transformers' layout; returns it."""
    with open_run(config) as newest:
        model, tokenizer, files = build(config, newest)
        model.to(device())
        recipe = Pretraining(
            name="language", module=model, steps=config.steps, files=files,
            optimizer=MuonAdamW(model.named_parameters(), config.lr, weight_decay=config.weight_decay),
            batches=lambda first: batches(config, tokenizer, first),
            losses=lambda batch: losses(model, batch, config),
            rate=lambda step: min(1.0, (step + 1) / config.warmup, (config.steps - step) / (config.decay * config.steps)),
            save=lambda folder, dtype: save(model, folder, dtype),
        )
        return fit(recipe, config, newest)


def batches(config: LanguageConfig, tokenizer, first: int) -> Iterator[dict[str, Tensor]]:
    """Batches from the step `first` on; the lessons write several at a time."""
    lessons = Lessons(tokenizer, config.seed, config.batch, config.max_length,
                      config.drill_steps * config.batch, config.drill_share, config.drill_kinds, config.mistaken)
    loader = DataLoader(lessons, batch_size=None, sampler=range(first // TOGETHER, -(-config.steps // TOGETHER)), num_workers=config.workers,
                        worker_init_fn=leave_group, generator=torch.Generator())  # its own: every start of a loader draws a number
    return islice(chain.from_iterable(loader), first % TOGETHER, None)


def save(model: Qwen2ForCausalLM, folder: Path, dtype: torch.dtype) -> None:
    """Writes weights (bf16 would lose three bits of a model this small) and configuration."""
    state = {k: v.to(dtype) for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied
    model.save_pretrained(folder, state_dict=state)
