"""Differentiable retrieval: one patch for each object of an image, chosen one after another to go together.

Algorithm 1 of the paper with its repairs (section 3.4): squared distances (A1), penalties that accumulate (A2), a guard
by which no object is served twice (A3), noise drawn anew at each step (A4), and a sum over the steps (A6). Batches are
ragged and padded: an object is a group of at most K candidates, an image at most N groups; the only loop is over the
steps. Everything is computed in fp32 whatever the precision around it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["l2sq", "l2"]
"""D of eq. 1: the squared Euclidean distance, or the distance itself as Algorithm 1 has it."""
QueryUpdate = Literal["half", "mean"]
"""half: the mean of the query so far and the patch just chosen (Algorithm 1); mean: of all chosen so far (the text)."""

NEVER = -1e30
"""The score of what may not be chosen. Finite, so that no gradient becomes 0 * inf; after a softmax it is exactly 0."""
TINY = 1e-24


@dataclass(frozen=True)
class Selection:
    """What was chosen from B images of at most N groups with K candidates, in T steps; images with n < T groups rest
    after n steps. T is the most groups of an image, at least 1.

    steps: (B, T, N, K) relaxed s(t), each sums to 1 over (N, K), to 0 where the image rests. log_steps: their
    logarithms, which do not underflow. total: (B, N, K) S, the sum over t of s(t); with hard selection of one-hot
    vectors whose gradient is that of s(t). order: (B, T) int64 group served at t, -1 where the image rests. chosen:
    (B, N) int64 candidate served to each group, -1 for none. weights: (B, N, K) how a group mixes its candidates into
    one patch: of one-hot value with the gradient of the share in its own group (section 3.5), that share itself
    without hard selection; all 0 where none was served. query: (B, d) after the last step.
    """

    total: Tensor
    steps: Tensor
    log_steps: Tensor
    order: Tensor
    chosen: Tensor
    weights: Tensor
    query: Tensor


def retrieve(
    features: Tensor,
    present: Tensor,
    query: Tensor,
    noise: Tensor | None,
    *,
    tau: float,
    alpha: float = 10.0,
    distance: Distance = "l2sq",
    hard: bool = True,
    query_update: QueryUpdate = "half",
    eps: float = 1e-6,
    guard: bool = True,
    used: Tensor | None = None,
) -> Selection:
    """Choose a candidate for every group, step by step (Algorithm 1, eqs. 1, 2 and 4).

    features: (B, N, K, d) of the candidates. present: (B, N, K) bool; a group without candidates is skipped. query:
    (B, d) the first one. noise: (B, T, N, K) Gumbel, (B, 1, N, K) to keep one draw for all steps, None for greedy
    selection. alpha: scale of the distances. eps: the least of 1 - max s whose
    logarithm penalizes a group that has been served. guard: leave a group that has been served out altogether.
    used: (B, N) bool, groups that were served before the first step.
    """
    with torch.autocast(features.device.type, enabled=False):
        f = features if features.dtype == torch.float64 else features.float()
        batch, groups, k, dimension = f.shape
        flat, query = f.reshape(batch, groups * k, dimension), query.to(f.dtype)
        longer, scaled = alpha * flat.square().sum(2), 2 * alpha * flat
        active = present.any(2) if used is None else present.any(2) & ~used
        count = active.sum(1, keepdim=True)
        allowed = present & active.unsqueeze(2)
        numbers = torch.arange(groups * k, device=f.device)
        penalty, gathered = f.new_zeros(batch, groups, 1), torch.zeros_like(query)
        taken, logarithms, picks = [], [], []
        for t in range(max(1, int(count.max()))):
            rests = count <= t
            # products and sums: PyTorch's products of a batch of matrices with vectors are slower by far
            if distance == "l2sq":  # without |q|^2, which a softmax does not see
                log_pi = (scaled * query.unsqueeze(1)).sum(2) - longer
            else:  # a root magnifies what such a difference rounds off; at 0 it has no gradient
                log_pi = -alpha * (flat - query.unsqueeze(1)).square().sum(2).clamp(min=TINY).sqrt()
            hat = log_pi.view(batch, groups, k) + penalty
            if noise is not None:
                hat = hat + noise[:, min(t, noise.shape[1] - 1)]
            hat = torch.where(allowed, hat, NEVER).flatten(1)
            log_s = F.log_softmax(hat / tau, 1).masked_fill(rests, NEVER)
            s = w = log_s.exp()
            pick = hat.detach().argmax(1, keepdim=True).masked_fill(rests, -1)
            if hard:  # in this order the value is one-hot to the bit
                w = (numbers == pick).to(f.dtype) + (s - s.detach())
            found = (w.unsqueeze(2) * flat).sum(1)
            if query_update == "half":
                updated = (query + found) / 2
            else:
                gathered = gathered + found
                updated = gathered / (t + 1)
            query = torch.where(rests, query, updated)
            most = s.view(batch, groups, k).amax(2, keepdim=True)
            penalty = penalty + (1 - most).clamp(min=eps).log()
            if guard:
                allowed = allowed & (numbers[:groups] != pick.div(k, rounding_mode="floor")).unsqueeze(2)
            taken.append(w)
            logarithms.append(log_s)
            picks.append(pick)
        log_steps, picked = torch.stack(logarithms, 1).view(batch, -1, groups, k), torch.cat(picks, 1)
        order = picked.div(k, rounding_mode="floor")
        chosen, weights = _served(picked, order, log_steps, hard)
        total = torch.stack(taken).sum(0).view(batch, groups, k)
        return Selection(total, log_steps.exp(), log_steps, order, chosen, weights, query)


def _served(picked: Tensor, order: Tensor, log_steps: Tensor, hard: bool) -> tuple[Tensor, Tensor]:
    """chosen and weights of a Selection. picked: (B, T) over all N * K, -1 for none. A group counts where it was served
    first."""
    batch, _, groups, k = log_steps.shape
    hits = order.unsqueeze(2) == torch.arange(groups, device=order.device)
    served, when = hits.any(1), hits.to(torch.uint8).argmax(1)
    own = log_steps.gather(1, when.view(batch, 1, groups, 1).expand(batch, 1, groups, k)).squeeze(1)
    weights = own.softmax(2)  # s_j / sum of its group's s, without underflow
    chosen = picked.gather(1, when).remainder(k)
    if hard:
        weights = F.one_hot(chosen, k).to(weights.dtype) + (weights - weights.detach())
    return chosen.masked_fill(~served, -1), weights.masked_fill(~served.unsqueeze(2), 0.0)


def first_query(features: Tensor, present: Tensor, uniform: Tensor) -> Tensor:
    """(B, d) the feature of a candidate drawn from all of its image, which starts the retrieval.

    uniform: (B,) in [0, 1), drawn by the caller. Zeros for an image without candidates.
    """
    offered = present.flatten(1)
    rank = (uniform.to(offered.device, torch.float64) * offered.sum(1)).long()
    hit = offered & (offered.cumsum(1) == (rank + 1).unsqueeze(1))
    at = hit.to(torch.uint8).argmax(1)
    found = features.flatten(1, 2)[torch.arange(len(at), device=at.device), at]
    return torch.where(offered.any(1, keepdim=True), found, 0.0)


def pick_patches(weights: Tensor, patches: Tensor) -> Tensor:
    """(B, N, 3, h, w): what each group is served, its candidates (B, N, K, 3, h, w) mixed by `Selection.weights`.

    With hard selection it is one of the patches to the bit, and the gradient of the weights is that of the mixture.
    """
    batch, groups, k = weights.shape
    with torch.autocast(weights.device.type, enabled=False):
        pixels = patches.to(weights.dtype).reshape(batch * groups, k, -1)
        mixed = torch.bmm(weights.reshape(batch * groups, 1, k), pixels)
    return mixed.view(batch, groups, *patches.shape[3:])


def selection_loss(
    features: Tensor,
    present: Tensor,
    own: Tensor,
    objects: Tensor,
    first: Tensor,
    noise: Tensor | None,
    *,
    tau: float,
    alpha: float = 10.0,
    distance: Distance = "l2sq",
    query_update: QueryUpdate = "half",
    eps: float = 1e-6,
) -> Tensor:
    """L_sel_gt: asked by the true patch of one object, does the retrieval find those of the others (section 3.6).

    features, present: the candidates, as of `retrieve`. own: (B, N, d) features of the objects' own patches, which
    join their groups as candidate K. objects: (B, N) bool. first: (B,) int64 the object that asks. noise: (B, T, N,
    K + 1). The mean over images; one with a single object counts 0.
    """
    offered = torch.cat([present & objects.unsqueeze(2), objects.unsqueeze(2)], 2)
    asks = F.one_hot(first, objects.shape[1]).bool()
    selection = retrieve(
        torch.cat([features, own.unsqueeze(2)], 2),
        offered,
        own[torch.arange(len(first), device=first.device), first],
        noise,
        tau=tau,
        alpha=alpha,
        distance=distance,
        hard=False,
        query_update=query_update,
        eps=eps,
        used=asks,
    )
    return truth_loss(selection.log_steps[..., -1], objects & ~asks)


def truth_loss(log_truth: Tensor, sought: Tensor) -> Tensor:
    """-log of what the true patches collected in all steps, the mean over the objects sought, then over images.

    log_truth: (B, T, N) logarithms of s(t) of the true patches. sought: (B, N) bool. In logarithms throughout: a floor
    under s would take the gradient from the objects whose true patch is furthest from being found.
    """
    found = log_truth.masked_fill(~sought.unsqueeze(1), 0.0).logsumexp(1)
    missed = torch.where(sought, -found, 0.0).sum(1)
    return (missed / sought.sum(1).clamp(min=1)).mean()


def gumbel(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Standard Gumbel noise, float32: -log(-log u) with u kept away from 0 and 1."""
    u = rng.random(shape).clip(1e-9, 1 - 1e-7)
    return torch.from_numpy(-np.log(-np.log(u))).float()


def temperature(progress: float, first: float = 1.0, last: float = 0.1, share: float = 20 / 90) -> float:
    """tau: linearly from `first` to `last` over the first `share` of the training, then constant."""
    return last if progress >= share else first + (last - first) * progress / share
