"""rgs show --sources, --source, --output: who fed what, for people who attribute photos or want theirs out.

Samples answer by their provenance.jsonl (see compose/provenance.py), a bank by its table of sources. A bank knows which
sources were removed from it, and so do the banks that it was made from, as long as they are where they were.
"""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.artifact import Artifact, open_artifact, read_manifest
from pipelines.bank.bank import Bank
from pipelines.compose.attribution import attribution_picture
from pipelines.compose.provenance import by_pixels, share
from pipelines.data.listing import inside
from pipelines.data.pixels import read_image, read_index_map
from pipelines.errors import ArtifactError, ConfigError, DataError

Record = dict[str, Any]


def sources(path: Path) -> dict[str, Any]:
    """Every source of a bank, or of samples: those that fed at least one pixel, most pixels first; and the licences.

    In samples a source has licence, outputs, pieces, pixels, share (of the pixels of all outputs) and categories, in
    a bank licence, group, pieces and pixels. note: why samples have none, "" where they do.
    """
    artifact = _open(path)
    if artifact.kind == "bank":
        rows, total, summary = _rows_of_bank(Bank.open(path)), None, {}
    else:
        records = read_records(artifact)
        rows = _rows_of_samples(records)
        total = sum(_area(record) for record in records)
        summary = {"outputs": artifact.statistics["count"], "note": _why_none(artifact, records)}
    return {
        "path": str(path),
        "kind": artifact.kind,
        **summary,
        "sources": rows,
        "licences": _by_licence(rows, total),
    }


def uses(path: Path, ids: Sequence[str], bank: Path | None = None) -> dict[str, Any]:
    """What became of some sources: the outputs of samples that each fed, or the pieces that a bank has of it.

    status: «used», «unused» (it is in the bank), «removed» (from the bank, or from one that the bank was made from),
    «unguided» (no bank guided these samples); of a bank «in the bank» or «removed». bank: where the samples' bank is
    now. Raises DataError with the nearest names for a source that is unknown, ArtifactError when the bank that could
    tell is not where it was.
    """
    artifact = _open(path)
    if artifact.kind == "bank":
        if bank is not None:
            raise ConfigError("this is a bank already", where=path, fix="leave out --bank")
        opened = Bank.open(path)
        past = _History.of(artifact)
        found = [_pieces_of(opened, past, name) for name in ids]
        return {"path": str(path), "kind": "bank", "sources": found}
    records = read_records(artifact)
    found = [_outputs_of(records, name) for name in ids]
    if missing := [row for row in found if row["status"] == "unused"]:
        if not artifact.input("bank"):
            for row in missing:
                row["status"] = "unguided"
        else:
            past = _History.of(_bank_of(artifact, bank, missing[0]["source"]))
            for row in missing:
                row["status"], row["licence"] = past.status(row["source"]), past.licences.get(row["source"], "")
    return {
        "path": str(path),
        "kind": "samples",
        "outputs": artifact.statistics["count"],
        "note": _why_none(artifact, records),
        "sources": found,
    }


def output(path: Path, name: str) -> Record:
    """The line of provenance.jsonl of one output. Raises DataError when there is no output of that name."""
    artifact = _samples(path)
    records = {record["name"]: record for record in read_records(artifact)}
    if not records:
        raise ArtifactError(_why_none(artifact, []), where=path)
    if name not in records:
        raise DataError(f"there is no output {name!r}", where=path, fix=_nearest(name, records))
    return records[name]


def picture(path: Path, record: Record) -> np.ndarray:
    """(H, W, 3) uint8 RGB: what `rgs synthesize` draws of an output. record: its line of provenance.jsonl."""
    guidance, image, index = (
        inside(path, f"{kind}/{record['name']}.png", path / "provenance.jsonl")
        for kind in ("guidance", "images", "provenance")
    )
    values = read_index_map(index)
    if values.max() > len(record["pieces"]):
        raise ArtifactError("the index image and provenance.jsonl are of different outputs", where=index)
    return attribution_picture(read_image(guidance), read_image(image), values, record)


def read_records(samples: Artifact) -> list[Record]:
    """The lines of provenance.jsonl, none where the system retrieves nothing. ArtifactError if unreadable."""
    file = samples.path / "provenance.jsonl"
    if not file.is_file():
        return []
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for record in records:
            _ = record["name"], record["size"], record["sources"], record["pieces"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"the provenance cannot be read: {error!r}", where=file, fix="make the samples again: rgs synthesize …"
        ) from error
    return records


def _open(path: Path) -> Artifact:
    """Samples or a bank. Raises ConfigError for another kind of artifact."""
    kind = str(read_manifest(path)["format"]).removeprefix("rgs/").partition("@")[0]
    if kind not in ("bank", "samples"):
        raise ConfigError(f"of {kind} there are no sources to show", where=path, fix="name samples or a bank")
    return open_artifact(path, kind)


def _samples(path: Path) -> Artifact:
    artifact = _open(path)
    if artifact.kind != "samples":
        raise ConfigError("a bank has no outputs", where=path, fix="name samples, or use --source")
    return artifact


def _rows_of_samples(records: Sequence[Record]) -> list[dict[str, Any]]:
    total = sum(_area(record) for record in records)
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        for row in record["sources"]:
            groups.setdefault(row["source"], []).append(row)
    rows = []
    for name, group in groups.items():
        pixels = sum(row["pixels"] for row in group)
        rows.append(
            {
                "source": name,
                "licence": group[0]["licence"],
                "outputs": len(group),
                "pieces": sum(row["pieces"] for row in group),
                "pixels": pixels,
                "share": share(pixels, total),
            }
        )
    return sorted(rows, key=lambda row: (-row["pixels"], row["source"]))


def _rows_of_bank(bank: Bank) -> list[dict[str, Any]]:
    count = len(bank.source_table)
    pieces = np.bincount(bank.sources, minlength=count).tolist()
    pixels = np.bincount(bank.sources, weights=bank.areas, minlength=count).astype(int).tolist()
    return [
        {"source": s.id, "licence": s.licence, "group": s.group, "pieces": pieces[k], "pixels": pixels[k]}
        for k, s in enumerate(bank.source_table)
    ]


def _by_licence(rows: Iterable[dict[str, Any]], total: int | None) -> list[dict[str, Any]]:
    """Licences with how many sources and pixels are under them, most pixels first."""
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(row["licence"], []).append(row["pixels"])
    licences = [
        {"licence": licence, "sources": len(pixels), "pixels": sum(pixels)}
        | ({} if total is None else {"share": share(sum(pixels), total)})
        for licence, pixels in groups.items()
    ]
    return sorted(licences, key=lambda row: (-row["pixels"], row["licence"]))


def _outputs_of(records: Sequence[Record], name: str) -> dict[str, Any]:
    """The outputs that a source fed, most pixels first."""
    fed = [(record, row) for record in records for row in record["sources"] if row["source"] == name]
    outputs = [{"name": record["name"], **{k: row[k] for k in _OF_OUTPUT}} for record, row in fed]
    pixels = sum(row["pixels"] for row in outputs)
    return {
        "source": name,
        "licence": fed[0][1]["licence"] if fed else "",
        "status": "used" if fed else "unused",
        "pixels": pixels,
        "share": share(pixels, max(1, sum(_area(record) for record in records))),
        "outputs": sorted(outputs, key=lambda row: (-row["pixels"], row["name"])),
    }


_OF_OUTPUT = ("pixels", "share", "pieces", "categories")


def _pieces_of(bank: Bank, past: _History, name: str) -> dict[str, Any]:
    """What a bank has of a source."""
    rows, status = bank.rows_of_source(name), past.status(name)
    names = [*bank.schema.names, ""]  # the last is that of pieces without a class, -1
    pieces = [
        {
            "row": int(row),
            "id": f"{int(bank.ids[row]):016x}",
            "category": names[int(bank.categories[row])],
            "box": bank.boxes[row].tolist(),
            "area": int(bank.areas[row]),
        }
        for row in rows
    ]
    return {
        "source": name,
        "licence": past.licences.get(name, ""),
        "status": "in the bank" if status == "unused" else status,
        "pixels": int(bank.areas[rows].sum()),
        "categories": by_pixels((piece["category"], piece["area"]) for piece in pieces if piece["category"]),
        "pieces": pieces,
    }


@dataclass
class _History:
    """A bank's sources, and those that were removed from it or its parents, as far as they are on this disk."""

    bank: Path
    known: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    licences: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, bank: Artifact) -> _History:
        table = Bank.open(bank.path).source_table
        history = cls(bank.path, {s.id for s in table}, set(), {s.id: s.licence for s in table})
        ancestor: Artifact | None = bank
        while ancestor is not None:
            history.removed |= set(ancestor.config["removed"]) - history.known
            ancestor = _found(ancestor, "bank")
        return history

    def status(self, name: str) -> str:
        if name in self.known:
            return "unused"
        if name in self.removed:
            return "removed"
        raise DataError(
            f"the bank has no source {name!r}, and none of that name is known to have been removed from it",
            where=self.bank,
            fix=_nearest(name, self.known | self.removed),
        )


def _bank_of(samples: Artifact, given: Path | None, name: str) -> Artifact:
    """The bank that guided samples."""
    wanted = samples.input("bank")
    assert wanted is not None
    if given is not None:
        bank = open_artifact(given, "bank")
        if bank.digest != wanted.digest:
            raise ArtifactError(
                f"the samples were guided by bank {wanted.digest[:12]} but this is {bank.digest[:12]}", where=given
            )
        return bank
    found = _found(samples, "bank")
    if found is None:
        raise ArtifactError(
            f"no output used {name!r}; but the bank, which knows whether there is such a source, is not at"
            f" {wanted.path} any more",
            where=samples.path,
            fix="give --bank",
        )
    return found


def _found(artifact: Artifact, role: str) -> Artifact | None:
    """An input that still is what and where it was."""
    given = artifact.input(role)
    path = artifact.path.parent / given.path if given else None
    if given is None or path is None or not path.is_dir():
        return None
    try:
        opened = open_artifact(path, role)
    except ArtifactError:
        return None
    return opened if opened.digest == given.digest else None


def _why_none(samples: Artifact, records: Sequence[Record]) -> str:
    """What a person should know about samples that no bank guided; "" where one did."""
    if not records:
        return f"{samples.statistics['system']} retrieves nothing: no pixels of a bank guided these outputs"
    ways = Counter(record["retrieval"] for record in records)
    if ways["oracle"]:
        return "oracle retrieval: the layouts' own photos were their guidance, not pieces of the bank"
    return "retrieval «none»: the guidance was blank" if ways["none"] else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    """What to do about a name that there is not."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"they are called like {names[0]!r}"


def _area(record: Record) -> int:
    h, w = record["size"]
    return int(h * w)
