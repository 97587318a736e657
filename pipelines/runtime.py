"""Runtime: device, precision, seed, rank and world, passed explicitly. A thin reading of Lightning Fabric."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError, EnvironmentFault

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Precision = Literal["fp32", "bf16"]
_FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}


def pick_device(name: str) -> torch.device:
    """«auto», «cpu», «cuda», «cuda:1» or «mps» to a device. Raises EnvironmentFault when this machine lacks it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}", fix="use auto, cpu, cuda, cuda:N or mps") from error
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise EnvironmentFault(f"this machine has no device {name!r}", fix="use --device cpu, or --device auto")
    return device


@dataclass(frozen=True)
class Runtime:
    """Where and how the training loop computes. Processes are launched by torchrun; Fabric joins them."""

    fabric: Fabric
    precision: Precision
    seed: int

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def rank(self) -> int:
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        return self.fabric.world_size

    def autocast(self, precision: Precision | None = None) -> torch.autocast:
        """The context in which forward passes run, at this runtime's precision or the one a phase asks for."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=(precision or self.precision) == "bf16")

    def seed_step(self, step: int) -> None:
        """Key torch's global generator to (seed, step), never to the rank."""
        torch.manual_seed(int(np.random.SeedSequence([self.seed, step]).generate_state(1)[0]))

    def average_gradients(self, nets: Iterable[nn.Module]) -> None:
        """Average the gradients of the networks over processes, each network with one flattened all_reduce.

        A parameter without a gradient in this process counts as zero, so that all ranks reduce the same layout.
        """
        if self.world == 1:
            return
        for net in nets:
            params = [p for p in net.parameters() if p.requires_grad]
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in params])
            torch.distributed.all_reduce(flat)
            flat /= self.world
            for param, mean in zip(params, flat.split([p.numel() for p in params]), strict=True):
                param.grad = mean.view_as(param)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over processes, for logs."""
        if self.world == 1:
            return value
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / self.world

    def move(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def barrier(self) -> None:
        self.fabric.barrier()


def keep_memory() -> bool:
    """Ask glibc to keep freed memory for the next tensor; False where the C library is another.

    By default it returns every large block to the kernel, which clears each page of the next one anew: on the CPU the
    copies and sums of a training step spend more on that than on their arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    return bool(mallopt(mmap_max, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def make_runtime(device: str, precision: Precision, seed: int) -> Runtime:
    """Join the processes that torchrun started, or stand alone."""
    from lightning.fabric import Fabric

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    chosen = pick_device(device)
    if chosen.type == "cpu":
        keep_memory()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if world > 1 and chosen.index is not None:
        raise ConfigError("torchrun gives every process its own device", where=device, fix=f"--device {chosen.type}")
    if world > 1:
        devices: Any = local
    else:
        devices = [chosen.index] if chosen.index is not None else 1
    fabric = Fabric(
        accelerator=chosen.type,
        devices=devices,
        num_nodes=max(1, world // local),
        strategy="ddp" if world > 1 else "auto",
        precision=_FABRIC_PRECISION[precision],
    )
    fabric.launch()
    return Runtime(fabric, precision, seed)


def memory_gb(device: torch.device) -> float:
    """Peak memory in GB: of the device for CUDA, else the resident peak of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
