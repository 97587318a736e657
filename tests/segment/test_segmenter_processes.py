"""Two gloo processes on half a batch each give the segmenter's loss and gradients on the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from pipelines.data.scene import Category, Schema
from pipelines.nn.reduce import all_reduce_sum
from pipelines.segment.networks import Architecture
from pipelines.segment.segmenter import Segmenter, SegmenterConfig

SCHEMA = Schema(tuple(Category(i, str(i), (i, i, i), False) for i in range(3)))


def measure(arch: Architecture, part: slice) -> tuple[Tensor, list[Tensor]]:
    """Loss and gradients of one process on its part of the batch, in float64."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, 64, 64, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 3, (4, 64, 64), generator=generator)
    labels[:2, :40] = -1  # more is ignored in the first half
    segmenter = Segmenter(SegmenterConfig(arch=arch, width=8, min_side=64, balanced=False), SCHEMA)
    torch.manual_seed(0)
    nets = segmenter.networks()
    net = nets["S"].double().train()
    batch = {"image": images[part], "labels": labels[part]}
    loss = segmenter.losses("S", nets, {}, batch, {}, 0)["cross_entropy"]
    loss.backward()
    return loss.detach(), [p.grad for p in net.parameters() if p.grad is not None]


def work(rank: int, arch: Architecture, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loss, gradients = measure(arch, slice(2 * rank, 2 * rank + 2))
    torch.save((all_reduce_sum(loss) / 2, [all_reduce_sum(g) / 2 for g in gradients]), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["unet", "deeplabv3"])
def test_two_processes_equal_one(tmp_path: Path, arch: Architecture) -> None:
    mp.spawn(work, (arch, str(tmp_path)), nprocs=2)
    loss, gradients = measure(arch, slice(None))
    for rank in range(2):
        mean, averaged = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(mean, loss, rtol=1e-5, atol=1e-6)  # the loss is taken in float32
        scale = max(float(g.abs().max()) for g in gradients)
        for mine, joined in zip(averaged, gradients, strict=True):
            torch.testing.assert_close(mine, joined, rtol=1e-4, atol=1e-5 * scale)
