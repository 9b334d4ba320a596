"""Log-probs of the tokens that a batch of pairs reads, and what DPO makes of them.

Shapes: R rows of the batch, L tokens, S places with logits, V vocabulary, N tokens that are read, B pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from omnivision.errors import ConfigError
from omnivision.model.chunked_loss import read_log_probs
from omnivision.model.modeling import hidden_at
from omnivision_train.lean_attention import LEAN
from omnivision_train.pair_trie import CHOSEN, PADDING, REJECTED, SHARED, Share

MASKED = ("eager", LEAN, "sdpa")  # attention kernels that take a mask of one's own
INPUTS = ("input_ids", "position_ids", "pixel_values", "image_features", "image_at")


def check_share(language: PreTrainedModel, share: Share) -> None:
    """The language model can keep two branches of a row apart.

    Raises:
        ConfigError: its attention takes no mask or no positions of one's own, or reaches back only so far in the row, where branches stand behind each other.
    """
    text = language.config
    if share == "none":
        return
    if text._attn_implementation not in MASKED:
        raise ConfigError(f"Attention is {text._attn_implementation}, which takes no mask of branches", f"share: {share}",
                          f"Use {', '.join(MASKED)}, or share=none.")
    window = getattr(text, "sliding_window", None) if not getattr(text, "layer_types", None) else None
    if window is not None:
        raise ConfigError(f"The language model sees back {window} tokens", f"share: {share}", "Use share=none.")
    if others := set(getattr(text, "layer_types", None) or ()) - {"full_attention"}:
        raise ConfigError(f"The language model has layers of {', '.join(sorted(others))}", f"share: {share}", "Use share=none.")
    if not keeps_apart(language):
        raise ConfigError(f"{type(language).__name__} takes no mask or positions of one's own, as with ALiBi", f"share: {share}", "Use share=none.")


@torch.no_grad()
def keeps_apart(language: PreTrainedModel) -> bool:
    """Whether the second branch of a small row gives what it gives alone: asked of the model, for its class says little."""
    before = language.training
    language.eval()
    device = language.get_input_embeddings().weight.device
    branches_RL = torch.tensor([[SHARED] * 2 + [1 + CHOSEN] * 3 + [1 + REJECTED] * 3], device=device)
    ids_RL, positions_RL = torch.arange(8, device=device)[None], torch.tensor([[0, 1, 2, 3, 4, 2, 3, 4]], device=device)
    try:
        together = language(input_ids=ids_RL, position_ids=positions_RL, attention_mask=branch_mask(branches_RL, language), use_cache=False).last_hidden_state
        alone = language(input_ids=ids_RL[:, [0, 1, 5, 6, 7]], use_cache=False).last_hidden_state
    except (ValueError, TypeError, RuntimeError, IndexError):  # attention that makes its own mask stumbles over ours
        return False
    finally:
        language.train(before)
    return torch.allclose(together[:, 5:].float(), alone[:, 2:].float(), rtol=1e-3, atol=1e-3 * float(alone.float().abs().max()))


def token_log_probs(model, batch: dict[str, Tensor], share: Share, all_logits: bool = False) -> Tensor:
    """The log-probs of the tokens that are read. Shape (N,), fp32.

    Args:
        model: a model, or DeepSpeed's engine around it. batch: PairCollator's, on the model's device.
        share: as the collator's. all_logits: the head runs on every place, not only on those that are read.
    """
    inputs = {key: batch[key] for key in INPUTS if key in batch}
    if share == "none":
        inputs |= {"attention_mask": (batch["branches"] != PADDING).long(), "position_ids": None}
    else:
        inputs["attention_mask"] = branch_mask(batch["branches"], model)
    if not all_logits:
        return model(**inputs, use_cache=False, logits_at=batch["logits_at"], log_probs_of=(batch["kept_at"], batch["targets"])).log_probs
    return read_log_probs(hidden_at(model(**inputs, use_cache=False).logits, batch["logits_at"]), batch["kept_at"], batch["targets"])


def branch_mask(branches_RL: Tensor, model) -> Tensor:
    """Who sees whom: earlier tokens that are shared, or of one's own branch. Shape (R, 1, L, L).

    Padding sees what is shared and itself: a row of nothing would be no number.
    """
    length = branches_RL.shape[1]
    same_RLL = branches_RL[:, :, None] == branches_RL[:, None, :]
    seen_RLL = (same_RLL | (branches_RL[:, None, :] == SHARED)) & torch.ones(length, length, dtype=torch.bool, device=branches_RL.device).tril()
    model = getattr(model, "module", model)  # DeepSpeed's engine has a `config` of its own
    kernel = model.config.get_text_config()._attn_implementation
    if kernel == "sdpa":
        return seen_RLL[:, None]
    dtype = torch.bfloat16 if kernel == LEAN else next(model.parameters()).dtype
    return torch.zeros(seen_RLL.shape, dtype=dtype, device=seen_RLL.device).masked_fill(~seen_RLL, torch.finfo(dtype).min)[:, None]


class PairLoss(NamedTuple):
    """The mean loss, and of each pair what is logged: scores (weighted log-probs) and rewards of both sides."""

    loss: Tensor
    scores_2B: Tensor
    rewards_2B: Tensor


def summed(log_probs_N: Tensor, batch: dict, pairs: int) -> Tensor:
    """Weighted log-probs of all chosen answers, then of all rejected ones, from the first edit on. Shape (2B,)."""
    return log_probs_N.new_zeros(2 * pairs).index_add(0, batch["slots"], batch["weights"] * log_probs_N)


def pair_loss(log_probs_N: Tensor, batch: dict, reference_2B: Tensor, beta: float, sft_weight: float = 0.0) -> PairLoss:
    """DPO's sigmoid loss, and `sft_weight` times the mean cross-entropy of the chosen answers' tokens.

    Args:
        reference_2B: the reference's `summed`.

    Source: Direct Preference Optimization, equation 7; terms that stand on both sides are left out of both.
    """
    pairs = len(reference_2B) // 2
    scores_2B = summed(log_probs_N, batch, pairs)
    rewards_2B = beta * (scores_2B - reference_2B)
    chosen_B, rejected_B = rewards_2B.chunk(2)
    loss = -F.logsigmoid(chosen_B - rejected_B).mean()
    if sft_weight:
        loss = loss - sft_weight * log_probs_N[batch["slots"] < pairs].mean()
    return PairLoss(loss, scores_2B.detach(), rewards_2B.detach())
