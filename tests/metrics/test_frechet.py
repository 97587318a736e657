"""The Frechet distance: closed forms, invariances, and torch-fidelity where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.metrics.frechet import frechet_distance


def with_moments(mean: list[float], variances: list[float]) -> np.ndarray:
    """Points whose mean and ddof-1 covariance diag(variances) are exact: two on each axis."""
    d = len(mean)
    spread = np.sqrt(np.array(variances) * (2 * d - 1) / 2)
    return np.concatenate([np.diag(spread), -np.diag(spread)]) + mean


def test_two_gaussians_by_hand() -> None:
    real, fake = with_moments([0, 0], [1, 4]), with_moments([3, 4], [9, 1])
    assert frechet_distance(real, fake) == pytest.approx(25 + (1 - 3) ** 2 + (2 - 1) ** 2)


def test_one_dimension() -> None:
    real, fake = with_moments([1], [4]), with_moments([-2], [25])
    assert frechet_distance(real, fake) == pytest.approx(9 + (2 - 5) ** 2)


def test_a_shift_costs_its_square_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x, shift = rng.normal(size=(50, 8)), rng.normal(size=8)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(x, x + shift) == pytest.approx(shift @ shift)


def test_symmetric_and_blind_to_order_and_rotation() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 16)), rng.normal(size=(30, 16)) * 2 + 1
    value = frechet_distance(x, y)
    rotation, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    assert frechet_distance(y, x) == pytest.approx(value)
    assert frechet_distance(x[::-1], rng.permutation(y)) == pytest.approx(value)
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(value)


def test_four_ways_to_the_trace_agree_where_covariances_are_singular() -> None:
    rng = np.random.default_rng(2)
    mixing = rng.normal(size=(64, 64))
    x, y = rng.normal(size=(40, 64)) @ mixing, rng.normal(size=(30, 64)) @ mixing + 0.5
    A, B = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    rest = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(A) + np.trace(B)
    by_eig = np.sqrt(np.linalg.eigvals(A @ B).astype(complex)).real.sum()
    values, vectors = np.linalg.eigh(A)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    by_eigh = np.sqrt(np.linalg.eigvalsh(root @ B @ root).clip(0)).sum()
    by_norm = np.linalg.norm((x - x.mean(0)) @ (y - y.mean(0)).T, "nuc") / np.sqrt(39 * 29)
    for trace in (by_eig, by_eigh, by_norm):
        assert frechet_distance(x, y) == pytest.approx(rest - 2 * trace, rel=1e-5)


def test_constant_features_are_no_trouble() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 4))
    x[:, 2] = y[:, 2] = 7
    assert np.isfinite(frechet_distance(x, y))
    assert frechet_distance(x[:, [0, 1, 3]], y[:, [0, 1, 3]]) == pytest.approx(frechet_distance(x, y))


def test_one_image_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="2 images"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


@pytest.mark.parametrize("shape", [(300, 200, 24), (40, 30, 64)])
def test_equals_torch_fidelity(shape: tuple[int, int, int]) -> None:
    metric_fid = pytest.importorskip("torch_fidelity.metric_fid")
    import torch

    n, m, d = shape
    rng = np.random.default_rng(4)
    x = np.abs(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)))
    y = np.abs(rng.normal(size=(m, d)) @ rng.normal(size=(d, d))) + 0.3
    stats = [metric_fid.fid_features_to_statistics(torch.from_numpy(f)) for f in (x, y)]
    theirs = metric_fid.fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(theirs, rel=1e-5)
