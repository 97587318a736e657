"""CVACT as it is published: ACT_data.mat, streetview/ID_grdView.jpg and satview_polish/ID_satView_polish.jpg.

ACT_data.mat has panoIds, and trainSet.trainInd and valSet.valInd, places in panoIds counted from 1. The pictures may
be PNG as well. Of a panorama the middle half of its rows is the view: above is sky, below the car.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.listing import Fault, ListedDataset, partner, pictures
from pipelines.data.pairs import AERIAL, GROUND, Listed, lies_within, paired_dataset
from pipelines.data.scene import SceneRecord, View
from pipelines.errors import DataError

MIDDLE_ROWS = (0.0, 0.25, 1.0, 0.75)
"""Rows 208 to 623 of the published panoramas of 832."""

_TABLE = "ACT_data.mat"
_SPLITS = {"train": ("trainSet", "trainInd"), "val": ("valSet", "valInd")}
_VIEWS = {
    AERIAL: ("satview_polish", "_satView_polish", (0.0, 0.0, 1.0, 1.0)),
    GROUND: ("streetview", "_grdView", MIDDLE_ROWS),
}
"""Folder, ending of the stems and part of the picture of each view."""


def recognizes_cvact(root: Path) -> bool:
    return (root / _TABLE).is_file()


def open_cvact(root: Path) -> ListedDataset:
    """List the pairs of ACT_data.mat. A pair that lacks a picture is left out with a warning.

    Raises DataError for a table that cannot be understood or lists no whole pair.
    """
    table = root / _TABLE
    names, chosen = _read_table(table)
    found = {view: pictures(root / folder)[0] for view, (folder, _, _) in _VIEWS.items()}
    listed: list[Listed] = []
    faults: list[Fault] = []
    for split, places in chosen.items():
        for place in places:
            name = names[place - 1]
            missing, item = _pair(root, found, name, split, place)
            if missing is None:
                listed.append(item)
            else:
                faults.append(Fault(missing, f"the picture is missing; the pair {name} is left out", "warning"))
    return paired_dataset("cvact", root, listed, table, faults)


def _pair(
    root: Path, found: dict[str, dict[str, list[Path]]], name: str, split: str, place: int
) -> tuple[Path | None, Listed]:
    """The picture that is missing, if one is, and the pair; place: its number in panoIds."""
    views: dict[str, View] = {}
    missing, fault = None, ""
    for view, (folder, ending, box) in _VIEWS.items():
        stem = f"{name}{ending}"
        path, repeats = partner(found[view], stem, root / folder / f"{stem}.jpg")
        if stem not in found[view]:
            missing = missing or path
        if repeats is not None:
            fault = repeats[1]
        views[view] = View(path, box)
    record = SceneRecord(
        id=name,
        split=split,
        image=None,
        group=name,
        domain="cvact",
        views=views,
        extra={"aerial_id": name, "street_kind": "panorama"},
    )
    return missing, Listed(record, root / _TABLE, f"panorama {place}", fault)


def _read_table(path: Path) -> tuple[list[str], dict[str, list[int]]]:
    """The ids of all panoramas, and of each split the places of its pairs among them, from 1."""
    from scipy.io import loadmat

    wanted = ["panoIds", *(name for name, _ in _SPLITS.values())]
    try:  # elsewhere, since the parser may end its process over a damaged file
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            data = pool.submit(loadmat, path, simplify_cells=True, variable_names=wanted).result()
    except BrokenProcessPool as error:
        raise DataError("the file is damaged: MATLAB's parser died of it", where=path, fix="copy it again") from error
    except NotImplementedError as error:
        raise DataError("the file is of MATLAB 7.3", where=path, fix="save it with save(…, '-v7')") from error
    except MemoryError:
        raise
    except Exception as error:  # of a damaged file the parser raises whatever it stumbles over
        raise DataError(f"the file is no MATLAB file that can be read ({error!r})", where=path) from error
    try:
        names = [str(name).strip() for name in np.atleast_1d(data["panoIds"])]
        chosen = {split: _places(data[group][field]) for split, (group, field) in _SPLITS.items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        fields = ", ".join(("panoIds", *(".".join(names) for names in _SPLITS.values())))
        raise DataError(f"the lists cannot be read ({error!r})", where=path, fix=f"needed are {fields}") from error
    for split, places in chosen.items():
        if strange := [place for place in places if not 1 <= place <= len(names)]:
            raise DataError(f"{split} lists the panorama number {strange[0]} of {len(names)}, from 1", where=path)
    if strange_names := [name for name in names if not lies_within(name) or "/" in name]:
        raise DataError(f"the panorama id {strange_names[0]!r} is no part of a file name", where=path)
    return names, chosen


def _places(values: Any) -> list[int]:
    """Whole numbers, which the file may hold as floats. Raises ValueError for others."""
    numbers = np.atleast_1d(np.asarray(values, dtype=np.float64)).ravel()
    if not (np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()):
        raise ValueError("an index is no whole number")
    return [int(number) for number in numbers]
