"""How the networks of this field begin."""

from __future__ import annotations

from torch import nn

from pipelines.nn.layers.spectral import SpectralConv2d

SETTLING = 15
"""Power iterations that are enough for the singular vectors of random weights."""


def init_weights(network: nn.Module, gain: float = 0.02) -> nn.Module:
    """Xavier-normal weights with `gain` and zero biases for every convolution and linear layer, in place.

    Other parameters keep what their layer begins with (blend scalars are 0). Singular vectors are brought near those
    of the new weights, so that a network in eval mode before its first step is spectrally normalized too.
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, SpectralConv2d):
            nn.init.xavier_normal_(module.weight_orig, gain)
        else:
            nn.init.xavier_normal_(module.weight, gain)
    return settle(network)


def settle(network: nn.Module) -> nn.Module:
    """Bring the singular vectors of spectrally normalized layers near those of fresh weights, in place."""
    for module in network.modules():
        if isinstance(module, SpectralConv2d):
            module.power_iterate(SETTLING)
    return network
