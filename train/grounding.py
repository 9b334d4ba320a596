"""Grounding: before captions, the projector learns from regions which patches a word means.

Captions alone say what a picture shows and not where, and a language model of a few million parameters lets a projector
get away with that: after 375 steps of captions its tokens named 0.08 of the strips' objects and existence stood at chance.
Here every image token is pulled to its plan, the weighted words of the regions it covers and of their place (see
language_text). The language model does not run, so a step costs a fraction of one on captions.

Shapes: B pictures, S image tokens, D language width, P patches, G patches of a token, C tower width.
"""

from __future__ import annotations

import json
import random
import sys
from functools import cache as cache_words
from pathlib import Path

import torch
from torch import Tensor

from omnivision.data.features import FeatureCache
from omnivision.data.pictures import locate
from omnivision.data.rows import Row
from omnivision.errors import ConfigError, DataError, DivergedError
from omnivision.world.truth import Region
from omnivision_train.config import AlignConfig
from omnivision_train.language import plan_embeddings
from omnivision_train.language_text import STRIPS, Plan, plan
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.precision import cpu_autocast
from omnivision_train.vision_pairs import SIDE

PLAN_SIZE = SIDE * 8  # plans measure boxes on pictures of this side
WARMUP, DECAY = 0.04, 0.7  # shares of the steps
LOG_EVERY = 50
SHUFFLED = 0.5  # share of the strips whose patches stand in random order


def ground(model, processor, rows: list[Row], config: AlignConfig, cache: FeatureCache, log: Path | None) -> None:
    """Trains the projector alone on the rows' regions, `grounding_steps` steps of `grounding_batch` pictures.

    Args:
        rows: those without regions are left out, and of several rows about one picture all but the first.
        cache: features of the frozen tower.
        log: a JSON line of step and loss every 50 steps; None for ranks that do not write.

    Raises:
        ConfigError: another grid or layout than plans have.
        DataError: no row has regions.
        DivergedError: the loss is no number.
    """
    shape = model.config
    grid = shape.vision_config.image_size // shape.vision_config.patch_size
    if grid != SIDE or shape.projector_layout != "raster" or processor.image_seq_length != STRIPS:
        raise ConfigError(f"Grounding needs the raster layout with {STRIPS} tokens of a {SIDE} x {SIDE} grid", "grounding_steps",
                          "Set `grounding_steps` to 0.")
    found = {row.images[0]: row for row in reversed(rows) if row.regions and len(row.images) == 1}
    if not found:
        raise DataError("No row has regions to ground on", ", ".join(config.grounding_data or config.data),
                        "Give rows with `regions`, or set `grounding_steps` to 0.")
    words = cache_words(lambda text: processor.tokenizer(text, add_special_tokens=False)["input_ids"])  # few labels, many regions
    plans = {locate(image, config.image_root): row_plan(row, words) for image, row in found.items()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    projector, table = model.model.projector.to(device).float(), model.get_input_embeddings()
    optimizer = MuonAdamW(projector.named_parameters(), config.grounding_lr, weight_decay=0.0)
    order, lines = [], []
    rng, chance = random.Random(config.seed), torch.Generator().manual_seed(config.seed)  # the same on every rank
    for step in range(config.grounding_steps):
        if len(order) < config.grounding_batch:
            order = rng.sample(sorted(plans, key=str), len(plans))
        paths = [order.pop() for _ in range(min(config.grounding_batch, len(order)))]
        targets_BSD = plan_targets(table, [plans[path] for path in paths]).to(device)
        with cpu_autocast(config):
            tokens_BSD = projector(shuffled(cache.get(paths).float(), chance).to(device))
        loss = plan_loss(tokens_BSD.float(), targets_BSD)
        loss.backward()
        rate = min(1.0, (step + 1) / (WARMUP * config.grounding_steps), (config.grounding_steps - step) / (DECAY * config.grounding_steps))
        for group in optimizer.param_groups:
            group["lr"] = config.grounding_lr * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % LOG_EVERY == 0 or step == config.grounding_steps - 1:
            if not torch.isfinite(loss):
                raise DivergedError(f"The grounding loss is {loss.item()}", f"step {step}", "Lower `grounding_lr`, or look at the regions.")
            lines.append(json.dumps({"step": step, "loss": round(loss.item(), 4)}) + "\n")
            print(f"align: grounding {step + 1}/{config.grounding_steps}  loss {loss.item():.4f}", file=sys.stderr, flush=True)
    projector.to(model.device)
    if log is not None:
        log.write_text("".join(lines))


def row_plan(row: Row, tokenize) -> Plan:
    """The plan of a row's regions, whose boxes are fractions of the picture's sides; `tokenize` gives the ids of words."""
    regions = [Region(tuple(round(PLAN_SIZE * at) for at in one["box"]), one["label"], one["kind"]) for one in row.regions]
    return plan(regions, tokenize, random.Random(0))


def shuffled(features_BPC: Tensor, generator: torch.Generator, share: float = SHUFFLED) -> Tensor:
    """The same with the patches of some strips in another order.

    What a strip shows is the same in any order, but a few thousand pictures are too few to learn that: without it the projector
    learns its training pictures by heart (loss on unseen ones 0.495 after 1,200 steps, with it 0.481).

    Args:
        share: of the strips; the others keep their order, since it tells where in the strip a thing lies.
    """
    B, P, C = features_BPC.shape
    strips_BSGC = features_BPC.view(B, STRIPS, P // STRIPS, C)
    order_BSG = torch.rand(strips_BSGC.shape[:3], generator=generator).argsort(-1)
    order_BSG = torch.where(torch.rand(B, STRIPS, 1, generator=generator) < share, order_BSG, torch.arange(P // STRIPS))
    return strips_BSGC.gather(2, order_BSG[..., None].expand_as(strips_BSGC)).view(B, P, C)


@torch.no_grad()
def plan_targets(table: torch.nn.Embedding, plans: list[Plan]) -> Tensor:
    """What image tokens should be. Shape (B, S, D)."""
    ids = torch.stack([torch.from_numpy(one.ids_SK) for one in plans]).to(table.weight.device)
    weights = torch.stack([torch.from_numpy(one.weights_SK) for one in plans]).to(table.weight.device)
    return plan_embeddings(table, ids, weights.to(table.weight.dtype)).float()


def plan_loss(tokens_BSD: Tensor, targets_BSD: Tensor) -> Tensor:
    """Mean squared error over the targets' variance: 1 is what their mean would reach."""
    spread = (targets_BSD - targets_BSD.mean((0, 1))).square().mean()
    return (tokens_BSD - targets_BSD).square().mean() / spread.clamp_min(1e-6)
