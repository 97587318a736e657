"""The formats of datasets: one table, and opening a dataset by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipelines.data.ade20k import open_ade20k, recognizes_ade20k
from pipelines.data.cityscapes import open_cityscapes, recognizes_cityscapes
from pipelines.data.coco import open_coco, recognizes_coco
from pipelines.data.cvact import open_cvact, recognizes_cvact
from pipelines.data.cvusa import open_cvusa, recognizes_cvusa
from pipelines.data.folder import open_folder, recognizes_folder
from pipelines.data.listing import ListedDataset
from pipelines.data.pairs import open_pairs, recognizes_pairs
from pipelines.data.vigor import open_vigor, open_vigor_centered, recognizes_vigor
from pipelines.data.visual_genome import open_visual_genome, recognizes_visual_genome
from pipelines.errors import ConfigError, DataError


@dataclass(frozen=True)
class Format:
    """recognizes: is the folder laid out so; None for one that is only chosen by name. marks: what that looks for."""

    recognizes: Callable[[Path], bool] | None
    open: Callable[[Path], ListedDataset]
    marks: str


FORMATS: dict[str, Format] = {
    "folder": Format(recognizes_folder, open_folder, "classes.json and SPLIT/img or SPLIT/label"),
    "coco": Format(recognizes_coco, open_coco, "annotations/instances_NAME.json or annotations/panoptic_NAME.json"),
    "ade20k": Format(recognizes_ade20k, open_ade20k, "images/training and annotations/training, or validation"),
    "cityscapes": Format(recognizes_cityscapes, open_cityscapes, "gtFine/"),
    "visual-genome": Format(
        recognizes_visual_genome, open_visual_genome, "image_data.json, objects.json and relationships.json"
    ),
    "pairs": Format(recognizes_pairs, open_pairs, "pairs.csv"),
    "cvusa": Format(recognizes_cvusa, open_cvusa, "splits/train-19zl.csv or splits/val-19zl.csv"),
    "cvact": Format(recognizes_cvact, open_cvact, "ACT_data.mat"),
    "vigor": Format(recognizes_vigor, open_vigor, "splits/CITY/satellite_list.txt"),
    "vigor-cross": Format(None, partial(open_vigor, area="cross"), "vigor, train and test of different cities"),
    "vigor_centered": Format(None, open_vigor_centered, "vigor, squares around the panoramas cut from the tiles"),
    **{
        name: Format(None, partial(open_coco, kind=name), "coco, of this kind")
        for name in ("coco-panoptic", "coco-stuff", "coco-instances")
    },
}


def open_dataset(root: Path, format: str | None = None) -> ListedDataset:
    """Open the dataset in a folder, in the format named or the one format that its folders and files tell.

    Decodes no picture. Raises ConfigError for an unknown format, DataError where no or several formats fit or a
    sidecar cannot be understood.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"there is no dataset format {format!r}", fix=f"formats: {', '.join(FORMATS)}")
    if not root.is_dir():
        raise DataError("the dataset is not there" if not root.exists() else "the dataset is no folder", where=root)
    fitting = [name for name, known in FORMATS.items() if known.recognizes is not None and known.recognizes(root)]
    if format is None:
        if not fitting:
            marks = "; ".join(f"{name}: {known.marks}" for name, known in FORMATS.items() if known.recognizes)
            raise DataError("no dataset is recognized", where=root, fix=f"looked for {marks}")
        if len(fitting) > 1:
            raise DataError(
                f"several formats fit: {', '.join(fitting)}", where=root, fix=f"choose with --format {fitting[0]}"
            )
        format = fitting[0]
    known = FORMATS[format]
    if known.recognizes is not None and format not in fitting:
        raise DataError(f"the dataset is not laid out as {format}", where=root, fix=f"expected {known.marks}")
    return known.open(root)
