"""Folds by group: scenes of one sequence, place or panorama never stand on both sides of a fold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pipelines.artifact import filling
from pipelines.data.scene import SceneRecord
from pipelines.errors import ConfigError, DataError


def folds_by_group(records: Sequence[SceneRecord], folds: int) -> list[list[str]]:
    """Deal scenes into folds of nearly equal size without splitting a group: the ids of each fold, sorted.

    The largest group goes to the smallest fold, ties to the first; the same records give the same folds. A scene
    without a group stands alone. Raises ConfigError for more folds than groups or fewer than 2, DataError if no
    scene has a group.
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds are not enough", fix="ask for 2 or more")
    if not any(record.group for record in records):
        raise DataError("no scene has a group", fix="give sequences in domains.csv")
    groups: dict[tuple[str, str], list[str]] = {}
    for record in records:
        groups.setdefault((record.group, "" if record.group else record.id), []).append(record.id)
    if len(groups) < folds:
        raise ConfigError(f"{len(groups)} groups cannot make {folds} folds", fix=f"ask for {len(groups)} or fewer")
    dealt: list[list[str]] = [[] for _ in range(folds)]
    for _, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        min(dealt, key=len).extend(members)
    return [sorted(fold) for fold in dealt]


def write_folds(folds: Sequence[Sequence[str]], out: Path) -> list[Path]:
    """Write OUT/fold-K/val.txt with the scenes of fold K and train.txt with all others, one id a line, and
    OUT/folds.json with the folds; a list is what `Dataset.records` takes as a split. Returns what was written.

    Raises ArtifactError if the folder exists.
    """
    written = []
    with filling(out) as partial:
        for number, held_out in enumerate(folds):
            folder = Path(f"fold-{number}")
            (partial / folder).mkdir()
            rest = sorted(scene for other in folds if other is not held_out for scene in other)
            for name, scenes in (("train", rest), ("val", held_out)):
                written.append(folder / f"{name}.txt")
                (partial / written[-1]).write_text("".join(f"{scene}\n" for scene in scenes), encoding="utf-8")
        written.append(Path("folds.json"))
        table = json.dumps({"folds": [list(fold) for fold in folds]}, indent=1) + "\n"
        (partial / written[-1]).write_text(table, encoding="utf-8")
    return [out / path for path in written]


def require_disjoint(train: Sequence[SceneRecord], held_out: Sequence[SceneRecord]) -> None:
    """Raise DataError where a scene or a group is on both sides; a scene without a group stands alone."""
    places = {record.group or record.id for record in train}
    shared = sorted({record.group or record.id for record in held_out} & places)
    if shared:
        raise DataError(
            f"{len(shared)} groups are both trained on and held out, for instance {shared[0]!r}",
            fix="split by group: rgs data split DATA --by group -o folds",
        )
