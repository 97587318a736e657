"""Contrastive objectives between the vectors of two views, whose i-th rows belong together.

similarities: (n, n) products of unit vectors, rows aerial i, columns ground j. allowed: (n, n) bool, the pairs that
may serve as negatives; the diagonal never does. D_ij = 2 - 2 s_ij is the squared distance. Every mean is over what is
allowed, so a pair of one place under two names weighs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.nn.reduce import gather

Objective = Literal["triplet", "semi_hard", "infonce", "clip"]
Loss = Callable[[Tensor, Tensor], Tensor]


def objective(name: Objective, beta: float, temperature: float) -> Loss:
    """The objective of this name, as a function of similarities and allowed negatives."""
    table: dict[str, Loss] = {
        "triplet": partial(triplet, beta=beta),
        "semi_hard": partial(semi_hard, beta=beta),
        "infonce": partial(infonce, temperature=temperature),
        "clip": partial(clip, temperature=temperature),
    }
    return table[name]


def joined_similarities(rows: Tensor, columns: Tensor) -> Tensor:
    """(n, n) products of unit vectors over the joined batch of all processes, in float32 under any autocast."""
    with torch.autocast(rows.device.type, enabled=False):
        similarities: Tensor = gather(rows.float()) @ gather(columns.float()).T
    return similarities


def triplet(similarities: Tensor, allowed: Tensor, beta: float = 10.0) -> Tensor:
    """Soft-margin triplet loss over all triplets: mean log(1 + exp(beta (D_ii - D_ij))), of both directions."""
    return (_margins(similarities, allowed, beta) + _margins(similarities.T, allowed.T, beta)) / 2


def _margins(similarities: Tensor, allowed: Tensor, beta: float) -> Tensor:
    """The mean over rows' allowed negatives."""
    differences = 2 * (similarities - similarities.diagonal()[:, None])  # D_ii - D_ij
    return (F.softplus(beta * differences) * allowed).sum() / allowed.sum().clamp(min=1)


def semi_hard(similarities: Tensor, allowed: Tensor, beta: float = 10.0) -> Tensor:
    """`triplet` over the int(sqrt(n)) most similar allowed negatives of each row and of each column."""
    return (
        _margins(similarities, _hardest(similarities, allowed), beta)
        + _margins(similarities.T, _hardest(similarities.T, allowed.T), beta)
    ) / 2


def _hardest(similarities: Tensor, allowed: Tensor) -> Tensor:
    """(n, n) bool: the int(sqrt(n)) most similar allowed entries of each row."""
    candidates = similarities.detach().masked_fill(~allowed, -torch.inf)
    chosen = torch.zeros_like(allowed).scatter(1, candidates.topk(isqrt(len(allowed)), dim=1).indices, True)
    return chosen & allowed


def infonce(similarities: Tensor, allowed: Tensor, temperature: float = 0.02) -> Tensor:
    """SAIG's one list of 2n - 1: a_i . b_j for all j, then b_i . a_j for all j but i; one softmax, target i."""
    positive = similarities.diagonal() / temperature
    negatives = torch.cat([_kept(similarities, allowed), _kept(similarities.T, allowed.T)], dim=1) / temperature
    return (torch.logsumexp(torch.cat([positive[:, None], negatives], dim=1), dim=1) - positive).mean()


def clip(similarities: Tensor, allowed: Tensor, temperature: float = 0.02) -> Tensor:
    """The symmetric loss of CLIP: cross-entropy of each row and of each column, with the diagonal as target."""
    positive = similarities.diagonal() / temperature
    losses = []
    for side, mask in ((similarities, allowed), (similarities.T, allowed.T)):
        logits = torch.cat([positive[:, None], _kept(side, mask) / temperature], dim=1)
        losses.append((torch.logsumexp(logits, dim=1) - positive).mean())
    return (losses[0] + losses[1]) / 2


def _kept(similarities: Tensor, allowed: Tensor) -> Tensor:
    return similarities.masked_fill(~allowed, -torch.inf)
