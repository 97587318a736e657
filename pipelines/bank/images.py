"""Banks of whole images: one view of every place, or the photo of every scene, each picture once.

A piece is the picture that its source is, ordinal 0: its box is all of it, so that its mask is empty; it has no class
and no shape. Several pairs may share an aerial photo, which then is one piece, named as the dataset names the photo
(`aerial_id`); every other is named as its scene. Nothing else of a scene is read or enters the bank's digest: the same
photos with other partners, or with other label maps, are the same bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.bank.shard import Codec, Piece, Source, encode_pixels
from pipelines.data.pairs import AERIAL, aerial_id
from pipelines.data.scene import Dataset, SceneRecord, View
from pipelines.errors import ConfigError, DataError

NO_CLASS = -1
"""The category of a piece that has none."""
PHOTO = "image"
"""What the one view of a scene is called that is no place seen from two sides."""


def pictures(records: Sequence[SceneRecord], view: str | None, root: Path) -> list[SceneRecord]:
    """The pictures of some scenes as records of one view each, sorted by id; scenes without that view are left out.

    view: «aerial» or «ground» of pairs, None for the photos of other scenes. Raises ConfigError where that does not
    fit the scenes, DataError where two scenes name one picture and disagree about it; of several domains it has none.
    """
    paired = any(record.views for record in records)
    if paired and view is None:
        raise ConfigError("these are pairs, and a bank holds one view", fix="add --view aerial or --view ground")
    if view is not None and not paired:
        raise ConfigError(f"these scenes have no {view} view", where=root, fix="leave out --view, or name pairs")
    found: dict[str, SceneRecord] = {}
    for record in records:
        if record.views and view not in record.views:
            continue
        picture = _picture(record, view)
        other = found.get(picture.id)
        if other is None or "fault" in other.extra:
            found[picture.id] = picture
        elif "fault" not in picture.extra and (what := _difference(picture, other)):
            raise DataError(
                f"the {view} view {picture.id} is shared by scenes that disagree about its {what}, {record.id} one",
                where=root,
                fix="give every picture an aerial_id of its own, or mend the scenes",
            )
        elif picture.domain != other.domain:  # a panorama and a perspective of one place, under one aerial photo
            found[picture.id] = replace(other, domain="")
    if not found:
        raise DataError(f"no scene has a {view} view", where=root)
    return [found[name] for name in sorted(found)]


def cut_image(data: Dataset, record: SceneRecord, digest: str, *, codec: Codec) -> tuple[Source, list[Piece]]:
    """The one picture of a record that `pictures` gave. Raises DataError when it cannot be read."""
    image = data.read_view(record, next(iter(record.views), PHOTO))
    height, width = image.shape[:2]
    source = Source(record.id, record.group, record.licence, height, width, 0, digest, record.domain)
    piece = Piece(
        ordinal=0,
        category=NO_CLASS,
        thing=False,
        area=height * width,
        box=(0, 0, width, height),
        pixels=encode_pixels(image, codec),
        mask=b"",
        canonical=b"",
    )
    return source, [piece]


def _picture(record: SceneRecord, view: str | None) -> SceneRecord:
    """What a bank of images knows of a scene."""
    if view is not None:
        views = {view: record.views[view]} if view in record.views else {}
    else:
        views = {} if record.image is None else {PHOTO: View(record.image)}
    kept = {key: value for key, value in record.extra.items() if key == "fault"}
    name = aerial_id(record) if view == AERIAL else record.id
    bare = SceneRecord(name, record.split, None, views=views, extra=kept)
    return replace(bare, group=record.group, domain=record.domain, licence=record.licence)


def _difference(one: SceneRecord, other: SceneRecord) -> str | None:
    """The first field in which two records of one picture differ."""
    pairs = {"file": "views", "group": "group", "licence": "licence"}
    return next((name for name, field in pairs.items() if getattr(one, field) != getattr(other, field)), None)
