"""Color histograms: what retrieval reaches that knows nothing of shapes, the baseline beside any embedder."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from pipelines.metrics.recall import rows_at_once

BINS = 8
"""Of each of red, green and blue, equally wide."""
PROTOCOL = (
    f"joint RGB histogram of {BINS}x{BINS}x{BINS} equal bins over all pixels of a view, compared by chi-square "
    "distance, half the sum of (p - q)² / (p + q)"
)

_CHUNK = 1 << 22  # numbers that are held at once


def color_histogram(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 -> (BINS³,) float32 shares of its pixels."""
    counts = cv2.calcHist([np.ascontiguousarray(image)], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3)
    return np.asarray(counts.reshape(-1) / counts.sum(), np.float32)


def similarities(queries: np.ndarray, gallery: np.ndarray) -> Iterator[np.ndarray]:
    """Chi-square distances, negated, some queries at a time: (rows, g) each."""
    rows = rows_at_once(len(gallery))
    for first in range(0, len(queries), rows):
        yield -chi_square(queries[first : first + rows], gallery)


def chi_square(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """(q, g) float32 chi-square distances in [0, 1] between histograms (q, d) and (g, d).

    As p and q sum to 1, half the sum of (p - q)² / (p + q) is 1 - the sum of 2 p q / (p + q), which needs only the bins
    that the query fills.
    """
    distances = np.empty((len(queries), len(gallery)), np.float32)
    for row, query in enumerate(queries):
        filled = np.flatnonzero(query)
        p = query[filled]
        step = max(1, _CHUNK // len(p))
        for first in range(0, len(gallery), step):
            q = gallery[first : first + step, filled]
            distances[row, first : first + step] = 1 - (2 * p * q / (p + q)).sum(axis=1)
    return distances
