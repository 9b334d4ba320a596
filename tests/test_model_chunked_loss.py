"""The chunked loss: the plain one's value and gradients, and no more than a chunk of logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from omnivision.model import chunked_loss
from omnivision.model.chunked_loss import liger_cross_entropy, log_probs, summed_cross_entropy

S, D, V = 37, 16, 512


@pytest.fixture
def parts():
    torch.manual_seed(3)
    head = nn.Linear(D, V, bias=False)
    return head, torch.randn(S, D, requires_grad=True), torch.randint(0, V, (S,))


def value_and_gradients(parts, **how):
    head, hidden, targets = parts
    total = summed_cross_entropy(head, hidden, targets, V, **how)
    return total.detach(), *torch.autograd.grad(total, (hidden, head.weight))


@pytest.mark.parametrize("rows", [1, 10, S - 1, S])
def test_value_and_gradients_are_the_plain_ones(parts, rows):
    plain, chunked = value_and_gradients(parts), value_and_gradients(parts, most_logits=rows * V)
    torch.testing.assert_close(chunked[0], plain[0], rtol=1e-6, atol=0)
    for ours, theirs in zip(chunked[1:], plain[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_no_more_than_a_chunk_of_logits_stands_at_once(parts):
    head, hidden, targets = parts
    sizes, kept = [], []
    head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))

    def pack(tensor):
        kept.append(tensor.numel())
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        total = summed_cross_entropy(head, hidden, targets, V, most_logits=10 * V)
    assert sizes == [10] * 6 + [4] and max(kept, default=0) < 7 * V  # S and zeros up to 64
    total.backward()
    assert sorted(sizes[7:]) == [4] + [10] * 6  # once more for the gradients


def test_few_positions_go_through_the_head_once_and_whole(parts):
    head, hidden, targets = parts
    sizes = []
    head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    summed_cross_entropy(head, hidden, targets, V, most_logits=64 * V).backward()
    log_probs(head, hidden[:33], torch.arange(33), targets[:33], V).sum().backward()
    assert sizes == [64, 64]  # few different numbers of positions: a CPU's library keeps kernels for each


def test_under_zero_3_the_head_runs_once_on_every_rank(parts, monkeypatch):
    monkeypatch.setattr(chunked_loss, "is_deepspeed_zero3_enabled", lambda: True)
    head, hidden, targets = parts
    sizes = []
    head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    summed_cross_entropy(head, hidden, targets, V, most_logits=V)
    log_probs(head, hidden, torch.arange(S), targets, V, most_logits=V)
    assert sizes == [64, 64]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_liger_has_the_plain_value_and_gradients(parts, dtype, close):
    """With triton and liger-kernel installed TRITON_INTERPRET=1 runs it on a CPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    head, hidden, targets = parts
    head, hidden, targets = head.to(device, dtype), hidden.detach().to(device, dtype).requires_grad_(), targets.to(device)
    plain = value_and_gradients((head, hidden, targets))
    total = liger_cross_entropy(head, hidden, targets)
    fused = total.detach(), *torch.autograd.grad(3 * total, (hidden, head.weight))
    torch.testing.assert_close(fused[0], plain[0], rtol=max(1e-6, close / 100), atol=0)
    for ours, theirs in zip(fused[1:], plain[1:], strict=True):
        torch.testing.assert_close(ours / 3, theirs, rtol=close, atol=close)
    assert liger_cross_entropy(head, hidden[:0], targets[:0]) == 0
    head.requires_grad_(False)  # as in align
    assert torch.autograd.grad(liger_cross_entropy(head, hidden, targets), hidden)[0].shape == hidden.shape


def test_bf16_autocast_computes_the_same_in_chunks(parts):
    with torch.autocast("cpu", torch.bfloat16):
        plain, chunked = value_and_gradients(parts), value_and_gradients(parts, most_logits=10 * V)
    for ours, theirs in zip(chunked, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    assert plain[0].dtype == torch.float32


@pytest.mark.parametrize("rows", [1, 10, S - 1])
def test_log_probs_in_chunks_are_the_plain_ones(parts, rows):
    head, hidden, _ = parts
    at = torch.randint(0, S, (2 * S,))  # several tokens at one position, in any order, none at others
    tokens, weights = torch.randint(0, V, (2 * S,)), torch.randn(2 * S)
    found = []
    for most in (S * V, rows * V):
        read = log_probs(head, hidden, at, tokens, V, most)
        found.append((read.detach(), *torch.autograd.grad((weights * read).sum(), (hidden, head.weight))))
    torch.testing.assert_close(found[0][0], nn.functional.log_softmax(head(hidden), -1)[at, tokens].detach(), rtol=1e-5, atol=1e-6)
    for plain, chunked in zip(*found, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-5, atol=2e-6)


def test_log_probs_need_no_more_than_a_chunk_of_logits(parts):
    head, hidden, targets = parts
    sizes, kept = [], []
    head.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    with saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        read = log_probs(head, hidden, torch.arange(S), targets, V, most_logits=10 * V)
    assert sizes == [10] * 6 + [4] and max(kept, default=0) < 7 * V and read.shape == (S,)
    read.sum().backward()
    assert sorted(sizes[7:]) == [4] + [10] * 6


@pytest.mark.parametrize("rows, padded", [(0, 0), (1, 32), (32, 32), (256, 256), (257, 320), (512, 512), (513, 640), (1024, 1024), (1025, 1280), (5000, 5120)])
def test_a_cpu_sees_few_numbers_of_rows(rows, padded):
    filled = chunked_loss.padded(torch.ones(rows, 2), fill=7)
    assert filled.shape == (padded, 2) and torch.equal(filled[:rows], torch.ones(rows, 2)) and torch.equal(filled[rows:], torch.full((padded - rows, 2), 7.0))
    assert chunked_loss.padded(filled) is filled
