"""Trains the tiny SigLIP tower with open_clip on the embedded world's image-text pairs.

    omnivision train vision --config train/configs/vision.yaml [key=value ...]

Stand-in for the hub's weights: open_clip's model class, open_clip's SigLIP loss, pairs of (part of a
picture, its words) on small windows first, then whole pictures with their captions as well.

Shapes: B windows, R regions, T patches of a window, C width of the tower, P patches of a picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from omnivision.errors import ConfigError
from omnivision.hardware import device
from omnivision.model import tower
from omnivision_train.data import leave_group
from omnivision_train.label_tokenizer import train_label_tokenizer
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.pretraining import Pretraining, PretrainingConfig, fit, moved, open_run, open_tokenizer, source_of
from omnivision_train.vision_pairs import PLACES, SIDE, WindowBatches

WEIGHTS, REGION_MAP = "open_clip_model.safetensors", "region_map.safetensors"


@dataclass(frozen=True)
class VisionConfig(PretrainingConfig):
    """Settings of the tower's training."""

    out: str = "runs/tiny-vision"
    window: int = 13  # patches a side of the small windows
    whole_steps: int = 800  # steps on whole pictures with captions, after the windows
    whole_batch: int = 12
    caption_weight: float = 0.5
    place_weight: float = 1.0  # of the loss on where regions lie
    sincos: float = 0.0  # amplitude of the sine positions that are added to the position table at the start
    vocab_size: int = 1024
    context_length: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window > SIDE:
            raise ConfigError(f"`window` is {self.window}, but a picture has {SIDE} patches a side", "window", f"Give at most {SIDE}.")


class RegionTrainer(nn.Module):
    """An open_clip SigLIP pair plus linear maps that name regions and say where they lie (not part of the saved tower)."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        width = tower.TRUNK_SHAPE["hidden_size"]
        self.region_map = nn.Linear(width, width)
        self.region_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.region_bias = nn.Parameter(torch.tensor(-10.0))
        self.place_map = nn.Linear(width, PLACES)
        nn.init.zeros_(self.place_map.weight)  # a trained tower is not shaken by a map that knows nothing

    def patches_BTC(self, pixels_BCHW: Tensor, corner_B2: Tensor) -> Tensor:
        """Tower output for windows that lie anywhere in the picture (their own rows of the position table)."""
        trunk = self.clip.visual.trunk
        x_BTC = trunk.patch_embed.proj(pixels_BCHW).flatten(2).transpose(1, 2)
        side = pixels_BCHW.shape[-1] // tower.TRUNK_SHAPE["patch_size"]
        grid_11PC = trunk.pos_embed.view(SIDE, SIDE, -1)
        offsets = torch.arange(side, device=corner_B2.device)
        rows = (corner_B2[:, :1] + offsets)[:, :, None]
        columns = (corner_B2[:, 1:] + offsets)[:, None, :]
        x_BTC = x_BTC + grid_11PC[rows, columns].flatten(1, 2)
        return trunk.norm(trunk.blocks(x_BTC))

    def forward(self, batch: dict, tokens_RL: Tensor, caption_tokens_BL: Tensor | None) -> dict[str, Tensor]:
        """Losses of a batch by name: region, place, and caption for whole pictures."""
        from open_clip.loss import SigLipLoss

        pixels_BCHW = batch["pixels_BCHW"].float().div_(127.5).sub_(1.0)
        patches_BTC = self.patches_BTC(pixels_BCHW, batch["corner_B2"])
        with torch.autocast(pixels_BCHW.device.type, enabled=False):  # the sparse product has no bf16 backward
            pooled_RC = torch.sparse.mm(batch["pool_RT"], patches_BTC.flatten(0, 1).float())
        region_RC = F.normalize(self.region_map(pooled_RC[: len(tokens_RL)]).float(), dim=-1)
        text_RC = self.clip.encode_text(tokens_RL, normalize=True).float()
        siglip = SigLipLoss()
        place_RK = batch["place_RK"]
        found = {"region": siglip(region_RC, text_RC, self.region_scale.exp(), self.region_bias),
                 "place": F.mse_loss(self.place_map(pooled_RC).float(), place_RK) / place_RK.var(0).mean()}
        if caption_tokens_BL is not None:
            image_BC = F.normalize(self.clip.visual.trunk.attn_pool(patches_BTC).float(), dim=-1)
            words_BC = self.clip.encode_text(caption_tokens_BL, normalize=True).float()
            found["caption"] = siglip(image_BC, words_BC, self.clip.logit_scale.exp(), self.clip.logit_bias)
        return found


def build(config: VisionConfig, newest: Path | None = None):
    """(trainer module, tokenizer, its files): an open_clip SigLIP model of the tiny shape, from `newest` or `start`, else fresh."""
    import open_clip

    source = source_of(config, newest, WEIGHTS)
    torch.manual_seed(config.seed)
    tower.register()
    tokenizer, files = open_tokenizer(source, lambda: train_label_tokenizer(config.vocab_size, config.seed))
    model_config = tower.model_config(len(tokenizer), config.context_length)
    model_config["text_cfg"].pop("hf_tokenizer_name")
    model_config.pop("custom_text")
    clip = open_clip.CustomTextCLIP(**model_config)
    trunk = clip.visual.trunk
    trunk.init_weights("")
    for block in trunk.blocks:
        block.attn.fused_attn = torch.cuda.is_available()  # explicit attention trains 1.4x faster on CPUs at these lengths
    module = RegionTrainer(clip)
    if source:
        load(module, source)
    if newest is None:
        trunk.pos_embed.data += config.sincos * sine_positions(trunk.pos_embed.shape[-1])
    return module, tokenizer, files


def sine_positions(width: int) -> Tensor:
    """Sines and cosines of every patch's column and row, a quarter of the width each. Shape (P, width).

    Source: Beyer et al. 2022, "Better plain ViT baselines for ImageNet-1k" (sincos2d).
    """
    at_P = torch.arange(SIDE * SIDE)
    angles = [coordinate_P[:, None] / 10_000 ** torch.linspace(0, 1, width // 4) for coordinate_P in (at_P % SIDE, at_P // SIDE)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def load(module: RegionTrainer, folder: Path) -> None:
    """Takes the weights of an earlier run."""
    module.clip.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    region = load_file(folder / REGION_MAP)
    module.region_map.load_state_dict({k: region[k] for k in ("weight", "bias")})
    if "scale" in region:
        module.region_scale.data.copy_(region["scale"])
        module.region_bias.data.copy_(region["loss_bias"])
    if "place_weight" in region:
        module.place_map.load_state_dict({k: region[f"place_{k}"] for k in ("weight", "bias")})


def in_block(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon takes a parameter: the matrices inside the two towers' blocks."""
    return parameter.ndim == 2 and (".blocks." in name or ".resblocks." in name)


def rate(step: int, config: VisionConfig) -> float:
    """Warm-up, constant, then linear to zero over the last 40 % of all steps."""
    total = config.steps + config.whole_steps
    return min(1.0, (step + 1) / config.warmup, max(0.0, (total - step) / (0.4 * total)))


def train(config: VisionConfig) -> Path:
    """Runs both parts and writes the folder in open_clip's layout; returns it."""
    with open_run(config) as newest:
        module, tokenizer, files = build(config, newest)
        module.to(device())
        recipe = Pretraining(
            name="vision", module=module, steps=config.steps + config.whole_steps, files=files,
            optimizer=MuonAdamW(module.named_parameters(), config.lr, config.lr / 2, config.weight_decay, in_block),
            batches=lambda first: batches(config, first),
            losses=lambda batch: losses(module, tokenizer, batch, config),
            rate=lambda step: rate(step, config),
            save=lambda folder, dtype: save(module, len(tokenizer), config, folder, dtype),
        )
        return fit(recipe, config, newest)


def batches(config: VisionConfig, first: int) -> Iterator[dict]:
    """Batches from the step `first` on, drawn by forked workers ahead of the model: windows, then whole pictures."""
    every = ConcatDataset([WindowBatches(config.seed, "train", config.window, config.batch, config.steps),
                           WindowBatches(config.seed, "train", SIDE, config.whole_batch, config.whole_steps)])
    return iter(DataLoader(every, batch_size=None, sampler=range(first, len(every)), num_workers=config.workers,
                           prefetch_factor=4 if config.workers else None, worker_init_fn=leave_group,
                           generator=torch.Generator()))  # its own: see language


def losses(module: RegionTrainer, tokenizer, batch: dict, config: VisionConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """(loss, its parts by name) of one batch."""
    where, captions = device(), batch["captions"]
    tokens_RL = tokenize(tokenizer, batch["texts"], config).to(where)
    caption_tokens = tokenize(tokenizer, captions, config).to(where) if captions[0] is not None else None
    with torch.autocast(where, dtype=torch.bfloat16, enabled=config.bf16):
        found = module(moved(batch), tokens_RL, caption_tokens)
    weights = {"region": 1.0, "place": config.place_weight, "caption": config.caption_weight}
    return sum(weights[name] * loss for name, loss in found.items()), {f"{name}_loss": loss for name, loss in found.items()}


def tokenize(tokenizer, texts: list[str], config: VisionConfig) -> Tensor:
    """Token ids, padded to the text tower's length as SigLIP does. Shape (texts, context_length)."""
    return tokenizer(texts, padding="max_length", truncation=True, max_length=config.context_length, return_tensors="pt")["input_ids"]


def save(module: RegionTrainer, vocabulary: int, config: VisionConfig, folder: Path, dtype: torch.dtype) -> None:
    """Writes the pair in open_clip's layout, and the region map (fp32) beside it."""
    save_file({k: v.detach().to(dtype).contiguous() for k, v in module.clip.state_dict().items()}, folder / WEIGHTS)
    region = {"weight": module.region_map.weight, "bias": module.region_map.bias, "scale": module.region_scale, "loss_bias": module.region_bias,
              "place_weight": module.place_map.weight, "place_bias": module.place_map.bias}
    save_file({k: v.detach().contiguous() for k, v in region.items()}, folder / REGION_MAP)
    tower.write_config(folder, vocabulary, config.context_length)
