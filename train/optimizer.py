"""Muon for matrices inside the network, AdamW for tables, vectors and scalars: one optimizer for the trainers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW behind one interface, so that schedules, DeepSpeed and checkpoints see one optimizer.

    Muon's update is scaled to AdamW's size, so that one learning rate serves both. It needs whole matrices: under ZeRO
    1 to 3, which hand an optimizer flat pieces, it cannot work.

    Args:
        named_parameters: of what trains.
        lr: learning rate. adamw_lr: AdamW's, where it differs.
        weight_decay: of the matrices; tables, vectors and scalars have none.
        is_matrix: name, parameter -> whether Muon takes it; by default every matrix but embedding tables and heads.

    Source: Jordan et al. 2024 (Muon); Liu et al. 2025, "Muon is scalable", section 2.2 (the scale).
    """

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], lr: float, adamw_lr: float | None = None,
                 weight_decay: float = 0.0, is_matrix: Callable[[str, nn.Parameter], bool] | None = None) -> None:
        is_matrix = is_matrix or inner_matrix
        matrices, others = [], []
        for name, parameter in named_parameters:
            (matrices if is_matrix(name, parameter) else others).append(parameter)
        # of an empty part torch would make no optimizer: its group holds a tensor that never has a gradient
        empty = [torch.zeros(1, 1)]
        self._muon = torch.optim.Muon(matrices or empty, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(others or empty, lr=lr if adamw_lr is None else adamw_lr, weight_decay=0.0, betas=(0.9, 0.98))
        groups = [dict(group, is_muon=inner is self._muon) for inner in (self._muon, self._adamw) for group in inner.param_groups]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for inner, is_muon in ((self._muon, True), (self._adamw, False)):
            # again each time: loading a checkpoint replaces groups and state
            inner.param_groups = [group for group in self.param_groups if group["is_muon"] is is_muon]
            inner.state = self.state
            inner.step()
        return loss


def inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix that maps inside the network (no embedding table, no head)."""
    return parameter.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "wte"))
