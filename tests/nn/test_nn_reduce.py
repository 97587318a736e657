"""Two gloo processes on half a batch each give what one process gives on the joined batch."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from pipelines.nn.layers.normalization import BatchNorm
from pipelines.nn.losses.segmentation import balanced_cross_entropy, class_weights
from pipelines.nn.reduce import all_reduce_sum, differentiable_all_reduce_sum, world_size

CLASSES = 4


def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 6, 5, generator=generator, dtype=torch.float64) * 2 + 5
    labels = torch.randint(-1, CLASSES - 1, (4, 6, 5), generator=generator)
    labels[2:][labels[2:] == 0] = 1  # class 0 in the first half only
    return images, labels


def network():
    torch.manual_seed(0)
    norm = BatchNorm(5)
    return nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.Tanh(), nn.Conv2d(5, CLASSES, 3, padding=2)).double()


def measure(images, labels):
    """Output, weights of classes, loss and gradients of one process, and the running statistics it ends with."""
    net = network()
    images = images.clone().requires_grad_()
    out = net(images)
    weights = class_weights(labels, CLASSES)
    loss = balanced_cross_entropy(out.double(), labels, weights)
    loss.backward()
    gradients = [p.grad for p in net.parameters()]
    return {"out": out.detach(), "weights": weights, "loss": loss.detach(), "image": images.grad}, gradients, net


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert world_size() == 2
    assert all_reduce_sum(torch.tensor([1.0 + rank])).item() == 3
    images, labels = batch()
    mine = slice(2 * rank, 2 * rank + 2)
    measured, gradients, net = measure(images[mine], labels[mine])
    measured["loss"] = all_reduce_sum(measured["loss"]) / 2
    averaged = [all_reduce_sum(g) / 2 for g in gradients]
    torch.save((measured, averaged, net.state_dict()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    measured, gradients, net = measure(*batch())
    tight = {"rtol": 1e-6, "atol": 1e-7}  # cross-entropy is in float32
    torch.testing.assert_close(torch.cat([first[0]["out"], second[0]["out"]]), measured["out"], rtol=1e-12, atol=1e-12)
    image = torch.cat([first[0]["image"], second[0]["image"]]) / 2
    torch.testing.assert_close(image, measured["image"], **tight)
    for rank in (first, second):
        torch.testing.assert_close(rank[0]["weights"], measured["weights"], rtol=0, atol=0)
        torch.testing.assert_close(rank[0]["loss"], measured["loss"], **tight)
        for mine, joined in zip(rank[1], gradients, strict=True):
            torch.testing.assert_close(mine, joined, **tight)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(rank[2][key], value, rtol=1e-12, atol=1e-12)


def test_alone_every_sum_is_the_identity():
    x = torch.randn(3, requires_grad=True)
    assert world_size() == 1
    assert differentiable_all_reduce_sum(x) is x
    assert torch.equal(all_reduce_sum(x), x)
    assert not all_reduce_sum(x).requires_grad
