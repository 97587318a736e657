"""The part of rgs eval that looks at images made of scene graphs.

Where were the objects put, can a classifier recognize them there, do the patches that were picked go together, and how
do outputs of one graph differ?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipelines.artifact import Artifact, Input
from pipelines.bank.bank import Bank
from pipelines.data.pixels import read_image
from pipelines.data.scene import Schema
from pipelines.embed.bank_vectors import PIECE, bank_vectors
from pipelines.errors import ArtifactError, ConfigError
from pipelines.metrics import diversity, perceptual
from pipelines.metrics.compatibility import compatibility_score, pick_scores
from pipelines.metrics.objects import Seen, cut, object_scores, object_table
from pipelines.metrics.samples import Sample
from pipelines.metrics.scene_graphs import Made, box_scores, read_made
from pipelines.metrics.scores import Context, JudgeName, NotComputed, Score
from pipelines.progress import Progress
from pipelines.segment.classifier import classify
from pipelines.stages.evaluate_bank import Findings, Subject, check_pasted
from pipelines.stages.evaluate_crossview import MOST_PAIRS, lpips_diversity
from pipelines.stages.evaluate_graph_judges import ROLE, Companion, Recognizer, open_companion, open_recognizer


@dataclass(frozen=True)
class Graphs:
    """What samples of scene graphs are measured with, and all of it as inputs of the report."""

    made: list[Made]
    recognizer: Recognizer | None
    companion: Companion | None
    bank: Bank | None
    inputs: list[Input]


def of_graphs(samples: Artifact) -> bool:
    """Were they made from scene graphs?"""
    return "graphs" in samples.statistics


def open_graphs(
    classifier: str | None,
    cooccurrence: str | None,
    bank: Path | None,
    samples: Artifact,
    listed: Sequence[Sample],
    schema: Schema,
    allow_own: bool,
    home: Path,
) -> Graphs | None:
    """Open what measures samples of graphs; None for samples of anything else.

    bank: what the patches were picked from; where it was when not given. Raises ConfigError when the samples are of
    anything else and a network of graphs was given, or when it is no stranger and allow_own is not set.
    """
    if not of_graphs(samples):
        for flag, given in (("--classifier", classifier), ("--cooccurrence", cooccurrence)):
            if given is not None:
                raise ConfigError(f"{flag} measures images of scene graphs, these are not", fix=f"leave out {flag}")
        return None
    made = [read_made(_graph(sample), schema) for sample in listed]
    inputs = []
    recognizer, companion = None, None
    if classifier is not None:
        recognizer = open_recognizer(classifier, samples, schema, allow_own)
        inputs.append(recognizer.weights.as_input("classifier", home))
    if cooccurrence is not None:
        companion = open_companion(cooccurrence, samples, allow_own)
        inputs.append(companion.embedder.weights.as_input(ROLE, home))
    opened = None
    if bank is not None or companion is not None:
        opened = _open_bank(bank, samples)
        inputs.append(opened.artifact.as_input("bank", home))
    return Graphs(made, recognizer, companion, opened, inputs)


def _graph(sample: Sample) -> Path:
    if sample.graph is None:
        raise ArtifactError("the sample has no graph that it was made from", where=sample.image)
    return sample.graph


def _open_bank(path: Path | None, samples: Artifact) -> Bank:
    """The bank that the patches were picked from. Raises ArtifactError when it is another one, ConfigError for none."""
    used = samples.input("bank")
    if used is None:
        raise ConfigError(
            "these samples were made without patches", fix="leave out --cooccurrence and --bank, which look at patches"
        )
    where = path or samples.path.parent / used.path
    if path is None and not where.is_dir():
        raise ArtifactError(f"the bank of the samples is not at {used.path}", where=samples.path, fix="give --bank")
    bank = Bank.open(where)
    bank.require_kind("patches", "an evaluation of scene graphs")
    if used.digest != bank.digest:
        raise ArtifactError(
            f"the samples were made from bank {used.digest[:12]} but this one is {bank.digest[:12]}",
            where=where,
            fix=f"give the bank that they were made from: it was at {used.path}, as seen from beside the samples",
        )
    return bank


def lacking_graphs(graphs: Graphs | None) -> list[NotComputed]:
    """What was not asked for, and how to."""
    missing = []
    if graphs is not None and graphs.recognizer is None:
        missing.append(NotComputed("object_accuracy", "needs a classifier of objects (--classifier)"))
    if graphs is not None and graphs.companion is None and any(any(made.picks) for made in graphs.made):
        missing.append(NotComputed("compatibility", "needs an independent co-occurrence embedder (--cooccurrence)"))
    return missing


@dataclass(frozen=True)
class Vectors:
    """Features of whole images, for diversity where LPIPS cannot be: of each sample, and of each graph's real image."""

    name: JudgeName
    outputs: np.ndarray
    reals: np.ndarray | None


def look_at_graphs(
    graphs: Graphs | None,
    subject: Subject,
    outputs: bool,
    vectors: Vectors | None,
    context: Context,
    net: perceptual.Net,
    weights: Path | None,
    device: torch.device,
    progress: Progress,
) -> Findings:
    """All that there is to say of samples of graphs. outputs: they are what was made, not bounds to compare with."""
    found = Findings()
    if graphs is None:
        return found
    if outputs:
        _keep(found, box_scores(graphs.made, subject.schema, context))
        if any(any(made.picks) for made in graphs.made):
            _keep(found, pick_scores(graphs.made, context))
    if graphs.recognizer is not None:
        _recognize(graphs.recognizer, graphs.made, subject, context, device, progress, found)
    if outputs and graphs.companion is not None:
        assert graphs.bank is not None
        _keep(found, [_compatibility(graphs.companion, graphs.bank, graphs.made, subject, context, device, progress)])
    if outputs and graphs.bank is not None:
        found.add(check_pasted(subject, context, progress))
    if outputs:
        found.add(_diversity(vectors, subject, context, net, weights, device))
    return found


def _keep(found: Findings, results: Sequence[Score | NotComputed]) -> None:
    found.scores += [one for one in results if isinstance(one, Score)]
    found.missing += [one for one in results if isinstance(one, NotComputed)]


def _recognize(
    judge: Recognizer,
    made: Sequence[Made],
    subject: Subject,
    context: Context,
    device: torch.device,
    progress: Progress,
    found: Findings,
) -> None:
    """What the classifier sees in the objects of outputs, and of real images of the size of the outputs."""
    net = judge.network(device)
    parts = []
    for done, (sample, one) in enumerate(zip(subject.samples, made, strict=True), start=1):
        image = read_image(sample.image)
        parts.append(classify(net, [cut(image, box) for box in one.boxes], judge.size, device))
        progress("objects", done, len(made))
    outputs = _seen(parts, made)
    firsts, why = _real_objects(made, subject, context)
    reals = None
    if firsts:
        parts = []
        for number in firsts:
            sample, boxes = subject.samples[number], made[number].given
            assert boxes is not None
            image = subject.real(sample, read_image(sample.image))
            parts.append(classify(net, [cut(image, box) for box in boxes], judge.size, device))
        reals = _seen(parts, [made[number] for number in firsts])
    _keep(found, object_scores(outputs, reals, why, judge.name, context))
    found.sections["objects"] = {
        "classifier": judge.name.label,
        "weights": judge.name.weights,
        "own": judge.own,
        "classes": object_table(outputs, reals, subject.schema),
    }


def _seen(parts: Sequence[tuple[np.ndarray, np.ndarray]], made: Sequence[Made]) -> Seen:
    logits, features = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    numbers = np.repeat(np.arange(len(made)), [len(one.graph) for one in made])
    return Seen(numbers, np.concatenate([one.graph.categories for one in made]), logits, features)


def _real_objects(made: Sequence[Made], subject: Subject, context: Context) -> tuple[list[int], str]:
    """The number of the first sample of each graph where real images show their objects; else none, and why."""
    firsts = np.unique(context.owners, return_index=True)[1].tolist()
    if subject.reference is None:
        return [], "needs reference images (--reference)"
    if any(made[number].given is None for number in firsts):
        return [], "the graphs came without boxes, so that nobody knows where the objects of the real images are"
    return firsts, ""


def _compatibility(
    companion: Companion,
    bank: Bank,
    made: Sequence[Made],
    subject: Subject,
    context: Context,
    device: torch.device,
    progress: Progress,
) -> Score | NotComputed:
    rows = np.unique([pick.row for one in made for pick in one.picks if pick is not None]).astype(np.int64)
    for one in made:
        for pick in (pick for pick in one.picks if pick is not None):
            if not 0 <= pick.row < len(bank) or bank.source_of(pick.row).id != pick.source:
                raise ArtifactError(f"the samples use a patch that the bank does not have: {pick}", where=bank.path)
    of_row: dict[int, np.ndarray] = {}
    for part, vectors in bank_vectors(bank, companion.embedder, rows, device=device):
        of_row |= dict(zip(part.tolist(), vectors, strict=True))
        progress("patches", len(of_row), len(rows))
    picked = [np.array([of_row[pick.row] for pick in one.picks if pick is not None]) for one in made]
    reals = []
    for number in _real_objects(made, subject, context)[0]:
        boxes, reference = made[number].given, subject.reference
        assert boxes is not None and reference is not None
        image = reference.read(subject.samples[number].source)
        reals.append(companion.embedder.embed([cut(image, box) for box in boxes], PIECE, device=device))
    return compatibility_score(picked, reals, companion.name, context)


def _diversity(
    vectors: Vectors | None,
    subject: Subject,
    context: Context,
    net: perceptual.Net,
    weights: Path | None,
    device: torch.device,
) -> Findings:
    """How outputs of one graph differ (the diversity score, DS): by LPIPS where its weights are, and in features."""
    if len(subject.samples) == context.layouts:
        return Findings(missing=[NotComputed("diversity", "needs several outputs of a graph (rgs synthesize --num)")])
    found = lpips_diversity(subject, context, net, weights, device)
    if vectors is not None:
        own = {
            "features": f"cosine distance of the features of {vectors.name.label}; this is not LPIPS",
            "features weights": vectors.name.weights,
            "library": f"numpy {np.__version__}",
        }
        reals = None if vectors.reals is None else diversity.cosine(_unit(vectors.reals))
        mine = diversity.cosine(_unit(vectors.outputs))
        label, run = vectors.name.label, vectors.name.run
        ruler = diversity.Ruler(label, run, mine, reals, None, MOST_PAIRS["cosine"], own)
        found.add(Findings(*diversity.diversity_scores(ruler, context)))
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
