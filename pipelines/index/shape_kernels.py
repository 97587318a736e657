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


STRIPS = 4


@intrinsic
def _strip_gain(typing: Any, a: Any, i: Any, b: Any, j: Any, c: Any, d: Any, strip: Any) -> Any:
    """Bits that differ in one strip less its cells' L1: a[i] vs b[j] masks, c[i] vs d[j] cells."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        masks, index, others, other_index, cells, other_cells, strip = arguments
        size = BYTES // STRIPS
        start = builder.mul(strip, ir.Constant(_I64, size))
        one = builder.gep(_address(context, builder, a, masks, index), [start])
        other = builder.gep(_address(context, builder, b, others, other_index), [start])
        vector = ir.VectorType(_I64, 8)
        sums = [ir.Constant(vector, None)] * 2
        for step, offset in enumerate(range(0, size, 64)):
            both = builder.xor(_load(builder, one, offset, _I64, 8), _load(builder, other, offset, _I64, 8))
            sums[step % 2] = builder.add(sums[step % 2], _call(builder, "llvm.ctpop.v8i64", vector, both))
        total = _call(builder, "llvm.vector.reduce.add.v8i64", _I64, builder.add(*sums))
        lanes = CELLS // STRIPS
        start = builder.mul(strip, ir.Constant(_I64, lanes))
        x = _load(builder, builder.gep(_address(context, builder, c, cells, index), [start]), 0, _I8, lanes)
        y = _load(builder, builder.gep(_address(context, builder, d, other_cells, other_index), [start]), 0, _I8, lanes)
        wide = builder.zext(_gap(builder, x, y), ir.VectorType(_I32, lanes))
        known = _call(builder, f"llvm.vector.reduce.add.v{lanes}i32", _I32, wide)
        return builder.sub(total, builder.zext(known, _I64))

    return types.int64(a, types.int64, b, types.int64, c, d, types.int64), generate


@intrinsic
def _pool_distances(typing: Any, query: Any, i: Any, pools: Any, first: Any, size: Any, limit: Any, out: Any) -> Any:
    """L1 distances of query[i] (16 pools) to the shapes of one block into out (64 uint16); bit j: out[j] <= limit.

    The block's pools begin at pools[16 * first]; `size` shapes, at most 64. Lanes beyond them hold no shape.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        q = _address(context, builder, query, arguments[0], arguments[1])
        base = _address(context, builder, pools, arguments[2], builder.mul(arguments[3], ir.Constant(_I64, POOLS)))
        target = _address(context, builder, out, arguments[6], ir.Constant(_I64, 0))
        stride = builder.mul(arguments[4], ir.Constant(_I64, 2))
        half = ir.VectorType(_I16, BLOCK // 2)
        undefined, lanes = ir.Constant(half, ir.Undefined), ir.Constant(ir.VectorType(_I32, BLOCK // 2), None)
        bits = ir.Constant(_I64, 0)
        bound = builder.insert_element(undefined, builder.trunc(arguments[5], _I16), ir.Constant(_I32, 0))
        bound = builder.shuffle_vector(bound, undefined, lanes)
        for part in range(2):
            total = ir.Constant(half, None)
            for pool in range(POOLS):
                at = builder.gep(q, [ir.Constant(_I64, 2 * pool)])
                count = builder.load(builder.bitcast(at, _I16.as_pointer()), align=1)
                same = builder.insert_element(undefined, count, ir.Constant(_I32, 0))
                same = builder.shuffle_vector(same, undefined, lanes)
                offset = builder.add(builder.mul(stride, ir.Constant(_I64, pool)), ir.Constant(_I64, BLOCK * part))
                total = builder.add(total, _gap(builder, same, _load(builder, base, offset, _I16, BLOCK // 2)))
            at = builder.gep(target, [ir.Constant(_I64, BLOCK * part)])
            builder.store(total, builder.bitcast(at, half.as_pointer()), align=1)
            near = builder.bitcast(builder.icmp_unsigned("<=", total, bound), _I32)
            bits = builder.or_(bits, builder.shl(builder.zext(near, _I64), ir.Constant(_I64, 32 * part)))
        return bits

    return types.uint64(query, types.int64, pools, types.int64, types.int64, types.int64, out), generate


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


@intrinsic
def _prefetch(typing: Any, array: Any, i: Any) -> Any:
    """Ask for array[i], all its cache lines; only a hint."""
    size = 2048 if array.dtype == types.uint64 else 64

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, array, arguments[0], arguments[1])
        read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        for offset in range(0, size, 64):
            at = builder.gep(address, [ir.Constant(_I64, offset)])
            _call(builder, "llvm.prefetch.p0", ir.VoidType(), at, read, keep, data)
        return context.get_dummy_value()

    return types.void(array, types.int64), generate


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
    """Set pixels by cell (m, 64) uint8, clipped, and by pool (m, 16) uint16 of masks (m, 2048) uint8."""
    sums = np.zeros(CELLS, np.int64)
    for i in range(len(masks)):
        sums[:] = 0
        for y in range(SIDE):
            for x in range(SIDE // 8):
                sums[y // 16 * 8 + x // 2] += _set_bits(np.uint64(masks[i, y * (SIDE // 8) + x]))
        for j in range(CELLS):
            cells[i, j] = min(sums[j], 255)
        for j in range(POOLS):
            corner = j // 4 * 16 + j % 4 * 2
            pools[i, j] = sums[corner] + sums[corner + 1] + sums[corner + 8] + sums[corner + 9]


# ---- search ----


class Scratch(NamedTuple):
    """Working memory of one thread, fixed in size by the index.

    block, end, bound: the walks over blocks; the next block, where to stop, and the least score it allows.
    queue_bound, queue_shape: shapes that await their exact distance, with a lower bound of their score.
    """

    block: np.ndarray
    end: np.ndarray
    bound: np.ndarray
    found: np.ndarray
    distances: np.ndarray
    queue_bound: np.ndarray
    queue_shape: np.ndarray


@_compiled
def _score(scale: float, gamma: float, distance: int, largest: int) -> float:
    """sigma_scale + gamma * sigma_shape (RESAIL, eq. 4); a lower bound of it if `distance` is one: rounding is monotone."""
    return scale + gamma * (distance / largest) if largest > 0 else scale


@_compiled
def _scale(a: int, b: int, strict: bool) -> float:
    """sigma_scale (RESAIL, eq. 2)."""
    small, large = min(a, b), max(a, b)
    return 0.0 if 2 * small > large or (2 * small == large and not strict) else 1.0


@_compiled
def search_queries(
    queries, areas, categories, exclude, order, first, last, shapes, layout, keys, gamma, strict, rows, scores, work, GUESS, LIMIT
):
    most = 0
    for i in range(len(layout.bucket_start) - 1):
        most = max(most, layout.bucket_start[i + 1] - layout.bucket_start[i])
    k = rows.shape[1]
    guess = GUESS * k + 12
    block = np.empty(2 * most, np.int64)  # the next block of each walk
    bound = np.empty(2 * most, np.float64)  # its lower bound
    end = np.empty(2 * most, np.int64)  # the block at which it ends
    found = np.empty(BLOCK, np.int64)
    distances = np.empty(BLOCK, np.uint16)
    qb = np.empty(max(guess, LIMIT + BLOCK), np.float64)
    qs = np.empty(max(guess, LIMIT + BLOCK), np.int64)
    trial_rows = np.empty(k, np.int64)
    trial_scores = np.empty(k, np.float64)
    for number in range(first, last):
        q = order[number]
        c = np.searchsorted(layout.categories, categories[q])
        if c == len(layout.categories) or layout.categories[c] != categories[q]:
            continue
        area = areas[q]
        for scale in (0.0, 1.0):
            cap = np.inf
            if scores[q, k - 1] < scale:
                break
            if GUESS > 0:
                n = _walk(queries, q, area, c, scale, shapes, layout, gamma, strict, keys, exclude[q], rows[q], scores[q], cap,
                          block, bound, end, found, distances, qb, qs, work[q], guess, True)
                trial_rows[:] = rows[q]
                trial_scores[:] = scores[q]
                _flush(queries, q, area, exclude[q], shapes, layout, keys, gamma, strict, trial_rows, trial_scores, np.inf, work[q], qb, qs, n)
                cap = trial_scores[k - 1]
            _walk(queries, q, area, c, scale, shapes, layout, gamma, strict, keys, exclude[q], rows[q], scores[q], cap,
                      block, bound, end, found, distances, qb, qs, work[q], LIMIT, False)


@_compiled
def _walk(queries, q, area, c, scale, shapes, layout, gamma, strict, keys, exclude, rows, scores, cap, block, bound, end, found, distances, qb, qs, work, limit, guessing):
    count = np.int64(queries.counts[q])
    walks = 0
    for b in range(layout.bucket_start[c], layout.bucket_start[c + 1]):
        apart = 2 * layout.bucket_areas[b, 1] < area or layout.bucket_areas[b, 0] > 2 * area
        if apart != (scale == 1.0):
            continue
        low, high = layout.block_start[b], layout.block_start[b + 1]
        middle = low  # the first block that reaches the query's count
        upper = high
        while middle < upper:
            half = (middle + upper) // 2
            if shapes.counts[layout.shape_start[half + 1] - 1] < count:
                middle = half + 1
            else:
                upper = half
        if middle < high:
            block[walks], end[walks] = middle, high
            bound[walks] = _block_bound(shapes, layout, middle, count, scale, gamma)
            walks += 1
        if middle > low:
            block[walks], end[walks] = middle - 1, low - 1
            bound[walks] = _block_bound(shapes, layout, middle - 1, count, scale, gamma)
            walks += 1
    waiting = 0
    while walks > 0:
        w = 0
        for i in range(1, walks):
            if bound[i] < bound[w]:
                w = i
        if guessing:
            if waiting == limit and bound[w] >= qb[0]:
                break
        elif bound[w] > min(scores[-1], cap):
            break
        here = block[w]
        if guessing:
            waiting = _guess_block(queries, q, area, shapes, layout, gamma, strict, here, scale, distances, work, qb, qs, waiting, limit)
        else:
            waiting = _search_block(queries, q, area, shapes, layout, gamma, strict, here, scale, found, distances, rows, scores, cap, work, qb, qs, waiting)
            if waiting >= limit:
                _flush(queries, q, area, exclude, shapes, layout, keys, gamma, strict, rows, scores, cap, work, qb, qs, waiting)
                waiting = 0
        step = 1 if end[w] > here else -1
        if here + step == end[w]:
            walks -= 1
            block[w], bound[w], end[w] = block[walks], bound[walks], end[walks]
        else:
            block[w] = here + step
            bound[w] = _block_bound(shapes, layout, here + step, count, scale, gamma)
    if not guessing:
        _flush(queries, q, area, exclude, shapes, layout, keys, gamma, strict, rows, scores, cap, work, qb, qs, waiting)
    return waiting


@_compiled
def _worst(rows, scores, cap):
    k = len(rows)
    if rows[k - 1] >= 0 and scores[k - 1] <= cap:
        return scores[k - 1], rows[k - 1]
    return cap, NO_ROW


@_compiled
def _guess_block(queries, q, area, shapes, layout, gamma, strict, block, scale, distances, work, qb, qs, n, limit):
    first = np.int64(layout.shape_start[block])
    size = np.int64(layout.shape_start[block + 1]) - first
    count = np.int64(queries.counts[q])
    largest = max(count, np.int64(shapes.counts[first + size - 1]))
    worst = qb[0] if n == limit else np.inf
    near = _pool_distances(queries.pools, q, shapes.pools, first, size, _allowed(worst, scale, gamma, largest), distances)
    if size < BLOCK:
        near &= (np.uint64(1) << np.uint64(size)) - np.uint64(1)
    work[0] += 1
    while near != np.uint64(0):
        j = _lowest_bit(near)
        near &= near - np.uint64(1)
        s = first + j
        score = _score(scale, gamma, np.int64(distances[j]), max(count, np.int64(shapes.counts[s])))
        if n == limit and score >= qb[0]:
            continue
        if scale == 0.0 and _scale(area, layout.areas[layout.member_start[s]], strict) > 0.0:
            continue
        if n < limit:
            i = n
            n += 1
            while i > 0 and qb[(i - 1) // 2] < score:
                qb[i], qs[i] = qb[(i - 1) // 2], qs[(i - 1) // 2]
                i = (i - 1) // 2
        else:
            i = 0
            while True:
                child = 2 * i + 1
                if child >= n:
                    break
                if child + 1 < n and qb[child + 1] > qb[child]:
                    child += 1
                if qb[child] <= score:
                    break
                qb[i], qs[i] = qb[child], qs[child]
                i = child
        qb[i], qs[i] = score, s
    return n


@_compiled
def _allowed(worst, scale, gamma, largest):
    """The largest distance whose score may still be `worst`, rounded up."""
    if gamma > 0 and worst < np.inf:
        return np.int64(min((worst - scale) / gamma * largest * (1 + 1e-9) + 1, SIDE * SIDE))
    return np.int64(SIDE * SIDE)


@_compiled
def _block_bound(shapes: Shapes, layout: Layout, block: int, count: int, scale: float, gamma: float) -> float:
    """The least score that the counts of a block allow: |A xor B| >= ||A| - |B||."""
    least = np.int64(shapes.counts[layout.shape_start[block]])
    largest = np.int64(shapes.counts[layout.shape_start[block + 1] - 1])
    if least > count:
        return _score(scale, gamma, least - count, least)
    if largest < count:
        return _score(scale, gamma, count - largest, count)
    return scale


@_compiled
def _search_block(
    queries: Shapes,
    q: int,
    area: int,
    shapes: Shapes,
    layout: Layout,
    gamma: float,
    strict: bool,
    block: int,
    scale: float,
    found: np.ndarray,
    distances: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray,
    cap,
    work: np.ndarray,
    qb, qs, waiting
) -> int:
    first = np.int64(layout.shape_start[block])
    size = np.int64(layout.shape_start[block + 1]) - first
    count = np.int64(queries.counts[q])
    worst, worst_row = _worst(rows, scores, cap)
    limit = _allowed(worst, scale, gamma, max(count, np.int64(shapes.counts[first + size - 1])))
    near = _pool_distances(queries.pools, q, shapes.pools, first, size, limit, distances)
    if size < BLOCK:
        near &= (np.uint64(1) << np.uint64(size)) - np.uint64(1)
    work[0] += 1
    n = 0
    while near != np.uint64(0):
        j = _lowest_bit(near)
        near &= near - np.uint64(1)
        s = first + j
        _prefetch(shapes.cells, s)
        found[n] = s
        n += 1
    work[1] += n
    for i in range(n):
        s = found[i]
        distance = _cell_distance(queries.cells, q, shapes.cells, s)
        member = layout.member_start[s]
        sc = scale
        if scale==0.0 and layout.member_start[s + 1] == member + 1:
            sc = _scale(area, layout.areas[member], strict)
        score = _score(sc, gamma, distance, max(count, np.int64(shapes.counts[s])))
        if score < worst or (score == worst and layout.rows[member] < worst_row):
            qb[waiting]=score; qs[waiting]=s; waiting+=1
    return waiting

@_compiled
def _sift(qb,qs,i,n):
    b,s=qb[i],qs[i]
    while True:
        c=2*i+1
        if c>=n: break
        if c+1<n and qb[c+1]<qb[c]: c+=1
        if qb[c]>=b: break
        qb[i],qs[i]=qb[c],qs[c]
        i=c
    qb[i],qs[i]=b,s
@_compiled
def _flush(queries, q, area, exclude, shapes, layout, keys, gamma, strict, rows, scores, cap, work, qb, qs, n):
    k=len(rows)
    count = np.int64(queries.counts[q])
    for i in range(n//2-1,-1,-1): _sift(qb,qs,i,n)
    worst, worst_row = _worst(rows, scores, cap)
    while n>0 and qb[0]<=worst:
        b,s=qb[0],qs[0]
        n-=1
        if n>0:
            qb[0],qs[0]=qb[n],qs[n]
            _sift(qb,qs,0,n)
            _prefetch(shapes.masks,qs[0])
        if b==worst and layout.rows[layout.member_start[s]]>worst_row: continue
        largest = max(count, np.int64(shapes.counts[s]))
        distance = _cell_distance(queries.cells, q, shapes.cells, s)
        limit = _allowed(worst, 0.0, gamma, largest)
        strip = 0
        while strip < STRIPS and distance <= limit:
            distance += _strip_gain(queries.masks, q, shapes.masks, s, queries.cells, shapes.cells, strip)
            strip += 1
        if distance > limit: continue
        work[2] += 1
        best = _score(0.0, gamma, distance, largest)
        for j in range(layout.member_start[s], layout.member_start[s + 1]):
            row = np.int64(layout.rows[j])
            if best > worst or (best == worst and row > worst_row):
                break  # later members have higher rows
            if exclude >= 0 and keys[row] == exclude:
                continue
            score = best if _scale(area, layout.areas[j], strict)==0.0 else _score(1.0, gamma, distance, largest)
            if score < worst or (score == worst and row < worst_row):
                at = k - 1
                while at > 0 and (score < scores[at-1] or (score == scores[at-1] and row < rows[at-1])):
                    scores[at], rows[at] = scores[at - 1], rows[at - 1]
                    at -= 1
                scores[at], rows[at] = score, row
                worst, worst_row = _worst(rows, scores, cap)
