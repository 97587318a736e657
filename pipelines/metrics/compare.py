"""Reports side by side: the same score of several runs in one row, with the difference to the first.

Two numbers share a row only if all that decides them is the same: the protocol and the reference photos. Where the
images are the same too, the difference is bootstrapped in pairs: a layout that is hard for one run is hard for the
other, so the interval of the difference is narrower than those of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipelines.artifact import digest_json
from pipelines.metrics import segmentation
from pipelines.metrics.intervals import resample

Report = Mapping[str, Any]
ScoreJson = Mapping[str, Any]

OF_THE_RUN = ("synthesis seed", "interval_protocol", "pieces from", "images with a value", "deviation over sources")
"""Of a protocol: what belongs to a run and may differ within a row."""


def compare(reports: Sequence[Report], seed: int) -> list[dict[str, Any]]:
    """A row per score and protocol, in the order in which the reports name them.

    reports: the content of report.json. Each row has name, title, unit, better, protocol (what its numbers share),
    warnings (each text with the numbers of the reports that it is of), differs (from the first row of the same name:
    what is other in this one), and of each report an entry or None:
    value, interval, on_real, and beside the first report's number difference, difference_interval and note.
    """
    names = list(dict.fromkeys(score["name"] for report in reports for score in report["scores"]))
    return [row for name in names for row in _rows(name, reports, seed)]


def _rows(name: str, reports: Sequence[Report], seed: int) -> list[dict[str, Any]]:
    found = [next((s for s in report["scores"] if s["name"] == name), None) for report in reports]
    shared = [None if score is None else _shared(score, report) for score, report in zip(found, reports, strict=True)]
    keys = [None if protocol is None else digest_json(protocol) for protocol in shared]
    rows: list[dict[str, Any]] = []
    for key in dict.fromkeys(key for key in keys if key is not None):
        first = keys.index(key)
        score, protocol = found[first], shared[first]
        assert score is not None and protocol is not None
        members = [s if k == key else None for s, k in zip(found, keys, strict=True)]
        rows.append(
            {
                **{field: score[field] for field in ("name", "title", "unit", "better")},
                "protocol": protocol,
                "warnings": _warnings(members),
                "differs": _differences(rows[0]["protocol"], protocol) if rows else {},
                "entries": [
                    None if member is None else _entry(number, members, reports, seed)
                    for number, member in enumerate(members)
                ],
            }
        )
    return rows


def _warnings(members: Sequence[ScoreJson | None]) -> list[dict[str, Any]]:
    """The warnings of a row, each once, with the numbers of the reports that it is of."""
    found: dict[str, list[int]] = {}
    for number, score in enumerate(members):
        if score is not None and score["warning"]:
            found.setdefault(score["warning"], []).append(number)
    return [{"text": text, "of": of} for text, of in found.items()]


def _shared(score: ScoreJson, report: Report) -> dict[str, Any]:
    """What two numbers must have in common to stand in one row."""
    protocol = {key: value for key, value in score["protocol"].items() if key not in OF_THE_RUN}
    reference = report["reference"]
    if reference is not None and not score["name"].startswith("retrieval/"):
        protocol["reference photos"] = f"{reference['name']} ({reference['kind']}), {reference['digest'][:8]}"
    return protocol


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {key: other.get(key) for key in {**one, **other} if one.get(key) != other.get(key)}


def _entry(number: int, members: Sequence[ScoreJson | None], reports: Sequence[Report], seed: int) -> dict[str, Any]:
    score, base = members[number], members[0]
    assert score is not None
    entry = {
        "value": score["value"],
        "interval": score.get("interval"),
        "on_real": score["on_real"],
        "difference": None,
        "difference_interval": None,
        "note": None,
    }
    if number == 0:
        return entry
    if base is None:
        return entry | {"note": "incomparable: the first run has no such number"}
    entry["difference"] = score["value"] - base["value"]
    if (owners := paired_owners(reports[0], reports[number])) is None:
        return entry | {"note": "unpaired: other images or photos"}
    if (statistic := paired_statistic(base, score)) is None:
        return entry | {"note": "no interval: the score has no value per image"}
    interval = resample(statistic, owners, seed)
    return entry | {"difference_interval": interval.ends, "note": f"paired; {interval.protocol}"}


def paired_owners(one: Report, other: Report) -> np.ndarray | None:
    """(n,) the layout of each image where two reports are of the same images against the same photos, else None."""
    digests = [None if r["reference"] is None else r["reference"]["digest"] for r in (one, other)]
    sources = [r.get("sources", r["images"]) for r in (one, other)]
    if one["images"] != other["images"] or sources[0] != sources[1] or digests[0] != digests[1]:
        return None
    return np.unique(np.asarray(sources[0]), return_inverse=True)[1].reshape(-1)


Statistic = Callable[[np.ndarray], float | None]


def paired_statistic(one: ScoreJson, other: ScoreJson) -> Statistic | None:
    """What gives the difference other - one of some images; None where scores are not made of values per image.

    How a score is made of its values (the mean, the median, counts of a judge) is recognized by that it gives the very
    value that the report states; it can then be no other number than the reported one.
    """
    made = [[f for f in _candidates(score) if _reproduces(f, score)] for score in (one, other)]
    if not made[0] or not made[1]:
        return None
    ours, theirs = made[0][0], made[1][0]

    def difference(at: np.ndarray) -> float | None:
        a, b = ours(at), theirs(at)
        return None if a is None or b is None else b - a

    return difference


def _candidates(score: ScoreJson) -> list[Statistic]:
    values = score["per_image"]
    if not values:
        return []
    if isinstance(values[0], Mapping):
        classes = 1 + max((int(c) for image in values for c in image), default=0)
        counts = np.zeros((len(values), classes, 3))
        for i, image in enumerate(values):
            for c, three in image.items():
                counts[i, int(c)] = three
        measures = (segmentation.miou, segmentation.accuracy, segmentation.class_accuracy)
        return [partial(_of_counts, measure, counts) for measure in measures]
    numbers = np.array([math.nan if value is None else value for value in values], np.float64)
    return [partial(_of_known, take, numbers) for take in (np.mean, np.median)]


def _of_counts(measure: Callable[[np.ndarray], Any], counts: np.ndarray, at: np.ndarray) -> float | None:
    value = float(measure(counts[at].sum(0)))
    return value if math.isfinite(value) else None


def _of_known(take: Callable[[np.ndarray], Any], values: np.ndarray, at: np.ndarray) -> float | None:
    known = values[at][np.isfinite(values[at])]
    return float(take(known)) if len(known) else None


def _reproduces(statistic: Statistic, score: ScoreJson) -> bool:
    value = statistic(np.arange(len(score["per_image"])))
    return value is not None and math.isclose(value, score["value"], rel_tol=1e-9, abs_tol=1e-12)
