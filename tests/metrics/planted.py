"""Files of weights of the right form and names, with random tensors: the published ones cannot be in a test."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import alexnet, squeezenet1_1
from torchvision.models.vgg import cfgs, make_layers

State = dict[str, Tensor]


def plant(folder: Path, name: str, state: object) -> Path:
    """Save a state dict as NAME-HASH.pth with the beginning of its sha256, as the published files are called."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    file = folder / f"{name}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    file.write_bytes(buffer.getvalue())
    return file


def randomize(net: nn.Module, seed: int = 0) -> State:
    """He-normal weights, so that signals reach the end, small biases, and batch statistics that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in net.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim >= 2:
            state[key] = noise * (2 / value[0].numel()) ** 0.5
        elif key.endswith(("running_var", "bn.weight")):
            state[key] = 1 + 0.1 * noise.abs()
        else:
            state[key] = 0.1 * noise if value.is_floating_point() else value
    return state


def inception_state() -> State:
    """Of torch-fidelity's Inception; 96 MB."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):  # its constructor insists on weights
        def load_state_dict(self, *args: object, **kwargs: object) -> None:
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    return randomize(Unloaded("form", ["2048"], feature_extractor_weights_path=nothing))


def vgg16_state() -> State:
    """Of torchvision's VGG-16. Its classifier's 500 MB are overlapping windows of vectors, which are saved as such."""
    state = randomize(nn.ModuleDict({"features": make_layers(cfgs["D"])}))
    generator = torch.Generator().manual_seed(1)
    for layer, (rows, columns) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        vector = torch.randn(rows + columns, generator=generator) * (2 / columns) ** 0.5
        state[f"classifier.{layer}.weight"] = vector.as_strided((rows, columns), (1, 1))
        state[f"classifier.{layer}.bias"] = torch.zeros(rows)
    return state


def vgg19_state() -> State:
    """The convolutions of torchvision's VGG-19."""
    return randomize(nn.ModuleDict({"features": make_layers(cfgs["E"])}))


def squeezenet_state() -> State:
    return randomize(squeezenet1_1(weights=None))


def alexnet_state() -> State:
    """The convolutions of torchvision's AlexNet."""
    return randomize(nn.ModuleDict({"features": alexnet(weights=None).features}))
