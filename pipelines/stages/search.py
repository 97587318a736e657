"""rgs search: what an index finds for a piece of its bank, for every segment of a layout, or for a photo."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from pipelines.artifact import open_artifact
from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decompose, decompose
from pipelines.data.instances import connected_instances
from pipelines.data.layouts import read_layout
from pipelines.data.pixels import read_image
from pipelines.data.sheet import contact_sheet
from pipelines.errors import ArtifactError, ConfigError
from pipelines.index.neighbors import NONE
from pipelines.index.shape_index import ShapeIndex, compared_areas
from pipelines.index.shape_search import canonical_mask, pack_mask

if TYPE_CHECKING:
    from pipelines.embed.embedder import Embedder
    from pipelines.index.embedding_index import EmbeddingIndex

PIECE_ID = re.compile(r"[0-9a-f]{16}")
SHEET_HITS = 10


@dataclass(frozen=True)
class Found:
    """What was found for one query: its description, its picture or that of its mask, rows of the bank with scores."""

    query: dict[str, Any]
    picture: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


def run(
    index: Path,
    queries: Sequence[str],
    *,
    bank: Path | None = None,
    k: int = 10,
    threads: int = 1,
    embedder: str | None = None,
    view: str | None = None,
    device: str = "auto",
) -> list[Found]:
    """Search for pieces by their id (without the pieces of their own image), and for files.

    A file asked of an index of shapes is a layout, searched segment by segment; of one of vectors it is a photo, seen
    as a `view`: «aerial», «ground» or «piece»; by default the view that the bank does not hold. bank, embedder: where
    they are now; where they were when the index was made if None. Raises ConfigError for a query that is neither an
    id nor a file, ArtifactError when bank, index and embedder do not fit.
    """
    of_vectors = open_artifact(index, "index").config["kind"] == "embedding"
    for query in queries:
        if not PIECE_ID.fullmatch(query) and not Path(query).is_file():
            raise ConfigError(
                f"the query {query!r} is neither a piece's id nor a {'photo' if of_vectors else 'layout'} file",
                fix="ids are 16 hexadecimal digits, as in provenance.jsonl",
            )
    opened = open_bank(index, bank)
    if of_vectors:
        return _by_vectors(index, opened, queries, k, threads, embedder, view, device)
    if named := next((name for name, value in (("--embedder", embedder), ("--view", view)) if value), None):
        raise ConfigError(f"an index of shapes has no use for {named}", fix=f"leave out {named}")
    shapes = ShapeIndex.open(index, opened)
    found: list[Found] = []
    for query in queries:
        if PIECE_ID.fullmatch(query):
            found.append(_piece(opened, shapes, query, k, threads))
        else:
            found += _layout(opened, shapes, Path(query), k, threads)
    return found


def to_json(found: Found, bank: Bank) -> dict[str, Any]:
    """One query with its hits, best first."""
    hits = [
        {
            "rank": rank,
            "id": f"{int(bank.ids[row]):016x}",
            "row": int(row),
            "source": bank.source_of(int(row)).id,
            "score": float(score),
        }
        for rank, (row, score) in enumerate(zip(found.rows, found.scores, strict=True), start=1)
        if row != NONE
    ]
    return {**found.query, "hits": hits}


def sheet(found: Sequence[Found], bank: Bank) -> np.ndarray:
    """A contact sheet: each query's picture and its best pieces."""
    count = min(SHEET_HITS, max(len(f.rows) for f in found))
    blank = np.zeros((8, 8, 3), np.uint8)
    rows = []
    for f in found:
        pieces = [blank if row == NONE else bank.crop(int(row)) for row in f.rows[:count]]
        rows.append([f.picture, *pieces, *[blank] * (count - len(pieces))])
    return contact_sheet(rows, ["query", *(str(i) for i in range(1, count + 1))])


def open_bank(index: Path, bank: Path | None) -> Bank:
    return Bank.open(bank or _bank_of(index))


def _bank_of(index: Path) -> Path:
    given = open_artifact(index, "index").input("bank")
    path = index.parent / given.path if given else None
    if path is None or not path.is_dir():
        raise ArtifactError("the bank of the index is not where it was", where=index, fix="give --bank")
    return path


def _by_vectors(
    index: Path,
    bank: Bank,
    queries: Sequence[str],
    k: int,
    threads: int,
    embedder: str | None,
    view: str | None,
    device: str,
) -> list[Found]:
    """Pieces and photos in an index of vectors; the embedder is opened where there is a photo."""
    from pipelines.index.embedding_index import EmbeddingIndex

    vectors = EmbeddingIndex.open(index, bank)
    photos = [query for query in queries if not PIECE_ID.fullmatch(query)]
    opened = _embedder_of(vectors, embedder) if photos or embedder else None
    if view is not None and not photos:
        raise ConfigError("a piece is searched by the vector that it has", where="--view", fix="leave out --view")
    return [
        _photo(vectors, opened, Path(query), view, k, threads, device)
        if opened is not None and not PIECE_ID.fullmatch(query)
        else _indexed(vectors, query, k, threads)
        for query in queries
    ]


def _embedder_of(index: EmbeddingIndex, reference: str | None) -> Embedder:
    """The embedder that an index was made with. Raises ArtifactError when it is not where it was, or is another."""
    from pipelines.index.embedding_index import require_embedder
    from pipelines.stages.embedders import open_embedder

    if reference is None:
        made_with = index.embedder
        run = index.artifact.path.parent / made_with.path
        if not run.is_dir():
            raise ArtifactError(
                "the embedder of the index is not where it was", where=index.artifact.path, fix="give --embedder"
            )
        reference = f"{run}@{made_with.step}"
    opened = open_embedder(reference)
    require_embedder(index.artifact, opened.sha256, opened.dimension)
    return opened


def _indexed(index: EmbeddingIndex, query: str, k: int, threads: int) -> Found:
    bank = index.bank
    row = bank.row_of_id(int(query, 16))
    source = bank.source_of(row).id
    categories = bank.categories[[row]] if index.gated else None
    rows, scores = index.search(
        index.vectors.vectors(np.array([row])), k, exclude=("source", source), categories=categories, threads=threads
    )
    about = {"query": query, "source": source}
    if index.gated:
        about["category"] = bank.schema.names[int(bank.categories[row])]
    return Found(about, bank.crop(row), rows[0], scores[0])


def _photo(
    index: EmbeddingIndex, embedder: Embedder, path: Path, view: str | None, k: int, threads: int, device: str
) -> Found:
    """A photo is of no category: it finds pieces of all, where the index is gated too."""
    from pipelines.runtime import pick_device

    if embedder.kind == "graph":
        raise ConfigError(
            f"the index is of {embedder.label}, which embeds the objects of scene graphs, no photos",
            where=path,
            fix="search for a piece of the bank by its id",
        )
    if view is None:
        others = [name for name in embedder.towers if name != index.bank.view]
        if len(others) != 1:
            raise ConfigError(
                f"what the photo shows could be {' or '.join(others)}", where=path, fix=f"give --view {others[0]}"
            )
        view = others[0]
    image = read_image(path)
    rows, scores = index.search(embedder.embed([image], view, device=pick_device(device)), k, threads=threads)
    return Found({"query": str(path), "view": view}, image, rows[0], scores[0])


def _piece(bank: Bank, shapes: ShapeIndex, query: str, k: int, threads: int) -> Found:
    row = bank.row_of_id(int(query, 16))
    source = bank.source_of(row).id
    areas = compared_areas(shapes.area, bank.areas[[row]], bank.boxes[[row]])
    rows, scores = shapes.search(
        bank.canonical([row]), areas, bank.categories[[row]], k, exclude=("source", source), threads=threads
    )
    category = bank.schema.names[int(bank.categories[row])]
    return Found({"query": query, "category": category, "source": source}, bank.crop(row), rows[0], scores[0])


def _layout(bank: Bank, shapes: ShapeIndex, path: Path, k: int, threads: int) -> list[Found]:
    labels = read_layout(path, bank.schema)
    settings = Decompose.model_validate(bank.config["decompose"])
    parts = decompose(labels, connected_instances(labels, bank.schema), bank.schema.things, settings)
    if not parts.segments:
        return []
    crops = [parts.owner[y : y + h, x : x + w] == i for i, (x, y, w, h) in enumerate(s.box for s in parts.segments)]
    packed = np.stack([pack_mask(canonical_mask(crop)) for crop in crops])
    categories = np.array([s.category for s in parts.segments], np.int32)
    rows, scores = shapes.search(packed, shapes.sizes(parts), categories, k, threads=threads)
    return [
        Found(
            {"query": str(path), "segment": i, "category": bank.schema.names[s.category], "box": list(s.box)},
            np.where(crops[i][..., None], bank.schema.palette[s.category], 0).astype(np.uint8),
            rows[i],
            scores[i],
        )
        for i, s in enumerate(parts.segments)
    ]


def write_sheet(path: Path, pixels: np.ndarray) -> None:
    """Write an RGB picture as a PNG."""
    _, data = cv2.imencode(".png", pixels[..., ::-1])
    path.write_bytes(data.tobytes())
