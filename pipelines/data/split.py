"""Folds by group: scenes of one sequence, place or panorama never stand on both sides of a fold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipelines.artifact import filling
from pipelines.data.scene import SceneRecord
from pipelines.errors import ConfigError, DataError


def folds_by_group(records: Sequence[SceneRecord], folds: int) -> list[list[str]]:
    """Deal scenes into folds of nearly equal size without splitting a group: the ids of each fold, sorted.

    Within each domain too: the largest group goes to the fold that has the fewest scenes of the group's domains, of
    those to the smallest, ties to the first. So a domain of as many groups as folds, none of which spans domains, is
    in every fold. The same records give the same folds. A scene without a group stands alone. Raises ConfigError for
    more folds than groups or fewer than 2, DataError if no scene has a group.
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds are not enough", fix="ask for 2 or more")
    if not any(record.group for record in records):
        raise DataError("no scene has a group", fix="give sequences in domains.csv")
    groups: dict[tuple[str, str], list[SceneRecord]] = {}
    for record in records:
        groups.setdefault(_place(record), []).append(record)
    if len(groups) < folds:
        raise ConfigError(f"{len(groups)} groups cannot make {folds} folds", fix=f"ask for {len(groups)} or fewer")
    dealt: list[list[str]] = [[] for _ in range(folds)]
    counts: list[Counter[str]] = [Counter() for _ in range(folds)]
    for _, members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        own = Counter(record.domain for record in members)
        fullness = [
            (sum(domain in there for domain in own), sum(there[domain] for domain in own), len(fold))
            for there, fold in zip(counts, dealt, strict=True)
        ]
        chosen = min(range(folds), key=fullness.__getitem__)
        dealt[chosen] += [record.id for record in members]
        counts[chosen] += own
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
    trained = {_place(record): record.id for record in train}
    shared = {place: record.id for record in held_out if (place := _place(record)) in trained}
    if shared:
        place, scene = min(shared.items())
        what = f"the group {place[0]!r}" if place[0] else f"the scene {place[1]!r}"
        raise DataError(
            f"{what} is both trained on ({trained[place]}) and held out ({scene})"
            + (f"; {len(shared)} groups are on both sides" if len(shared) > 1 else ""),
            fix="split by group: rgs data split DATA --by group -o folds",
        )


def _place(record: SceneRecord) -> tuple[str, str]:
    """What may not stand on both sides: the group, of a scene without one the scene."""
    return record.group, "" if record.group else record.id
