"""The contact sheet of rgs eval: what was made of what, drawn at random, and the best and the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from pipelines.data.augment import resize_image
from pipelines.data.palette import paint_labels
from pipelines.data.pixels import read_image
from pipelines.data.scene import Schema
from pipelines.metrics.report import Example, extremes, show_number
from pipelines.metrics.samples import Reference, Sample, read_labels
from pipelines.metrics.scores import Score

Column = Literal["layout", "graph", "source", "guidance", "output", "reference"]


def choose_examples(
    samples: Sequence[Sample],
    reference: Reference | None,
    schema: Schema,
    wanted: Sequence[Column],
    count: int,
    seed: int,
) -> tuple[list[Example], list[str], str]:
    """Rows and columns of the page's contact sheet, and a sentence on how the rows were chosen."""
    total = len(samples)
    count = min(count, total)
    rng = np.random.default_rng(seed)
    chosen = [samples[i] for i in sorted(rng.choice(total, count, replace=False))]
    rows = [Example(sample.name, _row(sample, reference, schema)) for sample in chosen]
    columns = [str(c) for c in wanted if any(row.images[c] is not None for row in rows)]
    note = f"{count} of {total}, drawn at random (seed {seed}), not picked by eye." if count < total else ""
    return rows, columns, note or f"All {total}."


def standouts(
    samples: Sequence[Sample], reference: Reference | None, schema: Schema, scores: Sequence[Score]
) -> dict[str, list[Example]]:
    """The rows of the best and the worst images, by headings that say by which score."""
    found = extremes([score.to_json() for score in scores])
    if found is None:
        return {}
    title, values = found.score["title"], found.score["per_image"]
    return {
        f"{kind} by {title}": [
            Example(f"{samples[i].name}: {show_number(values[i])}", _row(samples[i], reference, schema))
            for i in numbers
        ]
        for kind, numbers in (("Best", found.best), ("Worst", found.worst))
    }


def _row(sample: Sample, reference: Reference | None, schema: Schema) -> Mapping[str, np.ndarray | None]:
    output = read_image(sample.image)
    size = (output.shape[0], output.shape[1])
    real = None if reference is None else resize_image(reference.read(sample.source), size)
    return {
        "layout": None if sample.layout is None else paint_labels(read_labels(sample.layout, schema, size), schema),
        "graph": None if sample.picture is None else read_image(sample.picture),
        "source": None if sample.photo is None else read_image(sample.photo),
        "guidance": None if sample.guidance is None else read_image(sample.guidance),
        "output": output,
        "reference": real,
    }
