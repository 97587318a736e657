"""Sums over the processes of a run: the one place where a batch-level quantity meets the other ranks.

Without an initialized torch.distributed group there is one process and every sum is the identity.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over processes, without a gradient; the argument is left alone."""
    total = tensor.detach()
    if world_size() > 1:
        total = total.clone()
        dist.all_reduce(total)
    return total


def differentiable_all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over processes whose gradient is the sum of the gradients that the processes see.

    So that after every rank's backward the parameters' gradients, averaged over ranks, are those of the average
    of the ranks' losses.
    """
    return _AllReduceSum.apply(tensor) if world_size() > 1 else tensor


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def gather(tensor: Tensor) -> Tensor:
    """The tensors of all processes along dimension 0, in the order of ranks; of one shape in all of them.

    The gradient is the sum over ranks of what they see of this rank's part: where every rank computes the loss of the
    joined batch, gradients averaged over ranks are those of one process on it.
    """
    gathered: Tensor = _Gather.apply(tensor) if world_size() > 1 else tensor
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.count = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.count
        return total[first : first + ctx.count]
