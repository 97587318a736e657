"""How fast is the exact shape search? Against a loop over float masks and a faiss scan of the same category.

    python benchmarks/shape_search.py --data data/cmp_facades --made 1000000

Counted in candidates covered: all segments of the query's category in the bank, whether they were looked at or not.
One thread answers the queries one at a time for the median and the slowest 1 % (times include the call from Python)
and stands against faiss with one thread; then --threads answer them together. The scan is IndexBinaryFlat over the
masks of the category, in one batch: it finds the smallest |A xor B|, without areas, scores, exclusion or order of ties.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import faiss
import numba
import numpy as np
import rich
from made_masks import MaskBank, made_masks
from rich.table import Table

from pipelines.index.shape_search import ShapeScore, ShapeSearch, canonical_mask, pack_mask, unpack_mask

K = 10
LOOP = 300  # candidates that the loop is timed on
SCANNED = 64  # queries that the scan is timed on, in one batch
CHECKED = 25  # queries that are checked against the plain definition
REPEATS = 3  # the best of these counts
BOUNDS = ("4x4 counts", "8x8 counts", "16x16 counts", "pixels")
RESULTS = Path(__file__).parent / "results" / "shape_search.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the cmp_facades pack: its windows, then all of its instances")
    parser.add_argument("--made", type=int, default=1_000_000, help="made masks; 0 for none")
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--smoke", action="store_true", help="3,000 made masks, 60 queries, nothing is written")
    options = parser.parse_args()
    if options.smoke:
        options.made, options.queries = 3000, 60

    results = []
    if options.data:
        bank = facade_masks(options.data)
        windows = bank.categories == 2
        only = MaskBank(bank.masks[windows], bank.areas[windows], bank.categories[windows])
        results.append(measure("cmp_facades windows", only, options.queries, options.threads))
        results.append(measure("cmp_facades", bank, options.queries, options.threads))
    if options.made:
        bank = made_masks(options.made, scenes=2 if options.smoke else 48, threads=options.threads)
        results.append(measure("made masks", bank, options.queries, options.threads))
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "versions": {m.__name__: m.__version__ for m in (np, numba, faiss)},
        "faiss": faiss.get_compile_options().strip(),
        "python": platform.python_version(),
    }
    if not options.smoke:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"machine": machine, "k": K, "banks": results}, indent=1) + "\n")
    report(results, machine)


def facade_masks(folder: Path) -> MaskBank:
    """All instances of the training images."""
    masks, areas, categories = [], [], []
    for image in json.loads((folder / "annotations_train.json").read_text())["images"]:
        path = folder / "train" / "inst" / Path(image["file"]).with_suffix(".png").name
        instances = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for item in image["objects"]:
            x, y, w, h = item["bbox"]
            mask = instances[y : y + h, x : x + w] == item["index"]
            masks.append(pack_mask(canonical_mask(mask)))
            areas.append(np.count_nonzero(mask))
            categories.append(item["class_id"])
    return MaskBank(np.stack(masks), np.array(areas), np.array(categories, dtype=np.int32))


def measure(name: str, bank: MaskBank, queries: int, threads: int) -> dict[str, object]:
    """One row of the table; times in ns per candidate covered."""
    n = len(bank.masks)
    rng = np.random.default_rng(0)
    some = rng.permutation(n)[:queries]
    asked = bank.masks[some], bank.areas[some], bank.categories[some]
    keys = np.arange(n)
    ShapeSearch(bank.masks[:50], bank.areas[:50], bank.categories[:50]).search(*(a[:1] for a in asked), K)  # compile
    start = time.perf_counter()
    search = ShapeSearch(bank.masks, bank.areas, bank.categories)
    build = time.perf_counter() - start
    covered = np.bincount(bank.categories)[bank.categories[some]]

    each = np.full(len(some), np.inf)
    for _ in range(REPEATS):
        batch = search.prepare(*asked, K, exclude=some, keys=keys)
        for i, q in enumerate(batch.order):
            start = time.perf_counter()
            batch.run(i, i + 1)
            each[q] = min(each[q], time.perf_counter() - start)
    together = np.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        rows, scores = search.search(*asked, K, exclude=some, keys=keys, threads=threads)
        together = min(together, time.perf_counter() - start)
    assert np.array_equal(rows, batch.rows), "threads changed the result"
    check(bank, search.score, some, rows, scores)

    scanned = some[:SCANNED]
    return {
        "bank": name,
        "segments": n,
        "categories": len(np.unique(bank.categories)),
        "build_s": build,
        "bytes_per_segment": search.nbytes / n,
        "loop_ns": loop(bank, some[0]),
        "scan_ns": {str(t): scan(bank, scanned, t) for t in sorted({1, threads})},
        "median_ns": float(np.median(each / covered)) * 1e9,
        "slowest_ns": float(np.quantile(each / covered, 0.99)) * 1e9,
        "median_us_per_query": float(np.median(each)) * 1e6,
        "slowest_us_per_query": float(np.quantile(each, 0.99)) * 1e6,
        "together_ns": together / covered.sum() * 1e9,
        "threads": threads,
        "compared": dict(zip(BOUNDS, (batch.work.sum(axis=0) / covered.sum()).tolist(), strict=True)),
        "checked_queries": min(CHECKED, len(some)),
    }


def check(bank: MaskBank, score: ShapeScore, some: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
    """Equal to the plain definition, order and ties included."""
    for i, q in enumerate(some[:CHECKED]):
        candidates = np.flatnonzero((bank.categories == bank.categories[q]) & (np.arange(len(bank.masks)) != q))
        distance = np.empty(len(candidates), dtype=np.int64)
        pixels = np.empty(len(candidates), dtype=np.int64)
        for first in range(0, len(candidates), 4096):
            masks = bank.masks[candidates[first : first + 4096]]
            distance[first : first + 4096] = np.bitwise_count(masks ^ bank.masks[q]).sum(1, dtype=np.int64)
            pixels[first : first + 4096] = np.bitwise_count(masks).sum(1, dtype=np.int64)
        largest = np.maximum(pixels, np.bitwise_count(bank.masks[q]).sum(dtype=np.int64))
        areas = bank.areas[candidates]
        scale = np.where(2 * np.minimum(areas, bank.areas[q]) >= np.maximum(areas, bank.areas[q]), 0.0, 1.0)
        total = scale + score.gamma * (distance / largest)
        best = np.argsort(total, kind="stable")[:K]
        assert np.array_equal(rows[i, : len(best)], candidates[best]), f"query {q} is not exact"
        assert np.array_equal(scores[i, : len(best)], total[best]), f"query {q} is not exact"


def loop(bank: MaskBank, q: int) -> float:
    """ns per candidate of the plain loop: float masks, one candidate after the other."""
    candidates = np.flatnonzero(bank.categories == bank.categories[q])[:LOOP]
    masks = [unpack_mask(mask).astype(np.float32) for mask in bank.masks[candidates]]
    mask, area = unpack_mask(bank.masks[q]).astype(np.float32), bank.areas[q]
    best = np.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        for other, other_area in zip(masks, bank.areas[candidates], strict=True):
            scale = 0.0 if min(area, other_area) / max(area, other_area) >= 0.5 else 1.0
            _ = scale + ((mask - other) ** 2).sum() / max(mask.sum(), other.sum())
        best = min(best, time.perf_counter() - start)
    return best / len(candidates) * 1e9


def scan(bank: MaskBank, some: np.ndarray, threads: int) -> float:
    """ns per candidate of faiss, all queries of a category in one batch."""
    faiss.omp_set_num_threads(threads)
    seconds, covered = 0.0, 0
    for category in np.unique(bank.categories[some]):
        index = faiss.IndexBinaryFlat(8 * bank.masks.shape[1])
        index.add(np.ascontiguousarray(bank.masks[bank.categories == category]))
        queries = bank.masks[some[bank.categories[some] == category]]
        best = np.inf
        for _ in range(REPEATS):
            start = time.perf_counter()
            index.search(queries, min(K + 1, index.ntotal))
            best = min(best, time.perf_counter() - start)
        seconds += best
        covered += len(queries) * index.ntotal
    return seconds / covered * 1e9


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def report(results: list[dict], machine: dict) -> None:
    """A column for each bank; in brackets how many times faster than the scan and than the loop."""
    table = Table(title=f"Exact top {K} shapes: ns per candidate covered", caption=str(machine))
    table.add_column("")
    for r in results:
        table.add_column(r["bank"], justify="right")

    def row(name: str, text: Callable[[dict], str]) -> None:
        table.add_row(name, *(text(r) for r in results))

    def against(key: str, threads: int) -> Callable[[dict], str]:
        def text(r: dict) -> str:
            return f"{r[key]:.2f} ({r['scan_ns'][str(threads)] / r[key]:,.0f}x, {r['loop_ns'] / r[key]:,.0f}x)"

        return text

    threads = machine["threads"]
    row("segments", lambda r: f"{r['segments']:,} in {r['categories']} categories")
    row("float loop", lambda r: f"{r['loop_ns']:,.0f}")
    row("faiss scan, 1 thread", lambda r: f"{r['scan_ns']['1']:.1f}")
    row("rgs, median query", against("median_ns", 1))
    row("rgs, slowest 1 %", against("slowest_ns", 1))
    row(f"faiss scan, {threads} threads", lambda r: f"{r['scan_ns'][str(threads)]:.1f}")
    row(f"rgs, all queries, {threads} threads", against("together_ns", threads))
    row("us a query, median", lambda r: f"{r['median_us_per_query']:.0f}")
    row("us a query, slowest 1 %", lambda r: f"{r['slowest_us_per_query']:.0f}")
    for bound in BOUNDS:
        row(f"compared by {bound}", lambda r, bound=bound: f"{r['compared'][bound]:.3%}")
    row("bytes a segment", lambda r: f"{r['bytes_per_segment']:.0f}")
    row("seconds to build", lambda r: f"{r['build_s']:.1f}")
    row("queries checked against the definition", lambda r: f"{r['checked_queries']}")
    rich.print(table)


if __name__ == "__main__":
    main()
