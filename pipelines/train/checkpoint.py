"""Checkpoints: weights as safetensors, optimizer state beside them, both written whole or not at all.

A checkpoint is `checkpoints/step-0001000/` with `weights.safetensors` (every network as NAME/key, averaged networks
as NAME@average/key) and `state.pt` (optimizers, and what a trainable that refreshes itself saw of its bank). Nothing is
ever unpickled: state is read with weights_only=True.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from pipelines.artifact import fsync_directory, write_atomic
from pipelines.errors import ArtifactError

WEIGHTS = "weights.safetensors"
STATE = "state.pt"
AVERAGE = "@average"


def checkpoint_path(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:07d}"


def write_checkpoint(
    run: Path, step: int, nets: Mapping[str, nn.Module], averaged: Mapping[str, nn.Module], state: dict[str, Any]
) -> Path:
    """Write the checkpoint of a step and return its directory."""
    final = checkpoint_path(run, step)
    temporary = final.with_name("." + final.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {
        f"{name}/{key}": value.detach().cpu().contiguous().clone()
        for name, net in [*nets.items(), *((n + AVERAGE, a) for n, a in averaged.items())]
        for key, value in net.state_dict().items()
    }
    write_atomic(temporary / WEIGHTS, to_safetensors(tensors, {"step": json.dumps(step)}))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomic(temporary / STATE, buffer.getvalue())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    fsync_directory(final.parent)
    return final


def read_weights(file: Path) -> dict[str, dict[str, Tensor]]:
    """Tensors of a checkpoint by network name, averaged networks as NAME@average."""
    try:
        flat = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"the weights cannot be read: {error}", where=file, fix="use an earlier checkpoint"
        ) from error
    grouped: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        network, _, key = name.partition("/")
        grouped.setdefault(network, {})[key] = tensor
    return grouped


def weight_shapes(file: Path) -> dict[str, list[int]]:
    """Names and shapes without reading the tensors."""
    with safe_open(file, framework="pt") as handle:
        return {key: handle.get_slice(key).get_shape() for key in handle.keys()}  # noqa: SIM118


def load_into(net: nn.Module, tensors: Mapping[str, Tensor], where: Path, name: str) -> None:
    """Load tensors into a network; ArtifactError naming the first keys that do not fit."""
    own = net.state_dict()
    faults = [f"{key} is missing" for key in own if key not in tensors]
    faults += [f"{key} is not of this network" for key in tensors if key not in own]
    faults += [
        f"{key} has shape {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in tensors.items()
        if key in own and own[key].shape != value.shape
    ]
    if faults:
        raise ArtifactError(
            f"the weights do not fit network {name}: {'; '.join(faults[:3])} ({len(faults)} faults)",
            where=where,
            fix="use the config that the weights were trained with",
        )
    net.load_state_dict(dict(tensors))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The state of the optimizers. ArtifactError where it cannot be read, or holds objects that could execute code."""
    try:
        state: dict[str, Any] = torch.load(checkpoint / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or unsafe files
        raise ArtifactError(
            f"the state of the optimizers cannot be read: {str(error).splitlines()[0]}",
            where=checkpoint / STATE,
            fix="begin the run again elsewhere, perhaps from its weights: --init",
        ) from error
    return state
