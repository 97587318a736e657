"""Contrastive objectives: the spec's numbers, brute force, and what is no negative."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from pipelines.embed.objectives import Objective, clip, infonce, joined_similarities, objective, semi_hard, triplet

S = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
OFF = ~torch.eye(2, dtype=torch.bool)
OBJECTIVES = get_args(Objective)


def off_diagonal(n: int) -> Tensor:
    return ~torch.eye(n, dtype=torch.bool)


def random_pairs(n: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    vectors = torch.randn(2, n, 5, generator=generator, dtype=torch.float64)
    a, b = torch.nn.functional.normalize(vectors, dim=2)
    return a, b


def test_the_triplet_loss_of_the_specification() -> None:
    assert float(triplet(S, OFF)) == pytest.approx(1.98e-6, rel=2e-3)
    # the code of the authors leaves the diagonal in: a constant log 2 / (n - 1) and the same gradients
    with_diagonal = S.clone().requires_grad_()
    masked = S.clone().requires_grad_()
    full = 2 * triplet(with_diagonal, torch.ones(2, 2, dtype=torch.bool))  # a mean over 4 instead of 2
    assert float(full.detach()) == pytest.approx(0.693149, abs=1e-6)
    full.backward()
    triplet(masked, OFF).backward()
    torch.testing.assert_close(with_diagonal.grad, masked.grad)


def test_the_infonce_of_the_specification() -> None:
    rows = [math.log(1 + math.exp(-8) + math.exp(-7)), math.log(1 + math.exp(-6) + math.exp(-7))]
    assert rows == pytest.approx([0.0012466, 0.0033849], abs=1e-7)
    assert float(infonce(S, OFF, 0.1)) == pytest.approx(0.0023157, abs=1e-7)
    assert float(clip(S, OFF, 0.1)) == pytest.approx(0.0011585, abs=1e-7)


def test_the_triplet_loss_by_its_formula() -> None:
    a, b = random_pairs()
    D = torch.cdist(a, b).square().tolist()
    total = 0.0
    for i in range(6):
        for j in set(range(6)) - {i}:
            total += math.log1p(math.exp(10 * (D[j][j] - D[i][j]))) + math.log1p(math.exp(10 * (D[i][i] - D[i][j])))
    assert float(triplet(a @ b.T, off_diagonal(6))) == pytest.approx(total / 2 / 30)


def test_the_semi_hard_loss_by_its_formula() -> None:
    a, b = random_pairs(10)
    D = torch.cdist(a, b).square().tolist()
    total = 0.0
    for i in range(10):
        row = sorted(D[i][j] for j in range(10) if j != i)[:3]  # int(sqrt(10)) = 3
        column = sorted(D[j][i] for j in range(10) if j != i)[:3]
        total += sum(math.log1p(math.exp(10 * (D[i][i] - d))) for d in (*row, *column))
    assert float(semi_hard(a @ b.T, off_diagonal(10))) == pytest.approx(total / 60)


def test_clip_is_cross_entropy_both_ways() -> None:
    a, b = random_pairs()
    logits, target = a @ b.T / 0.07, torch.arange(6)
    ways = [torch.nn.functional.cross_entropy(side, target) for side in (logits, logits.T)]
    torch.testing.assert_close(clip(a @ b.T, off_diagonal(6), 0.07), sum(ways) / 2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_not_allowed_weighs_nothing(name: Objective) -> None:
    """A batch of two halves that may not repel each other is the mean of the halves (of equal size)."""
    a, b = random_pairs(8)
    loss = objective(name, 10.0, 0.05)
    allowed = off_diagonal(8)
    allowed[:4, 4:] = allowed[4:, :4] = False
    similarities = (a @ b.T).requires_grad_()
    value = loss(similarities, allowed)
    if name != "semi_hard":  # whose number of negatives goes by the whole batch
        halves = [loss(a[s] @ b[s].T, off_diagonal(4)) for s in (slice(4), slice(4, 8))]
        torch.testing.assert_close(value, sum(halves) / 2)
    value.backward()
    assert similarities.grad is not None and similarities.grad.isfinite().all()
    assert not similarities.grad[:4, 4:].any() and similarities.grad.any()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("n", [1, 5])
def test_without_any_negative_there_is_nothing_to_learn(name: Objective, n: int) -> None:
    a, b = random_pairs(n)
    similarities = (a @ b.T).requires_grad_()
    value = objective(name, 10.0, 0.02)(similarities, torch.zeros(n, n, dtype=torch.bool))
    value.backward()
    assert float(value.detach()) == pytest.approx(0) and not similarities.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_extreme_similarities_stay_finite(name: Objective) -> None:
    similarities = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], requires_grad=True)
    value = objective(name, 1000.0, 1e-3)(similarities, OFF)
    value.backward()
    assert value.isfinite() and similarities.grad is not None and similarities.grad.isfinite().all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_order_of_the_batch_does_not_matter(name: Objective) -> None:
    a, b = random_pairs(7)
    allowed = off_diagonal(7)
    allowed[2, 5] = allowed[5, 2] = False
    shuffled = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    loss = objective(name, 10.0, 0.1)
    torch.testing.assert_close(
        loss(a @ b.T, allowed), loss((a @ b.T)[shuffled][:, shuffled], allowed[shuffled][:, shuffled])
    )


def test_similarities_are_float32_under_autocast() -> None:
    a, b = (v.float() for v in random_pairs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarities = joined_similarities(a, b)
        assert (a @ b.T).dtype == torch.bfloat16
    assert torch.equal(similarities, a @ b.T)
