"""rgs search: ask an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rgs_cli import console
from rgs_cli.options import Device, Json


def search(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="An index.", show_default=False)],
    queries: Annotated[
        list[str],
        typer.Argument(metavar="QUERY…", help="Ids of pieces; or layout PNGs, or photos.", show_default=False),
    ],
    bank: Annotated[Path | None, typer.Option("--bank", help="The index's bank, if it was moved.")] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="How many pieces per query.")] = 10,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Also write a contact sheet to this PNG.")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads that search.")] = 1,
    embedder: Annotated[
        str | None, typer.Option("--embedder", metavar="RUN[@STEP]", help="The index's embedder, if it was moved.")
    ] = None,
    view: Annotated[
        str | None,
        typer.Option("--view", help="What a photo shows: ground, aerial or piece.  \\[default: not the bank's view]"),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Print the nearest pieces of each query, best first: rank, score (a distance, the lower the nearer), id, source.

    With --json a line per query.

    Files are layouts for an index of shapes, searched segment by segment, and photos for one of vectors.

    Example: rgs search indexes/x layout.png --k 5 --sheet hits.png
    """
    from pipelines.stages import search as stage

    found = stage.run(index, queries, bank=bank, k=k, threads=threads, embedder=embedder, view=view, device=device)
    opened = stage.open_bank(index, bank)
    for one in found:
        result = stage.to_json(one, opened)
        if json:
            console.emit_json(result)
            continue
        hits = result.pop("hits")
        console.say("  ".join(f"{key} {value}" for key, value in result.items()))
        for hit in hits:
            console.emit(f"{hit['rank']}\t{hit['score']:.6f}\t{hit['id']}\t{hit['source']}")
    if sheet is not None and found:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        stage.write_sheet(sheet, stage.sheet(found, opened))
        console.say(f"contact sheet: {sheet}")
