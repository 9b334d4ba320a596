"""Trains the tiny SigLIP tower with open_clip on the embedded world's image-text pairs.

    omnivision train vision --config train/configs/vision.yaml [key=value ...]

Stand-in for the hub's weights: open_clip's model class, open_clip's SigLIP loss, pairs of (part of a
picture, its words) on small windows first, then whole pictures with their captions as well.

Shapes: B windows, R regions, T patches of a window, C width of the tower, P patches of a picture.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from omnivision.model import tower
from omnivision_train.label_tokenizer import train_label_tokenizer
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.vision_pairs import SIDE, WindowBatches


@dataclass(frozen=True)
class VisionConfig:
    """Settings of the tower's training."""

    out: str = "runs/tiny-vision"
    start: str | None = None  # a folder this recipe wrote: goes on from its weights
    seed: int = 1
    window: int = 13  # patches a side of the small windows
    batch: int = 64
    steps: int = 5000
    whole_steps: int = 800  # steps on whole pictures with captions, after the windows
    whole_batch: int = 12
    lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    caption_weight: float = 0.5
    workers: int = 1
    threads: int = 2
    bf16: bool = True
    log_every: int = 20
    vocab_size: int = 1024
    context_length: int = 32


class RegionTrainer(nn.Module):
    """An open_clip SigLIP pair plus a linear map that names regions (not part of the saved tower)."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        width = tower.TRUNK_SHAPE["hidden_size"]
        self.region_map = nn.Linear(width, width)
        self.region_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.region_bias = nn.Parameter(torch.tensor(-10.0))

    def patches_BTC(self, pixels_BCHW: Tensor, corner_B2: Tensor) -> Tensor:
        """Tower output for windows that lie anywhere in the picture (their own rows of the position table)."""
        trunk = self.clip.visual.trunk
        x_BTC = trunk.patch_embed.proj(pixels_BCHW).flatten(2).transpose(1, 2)
        side = pixels_BCHW.shape[-1] // tower.TRUNK_SHAPE["patch_size"]
        grid_11PC = trunk.pos_embed.view(SIDE, SIDE, -1)
        offsets = torch.arange(side)
        rows = (corner_B2[:, :1] + offsets)[:, :, None]
        columns = (corner_B2[:, 1:] + offsets)[:, None, :]
        x_BTC = x_BTC + grid_11PC[rows, columns].flatten(1, 2)
        return trunk.norm(trunk.blocks(x_BTC))

    def forward(self, batch: dict, tokens_RL: Tensor, caption_tokens_BL: Tensor | None):
        """Losses (region, caption) of a batch; the caption's is None for windows."""
        from open_clip.loss import SigLipLoss

        pixels_BCHW = batch["pixels_BCHW"].float().div_(127.5).sub_(1.0)
        patches_BTC = self.patches_BTC(pixels_BCHW, batch["corner_B2"])
        with torch.autocast("cpu", enabled=False):  # the sparse product has no bf16 backward
            pooled_RC = torch.sparse.mm(batch["pool_RT"], patches_BTC.flatten(0, 1).float())
        region_RC = F.normalize(self.region_map(pooled_RC).float(), dim=-1)
        text_RC = self.clip.encode_text(tokens_RL, normalize=True).float()
        siglip = SigLipLoss()
        region = siglip(region_RC, text_RC, self.region_scale.exp(), self.region_bias)
        if caption_tokens_BL is None:
            return region, None
        image_BC = F.normalize(self.clip.visual.trunk.attn_pool(patches_BTC).float(), dim=-1)
        words_BC = self.clip.encode_text(caption_tokens_BL, normalize=True).float()
        return region, siglip(image_BC, words_BC, self.clip.logit_scale.exp(), self.clip.logit_bias)


def build(config: VisionConfig):
    """(trainer module, tokenizer): an open_clip SigLIP model of the tiny shape with fresh weights."""
    import open_clip

    torch.manual_seed(config.seed)
    tower.register()
    tokenizer = train_label_tokenizer(config.vocab_size, config.seed)
    model_config = tower.model_config(len(tokenizer), config.context_length)
    model_config["text_cfg"].pop("hf_tokenizer_name")
    model_config.pop("custom_text")
    clip = open_clip.CustomTextCLIP(**model_config)
    trunk = clip.visual.trunk
    trunk.init_weights("")
    for block in trunk.blocks:
        block.attn.fused_attn = False  # explicit attention trains 1.4x faster on CPUs at these lengths
    module = RegionTrainer(clip)
    if config.start:
        tokenizer = AutoTokenizer.from_pretrained(config.start)
        load(module, Path(config.start))
    return module, tokenizer


def load(module: RegionTrainer, folder: Path) -> None:
    """Takes the weights of an earlier run."""
    module.clip.load_state_dict({k: v.float() for k, v in load_file(folder / "open_clip_model.safetensors").items()})
    region = load_file(folder / "region_map.safetensors")
    module.region_map.load_state_dict({k: region[k] for k in ("weight", "bias")})
    if "scale" in region:
        module.region_scale.data.copy_(region["scale"])
        module.region_bias.data.copy_(region["loss_bias"])


def in_block(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: the matrices inside the two towers' blocks."""
    return parameter.ndim == 2 and (".blocks." in name or ".resblocks." in name)


def rate(step: int, config: VisionConfig) -> float:
    """Warm-up, constant, then linear to zero over the last 40 % of all steps."""
    total = config.steps + config.whole_steps
    return min(1.0, (step + 1) / config.warmup, max(0.0, (total - step) / (0.4 * total)))


def train(config: VisionConfig) -> Path:
    """Runs both parts and writes the folder in open_clip's layout; returns it."""
    torch.set_num_threads(config.threads)
    module, tokenizer = build(config)
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    optimizer = MuonAdamW(module.named_parameters(), config.lr, config.lr / 2, config.weight_decay, in_block)
    bases = [group["lr"] for group in optimizer.param_groups]
    log = (out / "metrics.jsonl").open("a")
    windows = iter(loader(config, config.window, config.batch))
    whole = None
    started, meters = time.time(), {}
    for step in range(config.steps + config.whole_steps):
        if step >= config.steps and whole is None:
            windows, whole = None, iter(loader(config, SIDE, config.whole_batch))
        batch = next(whole if whole is not None else windows)
        losses = one_step(module, tokenizer, batch, config)
        for base, group in zip(bases, optimizer.param_groups, strict=True):
            group["lr"] = base * rate(step, config)
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, value in losses.items():
            meters[name] = 0.95 * meters.get(name, value) + 0.05 * value
        if step % config.log_every == 0:
            line = {"step": step, "seconds": round(time.time() - started, 1)} | {k: round(v, 4) for k, v in meters.items()}
            log.write(json.dumps(line) + "\n")
            log.flush()
        if step % 400 == 399:
            save(module, tokenizer, config, out)
    save(module, tokenizer, config, out)
    return out


def one_step(module: RegionTrainer, tokenizer, batch: dict, config: VisionConfig) -> dict[str, float]:
    """Forward and backward of one batch; returns its losses."""
    tokens_RL = tokenize(tokenizer, batch["texts"], config)
    captions = batch["captions"]
    caption_tokens = tokenize(tokenizer, captions, config) if captions[0] is not None else None
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16):
        region, words = module(batch, tokens_RL, caption_tokens)
    loss = region if words is None else region + config.caption_weight * words
    if not torch.isfinite(loss):
        raise RuntimeError(f"loss {loss.item()} is not finite")
    loss.backward()
    return {"region_loss": region.item()} | ({"caption_loss": words.item()} if words is not None else {})


def tokenize(tokenizer, texts: list[str], config: VisionConfig) -> Tensor:
    """Token ids, padded to the text tower's length as SigLIP does. Shape (texts, context_length)."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=config.context_length, return_tensors="pt")["input_ids"]


def loader(config: VisionConfig, side: int, batch: int) -> DataLoader:
    """Batches drawn by forked workers ahead of the model."""
    stream = WindowBatches(config.seed, "train", side, batch)
    return DataLoader(stream, batch_size=None, num_workers=config.workers, prefetch_factor=4 if config.workers else None)


def save(module: RegionTrainer, tokenizer, config: VisionConfig, out: Path) -> None:
    """Writes the pair in open_clip's layout, and the region map beside it."""
    state = {k: v.detach().to(torch.float16).contiguous() for k, v in module.clip.state_dict().items()}
    save_file(state, out / "open_clip_model.safetensors")
    region = {"weight": module.region_map.weight.detach(), "bias": module.region_map.bias.detach(),
              "scale": module.region_scale.detach(), "loss_bias": module.region_bias.detach()}
    save_file({k: v.contiguous() for k, v in region.items()}, out / "region_map.safetensors")
    tower.write_config(out, len(tokenizer), config.context_length)
    tokenizer.save_pretrained(out)


def main(argv: list[str]) -> int:
    """`omnivision train vision --config FILE [key=value ...]`."""
    from omnivision_train.arguments import recipe_config

    config = recipe_config(VisionConfig, "vision", argv)
    print(train(config))
    return 0
