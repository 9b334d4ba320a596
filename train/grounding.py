"""Grounding: before captions, the projector learns from regions which patches a word means.

Captions alone say what a picture shows and not where, and a language model of a few million parameters lets a projector
get away with that: after 375 steps of captions its tokens named 0.08 of the strips' objects and existence stood at chance.
Here every image token is pulled to its plan, the weighted words of the regions it covers and of their place (see
strip_plans), and has to lie nearer to the names of those regions than to all others. The language model does not run,
so a step costs a fraction of one on captions.

Shapes: B pictures, S image tokens, N tokens that train, D language width, P patches, G patches of a token, C tower width,
V labels, K names of tokens.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache as cache_words
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omnivision.data.features import FeatureCache
from omnivision.data.pictures import Packed, locate
from omnivision.data.rows import Row
from omnivision.errors import ConfigError, DataError, DivergedError
from omnivision.hardware import device
from omnivision.model.chunked_loss import read_log_probs
from omnivision.world.truth import Region
from omnivision_train.config import AlignConfig
from omnivision_train.language import plan_embeddings
from omnivision_train.optimizer import MuonAdamW
from omnivision_train.precision import cpu_autocast
from omnivision_train.strip_plans import STRIPS, Plan, label_words, plan
from omnivision_train.vision_pairs import SIDE, STRIP, covered_patches

PLAN_SIZE = SIDE * 8  # plans measure boxes on pictures of this side
WARMUP, DECAY = 0.04, 0.7  # shares of the steps
LOG_EVERY = 50
EMPTY = 0.15  # share of the strips that show nothing which train as well
MOST_NAMES = 1000  # so many labels, the most frequent, are told apart
CLOSENESS = 0.8  # share of a label's squared norm taken off its logit: a token says a label at less than full weight
SHUFFLED = 0.5  # share of the strips whose patches stand in random order


def ground(model, processor, rows: list[Row], config: AlignConfig, cache: FeatureCache, log: Path | None) -> None:
    """Trains the projector alone on the rows' regions, `grounding_steps` steps of `grounding_batch` pictures.

    Args:
        rows: those without regions are left out, and of several rows about one picture all but the first.
        cache: features of the frozen tower.
        log: a JSON line of step, loss and its parts (`plan`, where 1 is what the targets' mean would reach, and `names`) every 50 steps;
            None for ranks that do not write.

    Raises:
        ConfigError: another grid or layout than plans have.
        DataError: no row has regions.
        DivergedError: the loss is not finite.
    """
    check_layout(model.config, processor)
    words = cache_words(lambda text: processor.tokenizer(text, add_special_tokens=False)["input_ids"])  # few labels, many regions
    pictures, labels = to_say(rows, config, words)
    projector, table = model.model.projector.to(device()).float(), model.get_input_embeddings().weight.detach().float().to(device())
    names = Names(table, labels, words) if labels and config.grounding_contrast else None
    optimizer = MuonAdamW(projector.named_parameters(), config.grounding_lr, weight_decay=0.0)
    order, lines = [], []
    rng, chance = random.Random(config.seed), torch.Generator().manual_seed(config.seed)  # the same on every rank
    for step in range(config.grounding_steps):
        if len(order) < config.grounding_batch:
            order = rng.sample(sorted(pictures, key=str), len(pictures))
        paths = [order.pop() for _ in range(min(config.grounding_batch, len(order)))]
        parts = losses(projector, table, names, [pictures[path] for path in paths], cache.get(paths), config, chance)
        loss = parts["plan"] + config.grounding_contrast * parts.get("names", 0.0)
        if not torch.isfinite(loss):
            raise DivergedError(f"The grounding loss is {loss.item()}", f"step {step}", "Lower `grounding_lr`, or look at the regions.")
        loss.backward()
        rate = min(1.0, (step + 1) / (WARMUP * config.grounding_steps), (config.grounding_steps - step) / (DECAY * config.grounding_steps))
        for group in optimizer.param_groups:
            group["lr"] = config.grounding_lr * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % LOG_EVERY == 0 or step == config.grounding_steps - 1:
            shown = {name: round(part.item(), 4) for name, part in parts.items()}
            lines.append(json.dumps({"step": step, "loss": round(loss.item(), 4), **shown}) + "\n")
            print(f"align: grounding {step + 1}/{config.grounding_steps}  " + "  ".join(f"{name} {value}" for name, value in shown.items()),
                  file=sys.stderr, flush=True)
    projector.to(model.device)
    if log is not None:
        log.write_text("".join(lines))


def check_layout(shape, processor) -> None:
    """Plans are of one grid and layout.

    Raises:
        ConfigError: the model has another.
    """
    grid = shape.vision_config.image_size // shape.vision_config.patch_size
    if grid != SIDE or shape.projector_layout != "raster" or processor.image_seq_length != STRIPS:
        raise ConfigError(f"Grounding needs the raster layout with {STRIPS} tokens of a {SIDE} x {SIDE} grid", "grounding_steps",
                          "Set `grounding_steps` to 0.")


def to_say(rows: list[Row], config: AlignConfig, tokenize) -> tuple[dict[str | Packed, Grounded], list[str]]:
    """What the strips of each picture should say, and the labels to tell apart.

    Raises:
        DataError: no row has regions.
    """
    found = {row.images[0]: row for row in reversed(rows) if row.regions and len(row.images) == 1}
    if not found:
        raise DataError("No row has regions to ground on", ", ".join(config.grounding_data or config.data),
                        "Give rows with `regions`, or set `grounding_steps` to 0.")
    seen = Counter(region["label"] for row in found.values() for region in row.regions)
    labels = [label for label, _ in seen.most_common(MOST_NAMES)]
    numbers = {label: number for number, label in enumerate(labels)}
    return {locate(image, config.image_root): grounded(row, tokenize, numbers) for image, row in found.items()}, labels


def losses(projector, table_WD: Tensor, names: Names | None, said: list[Grounded], features_BPC: Tensor, config: AlignConfig,
           chance: torch.Generator) -> dict[str, Tensor]:
    """The losses of a batch by name, over the strips that show something and a few that do not.

    Args:
        names: what tokens have to tell apart; None: only the plans count.
        said: of each picture, what its strips should say.
    """
    where = device()
    read_BS = torch.stack([one.occupied_S for one in said]) | (torch.rand(len(said), STRIPS, generator=chance) < EMPTY)
    strips_NGC = shuffled(features_BPC.unflatten(1, (STRIPS, -1))[read_BS].float(), chance)
    with cpu_autocast(config):
        tokens_ND = projector.of_tokens(strips_NGC.flatten(1).to(where))
        found = {} if names is None else {"names": names.loss(tokens_ND, *names_said(said, read_BS))}
    return {"plan": plan_loss(tokens_ND.float(), plan_targets(table_WD, [one.plan for one in said])[read_BS.to(where)]), **found}


@dataclass(frozen=True)
class Grounded:
    """What the strips of a picture should say.

    Args:
        plan: its words. occupied_S: whether a strip shows anything.
        names: (strip, number of a label, share of the strip it covers), one for each known label in a strip.
    """

    plan: Plan
    occupied_S: Tensor
    names: list[tuple[int, int, float]]


def grounded(row: Row, tokenize, numbers: dict[str, int]) -> Grounded:
    """A row's regions by strips; `tokenize` gives the ids of words, `numbers` those of the labels to tell apart."""
    regions = regions_of(row)
    told = plan(regions, tokenize, random.Random(0))
    names = [(strip, numbers[region.label], share) for region in regions if region.label in numbers for strip, share in strips_of(region).items()]
    return Grounded(told, torch.from_numpy(told.weights_SK.any(1)), names)


def regions_of(row: Row) -> list[Region]:
    """A row's regions, whose boxes are fractions of the picture's sides, in a plan's pixels."""
    return [Region(tuple(round(PLAN_SIZE * at) for at in one["box"]), one["label"], one["kind"]) for one in row.regions]


def strips_of(region: Region) -> dict[int, float]:
    """The strips that a region covers, with the share of each that it does."""
    covered = Counter((covered_patches(region.box, 0, 0, SIDE) // STRIP).tolist())
    return {strip: count / STRIP for strip, count in covered.items()}


class Names:
    """The labels to tell apart, as what their words say in the language model's table.

    A plan's squared error alone lets a token stay between the names it wavers among: the embeddings of a world's nouns differ
    in a tenth of their variance only. So a token should lie nearer to its own label than to every other.

    Args:
        table_WD: embeddings of the language model's W words. labels: V of them. tokenize: words -> ids.
    """

    def __init__(self, table_WD: Tensor, labels: list[str], tokenize) -> None:
        self.mean_D = table_WD.mean(0)
        said = [label_words(label, tokenize) for label in labels]
        self.labels_VD = torch.stack([torch.from_numpy(shares).to(table_WD) @ table_WD[ids] for ids, shares in said]) - self.mean_D
        self.half_norms_V = CLOSENESS / 2 * self.labels_VD.square().sum(1)

    def loss(self, tokens_ND: Tensor, at_K: Tensor, label_K: Tensor, share_K: Tensor) -> Tensor:
        """Cross-entropy of the labels that tokens should say, over all labels, in nats; 0 where nothing is named.

        Args:
            at_K, label_K, share_K: of each name, which token says it, which label it is, and its share of what the token says.
        """
        if not len(at_K):
            return tokens_ND.sum() * 0.0
        logits_NV = ((tokens_ND - self.mean_D) @ self.labels_VD.T).float() - self.half_norms_V
        return -(share_K * read_log_probs(logits_NV, at_K, label_K)).sum() / share_K.sum()


def names_said(said: list[Grounded], read_BS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(token, label, share) of the names in a batch, tokens counted over the strips that are read; see Names.loss."""
    places = (read_BS.flatten().cumsum(0).view(read_BS.shape) - 1).tolist()
    found = [(place[strip], label, share) for place, one in zip(places, said, strict=True) for strip, label, share in one.names]
    where = device()
    if not found:
        return tuple(torch.zeros(0, dtype=kind, device=where) for kind in (torch.long, torch.long, torch.float))
    at_K, label_K, share_K = (torch.tensor(column, device=where) for column in zip(*found, strict=True))
    whole_N = torch.zeros(int(read_BS.sum()), device=where).scatter_add_(0, at_K, share_K)
    return at_K, label_K, share_K / whole_N[at_K]


def shuffled(strips_NGC: Tensor, generator: torch.Generator, share: float = SHUFFLED) -> Tensor:
    """The same with the patches of some strips in another order.

    What a strip shows is the same in any order, but a few thousand pictures are too few to learn that: without it the projector
    learns its training pictures by heart (loss on unseen ones 0.495 after 1,200 steps, with it 0.481).

    Args:
        share: of the strips; the others keep their order, since it tells where in the strip a thing lies.
    """
    N, G, _ = strips_NGC.shape
    order_NG = torch.rand(N, G, generator=generator).argsort(-1)
    order_NG = torch.where(torch.rand(N, 1, generator=generator) < share, order_NG, torch.arange(G))
    return strips_NGC.gather(1, order_NG[..., None].expand_as(strips_NGC))


def plan_targets(table_WD: Tensor, plans: list[Plan]) -> Tensor:
    """What image tokens should be. Shape (B, S, D)."""
    ids_BSK, weights_BSK = (torch.from_numpy(np.stack(rows)).to(table_WD.device) for rows in zip(*((one.ids_SK, one.weights_SK) for one in plans)))
    return plan_embeddings(table_WD, ids_BSK, weights_BSK.to(table_WD.dtype))


def plan_loss(tokens_ND: Tensor, targets_ND: Tensor) -> Tensor:
    """Mean squared error over the targets' variance: 1 is what their mean would reach."""
    spread = (targets_ND - targets_ND.mean(0)).square().mean()
    return (tokens_ND - targets_ND).square().mean() / spread.clamp_min(1e-6)
