"""Embedder: order, sizes, batches and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.data.augment import image_tensor, resize_image
from pipelines.embed.embedder import Embedder
from pipelines.embed.tower import build_tower
from pipelines.errors import ConfigError, NumericalError
from pipelines.train.run import Weights


def embedder() -> Embedder:
    torch.manual_seed(0)
    towers = {view: build_tower("saig-small", "gap", size).eval() for view, size in SIZES.items()}
    return Embedder("crossview", towers, 64, "runs/e", Weights(Path("runs/e"), 3, "abc", {}))


SIZES = {"aerial": (32, 32), "ground": (16, 64)}


def images(count: int, seed: int = 0) -> list[np.ndarray]:
    """Of various sizes."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*rng.integers(8, 90, 2), 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("view", SIZES)
@torch.no_grad()
def test_vectors_are_those_of_the_images_one_by_one(view: str) -> None:
    made = embedder()
    shown = images(7)
    vectors = made.embed(iter(shown), view, batch=3)
    assert vectors.shape == (7, 64) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for image, vector in zip(shown, vectors, strict=True):
        alone = made.towers[view](image_tensor(resize_image(image, SIZES[view]))[None])[0].numpy()
        assert np.allclose(vector, alone, atol=1e-5)
    assert len({vector.tobytes() for vector in vectors}) == 7


def test_images_are_taken_a_batch_at_a_time() -> None:
    taken: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for i, image in enumerate(images(7)):
            taken.append(i)
            yield image

    made = embedder()
    seen: list[int] = []
    made.towers["aerial"].register_forward_hook(lambda *_: seen.append(len(taken)))
    made.embed(stream(), "aerial", batch=3)
    assert seen == [3, 6, 7]


def test_vectors_are_of_full_precision_whatever_surrounds_them() -> None:
    made, shown = embedder(), images(3)
    plain = made.embed(shown, "aerial")
    tf32: list[bool] = []
    made.towers["aerial"].register_forward_hook(lambda *_: tf32.append(torch.backends.cudnn.allow_tf32))
    with torch.backends.cudnn.flags(allow_tf32=True), torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(made.embed(shown, "aerial"), plain)
        assert torch.backends.cudnn.allow_tf32
    assert tf32 == [False]


def test_no_images_have_no_vectors() -> None:
    assert embedder().embed([], "ground").shape == (0, 64)


def test_an_unknown_view_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as error:
        embedder().embed(images(1), "piece")
    assert "aerial, ground" in str(error.value)


def test_a_vector_that_is_not_finite_is_refused_with_its_image() -> None:
    made = embedder()

    def spoil(module: Any, given: Any, vectors: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(vectors))[:, None] == 1, torch.nan, vectors)

    made.towers["ground"].register_forward_hook(spoil)
    with pytest.raises(NumericalError, match="runs/e gives image 1 "):
        made.embed(images(5), "ground", batch=4)


def test_it_is_pinned_to_its_weights() -> None:
    assert (embedder().sha256, embedder().metric, embedder().gate) == ("abc", "cosine", "none")
