"""Real scenes, whose label maps are ragged as no made map is."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.bank.segments import Decompose, decompose, reframe, resize_owner
from pipelines.compose.distort import Distort, distort_scene
from pipelines.compose.guidance import Placement, compose, cut
from pipelines.data.augment import resize_image
from pipelines.data.open import open_dataset
from pipelines.data.transforms import nearest_resize
from tests.data.trees import REAL, real


@real
@pytest.mark.parametrize("pack", ["cmp_facades", "camvid", "coco_panoptic"])
def test_a_scene_is_its_own_best_guidance_and_survives_distortion(pack: str) -> None:
    dataset = open_dataset(REAL / pack)
    things = dataset.schema.things
    for record in dataset.records("val")[:3]:
        scene = dataset.read(record)
        assert scene.image is not None and scene.labels is not None
        whole = decompose(scene.labels, scene.instances, things, Decompose(preserved_ratio=1))
        np.testing.assert_array_equal(whole.owner >= 0, scene.labels >= 0)
        foreground = (scene.labels >= 0) & things[scene.labels]
        kept = decompose(scene.labels, scene.instances, things, Decompose())
        assert 0 < len(kept.segments) <= len(whole.segments)
        pieces = [cut(scene.image, kept.owner, i, s.box) for i, s in enumerate(kept.segments)]
        same = [Placement(p, s.box) for p, s in zip(pieces, kept.segments, strict=True)]
        result = compose(kept.owner, kept.things, kept.areas, foreground, same)
        np.testing.assert_array_equal(result.owner, kept.owner)
        np.testing.assert_array_equal(result.image[kept.owner >= 0], scene.image[kept.owner >= 0])

        # At another size the pieces resize to about what the image resizes to.
        size = (192, 192)
        small = reframe(kept, resize_owner(kept.owner, size))
        placed = [Placement(p, s.box) if s.area else None for p, s in zip(pieces, small.segments, strict=True)]
        small_foreground = nearest_resize(foreground, size)
        result = compose(small.owner, small.things, small.areas, small_foreground, placed)
        painted = result.owner >= 0
        assert painted.mean() > 0.9 * (small.owner >= 0).mean()
        difference = np.abs(result.image.astype(int) - resize_image(scene.image, size))[painted]
        assert np.median(difference) < 12

        image = resize_image(scene.image, size)
        result = distort_scene(
            image, small, small_foreground, [*pieces[1:], pieces[0]], Distort(), np.random.default_rng(0)
        )
        assert (result.owner >= 0).mean() > 0.8 * (small.owner >= 0).mean()
