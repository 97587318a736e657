"""The first picture of the README: layout, guidance, output and photo of some outputs. See pictures.sh.

python docs/pictures.py SAMPLES PHOTOS NAME…
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.artifact import open_artifact
from pipelines.compose.attribution import write_picture
from pipelines.data.layouts import read_layout
from pipelines.data.palette import paint_labels
from pipelines.data.pixels import read_image
from pipelines.data.scene import Schema
from pipelines.data.sheet import contact_sheet

CELL = 256
COLUMNS = ("the layout you draw", "pieces of your photos", "the output", "the photo it never saw")


def main(samples: Path, photos: Path, *names: str) -> None:
    schema = Schema.from_json(open_artifact(samples, "samples").statistics["schema"])
    rows = [
        [
            paint_labels(read_layout(samples / "layouts" / f"{name}.png", schema), schema),
            read_image(samples / "guidance" / f"{name}.png"),
            read_image(samples / "images" / f"{name}.png"),
            read_image(photos / f"{name}.png"),
        ]
        for name in names
    ]
    write_picture(Path(__file__).parent / "images" / "town.jpg", contact_sheet(rows, COLUMNS, CELL))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
