"""rgs eval RUN… --reference PAIRS: how often an embedder of two views finds the place, as report.json and a page.

With folds each pair is asked of the run that was trained without its fold, among all pictures of its source, and the
hits of all folds are counted together. A run that was trained on a place that it is asked for is refused.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field

from pipelines.artifact import (
    Artifact,
    Input,
    command_line,
    environment,
    open_artifact,
    read_manifest,
    relative_path,
    require_free,
    tool_version,
    writing,
)
from pipelines.config import Config
from pipelines.data.digest import dataset_digest
from pipelines.data.listing import ListedDataset
from pipelines.data.open import open_dataset
from pipelines.data.pairs import AERIAL, GROUND
from pipelines.data.scene import SceneRecord
from pipelines.data.sheet import fit
from pipelines.embed.embedder import Embedder
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.metrics import histogram
from pipelines.metrics.curves import read_metrics
from pipelines.metrics.galleries import (
    DIRECTIONS,
    KS,
    Direction,
    Gallery,
    Question,
    Tally,
    galleries,
    table_row,
    tally,
)
from pipelines.metrics.recall import rank, rank_chunks
from pipelines.metrics.report import Figure, render_retrieval
from pipelines.metrics.scores import Score
from pipelines.progress import Progress, silent
from pipelines.runtime import pick_device
from pipelines.stages.embedders import open_embedder
from pipelines.train.run import Weights, parse_reference

SHOWN = 5
"""Hits of a query that the page shows."""
PICTURE = 160
"""Longest side in pixels of a picture on the page: there are many."""
VALIDATION = "validation/"
"""What the names of a run's measures of itself begin with."""
HIT, MISS = (34, 139, 84), (190, 60, 45)

VARIANT = {
    "ground-aerial": "query: a street view; gallery: aerial pictures",
    "aerial-ground": "query: an aerial picture; gallery: street views",
}
RULE = "share of queries whose own picture is among the k of highest cosine; ties count against the query"


class EvaluateEmbedder(Config):
    """What decides a report of an embedder, beside its runs, the pairs and their folds."""

    split: str | None = None
    """Which split of the pairs makes queries and galleries; all of it when not given."""
    by: Literal["source"] | None = None
    """Give every source a gallery and a row of its own; one gallery of all when not given."""
    allow_seen: bool = False
    """Ask for places that a run was trained on all the same; the report then says so."""
    batch: int = Field(64, ge=1)
    """Pictures that pass a tower together; the scores do not depend on it."""
    rows: int = Field(12, ge=1, le=100)
    """Queries on the contact sheet."""
    seed: int = Field(0, ge=0)
    """Which queries the contact sheet shows is drawn with it, and the permutations of the test against chance."""


@dataclass(frozen=True)
class Opened:
    """What was given, opened and checked. asked: of each run the ids of the pairs that it is asked for."""

    dataset: ListedDataset
    embedders: list[Embedder]
    asked: list[set[str]]
    galleries: list[Gallery]
    digest: str
    seen: list[str]
    folds: Path | None
    inputs: list[Input]


@dataclass
class Found:
    """By direction and number of the gallery the tallies of each run, and of histograms; chosen queries as figures."""

    tallies: dict[tuple[Direction, int], list[tuple[Tally, Tally]]] = field(default_factory=dict)
    queries: list[SceneRecord] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)


def run(
    config: EvaluateEmbedder,
    *,
    runs: Sequence[str],
    reference: Path,
    reference_format: str | None = None,
    folds: Path | None = None,
    out: Path,
    device: str = "auto",
    progress: Progress = silent,
) -> Artifact:
    """Ask the embedders for every place and write the report.

    runs: one, or with folds one for each of them in order; each may name a step, runs/e@12000. folds: what rgs data
    split wrote, or its folds.json. Raises ConfigError when there are not as many runs as folds, or a run was trained on
    a place that it is asked for; DataError for folds of other pairs; NumericalError for vectors that are not finite.
    """
    opened = _open(config, runs, reference, reference_format, folds, out)
    statistics: dict[str, Any] = {}
    with writing(out, "report", config, opened.inputs, statistics) as folder:
        found = _ask(config, opened, pick_device(device), progress)
        tables = {direction: _table(direction, opened, found, config.seed) for direction in DIRECTIONS}
        scores = [score for direction in DIRECTIONS for score in _scores(direction, found, tables[direction])]
        report = {
            "title": f"{_subject(opened)}: retrieval, {len(found.queries)} queries",
            "summary": f"{_asked_text(config, opened, reference)} Measured by rgs {tool_version()}.",
            "scores": [score.to_json() for score in scores],
            "not_computed": [],
            "images": [record.id for record in found.queries],
            "sources": [record.group or record.id for record in found.queries],
            "reference": {
                "name": reference.resolve().name,
                "kind": _kind(config, opened.dataset),
                "images": len(found.queries),
                "digest": opened.digest,
            },
            "judge": None,
            "embedders": [
                {"name": e.label, "weights": e.sha256, "step": e.weights.step, "queries": len(ids)}
                for e, ids in zip(opened.embedders, opened.asked, strict=True)
            ],
            "retrieval": tables,
            "baseline": histogram.PROTOCOL,
            "seen": opened.seen,
            "selection": _selection(found),
            "inputs": [{"of": "report", "step": None, **i.to_json()} for i in opened.inputs],
            "commands": _commands(opened.embedders),
            "environment": {"report": environment()},
        }
        page = render_retrieval(report, list(found.figures.values()))
        (folder / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        (folder / "report.html").write_text(page, encoding="utf-8")
        alarms = [f"{row['source']}: {row['alarm']}" for row in tables["ground-aerial"] if row["alarm"]]
        values = {score.name: score.value for score in scores}
        statistics.update({"count": len(found.queries), "scores": values, "warnings": [*opened.seen, *alarms]})
    return open_artifact(out, "report")


def plan(
    config: EvaluateEmbedder,
    *,
    runs: Sequence[str],
    reference: Path,
    reference_format: str | None = None,
    folds: Path | None = None,
    out: Path,
) -> dict[str, Any]:
    """What `run` would do: the config, the inputs with their digests, the galleries and how many queries each has."""
    require_free(out)
    opened = _open(config, runs, reference, reference_format, folds, out)
    asked = set().union(*opened.asked)
    return {
        "config": config.model_dump(mode="json"),
        "inputs": [i.to_json() for i in opened.inputs],
        "galleries": {
            gallery.name or "all": {
                "queries": sum(record.id in asked for record in gallery.grounds),
                "aerial": len(gallery.aerials),
                "ground": len(gallery.grounds),
            }
            for gallery in opened.galleries
        },
        "out": str(out),
    }


def _open(
    config: EvaluateEmbedder, runs: Sequence[str], reference: Path, format: str | None, folds: Path | None, out: Path
) -> Opened:
    """Open the pairs, the runs and the folds, and check that no run is asked for what it was trained on."""
    home = out.parent
    embedders = [_of_pairs(reference_to_run) for reference_to_run in runs]
    dataset = open_dataset(reference, format)
    listed = dataset.records(config.split)
    records = [record for record in listed if AERIAL in record.views]
    pairs = {record.id: record for record in records if GROUND in record.views}
    if not pairs:
        raise DataError("no scene has an aerial and a ground view", where=reference, fix="give paired data")
    asked = [set(pairs)] if folds is None else _read_folds(folds, pairs, {record.id for record in listed}, reference)
    if len(runs) != len(asked):
        one = "one run at a time" if folds is None else f"{len(asked)} folds need as many runs, one for each in order"
        raise ConfigError(f"{one}, there are {len(runs)}", where=" ".join(runs), fix="see rgs eval --help")
    seen = []
    digest = dataset_digest(dataset, records)
    inputs = [Input("reference", relative_path(reference, home), digest)]
    for number, (embedder, ids) in enumerate(zip(embedders, asked, strict=True)):
        known = sorted({r.group or r.id for r in (pairs[i] for i in ids)} & trained_places(embedder.weights.run))
        if known:
            what = f"{embedder.label} was trained on {len(known)} of the places that it is asked for"
            if not config.allow_seen:
                raise ConfigError(
                    f"{what}, for instance {known[0]!r}",
                    where=runs[number],
                    fix="give the runs in the order of the folds"
                    if folds
                    else "name a split of other places (--split), or accept it with --set allow_seen=true",
                )
            seen.append(f"{what}: its hits there say what it remembers, not what it recognizes")
        if imported(embedder.weights.run):
            seen.append(f"{embedder.label} was imported: nobody here knows whether it was trained on these places")
        role = "embedder" if folds is None else f"embedder {number}"
        inputs.append(embedder.weights.as_input(role, home))
    return Opened(dataset, embedders, asked, galleries(records, config.by == "source"), digest, seen, folds, inputs)


def _of_pairs(reference: str) -> Embedder:
    """A finished embedder of pairs. Of another kind it says what such a run has measured of itself."""
    embedder = open_finished(reference)
    if {AERIAL, GROUND} <= embedder.towers.keys():
        return embedder
    measures = ", ".join(f"{name} {value:.4g}" for name, value in last_validation(embedder.weights).items())
    raise ConfigError(
        f"{embedder.label} is an embedder of kind {embedder.kind}, and only pairs of views are asked for their places",
        where=reference,
        fix=f"what it measured on held-out groups while it trained: {measures or 'nothing'}",
    )


def last_validation(weights: Weights) -> dict[str, float]:
    """What a run measured of itself last, up to these weights, by name; nothing where it did not."""
    log = weights.run / "metrics.jsonl"
    lines = read_metrics(log, weights.step) if log.is_file() else []
    found = [{k.removeprefix(VALIDATION): v for k, v in line.items() if k.startswith(VALIDATION)} for line in lines]
    return next((measures for measures in reversed(found) if measures), {})


def _read_folds(folds: Path, pairs: dict[str, SceneRecord], known: set[str], reference: Path) -> list[set[str]]:
    """The ids of each fold's pairs; known: those of all scenes, since distractors were dealt into folds too.

    Raises DataError unless the folds are of these scenes, every pair is in one, and no place is in two of them.
    """
    file = folds / "folds.json" if folds.is_dir() else folds
    try:
        read = [set(map(str, fold)) for fold in json.loads(file.read_text(encoding="utf-8"))["folds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the folds cannot be read: {error!r}",
            where=file,
            fix="write them: rgs data split PAIRS --folds 5 -o folds",
        ) from error
    strange = sorted(set().union(*read) - known)
    if strange:
        raise DataError(
            f"the folds name {len(strange)} pairs that {reference} lacks, for instance {strange[0]!r}", where=file
        )
    owner: dict[str, int] = {}
    for number, fold in enumerate(read):
        for pair in sorted(fold & pairs.keys()):
            place = pairs[pair].group or pair
            if owner.setdefault(place, number) != number:
                raise DataError(
                    f"the place {place!r} is in the folds {owner[place]} and {number}",
                    where=file,
                    fix="split by group: rgs data split PAIRS --by group",
                )
    if missed := sorted(pairs.keys() - set().union(*read)):
        raise DataError(
            f"{len(missed)} pairs of {reference} are in no fold, for instance {missed[0]!r}",
            where=file,
            fix="split these pairs anew: rgs data split PAIRS --by group --folds 5 -o folds",
        )
    return [fold & pairs.keys() for fold in read]


def open_finished(reference: str) -> Embedder:
    """An embedder by its run. Raises ArtifactError when it is still training and no step is named."""
    embedder = open_embedder(reference)
    weights = embedder.weights
    if parse_reference(reference)[1] is None and weights.manifest["status"] != "finished":
        raise ArtifactError(
            f"the embedder is not finished (step {weights.step})",
            where=weights.run,
            fix=f"let it finish, or name the step: {weights.run}@{weights.step}",
        )
    return embedder


def trained_places(run: Path) -> set[str]:
    """The places that a run was trained on, and those of the runs that it grew out of, as far as they are found."""
    try:
        manifest = read_manifest(run)
    except ArtifactError:  # an ancestor that was removed or moved
        return set()
    places = set(map(str, manifest.get("places", ())))
    return places.union(*(trained_places(run.parent / i["path"]) for i in manifest["inputs"] if i["role"] == "init"))


def imported(run: Path) -> bool:
    """Was a run, or one that it grew out of, trained elsewhere, so that nobody knows on which places."""
    try:
        manifest = read_manifest(run)
    except ArtifactError:  # as above
        return False
    return "imported" in manifest or any(
        imported(run.parent / i["path"]) for i in manifest["inputs"] if i["role"] == "init"
    )


def _ask(config: EvaluateEmbedder, opened: Opened, device: Any, progress: Progress) -> Found:
    """Embed every gallery by every run, and rank each pair of a run's fold."""
    found = Found()
    everyone = [r for gallery in opened.galleries for r in gallery.grounds if any(r.id in ids for ids in opened.asked)]
    chosen = np.random.default_rng(config.seed).choice(len(everyone), min(config.rows, len(everyone)), replace=False)
    shown = {everyone[i].id for i in chosen}
    total = sum(len(g.aerials) + len(g.grounds) for g in opened.galleries) * (len(opened.embedders) + 1)
    counter = _Counter(progress, total)
    for number, gallery in enumerate(opened.galleries):
        bars = {view: _histograms(opened.dataset, gallery, view, counter) for view in (AERIAL, GROUND)}
        for embedder, asked in zip(opened.embedders, opened.asked, strict=True):
            vectors = {
                view: embedder.embed(
                    _pictures(opened.dataset, gallery, view, counter), view, batch=config.batch, device=device
                )
                for view in (AERIAL, GROUND)
            }
            for direction in DIRECTIONS:
                question = gallery.question(direction, asked)
                if not len(question.queries):
                    continue
                of, among = (GROUND, AERIAL) if direction == "ground-aerial" else (AERIAL, GROUND)
                queries = vectors[of][question.queries]
                ranks = rank(queries, vectors[among], question.positives, question.ignored)
                alike = rank_chunks(
                    histogram.similarities(bars[of][question.queries], bars[among]),
                    len(bars[among]),
                    question.positives,
                    question.ignored,
                )
                mine, baseline = (tally(gallery, direction, question, r, number) for r in (ranks, alike))
                found.tallies.setdefault((direction, number), []).append((mine, baseline))
                if direction == "ground-aerial":
                    found.queries += [gallery.grounds[i] for i in question.queries]
                    for row, i in enumerate(question.queries):
                        if gallery.grounds[i].id in shown:
                            cosines = vectors[among] @ queries[row]
                            place = int(ranks.tied[row]) + 1
                            found.figures[gallery.grounds[i].id] = _figure(
                                opened.dataset, gallery, question, row, cosines, place
                            )
    return found


class _Counter:
    """Counts pictures as they are read."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def tick(self) -> None:
        self.done += 1
        self.progress("embedding", self.done, self.total)


def _pictures(dataset: ListedDataset, gallery: Gallery, view: str, counter: _Counter) -> Iterator[np.ndarray]:
    for record in gallery.aerials if view == AERIAL else gallery.grounds:
        yield dataset.read_view(record, view)
        counter.tick()


def _histograms(dataset: ListedDataset, gallery: Gallery, view: str, counter: _Counter) -> np.ndarray:
    return np.stack([histogram.color_histogram(image) for image in _pictures(dataset, gallery, view, counter)])


def _figure(
    dataset: ListedDataset, gallery: Gallery, question: Question, row: int, similarities: np.ndarray, rank_of_own: int
) -> Figure:
    """One query: its street view, its own aerial picture, and what was found, hits framed in green."""
    own = set(question.positives[row])
    similarities[question.ignored[row]] = -np.inf
    record = gallery.grounds[int(question.queries[row])]

    def aerial(item: int) -> np.ndarray:
        return small(dataset.read_view(gallery.aerials[item], AERIAL))

    true = question.positives[row][0]
    pictures = {
        "query": small(dataset.read_view(record, GROUND)),
        f"its own: {similarities[true]:.3f}": aerial(true),
    }
    for place, item in enumerate(np.argsort(-similarities, kind="stable")[:SHOWN].tolist(), start=1):
        mark, color = (" ✓", HIT) if item in own else ("", MISS)
        pictures[f"{place}: {similarities[item]:.3f}{mark}"] = framed(aerial(item), color)
    source = f" ({gallery.name})" if gallery.name else ""
    return Figure(pictures, f"{record.id}{source}: rank {rank_of_own} of {len(gallery.aerials)}")


def small(picture: np.ndarray) -> np.ndarray:
    """The picture, no larger than the page shows it."""
    return fit(picture, PICTURE) if max(picture.shape[:2]) > PICTURE else picture


def framed(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The picture (h, w, 3) with a frame of a 24th of its longer side painted over its border."""
    width = max(1, max(picture.shape[:2]) // 24)
    h, w = picture.shape[:2]
    return cv2.rectangle(np.ascontiguousarray(picture).copy(), (0, 0), (w - 1, h - 1), color, 2 * width - 1)


def _table(direction: Direction, opened: Opened, found: Found, seed: int) -> list[dict[str, Any]]:
    """A row per gallery that was asked, and one of all where there are several."""
    asked = [(n, found.tallies[direction, n]) for n in range(len(opened.galleries)) if (direction, n) in found.tallies]
    rows = [table_row(opened.galleries[number].name or "all", tallies, seed) for number, tallies in asked]
    if len(rows) > 1:
        rows.append(table_row("all", [pair for _, tallies in asked for pair in tallies], seed))
    return rows


def _scores(direction: Direction, found: Found, table: Sequence[dict[str, Any]]) -> list[Score]:
    """The last row, that of all queries, as scores; of the headline's direction with a hit or miss for each query."""
    row, of_gallery = table[-1], "the query's source" if len(table) > 1 else "all"
    suffix = "" if direction == "ground-aerial" else f"[{direction}]"
    arrow = {"ground-aerial": "street to aerial", "aerial-ground": "aerial to street"}[direction]
    asked = [one for (d, _), tallies in sorted(found.tallies.items()) if d == direction for one, _ in tallies]
    scores = []
    for k in KS:
        share = row["recall"][k]
        protocol = {
            "variant": f"{RULE}; {VARIANT[direction]} of {of_gallery}",
            "k": "floor(0.01 gallery) + 1" if k == "1%" else k,
            "queries": row["queries"],
            "gallery": row["gallery"],
            "chance": f"{row['chance']:.4f} at k = 1",
            "library": f"numpy {np.__version__}",
            "interval_protocol": f"95 %, Wilson, {row['queries']} queries",
        }
        scores.append(
            Score(
                f"r@{k}{suffix}",
                f"R@{k}, {arrow}",
                share["value"],
                "higher",
                protocol,
                per_image=[float(h) for one in asked for h in one.hits[k, "against"]] if not suffix else None,
                warning=row["alarm"],
                interval=tuple(share["interval"]),
            )
        )
    return scores


def _subject(opened: Opened) -> str:
    first = opened.embedders[0].label
    return first if opened.folds is None else f"{first} and {len(opened.embedders) - 1} more"


def _kind(config: EvaluateEmbedder, dataset: ListedDataset) -> str:
    return f"{dataset.format} dataset" + (f", split {config.split}" if config.split else "")


def _asked_text(config: EvaluateEmbedder, opened: Opened, reference: Path) -> str:
    among = "among all pictures of its source" if config.by else "among all pictures"
    name = f"{reference.resolve().name} ({_kind(config, opened.dataset)})"
    if opened.folds is None:
        weights = opened.embedders[0].weights
        return f"Weights {weights.sha256[:8]} of step {weights.step} asked for each place of {name} {among}."
    return f"Each place of {name} asked of the run that was trained without its fold, {among}."


def _selection(found: Found) -> str:
    shown, total = len(found.figures), len(found.queries)
    return f"{shown} of {total} queries, drawn at random, not picked by eye." if shown < total else f"All {total}."


def _commands(embedders: Iterable[Embedder]) -> list[dict[str, str]]:
    trained = [
        {"what": f"Training of {one.label}", "text": shlex.join(one.weights.manifest["command"])} for one in embedders
    ]
    return [*trained, {"what": "Evaluation", "text": shlex.join(command_line())}]
