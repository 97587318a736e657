"""The copy check: are outputs closer to what the system has seen than real photos of the same layouts are?

Each distance of an output is set beside the same distance of its held-out photo, with the same masks against the
same bank or training images. An output that passes its pieces on unchanged has distance 0 where its photo has not.
A system that retrieves is meant to take texture from its bank, so a number alone accuses nobody; compare it with the
photos' and look at the nearest pairs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np

from pipelines.metrics.intervals import resample
from pipelines.metrics.retrieval import mean_score
from pipelines.metrics.scores import Better, Context, NotComputed, Score

T = TypeVar("T")

SEGMENT_SIDE = 16
"""Side in pixels of the squares on which segments are compared."""
PHOTO_SIDE = 32
"""The same of whole photos."""
LEAST_PIXELS = 16
"""Segments of fewer pixels are left out: so few colors are alike by chance."""
LEAST_OVERLAP = 0.5
"""Share of a segment that a piece's mask must cover for the two to be compared."""
LEVELS = 8
"""A pixel is taken over from a piece if no channel differs by more than this many of 255."""
CLOSE = 0.5
"""An output is close to a source if its distance is less than this times that of its real photo."""
COPYING = -3.0
"""A z below this is called copying: chance gives it once in 740 sets."""
ALIKE_BITS = 3
"""Two photos whose 64-bit difference hashes differ in at most so many bits are near duplicates."""

SEGMENT_PROTOCOL = (
    f"segments of {LEAST_PIXELS} pixels or more, each averaged over its mask to {SEGMENT_SIDE}x{SEGMENT_SIDE}; root "
    f"mean square of RGB over the pixels that both masks have (at least {LEAST_OVERLAP:.0%} of the segment), in levels "
    "of 255; the least over all bank pieces of the class; mean over an image's segments by their pixels"
)
PHOTO_PROTOCOL = (
    f"images averaged to {PHOTO_SIDE}x{PHOTO_SIDE}, aspect not kept; root mean square of RGB in levels of 255; the "
    "least over all training images"
)
PASTED_PROTOCOL = f"share of the pixels under pieces where no channel differs from the guidance by more than {LEVELS}"
AUDIT_PROTOCOL = f"sha256 of decoded pixels, and 64-bit difference hashes that differ in at most {ALIKE_BITS} bits"

_CHUNK = 2048  # bank pieces that are compared at once


@dataclass(frozen=True)
class Patch:
    """A segment or photo on a square. colors: (side², 3) float32 in [0, 1]. cover: (side²,) share within the mask."""

    colors: np.ndarray
    cover: np.ndarray


@dataclass(frozen=True)
class Nearest:
    """For each query the least distance in levels of 255 and the number of the candidate that has it.

    distance: (n,) float64, inf where nothing could be compared; number: (n,) int64, there -1.
    """

    distance: np.ndarray
    number: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """Outputs beside their real photos, both (n,) distances to the same sources; NaN where there is none.

    ratio: (n,) rho = output / real. z: of `mann_whitney_z`, far below 0 where outputs copy; None if undefined.
    """

    outputs: np.ndarray
    reals: np.ndarray
    ratio: np.ndarray
    z: float | None

    @property
    def close(self) -> np.ndarray:
        """(n,) bool: rho < CLOSE."""
        return np.nan_to_num(self.ratio, nan=math.inf) < CLOSE


@dataclass(frozen=True)
class Leak:
    """A reference photo that is a training image as well. bits: by which their hashes differ; same: every pixel."""

    reference: int
    training: int
    same: bool
    bits: int


def patch(image: np.ndarray, mask: np.ndarray | None = None, side: int = SEGMENT_SIDE) -> Patch:
    """Average (h, w, 3) uint8 over its mask (h, w) bool, or over all of it, onto a square of `side` pixels.

    A pixel of the square is the mean of the image under it, weighted by covered area; the aspect is not kept.
    """
    h, w = image.shape[:2]
    layers = np.empty((h, w, 4), np.float32)  # colors within the mask, and the mask
    if mask is None:
        layers[..., :3], layers[..., 3] = image, 1
    else:
        layers[..., :3] = cv2.copyTo(image, mask.view(np.uint8))
        layers[..., 3] = mask
    low = (_coverage(h, side) @ layers.reshape(h, -1)).reshape(side, w, 4)
    means = (_coverage(w, side) @ low).reshape(-1, 4)
    cover = means[:, 3]
    colors = np.divide(means[:, :3], 255 * cover[:, None], out=np.zeros_like(means[:, :3]), where=cover[:, None] > 1e-6)
    return Patch(colors, np.ascontiguousarray(cover))


@lru_cache(maxsize=4096)
def _coverage(size: int, side: int) -> np.ndarray:
    """(side, size) float32: the share of output pixel i that input pixel j makes up; rows sum to 1."""
    edges = np.arange(side + 1) * (size / side)
    low, high = edges[:-1, None], edges[1:, None]
    at = np.arange(size)
    overlap = np.clip(np.minimum(high, at + 1) - np.maximum(low, at), 0, None)
    return np.asarray(overlap * (side / size), dtype=np.float32)


def nearest_patches(queries: Sequence[Patch], candidates: Iterator[Patch] | Sequence[Patch]) -> Nearest:
    """The nearest candidate of each query by the root mean square of RGB over their common mask.

    Pairs are weighed by the product of their covers. With w the covers and a, b the colors,

        d² = sum w_a w_b |a - b|² / (3 sum w_a w_b)

    is one product of matrices over all pairs; what it finds is computed anew in float64, so equal patches have 0.
    """
    count = len(queries)
    distance, number = np.full(count, np.inf), np.full(count, -1, np.int64)
    if not count:
        return Nearest(distance, number)
    cover = np.stack([query.cover for query in queries])
    colors = np.stack([query.colors for query in queries])
    left = np.concatenate(
        [cover * (colors**2).sum(2), cover, (-2 * cover[..., None] * colors).reshape(count, -1)], axis=1
    )
    needed = LEAST_OVERLAP * cover.sum(1)
    first = 0
    for chunk in _chunks(candidates):
        b_cover = np.stack([candidate.cover for candidate in chunk])
        b_colors = np.stack([candidate.colors for candidate in chunk])
        right = np.concatenate(
            [
                b_cover,
                b_cover * (b_colors**2).sum(2),
                (b_cover[..., None] * b_colors).reshape(len(chunk), -1),
            ],
            axis=1,
        )
        overlap = cover @ b_cover.T
        squares = left @ right.T
        np.divide(squares, 3 * overlap, out=squares, where=overlap > 0)
        squares[overlap < np.maximum(needed, 1e-6)[:, None] * (1 - 1e-5)] = np.inf
        chosen = squares.argmin(1)
        found = squares[np.arange(count), chosen]
        for i in np.flatnonzero(np.isfinite(found) & (found < distance + 1e-6)).tolist():
            exact = _mean_square(queries[i], chunk[chosen[i]])
            if exact < distance[i]:
                distance[i], number[i] = exact, first + chosen[i]
        first += len(chunk)
    return Nearest(255 * np.sqrt(distance), number)


def _mean_square(a: Patch, b: Patch) -> float:
    weight = (a.cover.astype(np.float64) * b.cover)[:, None]
    return float((weight * (a.colors.astype(np.float64) - b.colors) ** 2).sum() / (3 * weight.sum()))


def _chunks(items: Iterator[T] | Sequence[T]) -> Iterator[list[T]]:
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def nearest_features(queries: np.ndarray, candidates: np.ndarray) -> Nearest:
    """The nearest of the candidates (m, d) to each query (n, d) in Euclidean distance."""
    a, b = queries.astype(np.float64), candidates.astype(np.float64)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    number = squares.argmin(1)
    return Nearest(np.linalg.norm(a - b[number], axis=1), number)


def mean_distance(distance: np.ndarray, pixels: np.ndarray) -> float:
    """Mean of an image's segments by their pixels; NaN if none could be compared."""
    known = np.isfinite(distance)
    return float(np.average(distance[known], weights=pixels[known])) if known.any() else math.nan


def compare(
    outputs: Sequence[float] | np.ndarray, reals: Sequence[float] | np.ndarray, owners: np.ndarray
) -> Comparison:
    """Distances of outputs beside those of their real photos, in the same order; NaN where there is none.

    owners: (n,) the layout of each output. Several may be variants of one: its photo counts once in z.
    """
    a, b = np.asarray(outputs, np.float64), np.asarray(reals, np.float64)
    ratio = np.divide(a, b, out=np.full_like(a, math.nan), where=b > 0)
    return Comparison(a, b, ratio, _z(a, b, owners, np.arange(len(a))))


def mann_whitney_z(a: np.ndarray, b: np.ndarray) -> float | None:
    """The standardized U of a against b, with mean ranks for ties: below 0 where a is smaller (Meehan et al. 2020).

    Normal approximation, corrected for ties but not for continuity. None where one is empty or all are equal.
    """
    n, m = len(a), len(b)
    _, inverse, counts = np.unique(np.concatenate([a, b]), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[inverse]  # the mean of the ranks that equal values share
    total = n + m
    ties = float((counts.astype(np.float64) ** 3 - counts).sum())
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1))) if n and m else 0.0
    if variance <= 0:
        return None
    return float((ranks[:n].sum() - n * (n + 1) / 2 - n * m / 2) / math.sqrt(variance))


def taken_over(image: np.ndarray, guidance: np.ndarray, covered: np.ndarray) -> float | None:
    """Share of the covered pixels (h, w) bool where an image equals its guidance up to LEVELS; None without any."""
    if not covered.any():
        return None
    apart = np.abs(image[covered].astype(np.int16) - guidance[covered]).max(1)
    return float((apart <= LEVELS).mean())


def fingerprint(image: np.ndarray) -> tuple[str, np.ndarray]:
    """sha256 of an image's size and pixels, and its 64 difference bits: does gray grow to the right, on 8 rows of 9."""
    whole = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()
    gray = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    small = _coverage(image.shape[0], 8) @ gray @ _coverage(image.shape[1], 9).T
    return whole, (np.diff(small, axis=1) > 0).reshape(-1)


def audit(references: Sequence[tuple[str, np.ndarray]], training: Sequence[tuple[str, np.ndarray]]) -> list[Leak]:
    """Reference photos that are training images as well, by their fingerprints, the most alike first."""
    if not references or not training:
        return []
    differing = _hamming(*(np.stack([bits for _, bits in many]) for many in (references, training)))
    pairs = {(int(i), int(j)) for i, j in np.argwhere(differing <= ALIKE_BITS)}  # equal pixels have equal bits
    leaks = [Leak(i, j, references[i][0] == training[j][0], int(differing[i, j])) for i, j in pairs]
    return sorted(leaks, key=lambda leak: (not leak.same, leak.bits, leak.reference, leak.training))


def _hamming(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, m) int: differing bits of (n, 64) and (m, 64) bool."""
    signs = a.astype(np.float32) * 2 - 1, b.astype(np.float32) * 2 - 1
    return np.rint((a.shape[1] - signs[0] @ signs[1].T) / 2).astype(np.int64)


def pasted_scores(
    outputs: Sequence[float | None], reals: Sequence[float | None], context: Context
) -> tuple[list[Score], list[NotComputed]]:
    """The share of the pieces' pixels that outputs take over; reals: the same of their photos, which is by chance."""
    own = {"variant": PASTED_PROTOCOL, "library": f"numpy {np.__version__}"}
    known = [value for value in reals if value is not None]
    on_real = math.fsum(known) / len(known) if known else None
    found = mean_score("copy/pasted", "Piece pixels taken over", "neither", outputs, context, own, on_real)
    return ([], [NotComputed("copy/pasted", "no image has a piece")]) if found is None else ([found], [])


def comparison_scores(
    key: str, title: str, found: Comparison, context: Context, own: Mapping[str, Any]
) -> tuple[list[Score], list[NotComputed]]:
    """A comparison as scores: the median distance with that of the photos, median rho, share of rho < CLOSE, and z.

    own: of the protocol, the variant and what was compared with.
    """
    if not np.isfinite(found.outputs).any():
        return [], [NotComputed(f"copy/{key}", "nothing could be compared")]
    base = {"library": f"numpy {np.__version__}", **own}
    variant = str(base.pop("variant"))
    made: list[Score] = []

    def add(
        suffix: str,
        name: str,
        better: Better,
        what: str,
        statistic: Callable[[np.ndarray], float | None],
        *,
        on_real: float | None = None,
        values: np.ndarray | None = None,
        warning: str | None = None,
    ) -> None:
        every = np.arange(len(found.outputs))
        value = statistic(every)
        if value is None or not math.isfinite(value):
            return
        interval = resample(statistic, context.owners, context.seed)
        protocol = context.protocol(interval, variant=what, **base)
        per_image = None if values is None else [float(v) if math.isfinite(v) else None for v in values]
        unit = "" if suffix else "levels" if key != "features" else ""
        made.append(
            Score(
                f"copy/{key}{suffix}", name, value, better, protocol, unit, on_real, per_image, warning, interval.ends
            )
        )

    photos = _median(found.reals)
    add(
        "",
        title,
        "neither",
        f"{variant}; the median over images",
        lambda at: _median(found.outputs[at]),
        on_real=photos,
        values=found.outputs,
    )
    if photos is None:
        return made, [NotComputed(f"copy/{key}_ratio", "needs reference images (--reference)")]
    count = int(found.close.sum())
    close = (
        f"{count} of {len(found.close)} outputs came closer than {CLOSE:g} of their photo's distance" if count else None
    )
    ratio = "rho: an output's distance over that of its real photo"
    add(
        "_ratio",
        f"{title}: ratio to photo",
        "neither",
        f"{ratio}; the median over images; {variant}",
        lambda at: _median(found.ratio[at]),
        on_real=1.0,
        values=found.ratio,
        warning=close,
    )
    add(
        "_close",
        f"{title}: share of ratios below {CLOSE:g}",
        "lower",
        f"share of images whose rho is below {CLOSE:g}; {ratio}; {variant}",
        lambda at: float(found.close[at].mean()),
        on_real=0.0,
        values=found.close,
    )
    add(
        "_z",
        f"{title}: rank test",
        "neither",
        f"Mann-Whitney U of the outputs' distances against the photos', standardized, ties corrected (Meehan et al. "
        f"2020); far below 0 means copying; {variant}",
        lambda at: _z(found.outputs, found.reals, context.owners, at),
        on_real=0.0,
        warning="the outputs lie closer than their photos, beyond chance" if (found.z or 0) < COPYING else None,
    )
    return made, []


def _z(a: np.ndarray, b: np.ndarray, owners: np.ndarray, at: np.ndarray) -> float | None:
    """z of the images `at`; a photo counts as often as its layout was drawn, not once for each of its variants."""
    first = np.zeros(len(owners), dtype=bool)
    first[np.unique(owners, return_index=True)[1]] = True
    a, b = a[at], b[at[first[at]]]
    return mann_whitney_z(a[np.isfinite(a)], b[np.isfinite(b)])


def _median(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
