"""The vectors of a bank's pieces under an embedder, in the order of rows, in bounded memory.

Threads read and decode pieces ahead of the network, each through files of its own; order and values do not depend on
how many there are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy

import cv2
import numpy as np
import torch

from pipelines.bank.bank import Bank
from pipelines.data.augment import Size, resize_image
from pipelines.embed.embedder import Embedder
from pipelines.embed.graph_vectors import graph_vectors
from pipelines.errors import ArtifactError, NumericalError

PIECE = "piece"
"""The one view of an embedder of pieces."""
NEUTRAL = 128
"""What an embedder of pieces sees outside their masks."""


def bank_vectors(
    bank: Bank,
    embedder: Embedder,
    rows: Sequence[int] | np.ndarray | None = None,
    batch: int = 64,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (rows (m,) int64, vectors (m, dimension) float32), m at most `batch`, of all rows or those given, in order.

    workers: threads that decode ahead; 0 decodes between the batches. Raises ArtifactError when the embedder is not for
    such a bank or the bank is damaged, NumericalError naming the piece whose vector is not finite.
    """
    wanted = np.arange(len(bank)) if rows is None else np.asarray(rows, dtype=np.int64)
    parts = [wanted[first : first + batch] for first in range(0, len(wanted), batch)]
    if embedder.kind == "graph":
        yield from graph_vectors(bank, embedder, parts, device)
        return
    view = view_of(bank, embedder)
    for part, images in _decoded(bank, parts, embedder.towers[view].size, workers):
        yield part, _embedded(bank, embedder, part, images, view, device)


def view_of(bank: Bank, embedder: Embedder) -> str:
    """Which tower embeds the pieces of a bank. Raises ArtifactError when the embedder has none for them."""
    if embedder.kind in ("pieces", "cooccurrence"):
        return PIECE
    fix = "rgs build-bank PAIRS --kind images --view aerial makes such a bank"
    if bank.kind != "images" or bank.view is None:
        what = "photos without a view" if bank.kind == "images" else bank.kind
        raise ArtifactError(f"the embedder is one of pairs, and this is a bank of {what}", where=bank.path, fix=fix)
    if bank.view not in embedder.towers:
        towers = ", ".join(embedder.towers)
        raise ArtifactError(f"the embedder has no tower for {bank.view} views, only {towers}", where=bank.path, fix=fix)
    return bank.view


def piece_image(bank: Bank, row: int, size: Size) -> np.ndarray:
    """(h, w, 3) uint8: a piece as an embedder sees it, of one size, neutral outside its mask."""
    image = bank.crop(row)
    return resize_image(on_neutral(image, bank.mask(row)) if bank.masked(row) else image, size)


def on_neutral(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 with NEUTRAL where the mask (h, w) bool is not."""
    return cv2.copyTo(image, mask.view(np.uint8), np.full_like(image, NEUTRAL))


def _decoded(
    bank: Bank, parts: Sequence[np.ndarray], size: Size, workers: int
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """The images of each part, in order; at most workers + 1 parts ahead of the one that is used."""
    own = threading.local()

    def decode(part: np.ndarray) -> list[np.ndarray]:
        if not hasattr(own, "bank"):
            own.bank = copy(bank)  # its files are for one thread
        return [piece_image(own.bank, int(row), size) for row in part]

    if workers == 0:
        for part in parts:
            yield part, decode(part)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    coming: deque[tuple[np.ndarray, Future[list[np.ndarray]]]] = deque()
    try:
        for part in parts:
            coming.append((part, pool.submit(decode, part)))
            if len(coming) > workers + 1:
                first, images = coming.popleft()
                yield first, images.result()
        while coming:
            first, images = coming.popleft()
            yield first, images.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _embedded(
    bank: Bank,
    embedder: Embedder,
    rows: np.ndarray,
    images: list[np.ndarray],
    view: str,
    device: torch.device | str,
) -> np.ndarray:
    """(m, dimension) the vectors of some pieces. NumericalError names the first piece of which there is none."""
    try:
        return embedder.embed(images, view, batch=len(images), device=device)
    except NumericalError as error:
        for row, image in zip(rows.tolist(), images, strict=True):
            try:
                embedder.embed([image], view, batch=1, device=device)
            except NumericalError:
                raise NumericalError(
                    f"the vector of piece {bank.ids[row]:016x} of {bank.source_of(row).id} is not finite",
                    where=bank.path,
                    fix="train the embedder anew with a lower learning rate, or with train.precision=fp32",
                ) from error
        raise
