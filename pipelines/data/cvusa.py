"""CVUSA as it is published: splits/train-19zl.csv and val-19zl.csv, without a header; a line is aerial, panorama and
perhaps an annotation, which is not read, as paths from the dataset's folder.

A pair's id, and its place, is the stem of its aerial picture.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.data.listing import ListedDataset
from pipelines.data.pairs import AERIAL, GROUND, Listed, lies_within, paired_dataset, read_rows
from pipelines.data.scene import SceneRecord, View
from pipelines.errors import DataError

_LISTS = {"train": "splits/train-19zl.csv", "val": "splits/val-19zl.csv"}


def recognizes_cvusa(root: Path) -> bool:
    return any((root / name).is_file() for name in _LISTS.values())


def open_cvusa(root: Path) -> ListedDataset:
    """List the pairs of the split files that are there. Raises DataError for a line that is no pair, or no pair."""
    listed = []
    for split, name in _LISTS.items():
        if (root / name).is_file():
            listed += [_pair(root, split, root / name, line, cells) for line, cells in read_rows(root / name)]
    return paired_dataset("cvusa", root, listed, root / "splits")


def _pair(root: Path, split: str, file: Path, line: int, cells: list[str]) -> Listed:
    if len(cells) not in (2, 3) or not all(cells[:2]):
        raise DataError(
            f"the line has {len(cells)} cells",
            where=f"{file}, line {line}",
            fix="write aerial,panorama or aerial,panorama,annotation",
        )
    stem = Path(cells[0]).stem
    outside = next((name for name in cells[:2] if not lies_within(name)), None)
    aerial, ground = (file, file) if outside else (root / cells[0], root / cells[1])
    record = SceneRecord(
        id=stem,
        split=split,
        image=None,
        group=stem,
        domain="cvusa",
        views={AERIAL: View(aerial), GROUND: View(ground)},
        extra={"aerial_id": stem, "street_kind": "panorama"},
    )
    return Listed(record, file, f"line {line}", f"the picture {outside!r} lies outside the dataset" if outside else "")
