"""Adaptive sharpness-aware minimization: a quadratic by hand, and weights that come back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.train.asam import perturb, restore


def quadratic(values: list[float], curvature: list[float]) -> nn.Parameter:
    """A parameter p with the gradient of 1/2 sum c p^2."""
    p = nn.Parameter(torch.tensor(values, dtype=torch.float64))
    (torch.tensor(curvature, dtype=torch.float64) * p.square() / 2).sum().backward()
    return p


def test_the_perturbation_of_a_quadratic_by_hand() -> None:
    first, second = quadratic([1.0, -2.0], [3.0, 1.0]), quadratic([0.5], [4.0])
    # g = c p = (3, -2), (2); |p| g = (3, -4), (1): norm sqrt(26); e = rho p^2 g / norm
    norm = np.sqrt(26)
    perturb([first, second], 2.0)
    moved = [1 + 2 * 1 * 3 / norm, -2 + 2 * 4 * -2 / norm, 0.5 + 2 * 0.25 * 2 / norm]
    assert [*first.tolist(), *second.tolist()] == pytest.approx(moved, rel=1e-12)


def test_it_goes_uphill_and_is_measured_in_parts_of_the_weights() -> None:
    """Scaling a weight by k and its curvature by 1 / k^2 is the same function; the perturbed loss is the same."""
    losses = []
    for k in (1.0, 10.0):
        p = quadratic([1.0 * k, -2.0], [3.0 / k**2, 1.0])
        perturb([p], 0.1)
        losses.append(float((torch.tensor([3.0 / k**2, 1.0]) * p.detach().square() / 2).sum()))
    assert losses[0] == pytest.approx(losses[1])
    assert losses[0] > 3.5


def test_weights_come_back_bit_for_bit() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3), nn.Linear(3, 2))
    net[2](net[1](net[0](torch.randn(4, 5)))).square().sum().backward()  # the last layer has no gradient
    before = {key: value.clone() for key, value in net.state_dict().items()}
    saved = perturb(net.parameters(), 2.0)
    assert not torch.equal(net[0].weight, before["0.weight"])
    assert torch.equal(net[3].weight, before["3.weight"])
    restore(net.parameters(), saved)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_gradient_of_zero_moves_nothing() -> None:
    p = quadratic([1.0, 2.0], [0.0, 0.0])
    perturb([p], 2.0)
    assert p.tolist() == [1.0, 2.0]
    without = nn.Parameter(torch.ones(2))
    restore([without], perturb([without], 2.0))
    assert without.tolist() == [1.0, 1.0]
