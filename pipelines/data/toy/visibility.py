"""Which surface does each ray meet first: an exact z-buffer over all polygons and ellipsoids at once.

Every solid becomes spans of pixels in rows, all spans become one list of fragments, and the nearest fragment
of each pixel wins by one scattered minimum. There is no loop over solids, so hundreds of them cost little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.data.toy.camera import Camera
from pipelines.data.toy.noise import smooth
from pipelines.data.toy.solids import Material, Solids

NEAR = 0.2  # meters; what is nearer to a perspective camera is not drawn
_NOTHING = np.int64(np.iinfo(np.int64).max)
_SLACK = 1e-4  # pixels by which spans overlap, so that shared edges leave no crack


@dataclass(frozen=True)
class _Spans:
    """Runs of samples in image rows: surface, row, first column, count, depth coefficients from there on."""

    surface: np.ndarray
    row: np.ndarray
    first: np.ndarray
    count: np.ndarray
    coefficients: np.ndarray  # (k, spans)

    def fragments(self) -> tuple[np.ndarray, np.ndarray]:
        """The span of each fragment and its steps from the first column."""
        span = np.repeat(np.arange(len(self.count), dtype=np.int32), self.count)
        start = (np.cumsum(self.count) - self.count).astype(np.int32)
        return span, np.arange(len(span), dtype=np.int32) - start[span]


def visible(solids: Solids, camera: Camera, offset: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Cast a ray through (j + offset, i + offset) for all rows i and columns j of the camera's image.

    Returns the surface (h, w) int32, -1 for none, and its depth (h, w) float32, inf for none.
    """
    shape = camera.height, camera.width
    nearest = np.full(shape[0] * shape[1], _NOTHING)
    for surface, pixel, depth in (
        _polygon_fragments(solids, camera, offset),
        _ellipsoid_fragments(solids, camera, offset),
    ):
        # positive floats order like their bits: depth in the high half, the surface breaks ties
        key = (depth.astype(np.float32).view(np.int32).astype(np.int64) << 32) | surface
        np.minimum.at(nearest, pixel, key)
    hit = nearest != _NOTHING
    surface = np.where(hit, nearest & 0xFFFFFFFF, -1).astype(np.int32)
    bits = np.where(hit, nearest >> 32, np.float32(np.inf).view(np.int32)).astype(np.int32)
    return surface.reshape(shape), bits.view(np.float32).reshape(shape)


def _rows(low: np.ndarray, high: np.ndarray, offset: float, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Solid and row of each span, for solids that reach from image height low to high."""
    first = np.ceil(np.clip(low, -1, height + 1) - offset - _SLACK).clip(min=0).astype(np.int64)
    last = np.floor(np.clip(high, -1, height + 1) - offset + _SLACK).clip(max=height - 1).astype(np.int64)
    count = (last - first + 1).clip(min=0)
    solid = np.repeat(np.arange(len(low)), count)
    start = np.cumsum(count) - count
    return solid, np.arange(len(solid)) - np.repeat(start - first, count)


def _columns(low: np.ndarray, high: np.ndarray, offset: float, width: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.ceil(np.clip(low, -1, width + 1) - offset - _SLACK).clip(min=0).astype(np.int64)
    last = np.floor(np.clip(high, -1, width + 1) - offset + _SLACK).clip(max=width - 1).astype(np.int64)
    return first, (last - first + 1).clip(min=0)


def _polygon_fragments(solids: Solids, camera: Camera, offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface, pixel and depth of each fragment of the polygons.

    Homogeneous rasterization (Olano and Greer 1997): an edge is the cross product of its projected ends, a half
    plane of the image even where an end lies behind the camera, so nothing needs to be clipped.
    """
    p = camera.projection
    x, y, z = solids.vertices.transpose(2, 1, 0)  # each (vertex, polygon)
    hx, hy, hw = (p[k, 0] * x + p[k, 1] * y + p[k, 2] * z + p[k, 3] for k in range(3))
    outside = (hw < NEAR).all(0) | (hx < 0).all(0) | (hx > camera.width * hw).all(0)
    outside |= (hy < 0).all(0) | (hy > camera.height * hw).all(0)
    # edge k runs from corner k to corner k + 1; the sign makes the inside positive where the front is seen
    nx, ny, nw = (np.roll(part, -1, axis=0) for part in (hx, hy, hw))
    ex, ey, ew = ny * hw - nw * hy, nw * hx - nx * hw, nx * hy - ny * hx
    facing = ex[0] * hx[2] + ey[0] * hy[2] + ew[0] * hw[2] > 1e-6  # edge-on ones have no area
    seen = np.flatnonzero(facing & ~outside)
    hy, hw = hy[:, seen], hw[:, seen]

    # depth t = (d - n.o) / (n.r): both affine in the image; n.r < 0 is «in front of the camera»
    normal = solids.normals[seen]
    numerator = -np.einsum("pk,kj->jp", normal, camera.origins)
    numerator[2] += (normal * solids.vertices[seen, 0]).sum(1)
    denominator = np.einsum("pk,kj->jp", normal, camera.directions)
    edges = np.stack([np.concatenate([e[:, seen], -d[None]]) for e, d in zip((ex, ey, ew), denominator, strict=True)])

    whole = hw.min(0) > NEAR
    image_y = hy / np.where(whole, hw, 1.0)
    solid, row = _rows(
        np.where(whole, image_y.min(0), 0.0), np.where(whole, image_y.max(0), camera.height), offset, camera.height
    )  # fmt: skip
    across, down, rest = edges[:, :, solid]
    rest = rest + down * (row + offset)
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = -rest / across
    low = np.where(across > 0, bound, -np.inf).max(0)
    high = np.where(across < 0, bound, np.inf).min(0)
    # a level edge (across = 0) bounds no column; the row is out if it is on the wrong side
    out = ((across == 0) & (rest < -1e-9)).any(0)
    first, count = _columns(low, np.where(out, -2.0, high), offset, camera.width)
    keep = count > 0
    solid, row, first, count = solid[keep], row[keep], first[keep], count[keep]
    slopes = np.concatenate([numerator[:1, solid], denominator[:1, solid]])
    starts = np.stack([numerator[:, solid], denominator[:, solid]])
    starts = starts[:, 0] * (first + offset) + starts[:, 1] * (row + offset) + starts[:, 2]
    spans = _Spans(seen[solid], row, first, count, np.concatenate([starts, slopes]).astype(np.float32))
    span, step = spans.fragments()
    c = spans.coefficients
    if camera.perspective:  # the numerator is the same all over the image
        depth = c[0][span] / (c[1][span] + c[3][span] * step)
    else:  # the denominator is
        depth = (c[0][span] + c[2][span] * step) / c[1][span]
    pixel = (row * camera.width + first)[span] + step
    surface = spans.surface[span]
    keep = depth > NEAR
    if not keep.all():
        return surface[keep], pixel[keep], depth[keep]
    return surface, pixel, depth


def _ellipsoid_fragments(solids: Solids, camera: Camera, offset: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface, pixel and depth of each fragment of the ellipsoids.

    The outline of an ellipsoid is the conic C whose dual is G diag(1, 1, 1, -1) G', G the projected semi-axes
    and center (Hartley and Zisserman, result 8.9). The depth solves |q + t e| = 1 in the ellipsoid's own frame.
    """
    p = camera.projection
    axes = np.einsum("ij,ejk->eik", p[:, :3], solids.axes)
    center = np.einsum("ij,ej->ei", p[:, :3], solids.centers) + p[:, 3]
    dual = np.einsum("eik,ejk->eij", axes, axes) - center[:, :, None] * center[:, None, :]
    seen = center[:, 2] > np.sqrt((axes[:, 2] ** 2).sum(1)) + NEAR
    wide = np.sqrt(np.maximum(dual[:, 0, 2] ** 2 - dual[:, 0, 0] * dual[:, 2, 2], 0))
    tall = np.sqrt(np.maximum(dual[:, 1, 2] ** 2 - dual[:, 1, 1] * dual[:, 2, 2], 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        x, dx = dual[:, 0, 2] / dual[:, 2, 2], wide / -dual[:, 2, 2]
        y, dy = dual[:, 1, 2] / dual[:, 2, 2], tall / -dual[:, 2, 2]
        seen &= (x + dx > 0) & (x - dx < camera.width) & (y + dy > 0) & (y - dy < camera.height)
    solid, row = _rows((y - dy)[seen], (y + dy)[seen], offset, camera.height)

    # in the frame of the unit ball the ray is q + t e with q = Q h, e = E h at image point h = (x, y, 1), and
    # |q + t e|^2 - 1 = a t^2 + 2 b t + c. Either all rays start in one point and b = linear @ h, c = constant,
    # or all have one direction and b = linear @ h, a = constant. The discriminant b^2 - a c is h' conic h.
    E = np.einsum("eij,jk->eik", solids.inverse_axes[seen], camera.directions)
    Q = np.einsum("eij,jk->eik", solids.inverse_axes[seen], camera.origins)
    Q[:, :, 2] -= np.einsum("eij,ej->ei", solids.inverse_axes[seen], solids.centers[seen])
    if camera.perspective:
        linear = np.einsum("eij,ei->ej", E, Q[:, :, 2])
        constant = (Q[:, :, 2] ** 2).sum(1) - 1
        square = np.einsum("eij,eik->ejk", E, E)
    else:
        linear = np.einsum("eij,ei->ej", Q, E[:, :, 2])
        constant = (E[:, :, 2] ** 2).sum(1)
        square = np.einsum("eij,eik->ejk", Q, Q)
        square[:, 2, 2] -= 1
    conic = linear[:, :, None] * linear[:, None, :] - constant[:, None, None] * square

    # along a row the discriminant is d0 + d1 x + d2 x^2, positive between its roots
    k = conic.reshape(-1, 9).T[:, solid]
    image_y = row + offset
    d2, d1, d0 = k[0], 2 * (k[1] * image_y + k[2]), (k[4] * image_y + 2 * k[5]) * image_y + k[8]
    root = d1 * d1 - 4 * d2 * d0
    middle, half = -d1 / (2 * d2), np.sqrt(np.maximum(root, 0)) / np.abs(2 * d2)
    first, count = _columns(middle - half, np.where(root > 0, middle + half, -2.0), offset, camera.width)
    keep = count > 0
    first, count, row, solid = first[keep], count[keep], row[keep], solid[keep]
    d0, d1, d2 = d0[keep], d1[keep], d2[keep]
    x, y = first + offset, row + offset
    b = linear[solid]
    coefficients = (
        constant[solid], b[:, 0] * x + b[:, 1] * y + b[:, 2], b[:, 0],
        d0 + x * (d1 + x * d2), d1 + 2 * x * d2, d2,
    )  # fmt: skip
    spans = _Spans(
        np.flatnonzero(seen)[solid] + solids.polygons, row, first, count, np.stack(coefficients).astype(np.float32)
    )  # fmt: skip
    span, step = spans.fragments()
    constants, b0, b1, d0, d1, d2 = np.take(spans.coefficients, span, axis=1)
    b = b0 + b1 * step
    discriminant = np.maximum(d0 + step * (d1 + step * d2), 0)
    half = np.sqrt(discriminant)
    depth = constants / (half - b) if camera.perspective else -(b + half) / constants
    surface = spans.surface[span]
    keep = depth > NEAR
    leafy = np.flatnonzero((solids.material == Material.LEAVES)[surface])
    if len(leafy):
        # crowns fray: near the rim, where the ray grazes the ball, leaves leave gaps
        t, own = depth[leafy], span[leafy]
        px, py = (first + offset)[own] + step[leafy], (row + offset)[own]
        o, r = camera.origins, camera.directions
        at = [o[i, 0] * px + o[i, 1] * py + o[i, 2] + t * (r[i, 0] * px + r[i, 1] * py + r[i, 2]) for i in range(3)]
        if camera.perspective:  # a = |e|^2
            a = np.maximum(b[leafy] ** 2 - discriminant[leafy], 1e-12) / constants[leafy]
        else:
            a = constants[leafy]
        grazing = np.sqrt(discriminant[leafy] / a)
        gaps = smooth(at[0] * 1.3 + at[2] * 0.9, at[1] * 1.3 - at[2] * 1.1)
        keep[leafy] &= grazing > 1.05 * gaps - 0.12
    pixel = (row * camera.width + first)[span] + step
    return surface[keep], pixel[keep], depth[keep]
