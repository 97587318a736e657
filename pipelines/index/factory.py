"""Factories: which index of vectors is built, by faiss's names; what each takes, and which suits how many vectors."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.errors import ConfigError, EnvironmentFault

FLAT_AT_MOST = 20_000
"""So many vectors are searched one by one: all neighbors of a bank of this size take seconds, exactly."""
HNSW_AT_MOST = 200_000
"""So many are linked in a graph. Where vectors have few alike it finds more in the same time (0.33 ms a query of 30,000
x 384: recall 0.75, of lists 0.55), and the more so the more there are, but one thread builds it, 20 times as long."""
IVF_AT_MOST = 2_000_000
"""So many are kept whole in lists; more as codes of a tenth of their size or less."""

GROWTH = {"flat": 1.0, "hnsw": 2.0, "ivf": 1.5}
"""What growing takes beside the final size: a graph's vectors are copied whole when their array grows, lists singly."""

FORM = re.compile(
    r"(?P<flat>Flat)"
    r"|HNSW(?P<links>\d+)(?:,Flat)?"
    r"|IVF(?P<lists>\d+),(?:(?P<whole>Flat)|(?P<scalar>SQ8)|PQ(?P<parts>\d+)(?:x(?P<bits>\d+))?)"
)


@dataclass(frozen=True)
class Factory:
    """A kind of index with its sizes. str() is what faiss calls it.

    lists: of «ivf». links: of a node of «hnsw». code: how a vector is kept, whole («Flat»), a byte a number («SQ8»),
    or the nearest of 2^bits centroids for each of `parts` parts («PQ»).
    """

    kind: Literal["flat", "hnsw", "ivf"]
    lists: int = 0
    links: int = 0
    code: Literal["Flat", "SQ8", "PQ"] = "Flat"
    parts: int = 0
    bits: int = 8

    def __str__(self) -> str:
        if self.kind == "ivf":
            product = f"{self.parts}" + (f"x{self.bits}" if self.bits != 8 else "")
            return f"IVF{self.lists},{self.code}{product if self.code == 'PQ' else ''}"
        return "Flat" if self.kind == "flat" else f"HNSW{self.links}"

    @property
    def whole(self) -> bool:
        """Are the vectors kept as they are, not as codes."""
        return self.code == "Flat"

    def code_bytes(self, dimension: int) -> int:
        """Bytes of one vector."""
        if self.code == "PQ":
            return (self.parts * self.bits + 7) // 8
        return dimension * (4 if self.whole else 1)

    def bytes(self, count: int, dimension: int) -> int:
        """Bytes of the file of `count` vectors, which are those that the finished index takes in memory."""
        total = count * self.code_bytes(dimension) + 64
        if self.kind == "hnsw":  # 2 links at the bottom, a chance of 1 / links for each level above; level, offset
            total += int(count * (8 * self.links + 4 * self.links / (self.links - 1) + 12))
        if self.kind == "ivf":  # a row each; a centroid and a size for each list
            total += 8 * count + self.lists * (4 * dimension + 8)
            total += {"Flat": 0, "SQ8": 8 * dimension, "PQ": 4 * 2**self.bits * dimension}[self.code]
        return total

    def memory(self, count: int, dimension: int) -> int:
        """Bytes that the index takes while it is built, at most."""
        return int(GROWTH[self.kind] * self.bytes(count, dimension))

    def training(self) -> int:
        """How many vectors it is trained on where nobody says; 0 where it needs none."""
        return 0 if self.kind != "ivf" else max(64 * self.lists, 64 * 2**self.bits if self.code == "PQ" else 0)

    def probes(self) -> int:
        """How wide it searches where nobody says: lists of «ivf», candidates kept by «hnsw»."""
        return {"flat": 1, "hnsw": 128, "ivf": min(self.lists, max(8, self.lists // 32))}[self.kind]


def parse_factory(text: str, dimension: int) -> Factory:
    """The factory that a text names. Raises ConfigError where it is none, or none for vectors of this dimension."""
    match = FORM.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ConfigError(
            f"{text!r} is no factory of an index",
            where="factory",
            fix="write Flat, HNSW32, IVF1024,Flat, IVF1024,SQ8 or IVF4096,PQ48 (PQ48x4: 4 bits a part)",
        )
    if match["flat"]:
        return Factory("flat")
    if match["links"]:
        links = int(match["links"])
        if not 4 <= links <= 128:
            raise ConfigError(f"HNSW{links} is out of range", where="factory", fix="give 4 to 128 links, as in HNSW32")
        return Factory("hnsw", links=links)
    lists = int(match["lists"])
    if lists < 1:
        raise ConfigError("IVF0 has no lists", where="factory", fix="give it one list or more, as in IVF1024,Flat")
    if match["whole"] or match["scalar"]:
        return Factory("ivf", lists=lists, code="Flat" if match["whole"] else "SQ8")
    parts, bits = int(match["parts"]), int(match["bits"] or 8)
    if parts < 1 or dimension % parts:
        raise ConfigError(
            f"vectors of {dimension} numbers have no {parts} parts of equal size",
            where="factory",
            fix=f"write for instance PQ{_parts(dimension)}",
        )
    if bits not in (4, 6, 8, 10, 12):
        raise ConfigError(f"PQ of {bits} bits", where="factory", fix="give 4, 6, 8, 10 or 12 bits, as in PQ48x4")
    return Factory("ivf", lists=lists, code="PQ", parts=parts, bits=bits)


def require_sample(factory: Factory, count: int) -> None:
    """Raises ConfigError where `count` vectors are too few to place the lists and centroids of a factory by."""
    least = max(factory.lists, 2**factory.bits if factory.code == "PQ" else 0)
    if count < least:
        raise ConfigError(
            f"{factory} needs {least} vectors to train on, and there are {count}",
            where="factory",
            fix="choose fewer lists, or Flat; or a larger sample of a larger bank",
        )


def suitable_factory(count: int, dimension: int) -> Factory:
    """What suits `count` vectors; see the limits above, which benchmarks/vector_index.py measures."""
    if count <= FLAT_AT_MOST:
        return Factory("flat")
    if count <= HNSW_AT_MOST:
        return Factory("hnsw", links=32)
    if count <= IVF_AT_MOST:
        return Factory("ivf", lists=_lists(count))
    return Factory("ivf", lists=_lists(count), code="PQ", parts=_parts(dimension))


def smaller_factory(count: int, dimension: int, memory: int) -> Factory | None:
    """The most faithful factory that fits into some bytes of memory, if any does."""
    lists = min(_lists(count), max(1, count // 64))
    ladder = [
        Factory("flat"),
        Factory("ivf", lists=lists, code="SQ8"),
        Factory("ivf", lists=lists, code="PQ", parts=_parts(dimension)),
        Factory("ivf", lists=lists, code="PQ", parts=_parts(dimension), bits=4),
    ]
    return next((factory for factory in ladder if factory.memory(count, dimension) <= memory), None)


def require_memory(needed: int, factory: Factory, count: int, dimension: int, limit: int | None) -> None:
    """Raises EnvironmentFault where an index needs more memory than there is, or than `limit`, with one that fits."""
    there = available_memory() if limit is None else limit
    if there is None or needed <= there:
        return
    beside = needed - factory.memory(count, dimension)
    smaller = smaller_factory(count, dimension, there - beside)
    fix = "give it a machine with more memory, or a smaller bank"
    if smaller is not None and smaller.memory(count, dimension) < factory.memory(count, dimension):
        fix = f"--factory {smaller} needs {readable(beside + smaller.memory(count, dimension))}"
    raise EnvironmentFault(
        f"an index {factory} of {count} vectors of {dimension} numbers needs {needed} bytes of memory "
        f"({readable(needed)}), and {readable(there)} are {'available' if limit is None else 'allowed by --memory'}",
        fix=fix,
    )


def available_memory() -> int | None:
    """Bytes that this process may still take, by the system and its control group; None where neither tells."""
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        if "MemAvailable" in lines:
            found.append(1024 * int(lines["MemAvailable"].split()[0]))
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used = int((group / "memory.current").read_text()) - int(stat["inactive_file"])
        if limit != "max":
            found.append(int(limit) - used)
    except (OSError, KeyError, ValueError):
        pass  # no control group of version 2
    if not found and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def readable(count: int) -> str:
    """Bytes for people: «1.5 GB»."""
    power = min(4, int(math.log10(max(1, count)) // 3))
    return f"{count / 1000**power:.3g} {['bytes', 'kB', 'MB', 'GB', 'TB'][power]}"


def _lists(count: int) -> int:
    """The power of two nearest to twice the root."""
    return max(1, int(2 ** round(math.log2(max(1.0, 2 * math.sqrt(count))))))


def _parts(dimension: int) -> int:
    """The most parts of eight numbers or more."""
    return next(parts for parts in range(max(1, dimension // 8), 0, -1) if dimension % parts == 0)
