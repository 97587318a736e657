"""How work and size grow: banks against their images, indexes against their segments, from fifty images to a million.

    python benchmarks/scale.py [--images 50 100 200 400] [--made 10000 100000] [--million] [--smoke]
    python benchmarks/scale.py --table        only the tables of docs/scale.md, from the results that are there

Banks are built of the toy town at 256x256, one job, and indexed with one thread; each is set against what the dry run
predicted. Shapes are the made masks of made_masks.py; the row of a million is taken from results/shape_search.json,
unless --million measures it here (some minutes). Where Ray is installed, the smallest and the largest bank are built on
a Ray of this machine too. Writes results/scale.json and the tables between the markers of docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from made_masks import made_masks
from shape_search import RESULTS as SEARCHED
from shape_search import cpu_name, measure

from pipelines.artifact import environment
from pipelines.data.toy.write import write_town
from pipelines.stages import build_bank, train_index

RESULTS = Path(__file__).parent / "results" / "scale.json"
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN, END = "<!-- begin {} -->\n", "<!-- end {} -->"
SIZE = (256, 256)
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[50, 100, 200, 400])
    parser.add_argument("--made", nargs="+", type=int, default=[10_000, 100_000])
    parser.add_argument("--million", action="store_true", help="measure a million made masks here")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--table", action="store_true", help="measure nothing, write the tables anew")
    parser.add_argument("--smoke", action="store_true", help="a few images and masks; nothing is written")
    options = parser.parse_args()
    if options.table:
        write_page(json.loads(RESULTS.read_text()))
        return
    if options.smoke:
        options.images, options.made, options.queries = [2, 4], [500, 1000], 20
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        banks, clusters = grown_banks(Path(folder), sorted(options.images), (64, 64) if options.smoke else SIZE)
    sizes = [*options.made, *([1_000_000] if options.million else [])]
    indexes = [index_row(made(n, options.smoke, options.queries)) for n in sizes]
    if not options.million and not options.smoke:
        searched = json.loads(SEARCHED.read_text())["banks"]
        indexes += [index_row(row) for row in searched if row["bank"] == "made masks"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = {**environment(), "cpu": cpu_name(), "cpus": os.cpu_count(), "memory": memory}
    result = {"banks": banks, "ray": clusters, "indexes": indexes, "machine": machine}
    for table in tables(result).values():
        print(table)
    if not options.smoke:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        write_page(result)


def grown_banks(folder: Path, counts: list[int], size: tuple[int, int]) -> tuple[list[Row], list[Row]]:
    """For each number of images: seconds and bytes of a bank and of its index, planned and real. Then those of Ray."""
    write_town(folder / "town", train=counts[-1], val=0, size=size)
    scenes = sorted(path.stem for path in (folder / "town" / "train" / "img").iterdir())

    def config(count: int) -> build_bank.BuildBank:
        listed = folder / f"{count}.txt"
        listed.write_text("".join(f"train/{scene}\n" for scene in scenes[:count]))
        return build_bank.BuildBank(split=str(listed), shard_sources=max(1, min(16, count // 2)))

    def build(name: str, count: int, **where: Any) -> tuple[float, dict[str, Any]]:
        start = time.perf_counter()
        bank = build_bank.run(config(count), data=folder / "town", out=folder / name, **where)
        return time.perf_counter() - start, bank.statistics

    build("warm", counts[0])
    train_index.run(train_index.TrainIndex(), bank=folder / "warm", out=folder / "warm-index")  # compiles
    rows = []
    for count in counts:
        bank, index = folder / f"bank-{count}", folder / f"index-{count}"
        planned = build_bank.plan(config(count), data=folder / "town", out=bank)["bytes"]
        seconds, statistics = build(bank.name, count)
        planned_index = train_index.plan(train_index.TrainIndex(), bank=bank, out=index)["bytes"]
        start = time.perf_counter()
        train_index.run(train_index.TrainIndex(), bank=bank, out=index)
        rows.append(
            {
                "images": count,
                "segments": statistics["items"],
                "seconds": seconds,
                "bytes": stored(bank),
                "planned_bytes": planned,
                "index_seconds": time.perf_counter() - start,
                "index_bytes": stored(index),
                "index_planned_bytes": planned_index,
            }
        )
    clusters = []
    if find_spec("ray") is not None:
        for count in (counts[0], counts[-1]):
            seconds, _ = build(f"ray-{count}", count, engine="ray", jobs=os.cpu_count() or 1)
            clusters.append({"images": count, "jobs": os.cpu_count(), "seconds": seconds})
    return rows, clusters


def stored(artifact: Path) -> int:
    return sum(file.stat().st_size for file in artifact.rglob("*.h5"))


def made(n: int, smoke: bool, queries: int) -> Row:
    return measure("made masks", made_masks(n, scenes=2 if smoke else 48), min(queries, n), threads=1)


def index_row(row: Row) -> Row:
    kept = ("segments", "build_s", "bytes_per_segment", "median_us_per_query", "slowest_us_per_query")
    return {key: row[key] for key in kept}


# ---- tables ---------------------------------------------------------------------------------------------------------


def line(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """Least squares y = a + b x, weighed so that each point counts by its relative error: a, b, and R²."""
    slope, start = np.polyfit(x, y, 1, w=1 / np.array(y))
    residual = np.array(y) - (start + slope * np.array(x))
    return float(start), float(slope), float(1 - residual.var() / np.var(y))


def power(x: list[float], y: list[float]) -> float:
    """The exponent p of y ~ x^p."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def tables(result: Row) -> dict[str, str]:
    """The generated parts of the page, by the name of their markers."""
    banks, indexes, machine = result["banks"], result["indexes"], result["machine"]
    memory, cpus = machine["memory"], machine["cpus"]
    start, per_image, fit = line([row["images"] for row in banks], [row["seconds"] for row in banks])
    bank_bytes = banks[-1]["bytes"] / banks[-1]["segments"]
    index_bytes = banks[-1]["index_bytes"] / banks[-1]["segments"]
    per_segment = banks[-1]["segments"] / banks[-1]["images"]
    parts = {
        "machine": f"Measured on {cpus} cores of {machine['cpu']} with {memory / 2**30:.0f} GB, one job or thread"
        " unless said.\n"
    }
    parts["banks"] = markdown(
        [
            "images",
            "segments",
            "build",
            "images/s",
            "segments/s",
            "bytes",
            "predicted",
            "index",
            "its bytes",
            "at most",
        ],
        [
            [
                f"{row['images']:,}",
                f"{row['segments']:,}",
                f"{row['seconds']:.1f} s",
                f"{row['images'] / row['seconds']:.1f}",
                f"{row['segments'] / row['seconds']:.0f}",
                mib(row["bytes"]),
                f"{row['planned_bytes'] / row['bytes'] - 1:+.0%}",
                f"{row['index_seconds']:.1f} s",
                mib(row["index_bytes"]),
                mib(row["index_planned_bytes"]),
            ]
            for row in banks
        ],
    ) + (
        f"\nBuild time is {start:.2f} s + {1e3 * per_image:.1f} ms per image (R² {fit:.4f}), that is"
        f" {1e3 * per_image / per_segment:.2f} ms per segment at {per_segment:.0f} segments per image. A segment takes"
        f" {bank_bytes:,.0f} bytes in the bank and {index_bytes:,.0f} in its index on disk.\n"
    )
    exponent = power([row["segments"] for row in indexes], [row["median_us_per_query"] for row in indexes])
    parts["indexes"] = (
        markdown(
            ["segments", "load", "memory", "bytes/segment", "query, median", "slowest 1 %", "all neighbors"],
            [
                [
                    f"{row['segments']:,}",
                    f"{row['build_s']:.2f} s",
                    mib(row["segments"] * row["bytes_per_segment"]),
                    f"{row['bytes_per_segment']:,.0f}",
                    f"{row['median_us_per_query']:.0f} µs",
                    f"{row['slowest_us_per_query']:.0f} µs",
                    f"{row['segments'] * row['median_us_per_query'] / 60e6:.1f} min",
                ]
                for row in indexes
            ],
        )
        + f"\nMemory grows in proportion; the median query grows as n^{exponent:.2f}, although the search is exact.\n"
    )
    largest = indexes[-1]
    room = 0.5 * memory / largest["bytes_per_segment"]
    query_us = largest["median_us_per_query"] * (room / largest["segments"]) ** exponent
    parts["carries"] = markdown(
        ["bound", "formula", "on this machine"],
        [
            [
                "images a day into a bank",
                "86,400 s / time per image x cores",
                f"{86_400 / per_image * cpus:,.0f}",
            ],
            [
                "segments searched in half the memory",
                "memory / 2 / bytes per segment in memory",
                f"{room:,.0f}",
            ],
            [
                "neighbors of all of these",
                f"segments x median query (grown by n^{exponent:.2f}) / cores",
                f"{room * query_us / 1e6 / 3600 / cpus:.1f} h",
            ],
            [
                "their bank and index on disk",
                "segments x bytes per segment",
                f"{room * (bank_bytes + index_bytes) / 2**30:,.0f} GB",
            ],
        ],
    )
    if result["ray"]:
        small, large = result["ray"]
        slope = (large["seconds"] - small["seconds"]) / max(1, large["images"] - small["images"])
        parts["ray"] = (
            f"With `--engine ray --jobs {large['jobs']}` on the same machine {large['images']} images take"
            f" {large['seconds']:.1f} s: {small['seconds'] - slope * small['images']:.1f} s once (starting Ray and its"
            f" workers) and {1e3 * slope:.1f} ms per image.\n"
        )
    return parts


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def mib(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


def write_page(result: Row) -> None:
    """Put the tables between their markers in docs/scale.md."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in tables(result).items():
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"{PAGE.name} has no markers for «{name}»")
        text = before + begin + table + end + after
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
