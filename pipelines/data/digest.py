"""What a dataset is, as one number: the input digest of every stage that reads images.

A record's digest covers its id, group, licence, annotations and the bytes of every file it names, but no path: the
same dataset in another folder has the same digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.artifact import digest_json, sha256_file
from pipelines.data.scene import Dataset, SceneRecord, Schema
from pipelines.errors import DataError
from pipelines.progress import Progress, silent

MISSING = "missing"
_SCALARS = (int, float, bool, type(None))


def record_digests(
    dataset: Dataset, records: Sequence[SceneRecord], threads: int = 4, progress: Progress = silent
) -> dict[str, str]:
    """The digest of each record, by id. A file that is missing is covered as missing, not refused.

    Raises DataError when two records have one id.
    """
    hashed = cache(_file_digest)  # records may share a file: a list of boxes, a panorama
    settings, by_record = _reader(dataset)
    common = _plain(settings, dataset.root, hashed)

    def digest(record: SceneRecord) -> str:
        known = {f.name: getattr(record, f.name) for f in fields(record) if f.name not in ("split", "views")}
        if record.views:  # scenes of one picture have the digest that they had before there were views
            known["views"] = record.views
        own = [table.get(record.id) for table in by_record]
        return digest_json([_plain([known, own], dataset.root, hashed), common])

    digests: dict[str, str] = {}
    with ThreadPoolExecutor(threads) as pool:
        for done, (record, value) in enumerate(zip(records, pool.map(digest, records), strict=True), start=1):
            if record.id in digests:
                raise DataError(f"two scenes have the id {record.id!r}", where=dataset.root, fix="rename one of them")
            digests[record.id] = value
            progress("hashing", done, len(records))
    return digests


def dataset_digest(dataset: Dataset, records: Sequence[SceneRecord], threads: int = 4) -> str:
    """sha256 over the schema and the records, in any order."""
    return digest_of(dataset.schema, record_digests(dataset, records, threads))


def digest_of(schema: Schema, digests: Mapping[str, str]) -> str:
    """The digest of a dataset with this schema and these record digests by id."""
    return digest_json({"schema": schema.to_json(), "records": dict(digests)})


def _reader(dataset: Dataset) -> tuple[list[Any], list[Mapping[str, Any]]]:
    """What a dataset's reader was bound to when the dataset was opened: settings, and tables by record id.

    Some formats keep annotations there that no record names: polygons, how instance maps are encoded.
    """
    decode = getattr(dataset, "decode", None)
    if not isinstance(decode, partial):
        return [], []
    bound = [*decode.args, *(value for _, value in sorted(decode.keywords.items()))]
    ids = {record.id for record in dataset.records()}
    by_record = [value for value in bound if isinstance(value, Mapping) and value and value.keys() <= ids]
    return [value for value in bound if not any(value is table for table in by_record)], by_record


def _plain(value: Any, root: Path, hashed: Callable[[Path], str]) -> Any:
    """A value as JSON, files as the hashes of their bytes."""
    kind: Any = type(value)
    if kind in _SCALARS:
        return value
    if isinstance(value, Schema):
        return value.to_json()
    if names := _field_names(kind):
        return [[name, _plain(getattr(value, name), root, hashed)] for name in names]
    match value:
        case None | bool() | int() | float():
            return value
        case str():  # a message may name a file
            return value.replace(str(root), "")
        case bytes():
            return value.hex()
        case Path():
            return hashed(value)
        case np.generic() | np.ndarray():
            return [str(value.dtype), value.tolist()]
        case Mapping():
            return [[_plain(key, root, hashed), _plain(inner, root, hashed)] for key, inner in value.items()]
        case Sequence():
            return [_plain(inner, root, hashed) for inner in value]
    raise TypeError(f"a dataset may not hold a {type(value).__name__}")


@cache
def _field_names(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass; none of other types. Remembered: a data set has objects by the hundred thousand."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def _file_digest(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return MISSING
