"""Write aerial and street pictures of the toy town as a dataset in the `pairs` layout."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.artifact import filling
from pipelines.data.toy.pairs import AERIAL_METERS, FIELD_OF_VIEW, HORIZON, STREET_KINDS, draw_place
from pipelines.data.toy.panorama import ELEVATION
from pipelines.data.toy.write import LICENCE, draw_all, write_json, write_png
from pipelines.errors import ConfigError

_SOURCES = {"panorama": "toy_pano", "perspective": "toy_persp"}
_MAX_SIZE = 4096  # OpenCV resamples no picture beyond 32,767 pixels, the four faces of a panorama side by side
_UNITS = (
    "meters and radians; x east, y north, z up, in the world of each place alone; up: heading at the top of the aerial "
    "image, from north to east; heading: of the middle of the street image, from the top of the aerial image to its "
    "right; meters: across the aerial image"
)


def write_pairs(
    out: Path,
    *,
    seed: int = 0,
    train: int = 200,
    val: int = 40,
    size: int = 256,
    kinds: Sequence[str] = STREET_KINDS,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw train + val places into the new folder out: for each an aerial image and its street images of kinds.

    Aerial and perspective images have size x size pixels, panoramas size / 2 x 2 size. One row of pairs.csv for each
    street image; those of a place share its aerial image and its group. The files depend on seed, train, val, size
    and kinds alone, and a picture on seed, place and size, not on jobs, the number of processes. progress is told the
    places done and their number. Everything is written to `<out>.partial`, which is renamed at the end. Raises
    ArtifactError if out exists, ConfigError for bad counts, EnvironmentFault where the disk is full, a drawing
    process dies or another one writes to out.
    """
    if min(train, val, seed) < 0 or train + val < 1 or not 16 <= size <= _MAX_SIZE or size % 2 or jobs < 1:
        raise ConfigError(
            f"cannot draw {train} + {val} places of {size}x{size} pixels from seed {seed} with {jobs} jobs",
            fix=f"seed and counts from 0, at least one place, an even size from 16 to {_MAX_SIZE} pixels, one job",
        )
    if not kinds or not set(kinds) <= set(STREET_KINDS):
        raise ConfigError(f"cannot draw street views {', '.join(kinds)!r}", fix=f"some of {', '.join(STREET_KINDS)}")
    kinds = [kind for kind in STREET_KINDS if kind in kinds]
    with filling(out) as partial:
        for folder in ("aerial", "street"):
            (partial / folder).mkdir(parents=True)
        tasks = [
            (str(partial), seed, place, size, kinds, "train" if place < train else "val")
            for place in range(train + val)
        ]  # fmt: skip
        rows: list[dict[str, Any]] = []
        for done, drawn in enumerate(draw_all(_draw_place, tasks, jobs), start=1):
            rows += drawn
            if progress is not None:
                progress(done, len(tasks))
        with (partial / "pairs.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        write_json(
            partial / "toy.json",
            {
                "seed": seed,
                "size": size,
                "street_kinds": kinds,
                "counts": {"train": train, "val": val},
                "units": _UNITS,
                "aerial": {"meters": AERIAL_METERS},
                "panorama": {"elevation": [-ELEVATION, ELEVATION], "around": 2 * math.pi},
                "perspective": {"field_of_view": FIELD_OF_VIEW, "horizon": HORIZON},
            },
        )


def _draw_place(task: tuple[str, int, int, int, Sequence[str], str]) -> list[dict[str, Any]]:
    """Draw and write the pictures of one place; returns its rows of the table."""
    folder, seed, number, size, kinds, split = task
    place = draw_place(seed, number, size, kinds)
    name = f"{number:05d}"
    aerial = f"aerial/{name}.png"
    write_png(Path(folder) / aerial, place.aerial[..., ::-1])
    rows = []
    for kind in kinds:
        source = _SOURCES[kind]
        street = f"street/{source}_{name}.png"
        write_png(Path(folder) / street, place.streets[kind][..., ::-1])
        x, y, z = place.position
        rows.append(
            {
                "id": f"{source}_{name}",
                "source": source,
                "group": f"place-{name}",
                "split": split,
                "street_kind": kind,
                "aerial": aerial,
                "street": street,
                "aerial_id": f"toy_{name}",
                "x": x,
                "y": y,
                "z": z,
                "heading": 0.0,
                "up": place.up,
                "meters": AERIAL_METERS,
                "light": place.street_light,
                "aerial_light": place.aerial_light,
                "licence": LICENCE,
            }
        )
    return rows
