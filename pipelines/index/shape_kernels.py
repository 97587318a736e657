"""The compiled loops of the exact shape search: bounds, Hamming distances, the walk over the blocks of an index.

Distances are written as LLVM vectors, because Numba widens small integers to 64 bits and so loses most of a vector
unit on bytes; LLVM lowers them to whatever the processor has. All is integer arithmetic but the one float64
expression of `_score`, so results do not depend on the processor. All compiled code is in this file: Numba's cache
on disk looks at the file of a function, not at those that it calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

SIDE = 128
BYTES = SIDE * SIDE // 8  # of a packed canonical mask
WORDS = BYTES // 8
CELLS = 64  # 8x8 cells of 16x16 pixels; one cache line of counts
DETAILS = 4 * CELLS  # the cells and three of the four quarters of each
POOLS = 16  # 4x4 pools of 32x32 pixels
BLOCK = 64  # shapes whose pools are compared at once

_SAMPLE = 24  # blocks from which the k-th score is guessed
_QUEUE = 32  # shapes that wait before their cells are compared
_NO_ROW = np.int64(2**62)  # above every row


class Shapes(NamedTuple):
    """m packed masks, A, and counts of their set pixels, |A| by region, which bound the distances between them.

    masks: (m, 256) uint64, packbits of the canonical mask, eight bytes a word. counts: (m,) int32, |A|.
    cells: (m, 256) uint8; 0..63 the 8x8 cells, then the upper left, upper right and lower left quarters (8x8 pixels)
    of each. A quarter counts at most 63, so that a cell fits a byte; that never lengthens a distance.
    pools: the 4x4 pools, uint16. Of queries (m, 16). Of an index one array: block after block, in a block pool after
    pool, so that one load reads a pool of 64 shapes; 64 numbers of padding at its end.
    """

    masks: np.ndarray
    counts: np.ndarray
    cells: np.ndarray
    pools: np.ndarray


class Layout(NamedTuple):
    """Where the shapes of an index stand.

    Shapes are sorted by category, area octave (the two make a bucket) and pixel count, and cut into blocks of at
    most 64 within a bucket. The members of a shape are the rows whose canonical mask it is, ascending.
    categories: (c,) int32 ascending. Category i has buckets bucket_start[i]..bucket_start[i + 1], bucket i has
    blocks block_start[i]..., block i has shapes shape_start[i]..., shape i has members member_start[i]... (int32).
    bucket_areas: (b, 2) int64, least and largest. rows (n,) int32 and areas (n,) int64 are of members.
    """

    categories: np.ndarray
    bucket_start: np.ndarray
    bucket_areas: np.ndarray
    block_start: np.ndarray
    shape_start: np.ndarray
    member_start: np.ndarray
    rows: np.ndarray
    areas: np.ndarray


def _compiled(function: Callable[..., Any]) -> Any:
    """njit without the GIL, kept on disk where Numba finds a folder it may write to, else compiled in each process."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return njit(nogil=True)(function)


def _inlined(function: Callable[..., Any]) -> Any:
    """For what runs once a block: a call costs more than the work, as every array is passed in seven words."""
    return njit(nogil=True, inline="always")(function)


# ---- vectors ----

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Where array[index] begins, in bytes."""
    fields = context.make_array(kind)(context, builder, array)
    base = builder.bitcast(fields.data, _I8.as_pointer())
    return builder.gep(base, [builder.mul(index, builder.extract_value(fields.strides, 0))])


def _load(builder: Any, address: Any, offset: Any, element: Any, lanes: int) -> Any:
    at = builder.gep(address, [offset if isinstance(offset, ir.Value) else ir.Constant(_I64, offset)])
    return builder.load(builder.bitcast(at, ir.VectorType(element, lanes).as_pointer()), align=1)


def _gap(builder: Any, a: Any, b: Any) -> Any:
    """|a - b| of unsigned vectors."""
    suffix = f"v{a.type.count}i{a.type.element.width}"
    high = _call(builder, f"llvm.umax.{suffix}", a.type, a, b)
    return builder.sub(high, _call(builder, f"llvm.umin.{suffix}", a.type, a, b))


@intrinsic
def _cell_distance(typing: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """sum |a[i] - b[j]| over rows of 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x = _load(builder, _address(context, builder, a, arguments[0], arguments[1]), 0, _I8, CELLS)
        y = _load(builder, _address(context, builder, b, arguments[2], arguments[3]), 0, _I8, CELLS)
        wide = builder.zext(_gap(builder, x, y), ir.VectorType(_I32, CELLS))
        return builder.zext(_call(builder, f"llvm.vector.reduce.add.v{CELLS}i32", _I32, wide), _I64)

    return types.int64(a, types.int64, b, types.int64), generate


@intrinsic
def _hamming(typing: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """Bits that differ between a[i] and b[j], rows of 256 words: |A xor B|."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = _address(context, builder, a, arguments[0], arguments[1])
        other = _address(context, builder, b, arguments[2], arguments[3])
        vector = ir.VectorType(_I64, 8)
        sums = [ir.Constant(vector, None)] * 4  # four chains, so that additions do not wait for each other
        for step, offset in enumerate(range(0, BYTES, 64)):
            both = builder.xor(_load(builder, one, offset, _I64, 8), _load(builder, other, offset, _I64, 8))
            sums[step % 4] = builder.add(sums[step % 4], _call(builder, "llvm.ctpop.v8i64", vector, both))
        total = builder.add(builder.add(sums[0], sums[1]), builder.add(sums[2], sums[3]))
        return _call(builder, "llvm.vector.reduce.add.v8i64", _I64, total)

    return types.int64(a, types.int64, b, types.int64), generate


@intrinsic
def _detail_distance(typing: Any, a: Any, i: Any, b: Any, j: Any) -> Any:
    """sum |a[i] - b[j]| over the four quarters of each cell, the last of which is the cell less the other three."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        one = _address(context, builder, a, arguments[0], arguments[1])
        other = _address(context, builder, b, arguments[2], arguments[3])
        x, y = (_load(builder, address, 0, _I8, CELLS) for address in (one, other))
        total = ir.Constant(x.type, None)
        for offset in range(CELLS, DETAILS, CELLS):
            u, v = (_load(builder, address, offset, _I8, CELLS) for address in (one, other))
            total = builder.add(total, _gap(builder, u, v))
            x, y = builder.sub(x, u), builder.sub(y, v)
        total = builder.add(total, _gap(builder, x, y))
        wide = builder.zext(total, ir.VectorType(_I32, CELLS))
        return builder.zext(_call(builder, f"llvm.vector.reduce.add.v{CELLS}i32", _I32, wide), _I64)

    return types.int64(a, types.int64, b, types.int64), generate


@intrinsic
def _pool_distances(typing: Any, query: Any, i: Any, pools: Any, first: Any, size: Any, out: Any, j: Any) -> Any:
    """L1 distances of the pools query[i] to those of the `size` shapes from `first` on, into out[j] (64 uint16).

    The pools of the block begin at pools[16 * first]. Lanes beyond `size` get the distance to whatever stands there.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        q = _address(context, builder, query, arguments[0], arguments[1])
        base = _address(context, builder, pools, arguments[2], builder.mul(arguments[3], ir.Constant(_I64, POOLS)))
        stride = builder.mul(arguments[4], ir.Constant(_I64, 2))
        target = _address(context, builder, out, arguments[5], arguments[6])
        half = ir.VectorType(_I16, BLOCK // 2)
        undefined, lanes = ir.Constant(half, ir.Undefined), ir.Constant(ir.VectorType(_I32, BLOCK // 2), None)
        for part in range(2):
            total = ir.Constant(half, None)
            for number in range(POOLS):
                at = builder.gep(q, [ir.Constant(_I64, 2 * number)])
                count = builder.load(builder.bitcast(at, _I16.as_pointer()), align=1)
                same = builder.insert_element(undefined, count, ir.Constant(_I32, 0))
                same = builder.shuffle_vector(same, undefined, lanes)
                offset = builder.add(builder.mul(stride, ir.Constant(_I64, number)), ir.Constant(_I64, BLOCK * part))
                total = builder.add(total, _gap(builder, same, _load(builder, base, offset, _I16, BLOCK // 2)))
            at = builder.gep(target, [ir.Constant(_I64, BLOCK * part)])
            builder.store(total, builder.bitcast(at, half.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(query, types.int64, pools, types.int64, types.int64, out, types.int64), generate


@intrinsic
def _near(typing: Any, distances: Any, i: Any, limit: Any) -> Any:
    """Bit j: distances[i, j] <= limit, of 64 uint16 and a limit below 2^16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, distances, arguments[0], arguments[1])
        vector = ir.VectorType(_I16, BLOCK)
        undefined, lanes = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, BLOCK), None)
        bound = builder.insert_element(undefined, builder.trunc(arguments[2], _I16), ir.Constant(_I32, 0))
        bound = builder.shuffle_vector(bound, undefined, lanes)
        near = builder.icmp_unsigned("<=", _load(builder, address, 0, _I16, BLOCK), bound)
        return builder.bitcast(near, _I64)

    return types.uint64(distances, types.int64, types.int64), generate


@intrinsic
def _lowest_bit(typing: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set; bits is not 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


@intrinsic
def _set_bits(typing: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def _prefetch_lines(before: int, after: int, scale: int = 1) -> Any:
    """A hint to fetch bytes before..after from array[scale * i] on."""

    @intrinsic
    def prefetch(typing: Any, array: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            index = builder.mul(arguments[1], ir.Constant(_I64, scale))
            address = _address(context, builder, array, arguments[0], index)
            read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
            for offset in range(before, after, 64):
                at = builder.gep(address, [ir.Constant(_I64, offset)])
                _call(builder, "llvm.prefetch.p0", ir.VoidType(), at, read, keep, data)
            return context.get_dummy_value()

        return types.void(array, types.int64), generate

    return prefetch


_prefetch_block = _prefetch_lines(0, 2 * POOLS * BLOCK, POOLS)
_prefetch_cells = _prefetch_lines(0, CELLS)
_prefetch_details = _prefetch_lines(CELLS, DETAILS)
_prefetch_mask = _prefetch_lines(0, BYTES)


# ---- what is computed of masks once ----


@_compiled
def count_pixels(masks: np.ndarray, factors: np.ndarray, counts: np.ndarray, hashes: np.ndarray) -> None:
    """Set pixels and a 64-bit hash of each of the masks (m, 256) uint64."""
    for i in range(len(masks)):
        count, total = np.int64(0), np.uint64(0)
        for j in range(WORDS):
            count += _set_bits(masks[i, j])
            total += masks[i, j] * factors[j]
        counts[i] = count
        hashes[i] = total


@_compiled
def count_regions(masks: np.ndarray, cells: np.ndarray, pools: np.ndarray) -> None:
    """Count the cells (m, 256) uint8 and pools (m, 16) uint16 of masks (m, 2048) uint8."""
    quarters = np.zeros((16, 16), np.int64)
    for i in range(len(masks)):
        quarters[:] = 0
        pools[i] = 0
        for y in range(SIDE):
            for x in range(SIDE // 8):
                quarters[y // 8, x] += _set_bits(np.uint64(masks[i, y * (SIDE // 8) + x]))
        for y in range(16):
            for x in range(16):
                pools[i, y // 4 * 4 + x // 4] += quarters[y, x]
        for y in range(8):
            for x in range(8):
                a, b = min(quarters[2 * y, 2 * x], 63), min(quarters[2 * y, 2 * x + 1], 63)
                c, d = min(quarters[2 * y + 1, 2 * x], 63), min(quarters[2 * y + 1, 2 * x + 1], 63)
                cell = 8 * y + x
                cells[i, cell], cells[i, 64 + cell], cells[i, 128 + cell], cells[i, 192 + cell] = a + b + c + d, a, b, c


# ---- search ----


@_compiled
def _score(scale: float, gamma: float, distance: int, largest: int) -> float:
    """sigma_scale + gamma * sigma_shape (RESAIL, eq. 4); two canonical masks without a pixel are equal.

    Of a lower bound of the distance it is a lower bound of the score, because rounding is monotone.
    """
    return scale + gamma * (distance / largest) if largest > 0 else scale


@_compiled
def _scale(a: int, b: int, strict: bool) -> float:
    """sigma_scale (RESAIL, eq. 2)."""
    small, large = min(a, b), max(a, b)
    return 0.0 if 2 * small > large or (2 * small == large and not strict) else 1.0


@_compiled
def _allowed(worst: float, scale: float, gamma: float, largest: int) -> int:
    """At least the largest distance whose score is not above `worst`; the slack covers all rounding, of any gamma."""
    if gamma > 0.0 and worst < np.inf:
        return int(min((worst * (1 + 1e-15) - scale) / gamma * max(largest, 1) * (1 + 1e-9) + 1, SIDE * SIDE))
    return SIDE * SIDE


@_compiled
def _block_bound(
    counts: np.ndarray, shape_start: np.ndarray, block: int, count: int, scale: float, gamma: float
) -> float:
    """The least score that the pixel counts of a block allow: |A xor B| >= ||A| - |B||."""
    least = np.int64(counts[shape_start[block]])
    largest = np.int64(counts[shape_start[block + 1] - 1])
    if least > count:
        return _score(scale, gamma, least - count, least)
    if largest < count:
        return _score(scale, gamma, count - largest, count)
    return scale


@_compiled
def _start_walks(
    counts: np.ndarray, layout: Layout, category: int, area: int, count: int, scale: float, gamma: float,
    block: np.ndarray, end: np.ndarray, bound: np.ndarray,
) -> int:  # fmt: skip
    """Two walks for each bucket of a category that may hold scores of this scale: up and down from the query's count.

    A walk has the next `block`, the block at which it ends, and the bound of the next block. Returns their number.
    """
    shape_start = layout.shape_start
    walks = 0
    for bucket in range(layout.bucket_start[category], layout.bucket_start[category + 1]):
        far = 2 * layout.bucket_areas[bucket, 1] < area or layout.bucket_areas[bucket, 0] > 2 * area
        if far != (scale == 1.0):
            continue
        first, last = layout.block_start[bucket], layout.block_start[bucket + 1]
        low, high = first, last  # find the first block that reaches the query's count
        while low < high:
            middle = (low + high) // 2
            if counts[shape_start[middle + 1] - 1] < count:
                low = middle + 1
            else:
                high = middle
        if low < last:
            block[walks], end[walks] = low, last
            bound[walks] = _block_bound(counts, shape_start, low, count, scale, gamma)
            walks += 1
        if low > first:
            block[walks], end[walks] = low - 1, first - 1
            bound[walks] = _block_bound(counts, shape_start, low - 1, count, scale, gamma)
            walks += 1
    return walks


@_inlined
def _nearest_walk(bound: np.ndarray, walks: int) -> int:
    nearest = 0
    for i in range(1, walks):
        if bound[i] < bound[nearest]:
            nearest = i
    return nearest


@_inlined
def _take_block(
    query_pools: np.ndarray, q: int, count: int, pools: np.ndarray, counts: np.ndarray, shape_start: np.ndarray,
    scale: float, gamma: float, block: np.ndarray, end: np.ndarray, bound: np.ndarray, walk: int,
    taken: np.ndarray, largest: np.ndarray, distances: np.ndarray, slot: int,
) -> None:  # fmt: skip
    """Compare the pools of a walk's next block and move on.

    Into `slot` go the block, the most pixels that the query or a shape in it has, and 64 lower bounds of distances.
    """
    here = block[walk]
    beyond = here + 1 if end[walk] > here else here - 1
    ended = beyond == end[walk]
    following = here if ended else beyond
    least = _block_bound(counts, shape_start, following, count, scale, gamma)
    block[walk] = following
    bound[walk] = np.inf if ended else least
    _prefetch_block(pools, np.int64(shape_start[following]))
    first, last = np.int64(shape_start[here]), np.int64(shape_start[here + 1])
    _pool_distances(query_pools, q, pools, first, last - first, distances, slot)
    taken[slot] = here
    largest[slot] = max(count, np.int64(counts[last - 1]))


@_inlined
def _enqueue(
    distances: np.ndarray, slot: int, limit: int, first: int, last: int, cells: np.ndarray,
    queue: np.ndarray, waiting: int,
) -> int:  # fmt: skip
    """Append the shapes first..last of a block whose pools are within the limit; returns the length of the queue."""
    near = _near(distances, slot, limit)
    if last - first < BLOCK:
        near &= (np.uint64(1) << np.uint64(last - first)) - np.uint64(1)
    while near != np.uint64(0):
        shape = first + _lowest_bit(near)
        near &= near - np.uint64(1)
        queue[waiting] = shape
        waiting += 1
        _prefetch_cells(cells, shape)
    return waiting


@_compiled
def _share(distances: np.ndarray, largest: np.ndarray, slots: int, wanted: int) -> float:
    """A part of `largest` such that at least `wanted` distances (or all) are within it, and not many more."""
    low, high = 0.0, 2.0
    for _ in range(8):
        middle = (low + high) / 2
        found = 0
        for slot in range(slots):
            found += _set_bits(_near(distances, slot, min(np.int64(middle * largest[slot]), SIDE * SIDE)))
        if found < wanted:
            low = middle
        else:
            high = middle
    return high


@_compiled
def search_queries(
    queries: Shapes, areas: np.ndarray, categories: np.ndarray, exclude: np.ndarray,
    order: np.ndarray, first: int, last: int,
    shapes: Shapes, layout: Layout, keys: np.ndarray, gamma: float, strict: bool,
    rows: np.ndarray, scores: np.ndarray, work: np.ndarray,
) -> None:  # fmt: skip
    """Fill rows and scores (q, k) of the queries order[first:last]; they come in as -1 and inf.

    First the buckets whose areas may be within the query's scale, then the others, if they can still matter. Each
    time: compare the pools of the blocks nearest in pixel count, take the exact scores of the few shapes that look
    best by them, and with the k-th of these as a cap, which is close to the final one, walk the blocks outward
    until the difference in count alone exceeds it. keys is read only for queries with exclude >= 0. work (q, 4)
    counts the shapes whose pools, cells, details and masks were compared.
    """
    k = rows.shape[1]
    guesses = 2 * k + 2
    most = 0
    for c in range(len(layout.categories)):
        most = max(most, layout.bucket_start[c + 1] - layout.bucket_start[c])
    block, end = np.empty(2 * most + 1, np.int64), np.empty(2 * most + 1, np.int64)
    bound = np.empty(2 * most + 1, np.float64)
    slots = max(_SAMPLE, guesses // 16)
    taken, largest = np.empty(slots, np.int64), np.empty(slots, np.int64)
    distances = np.empty((slots, BLOCK), np.uint16)
    trial_rows, trial_scores = np.empty((1, k), np.int64), np.empty((1, k), np.float64)
    queue, bounds = np.empty(_QUEUE + BLOCK, np.int64), np.empty(_QUEUE + BLOCK, np.int64)
    # taken out of the tuples once: each time costs two atomic additions
    known, shape_start = layout.categories, layout.shape_start
    counts, cells, pools, query_pools = shapes.counts, shapes.cells, shapes.pools, queries.pools

    for number in range(first, last):
        q = order[number]
        c = np.searchsorted(known, categories[q])
        if c == len(known) or known[c] != categories[q]:
            continue
        area, count = areas[q], np.int64(queries.counts[q])
        for scale in (0.0, 1.0):
            if scores[q, k - 1] < scale:
                break
            bound[0] = np.inf
            walks = _start_walks(counts, layout, c, area, count, scale, gamma, block, end, bound)

            seen = 0
            while seen < slots:
                walk = _nearest_walk(bound, walks)
                if bound[walk] == np.inf:
                    break
                _take_block(
                    query_pools, q, count, pools, counts, shape_start, scale, gamma, block, end, bound, walk,
                    taken, largest, distances, seen,
                )  # fmt: skip
                seen += 1
            for i in range(k):
                trial_rows[0, i], trial_scores[0, i] = rows[q, i], scores[q, i]
            share = _share(distances, largest, seen, guesses)
            waiting = 0
            for slot in range(seen):
                limit = min(np.int64(share * largest[slot]), SIDE * SIDE)
                start, stop = np.int64(shape_start[taken[slot]]), np.int64(shape_start[taken[slot] + 1])
                waiting = _enqueue(distances, slot, limit, start, stop, cells, queue, waiting)
                if waiting >= _QUEUE or slot == seen - 1:
                    _score_queue(
                        queries, q, area, exclude[q], shapes, layout, keys, gamma, strict, np.inf,
                        queue, bounds, waiting, trial_rows, trial_scores, 0, work,
                    )  # fmt: skip
                    waiting = 0
            cap = trial_scores[0, k - 1]

            slot = 0
            while True:
                worst = min(scores[q, k - 1], cap)
                if slot < seen:
                    at = slot
                    slot += 1
                else:
                    walk = _nearest_walk(bound, walks)
                    if bound[walk] == np.inf or bound[walk] > worst:
                        break
                    at = 0
                    _take_block(
                        query_pools, q, count, pools, counts, shape_start, scale, gamma, block, end, bound, walk,
                        taken, largest, distances, at,
                    )  # fmt: skip
                limit = _allowed(worst, scale, gamma, largest[at])
                start, stop = np.int64(shape_start[taken[at]]), np.int64(shape_start[taken[at] + 1])
                work[q, 0] += stop - start
                waiting = _enqueue(distances, at, limit, start, stop, cells, queue, waiting)
                if waiting >= _QUEUE:
                    _score_queue(
                        queries, q, area, exclude[q], shapes, layout, keys, gamma, strict, cap,
                        queue, bounds, waiting, rows, scores, q, work,
                    )  # fmt: skip
                    waiting = 0
            _score_queue(
                queries, q, area, exclude[q], shapes, layout, keys, gamma, strict, cap,
                queue, bounds, waiting, rows, scores, q, work,
            )  # fmt: skip


@_compiled
def _score_queue(
    queries: Shapes, q: int, area: int, exclude: int,
    shapes: Shapes, layout: Layout, keys: np.ndarray, gamma: float, strict: bool, cap: float,
    queue: np.ndarray, bounds: np.ndarray, waiting: int, rows: np.ndarray, scores: np.ndarray, r: int, work: np.ndarray,
) -> None:  # fmt: skip
    """Insert the members of the waiting shapes into the result rows[r], scores[r], if they belong there.

    Each bound is taken of all of them before the next, so that what was asked of memory has time to arrive. Nothing
    above cap, a bound of the final k-th score, is of interest.
    """
    k = rows.shape[1]
    count = np.int64(queries.counts[q])
    worst, worst_row = cap, _NO_ROW
    if rows[r, k - 1] >= 0 and scores[r, k - 1] <= cap:
        worst, worst_row = scores[r, k - 1], rows[r, k - 1]

    left = 0
    for i in range(waiting):
        s = queue[i]
        limit = _allowed(worst, 0.0, gamma, max(count, np.int64(shapes.counts[s])))
        if _cell_distance(queries.cells, q, shapes.cells, s) > limit:
            continue
        member = layout.member_start[s]
        if worst < 1.0 and layout.member_start[s + 1] == member + 1 and _scale(area, layout.areas[member], strict) > 0:
            continue
        queue[left] = s
        left += 1
        _prefetch_details(shapes.cells, s)
    work[q, 1] += waiting
    waiting, left = left, 0
    for i in range(waiting):
        s = queue[i]
        limit = _allowed(worst, 0.0, gamma, max(count, np.int64(shapes.counts[s])))
        distance = _detail_distance(queries.cells, q, shapes.cells, s)
        if distance <= limit:
            queue[left], bounds[left] = s, distance
            left += 1
            _prefetch_mask(shapes.masks, s)
    work[q, 2] += waiting

    for i in range(left):
        s = queue[i]
        most = max(count, np.int64(shapes.counts[s]))
        if bounds[i] > _allowed(worst, 0.0, gamma, most):  # no longer good enough
            continue
        work[q, 3] += 1
        distance = _hamming(queries.masks, q, shapes.masks, s)
        near, far = _score(0.0, gamma, distance, most), _score(1.0, gamma, distance, most)
        for j in range(layout.member_start[s], layout.member_start[s + 1]):
            row = np.int64(layout.rows[j])
            if near > worst or (near == worst and row > worst_row):
                break  # the rows of a shape ascend
            if exclude >= 0 and keys[row] == exclude:
                continue
            score = near if _scale(area, layout.areas[j], strict) == 0.0 else far
            if score > worst or (score == worst and row > worst_row):
                continue
            at = k - 1
            while at > 0 and (scores[r, at - 1] > score or (scores[r, at - 1] == score and rows[r, at - 1] > row)):
                scores[r, at], rows[r, at] = scores[r, at - 1], rows[r, at - 1]
                at -= 1
            scores[r, at], rows[r, at] = score, row
            if rows[r, k - 1] >= 0 and scores[r, k - 1] <= cap:
                worst, worst_row = scores[r, k - 1], rows[r, k - 1]
