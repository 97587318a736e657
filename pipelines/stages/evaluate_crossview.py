"""The part of rgs eval that asks embedders about images made from another view of a place.

Correspondence: is the place of an output found by it, among the photos that the outputs were made from, and among the
real images of the other view? An embedder that the generator was trained against flatters it: its numbers are marked
and stand behind those of independent ones. Diversity and repetition are measured in independent embedders' vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import weights as published
from pipelines.artifact import Artifact
from pipelines.data.augment import resize_image
from pipelines.data.pixels import read_image
from pipelines.embed.embedder import Embedder
from pipelines.errors import ArtifactError, ConfigError, EnvironmentFault
from pipelines.metrics import diversity, perceptual
from pipelines.metrics.correspondence import Answers, Items, ask, numbers
from pipelines.metrics.samples import Reference, Sample
from pipelines.metrics.scores import OWN, Context, JudgeName, NotComputed, Score, weights_text
from pipelines.progress import Progress
from pipelines.stages.evaluate_bank import Findings, Subject
from pipelines.stages.evaluate_embedder import open_finished, trained_places
from pipelines.stages.evaluate_judge import helped_to_train
from pipelines.train.run import Weights

MOST_PAIRS = {"cosine": 100_000, "lpips": 500}
"""Pairs of images of different places that distances are measured of."""

DEFINITIONS = {
    "r@1": "query: the output; gallery: the photos that the outputs were made from",
    "r@1_target": "query: the output; gallery: the real images that it should resemble",
}


@dataclass(frozen=True)
class Witness:
    """An embedder that says something of samples. view: theirs. own: the generator was trained against it."""

    embedder: Embedder
    view: str
    own: bool

    @property
    def name(self) -> JudgeName:
        return JudgeName(self.weights.run.name, self.embedder.sha256[:8], self.own, "embedder")

    @property
    def weights(self) -> Weights:
        return self.embedder.weights

    def extractor(self, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
        """Images (n, h, w, 3) uint8 to their vectors (n, d)."""
        return lambda images: self.embedder.embed(images, self.view, device=device)


def open_witness(reference: str, samples: Artifact) -> Witness:
    """An embedder by its run. Raises ConfigError when the samples are of no view, or it does not know their views."""
    embedder = open_finished(reference)
    views = [samples.statistics.get(key) for key in ("target_view", "source_view")]
    if None in views:
        raise ConfigError(
            "an embedder is asked about images made from another view; these samples were made from layouts",
            where=reference,
            fix="leave it out, or give features of a segmenter: --features segmenter:RUN",
        )
    if not set(views) <= embedder.towers.keys():
        embeds = ", ".join(embedder.towers) or "the objects of scene graphs"
        raise ConfigError(f"{embedder.label} embeds {embeds}, not {' and '.join(map(str, views))}")
    own = helped_to_train(samples, embedder.sha256, embedder.weights.manifest)
    return Witness(embedder, str(views[0]), own)


def open_witnesses(references: Sequence[str], samples: Artifact) -> list[Witness]:
    """The embedders to ask, independent ones first. Raises ConfigError when two have one name."""
    witnesses = [open_witness(reference, samples) for reference in references]
    labels = [witness.name.label for witness in witnesses]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ConfigError(f"two embedders are named {twice[0]!r}", where="--embedder", fix="rename a run's folder")
    return sorted(witnesses, key=lambda witness: witness.own)


def lacking_witness(samples: Artifact, witnesses: Sequence[Witness]) -> list[NotComputed]:
    """What was not asked for, and how to."""
    if "target_view" not in samples.statistics or any(not witness.own for witness in witnesses):
        return []
    return [NotComputed(name, "needs an independent embedder (--embedder)") for name in ("r@1", "diversity")]


def look_at_views(
    witnesses: Sequence[Witness],
    subject: Subject,
    context: Context,
    net: perceptual.Net,
    weights: Path | None,
    device: torch.device,
    progress: Progress,
) -> Findings:
    """Correspondence by every embedder, diversity by the independent ones, and by LPIPS where its weights are."""
    made = Findings()
    if "target_view" not in subject.artifact.statistics:
        return made
    rows: list[dict[str, Any]] = []
    for witness in witnesses:
        seen = _embed(witness, subject, context, device, progress)
        for name in DEFINITIONS:
            found = _correspondence(name, witness, seen, subject, context)
            if isinstance(found, NotComputed):
                made.missing.append(found)
            else:
                made.scores.append(found[0])
                rows.append(found[1])
        if not witness.own:
            made.add(_diversity(witness, seen, context))
    if len(subject.samples) > context.layouts:
        made.add(lpips_diversity(subject, context, net, weights, device))
    if rows:
        made.sections["correspondence"] = rows
    return made


@dataclass(frozen=True)
class Vectors:
    """What an embedder says. outputs: (n, d) of each sample. photos, reals: what they were made from, and what they
    should resemble, of each place.
    """

    outputs: np.ndarray
    photos: Items
    reals: Items | None


def _embed(witness: Witness, subject: Subject, context: Context, device: torch.device, progress: Progress) -> Vectors:
    source_view = str(subject.artifact.statistics["source_view"])
    firsts = _firsts(subject.samples, context)
    total = len(subject.samples) + len(firsts) * (1 if subject.reference is None else 2)
    done = 0
    prints: list[str] = []

    def read(read_one: Callable[[Sample], np.ndarray], samples: Sequence[Sample]) -> Iterator[np.ndarray]:
        nonlocal done
        for sample in samples:
            image = read_one(sample)
            prints.append(hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest())
            yield image
            done += 1
            progress(f"embedding by {witness.name.run}", done, total)

    def embed(read_one: Callable[[Sample], np.ndarray], samples: Sequence[Sample], view: str) -> np.ndarray:
        prints.clear()
        return witness.embedder.embed(read(read_one, samples), view, device=device)

    reference = subject.reference
    stratum = _strata(reference, firsts)
    outputs = embed(lambda sample: read_image(sample.image), subject.samples, witness.view)
    photos = Items(embed(_read_photo, firsts, source_view), numbers(prints), stratum)
    if reference is None:
        return Vectors(outputs, photos, None)
    reals = embed(lambda sample: reference.read(sample.source), firsts, witness.view)
    return Vectors(outputs, photos, Items(reals, numbers(prints), stratum))


def _read_photo(sample: Sample) -> np.ndarray:
    if sample.photo is None:
        raise ArtifactError("the sample has no photo that it was made from", where=sample.image)
    return read_image(sample.photo)


def _firsts(samples: Sequence[Sample], context: Context) -> list[Sample]:
    """The first sample of each source, in the order of the layouts of the context."""
    return [samples[i] for i in np.unique(context.owners, return_index=True)[1]]


def _strata(reference: Reference | None, firsts: Sequence[Sample]) -> np.ndarray:
    """(layouts,) the number of each one's source of data: places are told apart within a source."""
    records = {} if reference is None else reference.records
    return numbers([records[s.source].domain if s.source in records else "" for s in firsts])


def _correspondence(
    name: str, witness: Witness, seen: Vectors, subject: Subject, context: Context
) -> tuple[Score, dict[str, Any]] | NotComputed:
    """The share of outputs whose own place is found first, with that of real images, of chance; and its table row."""
    full = f"{name}[{witness.name.label}]"
    items = seen.photos if name == "r@1" else seen.reals
    if items is None:
        return NotComputed(full, "needs reference images (--reference)")
    answers = ask(seen.outputs, context.owners, items)
    value, chance, p = float(answers.against.mean()), float(answers.chance.mean()), answers.p(context.seed)
    ceiling = None
    if seen.reals is not None:
        ceiling = float(ask(seen.reals.vectors, np.arange(context.layouts), items).against.mean())
    interval = answers.interval(context.seed)
    warning = _warning(witness, answers, subject)
    own: dict[str, Any] = {
        "variant": "share of queries whose own place has the highest cosine, ties against the query; "
        f"{DEFINITIONS[name]}, of the same source of data, equal pictures once",
        "features": witness.name.label,
        "features weights": witness.name.weights,
        "gallery": len(np.unique(items.alike)),
        "chance": f"{chance:.4g}, what shuffled outputs reach",
        "library": f"numpy {np.__version__}",
    }
    title = f"R@1 by {witness.name.run}, {'from the other view' if name == 'r@1' else 'among real images'}"
    score = Score(
        full,
        title,
        value,
        "higher",
        context.protocol(interval, **own),
        on_real=ceiling,
        per_image=answers.against.astype(float).tolist(),
        warning=warning,
        interval=interval.ends,
    )
    row = {
        "score": full,
        "embedder": witness.embedder.label,
        "weights": witness.name.weights,
        "own": witness.own,
        "definition": DEFINITIONS[name],
        "value": value,
        "interval": None if interval.ends is None else list(interval.ends),
        "published_rule": float(answers.generous.mean()),
        "ceiling": ceiling,
        "chance": chance,
        "p": p,
        "warning": warning,
    }
    return score, row


def _warning(witness: Witness, answers: Answers, subject: Subject) -> str | None:
    reasons = [OWN["embedder"]] if witness.own else []
    if (answers.against != answers.generous).any():
        mine, theirs = answers.against.mean(), answers.generous.mean()
        reasons.append(f"ties decide: {mine:.1%} with ties against the query, {theirs:.1%} by the published rule")
    records = {} if subject.reference is None else subject.reference.records
    known = {r.group or r.id for r in records.values()} & trained_places(witness.weights.run)
    if known:
        reasons.append(f"the embedder was trained on {len(known)} of these places")
    return "; ".join(reasons) or None


def _diversity(witness: Witness, seen: Vectors, context: Context) -> Findings:
    label = witness.name.label
    own: Mapping[str, Any] = {
        "features": f"cosine distance of the {witness.view} vectors of {label}",
        "features weights": witness.name.weights,
        "library": f"numpy {np.__version__}",
    }
    reals = None if seen.reals is None else diversity.cosine(seen.reals.vectors)
    ruler = diversity.Ruler(
        label, witness.name.run, diversity.cosine(seen.outputs), reals, None, MOST_PAIRS["cosine"], own
    )
    scores, missing = diversity.diversity_scores(ruler, context)
    if seen.reals is not None:
        found = diversity.cluster_score(label, witness.name.run, seen.outputs, seen.reals.vectors, context, own)
        (scores if isinstance(found, Score) else missing).append(found)  # type: ignore[arg-type]
    return Findings(scores, missing)


def lpips_diversity(
    subject: Subject, context: Context, net: perceptual.Net, weights: Path | None, device: torch.device
) -> Findings:
    """Diversity by LPIPS; not computed where its weights are not on this machine."""
    name, file = ("lpips" if net == "alex" else f"lpips-{net}"), perceptual.lpips_file(net)
    try:
        found = published.resolve(file, weights)
    except EnvironmentFault as error:
        return Findings(missing=[NotComputed(f"diversity[{name}]", error.what)])
    distance = perceptual.lpips(net, found, device)

    def between(read_one: Callable[[Sample], np.ndarray], samples: Sequence[Sample]) -> diversity.PairDistance:
        def measured(pairs: np.ndarray) -> np.ndarray:
            found = []
            for i, j in pairs.tolist():
                one, other = read_one(samples[i]), read_one(samples[j])
                same_size = resize_image(other, (one.shape[0], one.shape[1]))
                found.append(float(distance(one[None], same_size[None])[0]))
            return np.array(found)

        return measured

    reference = subject.reference
    reals = None
    if reference is not None:

        def real(sample: Sample) -> np.ndarray:
            size = read_image(sample.image).shape[:2]
            return resize_image(reference.read(sample.source), (size[0], size[1]))

        reals = between(real, _firsts(subject.samples, context))
    own = {"features": f"LPIPS {net}", "weights": weights_text(file), "library": "torchmetrics"}
    outputs = between(lambda sample: read_image(sample.image), subject.samples)
    ruler = diversity.Ruler(name, "LPIPS", outputs, reals, diversity.LPIPS_REPEATED, MOST_PAIRS["lpips"], own)
    return Findings(*diversity.diversity_scores(ruler, context))
