"""The Frechet distance between two sets of features, in float64.

With A and B the centered features over sqrt(n - 1) and sqrt(m - 1), so that S_A = AᵀA and S_B = BᵀB (ddof = 1),

    d² = |mu_A - mu_B|² + tr S_A + tr S_B - 2 tr (S_A S_B)^(1/2),     tr (S_A S_B)^(1/2) = |A Bᵀ|_* = |R_A R_Bᵀ|_*

where |.|_* is the sum of singular values and A = Q_A R_A, B = Q_B R_B (R = A where it has fewer rows anyway). It is
the formula of torch-fidelity and the others, but no square root of a round-off eigenvalue enters, so it stays exact
where covariances are singular.
"""

from __future__ import annotations

import numpy as np

PROTOCOL = "means and covariances (ddof 1) in float64; biased upward for few images, so compare equal counts only"


def frechet_distance(real: np.ndarray, fake: np.ndarray) -> float:
    """d² of features (n, d) and (m, d), n and m at least 2. Round-off may leave it slightly below 0."""
    if min(len(real), len(fake)) < 2:
        raise ValueError("a covariance needs at least 2 images")
    mean_r, R_A = _moments(real)
    mean_f, R_B = _moments(fake)
    trace = np.linalg.svdvals(R_A @ R_B.T).sum()
    shift = mean_r - mean_f
    return float(shift @ shift + np.square(R_A).sum() + np.square(R_B).sum() - 2 * trace)


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean (d,), and R (min(n, d), d) with RᵀR the covariance."""
    wide = features.astype(np.float64)
    mean = wide.mean(0)
    centered = (wide - mean) / np.sqrt(len(wide) - 1)
    n, d = centered.shape
    return mean, np.asarray(np.linalg.qr(centered, mode="r")) if n > d else centered
