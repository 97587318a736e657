"""Do the patches that were picked for one image go together, and do other outputs of a graph get others?

Patches are compatible where a co-occurrence embedder puts them near each other (RetrieveGAN, eq. 5): one of another
seed and of other images than the one that the generator was trained against, or it measures what was optimized. Patches
of one photo go together trivially, so their share is told beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np

from pipelines.metrics.scene_graphs import Made
from pipelines.metrics.scores import OWN, Context, JudgeName, NotComputed, Score, mean_of_images


def mean_pairwise_distance(vectors: np.ndarray) -> float | None:
    """Mean Euclidean distance of the pairs of vectors (n, d); None for fewer than two. Eq. 5 over n (n - 1)."""
    pairs = list(combinations(range(len(vectors)), 2))
    if not pairs:
        return None
    first, second = np.array(pairs).T
    wide = vectors.astype(np.float64)
    return float(np.linalg.norm(wide[first] - wide[second], axis=1).mean())


def share_of_equal_pairs(values: Sequence[Hashable]) -> float | None:
    """The share of pairs of values that are equal; None for fewer than two values."""
    pairs = list(combinations(values, 2))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def repeats(made: Sequence[Made]) -> float | None:
    """Of images of one graph: the share of objects, over pairs of images, for which both picked the same patch.

    Objects without a patch in either image are left out. None where there is nothing to compare.
    """
    same = [
        a.id == b.id
        for one, other in combinations(made, 2)
        for a, b in zip(one.picks, other.picks, strict=True)
        if a is not None and b is not None
    ]
    return sum(same) / len(same) if same else None


def compatibility_score(
    vectors: Sequence[np.ndarray], reals: Sequence[np.ndarray], judge: JudgeName, context: Context
) -> Score | NotComputed:
    """The mean pairwise distance of the patches of an image, then the mean over images.

    vectors: of each image, those of its patches (k, d). reals: the same of the real images' own objects, by layout.
    """
    return mean_of_images(
        f"compatibility[{judge.label}]",
        f"Distance of patches picked together ({judge.run})",
        "lower",
        "mean Euclidean distance between the unit vectors of all pairs of patches of an image, then the mean over "
        "images of two patches or more; real: of the real image's own objects, cut by the given boxes",
        [mean_pairwise_distance(one) for one in vectors],
        context,
        reals=[mean_pairwise_distance(one) for one in reals],
        why="no image has two patches",
        warning=OWN[judge.kind] if judge.own else None,
        **{"features": judge.label, "features weights": judge.weights},
    )


def pick_scores(made: Sequence[Made], context: Context) -> list[Score | NotComputed]:
    """Patches of one photo within an image, and patches that outputs of one graph have in common."""
    within = mean_of_images(
        "same_source",
        "Patches of one photo",
        "neither",
        "share of pairs of patches of an image that were cut from the same photo, then the mean over images",
        [share_of_equal_pairs([p.source for p in one.picks if p is not None]) for one in made],
        context,
        why="no image has two patches",
    )
    firsts = np.unique(context.owners, return_index=True)[1]
    of_graph = [[made[i] for i in np.flatnonzero(context.owners == owner).tolist()] for owner in range(context.layouts)]
    if len(made) == context.layouts:
        return [within, NotComputed("repeats", "needs several outputs of a graph (rgs synthesize --num)")]
    values: list[float | None] = [None] * len(made)
    for first, images in zip(firsts.tolist(), of_graph, strict=True):
        values[first] = repeats(images)  # one value per graph, kept with its first image
    across = mean_of_images(
        "repeats",
        "Patches that outputs of a graph share",
        "lower",
        "share of objects for which two outputs of one graph picked the same patch: over all pairs of outputs of a "
        "graph, then over graphs",
        values,
        context,
        why="no two outputs of a graph have patches",
    )
    return [within, across]
