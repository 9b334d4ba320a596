"""dpo's trainer: transformers' with the loss of pair_loss.

TRL's DPOTrainer stands in the way of a pair in one row, of weights for single tokens and of stored reference log-probs, which it
refuses for pictures; it is what this trainer is tested against.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from transformers import Trainer

from omnivision_train.config import DpoConfig
from omnivision_train.pair_loss import pair_loss, summed, token_log_probs
from omnivision_train.pair_trie import CHOSEN, REJECTED
from omnivision_train.trainer import StageMixin


class DpoTrainer(Trainer):
    """transformers' trainer with the loss of pairs and its meters.

    Args:
        config: of the stage. reference: a frozen copy of the start, for batches without reference log-probs.
    """

    loss_is_scaled_for_ga = False  # a mean over the pairs of one micro-batch

    def __init__(self, *args, config: DpoConfig, reference: nn.Module | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.stage_config = config
        self._metrics = {"train": defaultdict(list)}
        _without_dropout(self.model)
        self.ref_model = None
        if reference is not None:
            _without_dropout(reference)
            from trl.models.utils import prepare_deepspeed  # only here: trl loads much besides

            self.ref_model = prepare_deepspeed(reference, self.accelerator)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        config = self.stage_config
        log_probs_N = token_log_probs(model, inputs, config.share, not config.needed_logits_only)
        found = pair_loss(log_probs_N, inputs, self._reference(inputs), config.beta, config.sft_weight)
        if self.model.training:  # held-out batches are of other sizes on other ranks, and cannot be gathered
            self._note(found.scores_2B, found.rewards_2B)
        return found.loss

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs |= {key: float(sum(values) / len(values)) for key, values in self._metrics["train"].items() if values}
            self._metrics["train"].clear()
        return super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def _reference(self, inputs: dict) -> Tensor:
        if self.ref_model is None:
            return inputs["reference"]
        known_N = token_log_probs(self.ref_model, inputs, self.stage_config.share, not self.stage_config.needed_logits_only)
        return summed(known_N, inputs, inputs["pairs"])

    def _note(self, scores_2B: Tensor, rewards_2B: Tensor) -> None:
        """TRL's meters, over the pairs of all processes; log-probs and rewards count from the first edit on."""
        both_2B2 = self.accelerator.gather(torch.stack([scores_2B, rewards_2B]).view(2, 2, -1).permute(2, 0, 1).contiguous())
        scores, rewards = both_2B2.unbind(1)
        margins = rewards[:, CHOSEN] - rewards[:, REJECTED]
        values = [*scores.mean(0), *rewards.mean(0), margins.mean(), (margins > 0).float().mean()]
        names = ("logps/chosen", "logps/rejected", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies")
        for name, value in zip(names, torch.stack(values).double().unbind(), strict=True):
            self._metrics["train"][name].append(value)  # still a tensor: a GPU's step is not waited for


def _without_dropout(model: nn.Module) -> None:
    """As TRL does; also in attention, which it leaves: there it is a number, as transformers' models have it."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


class PairTrainer(StageMixin, DpoTrainer):
    """dpo: minimal-edit pairs."""
