"""rgs train generator|segmenter|classifier|embedder|index: learn from data, write a run or an index."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rgs_cli import console
from rgs_cli.options import (
    ConfigFile,
    Data,
    Device,
    DryRun,
    Format,
    Json,
    Out,
    Set,
    Weights,
    With,
    parse_roles,
    parse_size,
    seconds,
    user_layers,
)

app = typer.Typer(no_args_is_help=True, help="Train a generator, a segmenter, a classifier, an embedder or an index.")

Split = Annotated[str | None, typer.Option("--split", help="Split to train on.  \\[default: train]")]
Preset = Annotated[str | None, typer.Option("--preset", help="Named settings; `rgs show system NAME` lists them.")]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Optimization steps.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Examples in a batch.")]
Size = Annotated[str | None, typer.Option("--size", metavar="H[xW]", help="Training size: 64, or 256x512.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Every random draw depends on it.")]
Precision = Annotated[str | None, typer.Option("--precision", help="fp32 or bf16.")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Processes that make examples.")]
MaxBad = Annotated[int, typer.Option("--max-bad", min=0, help="Unusable images tolerated; they are listed.")]
StopAfter = Annotated[
    str | None, typer.Option("--stop-after", metavar="TIME", help="Stop with a checkpoint after e.g. 20m; resumable.")
]
Init = Annotated[str | None, typer.Option("--init", metavar="RUN[:NET]", help="Start from another run's weights.")]


@app.command("generator")
def generator(
    out: Out,
    data: Data,
    system: Annotated[str, typer.Option("--system", help="resail, spade, oasis or crossview.", show_default=False)],
    bank: Annotated[Path | None, typer.Option("--bank", help="A bank of segments.")] = None,
    index: Annotated[Path | None, typer.Option("--index", help="An index of that bank.")] = None,
    with_: With = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    steps: Steps = None,
    batch: Batch = None,
    size: Size = None,
    seed: Seed = None,
    precision: Precision = None,
    split: Split = None,
    format_: Format = None,
    perceptual: Annotated[
        str | None, typer.Option("--perceptual", help="vgg19 (ImageNet weights) or random (fixed seed).")
    ] = None,
    weights: Weights = None,
    init: Init = None,
    device: Device = "auto",
    workers: Workers = None,
    max_bad: MaxBad = 10,
    stop_after: StopAfter = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train a generator of a published system; the same command again resumes it exactly.

    Example: rgs train generator --system resail --data photos --bank banks/x --index indexes/x --with
    segmenter=runs/s --preset small -o runs/g
    """
    from pipelines.errors import ConfigError
    from pipelines.systems.table import find_system

    settings = find_system(system).Config.model_fields
    sized = "framing.size" if "framing" in settings else "size"
    if size and sized.partition(".")[0] not in settings:
        advice = f"use --set; `rgs show system {system}` lists its settings"
        raise ConfigError(f"{system} trains on views of two sizes, not one", where="--size", fix=advice)
    frozen = parse_roles(with_)
    flags = {
        f"model.{sized}": list(parse_size(size)) if size else None,
        "train.steps": steps,
        "train.batch": batch,
        "train.seed": seed,
        "train.precision": precision,
        "split": split,
        "format": format_,
        "perceptual": perceptual,
        "log.workers": workers,
    }
    given = {"data": data, "bank": bank, "index": index, "frozen": frozen, "init": init, "weights": weights}
    _train(system, preset, config, set_, flags, given, out, device, max_bad, stop_after, json, dry_run)


@app.command("segmenter")
def segmenter(
    out: Out,
    data: Data,
    arch: Annotated[str | None, typer.Option("--arch", help="unet, deeplabv3 or lraspp.")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    steps: Steps = None,
    batch: Batch = None,
    size: Size = None,
    seed: Seed = None,
    precision: Precision = None,
    split: Split = None,
    format_: Format = None,
    init: Init = None,
    device: Device = "auto",
    workers: Workers = None,
    max_bad: MaxBad = 10,
    stop_after: StopAfter = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train a segmenter: a loss network for RESAIL, or a judge for `rgs eval`; never the same run for both.

    Example: rgs train segmenter --data photos --arch unet --size 128 -o runs/s
    """
    flags = {
        "model.arch": arch,
        "model.size": list(parse_size(size)) if size else None,
        "train.steps": steps,
        "train.batch": batch,
        "train.seed": seed,
        "train.precision": precision,
        "split": split,
        "format": format_,
        "log.workers": workers,
    }
    given = {"data": data, "init": init}
    _train("segmenter", preset, config, set_, flags, given, out, device, max_bad, stop_after, json, dry_run)


@app.command("classifier")
def classifier(
    out: Out,
    bank: Annotated[Path, typer.Option("--bank", help="A bank of patches.", show_default=False)],
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    steps: Steps = None,
    batch: Batch = None,
    size: Size = None,
    seed: Seed = None,
    precision: Precision = None,
    init: Init = None,
    device: Device = "auto",
    workers: Workers = None,
    stop_after: StopAfter = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train a classifier of objects, a judge of what was made of scene graphs; it measures itself on held-out groups.

    Example: rgs train classifier --bank banks/p --preset small -o runs/c
    """
    flags = {
        "model.size": list(parse_size(size)) if size else None,
        "train.steps": steps,
        "train.batch": batch,
        "train.seed": seed,
        "train.precision": precision,
        "log.workers": workers,
    }
    given = {"bank": bank, "init": init}
    _train("classifier", preset, config, set_, flags, given, out, device, 0, stop_after, json, dry_run)


@app.command("embedder")
def embedder(
    out: Out,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="crossview (pairs of views), pieces (of a bank), graph or cooccurrence (of a bank of patches).",
            show_default=False,
        ),
    ],
    data: Annotated[Path | None, typer.Option("--data", help="crossview: a dataset of pairs.")] = None,
    bank: Annotated[Path | None, typer.Option("--bank", help="All kinds but crossview: a bank.")] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="saig-s, saig-d, saig-small or torchvision:NAME.")
    ] = None,
    head: Annotated[str | None, typer.Option("--head", help="gap or smd.")] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="triplet, semi_hard, infonce or clip.")] = None,
    validation: Annotated[
        str | None, typer.Option("--validation", help="Split to measure recall on; shares no group with the other.")
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Set = None,
    steps: Steps = None,
    batch: Batch = None,
    seed: Seed = None,
    precision: Precision = None,
    split: Split = None,
    format_: Format = None,
    init: Init = None,
    device: Device = "auto",
    workers: Workers = None,
    max_bad: MaxBad = 10,
    stop_after: StopAfter = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Train towers that bring two views of a place, or two looks at a piece, to near vectors.

    Of a bank of patches: graph describes each by its place in its picture's scene graph, cooccurrence brings those
    that were seen together near each other.

    Examples: rgs train embedder --kind crossview --data pairs --validation val --preset small -o runs/e;
    rgs train embedder --kind pieces --bank banks/x -o runs/p;
    rgs train embedder --kind graph --bank banks/patches --preset toy -o runs/graph
    """
    from pipelines.errors import ConfigError
    from pipelines.systems.table import EMBEDDERS

    if kind not in EMBEDDERS:
        raise ConfigError(f"there is no kind of embedder {kind!r}", fix=f"kinds: {', '.join(EMBEDDERS)}")
    flags = {
        "model.backbone": backbone,
        "model.head": head,
        "model.objective": objective,
        "train.steps": steps,
        "train.batch": batch,
        "train.seed": seed,
        "train.precision": precision,
        "split": split,
        "validation": validation,
        "format": format_,
        "log.workers": workers,
    }
    given = {"data": data, "bank": bank, "init": init}
    name = EMBEDDERS[kind]
    _train(name, preset, config, set_, flags, given, out, device, max_bad, stop_after, json, dry_run)


@app.command("index")
def index(
    out: Out,
    bank: Annotated[Path, typer.Option("--bank", help="A bank.", show_default=False)],
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="What is compared: shape, or embedding.  \\[default: shape without --embedder]"),
    ] = None,
    k: Annotated[int | None, typer.Option("--k", min=1, help="Neighbors kept of each piece.  \\[default: 10]")] = None,
    gamma: Annotated[float | None, typer.Option("--gamma", min=0, help="shape: weight of shape beside scale.")] = None,
    exclude: Annotated[
        str | None,
        typer.Option("--exclude", help="No neighbor of a piece: self, its source, its group.  \\[default: source]"),
    ] = None,
    embedder: Annotated[
        str | None, typer.Option("--embedder", metavar="RUN[@STEP]", help="embedding: the run whose vectors to index.")
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option("--factory", help="embedding: Flat, HNSW32, IVF1024,Flat, IVF4096,PQ48 ….  \\[default: by size]"),
    ] = None,
    probes: Annotated[
        int | None, typer.Option("--probes", min=1, help="embedding: lists visited, or candidates of HNSW.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="embedding: pieces that IVF and PQ are trained on.")
    ] = None,
    update: Annotated[
        list[Path] | None,
        typer.Option("--update", metavar="INDEX", help="embedding: take over what it has of this bank; repeatable."),
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option("--memory", metavar="GB", min=0, help="embedding: at most.  \\[default: what is free]"),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="embedding: auto, cpu, cuda or cuda:N.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="embedding: threads that read pieces.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads that search.")] = 1,
    config: ConfigFile = None,
    set_: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Index the shapes of a bank, or its vectors under an embedder, and write the neighbors of all its pieces.

    Example: rgs train index --bank banks/x --exclude group -o indexes/x;
    rgs train index --bank banks/a --embedder runs/e -o indexes/a
    """
    from pipelines.config import dump_yaml, resolve
    from pipelines.errors import ConfigError

    flags: dict[str, Any] = {"kind": kind, "k": k, "exclude": exclude, "gamma": gamma}
    of_vectors = {"--memory": memory, "--device": device, "--workers": workers}
    flags |= {"factory": factory, "probes": probes, "sample": sample}
    layers = user_layers(config, set_, flags)
    with console.progress() as progress:
        if kind == "embedding" or embedder or update:
            from pipelines.stages import train_embedding_index as vectors

            given: dict[str, Any] = {"bank": bank, "embedder": embedder, "update": update or (), "out": out}
            given["memory"] = None if memory is None else int(memory * 1e9)
            resolved = resolve(vectors.TrainEmbeddingIndex, layers)
            if dry_run:
                console.emit(dump_yaml(vectors.plan(resolved, **given)).rstrip())
                return
            running: dict[str, Any] = {"threads": threads, "device": device or "auto", "workers": workers or 0}
            vectors.run(resolved, **given, **running, progress=progress)
        else:
            from pipelines.stages import train_index as shapes

            if named := next((name for name, value in of_vectors.items() if value is not None), None):
                raise ConfigError(f"an index of shapes has no use for {named}", fix=f"leave out {named}")
            shape = resolve(shapes.TrainIndex, layers)
            if dry_run:
                console.emit(dump_yaml(shapes.plan(shape, bank=bank, out=out)).rstrip())
                return
            shapes.run(shape, bank=bank, out=out, threads=threads, progress=progress)
    console.emit_artifact(out, json)


def _train(
    name: str,
    preset: str | None,
    config_file: Path | None,
    assignments: list[str] | None,
    flags: dict[str, Any],
    paths: dict[str, Any],
    out: Path,
    device: str,
    max_bad: int,
    stop_after: str | None,
    json: bool,
    dry_run: bool,
) -> None:
    from pipelines.config import dump_yaml, resolve
    from pipelines.stages import train as stage
    from pipelines.systems.table import preset_layer

    below = [preset_layer(name, preset)] if preset else []
    config = resolve(stage.config_of(name), [*below, *user_layers(config_file, assignments, flags)])
    given = stage.Given(**paths)
    limit = seconds(stop_after) if stop_after else None
    if dry_run:
        console.emit(dump_yaml(stage.plan(name, config, given, out, max_bad)).rstrip())
        return
    began = time.monotonic()
    with console.Interrupts() as interrupts:
        artifact = stage.run(
            name,
            config,
            given,
            out,
            device=device,
            max_bad=max_bad,
            stop=lambda: interrupts.signal is not None or (limit is not None and time.monotonic() - began > limit),
            watch=console.watch_training(),
        )
    if int(os.environ.get("RANK", "0")) == 0:  # of the processes that torchrun started, one speaks
        for bad in artifact.manifest.get("bad", []):
            console.say(f"not usable: {bad['id']}: {bad['reason']}")
        if artifact.manifest["status"] == "stopped" and interrupts.signal is None:
            console.say(f"stopped at step {artifact.manifest['step']}; the same command goes on from there")
        console.emit_artifact(out, json)
    if interrupts.signal is not None and artifact.manifest["status"] != "finished":
        raise typer.Exit(interrupts.exit_code)
