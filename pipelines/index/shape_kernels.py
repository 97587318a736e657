"""The compiled loops of the exact shape search: bounds, Hamming distances and the walk over the blocks of an index.

The three distances are written as LLVM vectors, because Numba widens small integers to 64 bits and so loses most
of a vector unit on bytes. LLVM lowers them to whatever the processor has (AVX-512, AVX2, NEON). Everything here is
integer arithmetic up to the one float64 expression of `_score`, so that results do not depend on the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

SIDE = 128
BYTES = SIDE * SIDE // 8  # of a packed canonical mask
WORDS = BYTES // 8
CELLS = 64  # 8x8 cells of 16x16 pixels; one cache line of counts
POOLS = 16  # 4x4 pools of 32x32 pixels
BLOCK = 64  # shapes whose pools are compared at once

NO_ROW = np.int64(2**62)  # above every row


class Shapes(NamedTuple):
    """What is known of m packed masks before they are compared. `masks` (m, 256) uint64 is packbits, 8 bytes a word.

    cells: (m, 64) uint8, set pixels of each 16x16 cell, 255 for 255 and 256 (clipping never lengthens a distance).
    counts: (m,) int32, set pixels. pools: set pixels of each 32x32 pool, uint16, shape (m, 16) of queries; of an
    index flat, block after block, and in a block pool after pool, so that one load reads a pool of 64 shapes.
    """

    masks: np.ndarray
    cells: np.ndarray
    pools: np.ndarray
    counts: np.ndarray


class Layout(NamedTuple):
    """Where the shapes of an index stand.

    Shapes are sorted by category, then area octave (together: a bucket), then pixel count, and cut into blocks of
    at most 64 within a bucket. A shape has members: the rows whose canonical mask it is, ascending.
    categories (c,) ascending, with buckets bucket_start[i]..bucket_start[i + 1]; bucket_areas (b, 2) least and largest
    area; blocks block_start[b]..block_start[b + 1]; shapes shape_start[i]..; members member_start[s]..; rows, areas (n,).
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
        for offset in range(CELLS, 4 * CELLS, CELLS):
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
_prefetch_details = _prefetch_lines(CELLS, 4 * CELLS)
_prefetch_mask = _prefetch_lines(0, BYTES)


# ---- what is computed of masks once ----


@_compiled
def fingerprint(masks: np.ndarray, factors: np.ndarray, counts: np.ndarray, hashes: np.ndarray) -> None:
    """Set pixels and a 64-bit hash of each of the masks (m, 256) uint64."""
    for i in range(len(masks)):
        count, total = np.int64(0), np.uint64(0)
        for j in range(WORDS):
            count += _set_bits(masks[i, j])
            total += masks[i, j] * factors[j]
        counts[i] = count
        hashes[i] = total


@_compiled
def pool(masks: np.ndarray, cells: np.ndarray, pools: np.ndarray) -> None:
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
    """sigma_scale + gamma * sigma_shape (RESAIL, eq. 4); of a lower bound of the distance a lower bound: rounding is
    monotone. Two canonical masks without a pixel are equal."""
    return scale + gamma * (distance / largest) if largest > 0 else scale


@_compiled
def _scale(a: int, b: int, strict: bool) -> float:
    """sigma_scale (RESAIL, eq. 2)."""
    small, large = min(a, b), max(a, b)
    return 0.0 if 2 * small > large or (2 * small == large and not strict) else 1.0


@_compiled
def _allowed(worst: float, scale: float, gamma: float, largest: int) -> int:
    """At least the largest distance whose score is not above `worst`."""
    if gamma > 0.0 and worst < np.inf:
        return np.int64(min((worst - scale) / gamma * largest * (1 + 1e-9) + 1, SIDE * SIDE))
    return np.int64(SIDE * SIDE)


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
    counts the blocks, cells, details and masks that were compared.
    """
    counts, pools, shape_start = shapes.counts, shapes.pools, layout.shape_start
    query_counts, query_pools = queries.counts, queries.pools
    k = rows.shape[1]
    guesses = 2 * k + 2
    most = 0
    for c in range(len(layout.bucket_start) - 1):
        most = max(most, layout.bucket_start[c + 1] - layout.bucket_start[c])
    block, end, bound = np.empty(2 * most, np.int64), np.empty(2 * most, np.int64), np.empty(2 * most, np.float64)
    samples = max(SAMPLE, guesses // 16)
    sampled, largest = np.empty(samples, np.int64), np.empty(samples, np.int64)
    distances = np.empty((samples, BLOCK), np.uint16)
    trial_rows, trial_scores = np.empty((1, k), np.int64), np.empty((1, k), np.float64)
    queue = np.empty(QUEUE + BLOCK, np.int64)

    for number in range(first, last):
        q = order[number]
        c = np.searchsorted(layout.categories, categories[q])
        if c == len(layout.categories) or layout.categories[c] != categories[q]:
            continue
        area, count = areas[q], np.int64(query_counts[q])
        for scale in (0.0, 1.0):
            if scores[q, k - 1] < scale:
                break
            walks = _start_walks(counts, layout, c, area, count, scale, gamma, block, end, bound)
            cap, waiting, seen, at, guessing = np.inf, 0, 0, 0, True
            while True:
                worst = min(scores[q, k - 1], cap)
                if guessing or at == seen:  # to the next block
                    w = 0
                    for i in range(1, walks):
                        if bound[i] < bound[w]:
                            w = i
                    if walks == 0 or bound[w] > worst:
                        break
                    here = block[w]
                    beyond = here + 1 if end[w] > here else here - 1
                    if beyond == end[w]:
                        walks -= 1
                        block[w], end[w], bound[w] = block[walks], end[walks], bound[walks]
                    else:
                        block[w] = beyond
                        bound[w] = _block_bound(counts, shape_start, beyond, count, scale, gamma)
                        _prefetch_block(pools, np.int64(shape_start[beyond]))
                    start = np.int64(shape_start[here])
                    size = np.int64(shape_start[here + 1]) - start
                    slot = seen if guessing else 0
                    _pool_distances(query_pools, q, pools, start, size, distances, slot)
                    work[q, 0] += 1
