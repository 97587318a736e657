"""What does rgs add to faiss? Building and searching an index of vectors, next to plain faiss calls doing the same.

    python benchmarks/vector_index.py --count 1000000 --dimension 384 --threads 2

Vectors lie in clusters and are made block by block, as an embedder gives them. Each side runs in a process of its own,
by turns, the best of --repeats: trains on the same sample, adds the same blocks in the same order, writes the file,
and searches vectors of the index for their nearest others. rgs excludes by identity and widens where too little is
found; plain faiss asks for one more and drops the first. Seconds do not count the making of the vectors; memory is
the most that the process had resident. Recall is against the exact search, which rgs does while the vectors stream by:
its seconds stand apart. Only the index is measured, no bank and no embedder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rich
import torch
from rich.table import Table

from pipelines.index.embedding_index import find, recall
from pipelines.index.factory import parse_factory
from pipelines.index.nearest import Nearest
from pipelines.index.vectors import VectorIndex, library

K = 10
BLOCK = 4096
FACTORIES = ("IVF1024,Flat", "IVF1024,PQ48")
RESULTS = Path(__file__).parent / "results" / "vector_index.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--factory", action="append", help=f"repeatable; {' and '.join(FACTORIES)} when not given")
    parser.add_argument("--probes", type=int, action="append", help="repeatable; 8, 16 and 32 when not given")
    parser.add_argument("--in-cluster", type=int, default=200, help="vectors of a cluster; the fewer, the harder")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--smoke", action="store_true", help="3,000 vectors of 32 numbers, nothing is written")
    parser.add_argument("--side", choices=("rgs", "faiss", "exact"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.count, options.dimension, options.queries, options.repeats = 3000, 32, 50, 1
    options.factory = options.factory or (["Flat", "IVF16,Flat"] if options.smoke else list(FACTORIES))
    options.probes = options.probes or [8, 16, 32]
    if options.side:
        print(json.dumps(SIDES[options.side](options)))
        return

    with tempfile.TemporaryDirectory() as folder:
        exact = alone("exact", options.factory[0], options, folder)
        results = []
        for factory in options.factory:
            runs: dict[str, list[dict[str, Any]]] = {"rgs": [], "faiss": []}
            for _ in range(options.repeats):
                for side, found in runs.items():
                    found.append(alone(side, factory, options, folder))
            results.append({"factory": factory, **{side: best(found) for side, found in runs.items()}})
    machine = {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "versions": {m.__name__: m.__version__ for m in (np, torch, library())},
        "faiss": library().get_compile_options().strip(),
        "python": platform.python_version(),
    }
    asked = {
        name: getattr(options, name) for name in ("count", "dimension", "in_cluster", "probes", "queries", "repeats")
    }
    if not options.smoke:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        everything = {"machine": machine, "k": K, **asked, "exact_s": exact["seconds"], "indexes": results}
        options.out.write_text(json.dumps(everything, indent=1) + "\n")
    report(results, asked, exact["seconds"], machine)


def alone(side: str, factory: str, options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """One side in a process of its own."""
    words = [sys.executable, __file__, "--side", side, "--folder", folder, "--factory", factory]
    for name in ("count", "dimension", "in_cluster", "queries", "threads"):
        words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    for probes in options.probes:
        words += ["--probes", str(probes)]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(words, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def by_exact(options: argparse.Namespace) -> dict[str, Any]:
    """The nearest others of the queries, kept in a file for both sides."""
    rows = asked_rows(options)
    asked = gathered(options, rows)
    Nearest(asked[:1], 1, "cosine").offer(np.arange(1), asked[:1])  # compile
    best = Nearest(asked, K, "cosine", rows)
    seconds = 0.0
    for numbers, vectors in blocks(options):
        start = time.perf_counter()
        best.offer(numbers, vectors, numbers)
        seconds += time.perf_counter() - start
    np.save(options.folder / "exact.npy", best.rows)
    return {"seconds": seconds}


def by_rgs(options: argparse.Namespace) -> dict[str, Any]:
    """What `rgs train index` does with vectors, and a search as it does for the neighbors."""
    factory = parse_factory(options.factory[0], options.dimension)
    path, queries = options.folder / "rgs.faiss", asked_rows(options)
    asked, keys = gathered(options, queries), np.arange(options.count)
    Nearest(asked[:1], 1, "cosine").offer(np.arange(1), asked[:1])  # compile
    index = VectorIndex.empty(factory, options.dimension, "cosine")
    watch = Watch()
    sample = gathered(options, sample_rows(options, factory.training()))
    with watch("train"):
        index.train(sample, options.threads)
        index.reserve(options.count)
    del sample
    for rows, vectors in blocks(options):
        with watch("add"):
            index.add(rows, vectors, options.threads)
    with watch("write"):
        index.save(path)
    found = {}
    for probes in options.probes:
        with watch(f"search at {probes}"):
            rows, _ = find(index, asked, K, probes, own=queries, keys=keys, threads=options.threads)
        found[str(probes)] = recall(rows, np.load(options.folder / "exact.npy"))
    return {"seconds": watch.seconds, "recall": found, "bytes": path.stat().st_size, "peak_bytes": peak()}


def by_faiss(options: argparse.Namespace) -> dict[str, Any]:
    """The same by plain calls, with the settings that rgs has: no annealing for polysemous codes, one thread for HNSW,
    clustering of the whole sample."""
    faiss = library()
    faiss.omp_set_num_threads(options.threads)
    name, path, queries = options.factory[0], options.folder / "plain.faiss", asked_rows(options)
    asked = gathered(options, queries)
    index = faiss.index_factory(options.dimension, name, faiss.METRIC_INNER_PRODUCT)
    watch = Watch()
    sample = gathered(options, sample_rows(options, parse_factory(name, options.dimension).training()))
    if name.startswith("IVF"):
        index.cp.max_points_per_centroid = len(sample)
        if "PQ" in name:
            index.do_polysemous_training = False
            index.pq.cp.max_points_per_centroid = len(sample)
        with watch("train"):
            index.train(sample)
    del sample
    if name.startswith("HNSW"):
        faiss.omp_set_num_threads(1)
    for _, vectors in blocks(options):
        with watch("add"):
            index.add(vectors)
    faiss.omp_set_num_threads(options.threads)
    with watch("write"):
        faiss.write_index(index, str(path))
        synced(path)
    found = {}
    for probes in options.probes:
        parameters = None
        if name.startswith("IVF"):
            parameters = faiss.SearchParametersIVF(nprobe=probes)
        elif name.startswith("HNSW"):
            parameters = faiss.SearchParametersHNSW(efSearch=probes)
        with watch(f"search at {probes}"):
            rows = index.search(asked, K + 1, params=parameters)[1][:, 1:]
        found[str(probes)] = recall(rows, np.load(options.folder / "exact.npy"))
    return {"seconds": watch.seconds, "recall": found, "bytes": path.stat().st_size, "peak_bytes": peak()}


SIDES = {"rgs": by_rgs, "faiss": by_faiss, "exact": by_exact}


class Watch:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, label: str) -> Watch:
        self._label = label
        return self

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        spent = time.perf_counter() - self._start
        self.seconds[self._label] = self.seconds.get(self._label, 0.0) + spent


def blocks(options: argparse.Namespace) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, vectors) of all vectors, block by block."""
    for first in range(0, options.count, BLOCK):
        rows = np.arange(first, min(first + BLOCK, options.count))
        yield rows, block(options, first // BLOCK)[: len(rows)]


def block(options: argparse.Namespace, number: int) -> np.ndarray:
    """(BLOCK, dimension) float32 of length 1: centers, and as much noise."""
    clusters = max(1, options.count // options.in_cluster)
    centers = np.random.default_rng(0).standard_normal((clusters, options.dimension), np.float32)
    rng = np.random.default_rng([1, number])
    vectors = rng.standard_normal((BLOCK, options.dimension), np.float32)
    vectors += centers[rng.integers(0, clusters, BLOCK)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def gathered(options: argparse.Namespace, rows: np.ndarray) -> np.ndarray:
    """(m, dimension): the vectors of some rows."""
    found = np.empty((len(rows), options.dimension), np.float32)
    for number in np.unique(rows // BLOCK):
        mine = rows // BLOCK == number
        found[mine] = block(options, int(number))[rows[mine] % BLOCK]
    return found


def asked_rows(options: argparse.Namespace) -> np.ndarray:
    return np.random.default_rng(2).permutation(options.count)[: options.queries]


def sample_rows(options: argparse.Namespace, count: int) -> np.ndarray:
    return np.random.default_rng(3).permutation(options.count)[:count]


def synced(path: Path) -> None:
    """Wait until a file is on the disk, as rgs does before it says that it is there."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The least seconds of each step, and the least memory."""
    seconds = {step: min(run["seconds"][step] for run in runs) for step in runs[0]["seconds"]}
    return {**runs[0], "seconds": seconds, "peak_bytes": min(run["peak_bytes"] for run in runs)}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def report(results: list[dict[str, Any]], asked: dict[str, Any], exact: float, machine: dict[str, Any]) -> None:
    """rgs, and in brackets its ratio to plain faiss."""
    title = f"{asked['count']:,} x {asked['dimension']}, {machine['threads']} threads; exact neighbors of "
    table = Table(title=title + f"{asked['queries']} queries: {exact:.1f} s", caption=str(machine))
    table.add_column("rgs (ratio to plain faiss)")
    for r in results:
        table.add_column(r["factory"], justify="right")

    def of(r: dict[str, Any], name: str) -> str:
        ours, theirs = (r[side]["seconds"].get(name, 0.0) for side in ("rgs", "faiss"))
        return f"{ours:.2f} s ({ours / theirs:.2f}x)" if theirs > 0 else "-"

    for r in results:
        for side in ("rgs", "faiss"):
            seconds = r[side]["seconds"]
            seconds["build"] = sum(seconds.get(step, 0.0) for step in ("train", "add", "write"))
    for step in ("train", "add", "write", "build", *(f"search at {p}" for p in asked["probes"])):
        table.add_row(step, *(of(r, step) for r in results))
    memory = [(r["rgs"]["peak_bytes"], r["faiss"]["peak_bytes"]) for r in results]
    table.add_row("memory, most", *(f"{ours / 1e6:,.0f} MB ({ours / theirs:.2f}x)" for ours, theirs in memory))
    table.add_row("file", *(f"{r['rgs']['bytes'] / 1e6:,.0f} MB" for r in results))
    for p in asked["probes"]:
        both = [(r["rgs"]["recall"][str(p)], r["faiss"]["recall"][str(p)]) for r in results]
        table.add_row(f"recall@{K} at {p}", *(f"{ours:.3f} (faiss {theirs:.3f})" for ours, theirs in both))
    rich.print(table)


if __name__ == "__main__":
    main()
