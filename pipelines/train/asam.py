"""Adaptive sharpness-aware minimization (Kwon et al., ICML 2021): step by the gradient at the worst near weights.

"Near" is measured in parts of each weight: e = rho p^2 g / (| |p| g | + 1e-12), with the norm over all weights of a
network. The loop computes gradients, perturbs, computes them again there, restores and steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def perturb(parameters: Iterable[nn.Parameter], rho: float) -> list[Tensor]:
    """Move the weights uphill by e, in place; returns copies of what they were, in the order of the parameters.

    Takes the gradients that the parameters hold (averaged over processes); one without a gradient stays.
    """
    own = list(parameters)
    saved = [p.detach().clone() for p in own]
    moved = [(p, p.grad) for p in own if p.grad is not None]
    if moved:
        norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.abs() * grad) for p, grad in moved]))
        for p, grad in moved:
            p.add_(p * p * grad, alpha=rho / (float(norm) + 1e-12))
    return saved


@torch.no_grad()
def restore(parameters: Iterable[nn.Parameter], saved: Iterable[Tensor]) -> None:
    """Put back what `perturb` returned, bit for bit."""
    for parameter, weight in zip(parameters, saved, strict=True):
        parameter.copy_(weight)
