"""Pretrains the tiny Qwen2-shaped language model on the embedded world's text.

    omnivision train language --config train/configs/language.yaml [key=value ...]

Stand-in for the hub's weights. It learns the world's words, both languages, dialogue in ChatML and how to
answer from a plan (see language_text); it never sees a picture.

Shapes: B sequences, L tokens, S strips, K words a strip, D hidden size.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from omnivision.constants import IGNORE_INDEX
from omnivision_train.language_text import DRILLS, Lessons
from omnivision_train.language_tokenizer import train_tokenizer
from omnivision_train.optimizer import MuonAdamW


@dataclass(frozen=True)
class LanguageConfig:
    """Settings of the language model's pretraining."""

    out: str = "runs/tiny-language"
    start: str | None = None  # a folder this recipe wrote: goes on from its weights and tokenizer
    seed: int = 1
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
    lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    decay: float = 0.4  # share of the steps over which the rate falls to zero
    drill_steps: int = 600  # drills only, until the model looks things up in the plan
    drill_share: float = 0.4  # share of such lessons afterwards
    drill_kinds: dict[str, float] = field(default_factory=lambda: dict(DRILLS))  # how often each kind of drill is drawn
    max_length: int = 384
    blur: float = 0.1  # largest standard deviation of the noise on plans; embeddings have 0.2
    workers: int = 1
    threads: int = 2
    bf16: bool = True
    log_every: int = 20


def plan_embeddings(table: nn.Embedding, ids_BSK: Tensor, weights_BSK: Tensor) -> Tensor:
    """Weighted sum of the embeddings of each strip's words. Shape (B, S, D)."""
    B, S, K = ids_BSK.shape
    sums_ND = F.embedding_bag(ids_BSK.reshape(B * S, K), table.weight, per_sample_weights=weights_BSK.reshape(B * S, K), mode="sum")
    return sums_ND.view(B, S, -1)


def blurred(plans_BSD: Tensor, most: float) -> Tensor:
    """Plans with Gaussian noise, of another strength for every sequence: a young projector's output is no clean plan."""
    strength_B11 = most * torch.rand(len(plans_BSD), 1, 1)
    return plans_BSD + strength_B11 * torch.randn_like(plans_BSD)


def loss_of(model: Qwen2ForCausalLM, batch: dict[str, Tensor], blur: float = 0.0) -> tuple[Tensor, Tensor]:
    """(mean cross-entropy, share of supervised tokens predicted right) with plans in the image's place."""
    table = model.get_input_embeddings()
    embeds_BLD = table(batch["input_ids"])
    plans_BSD = blurred(plan_embeddings(table, batch["plan_ids_BSK"], batch["plan_weights_BSK"]), blur)
    embeds_BLD = embeds_BLD.masked_scatter(batch["image_BL"].unsqueeze(-1), plans_BSD)
    hidden_BLD = model.model(inputs_embeds=embeds_BLD, attention_mask=batch["attention_mask"]).last_hidden_state
    target_BL = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
    supervised = target_BL != IGNORE_INDEX
    logits_NV = model.lm_head(hidden_BLD[supervised]).float()
    right = (logits_NV.argmax(-1) == target_BL[supervised]).float().mean()
    return F.cross_entropy(logits_NV, target_BL[supervised]), right


def build(config: LanguageConfig):
    """(model, tokenizer): a fresh Qwen2 model of the configured shape and a tokenizer trained on the world."""
    torch.manual_seed(config.seed)
    if config.start:
        tokenizer, shape = AutoTokenizer.from_pretrained(config.start), Qwen2Config.from_pretrained(config.start)
        shape.rope_parameters["rope_theta"] = config.rope_theta
        model = Qwen2ForCausalLM.from_pretrained(config.start, config=shape, dtype=torch.float32, use_safetensors=True,
                                                 attn_implementation="eager")
        matching_heads(model, config.matching_layers)
        return model, tokenizer
    tokenizer = train_tokenizer(config.vocab_size - config.spare_rows, config.seed)
    shape = Qwen2Config(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        bos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"), eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, attn_implementation="eager",  # 1.2x faster than sdpa to train on a CPU
    )  # fmt: skip
    model = Qwen2ForCausalLM(shape)
    matching_heads(model, config.matching_layers)
    return model, tokenizer


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
    torch.set_num_threads(config.threads)
    model, tokenizer = build(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    optimizer = MuonAdamW(model.named_parameters(), config.lr, weight_decay=config.weight_decay)
    stream = Lessons(tokenizer, config.seed, config.batch, config.max_length,
                     config.drill_steps * config.batch, config.drill_share, config.drill_kinds)
    batches = iter(DataLoader(stream, batch_size=None, num_workers=config.workers))
    log, started, meters = (out / "metrics.jsonl").open("a"), time.time(), {}
    for step in range(config.steps):
        batch = next(batches)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
            loss, right = loss_of(model, batch, config.blur)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = min(1.0, (step + 1) / config.warmup, (config.steps - step) / (config.decay * config.steps))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, value in (("loss", loss.item()), ("token_accuracy", right.item())):
            meters[name] = 0.95 * meters.get(name, value) + 0.05 * value
        if step % config.log_every == 0:
            line = {"step": step, "seconds": round(time.time() - started, 1)} | {k: round(v, 4) for k, v in meters.items()}
            log.write(json.dumps(line) + "\n")
            log.flush()
        if step % 500 == 499:
            save(model, out)
    save(model, out)
    return out


def save(model: Qwen2ForCausalLM, out: Path) -> None:
    """Writes the weights in fp16 (bf16 would lose three bits of a model this small)."""
    state = {k: v.to(torch.float16) for k, v in model.state_dict().items() if k != "lm_head.weight"}  # tied
    model.save_pretrained(out, state_dict=state)


def main(argv: list[str]) -> int:
    """`omnivision train language --config FILE [key=value ...]`."""
    from omnivision_train.arguments import recipe_config

    print(train(recipe_config(LanguageConfig, "language", argv)))
    return 0
