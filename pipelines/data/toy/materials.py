"""What surfaces look like: albedo, glow and, on facades and on the ground, the exact class of every point.

Everything here works on lists of samples (points where rays ended) of one material, all surfaces of it at once.
Patterns fade where they are finer than a pixel: footprint is the size of a pixel on the surface, in meters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.data.toy.light import Light, clear_sky, column
from pipelines.data.toy.noise import silky, smooth, white
from pipelines.data.toy.solids import Label, Solids
from pipelines.data.toy.world import Streets


@dataclass
class Samples:
    """n points: surface; world position; unit normal; unit ray direction; u, v on the surface in meters."""

    surface: np.ndarray
    position: np.ndarray
    normal: np.ndarray
    ray: np.ndarray
    u: np.ndarray
    v: np.ndarray
    footprint: np.ndarray

    def of(self, index: np.ndarray | slice) -> Samples:
        def take(part: np.ndarray) -> np.ndarray:
            return part[:, index] if isinstance(index, slice) else np.take(part, index, axis=1)

        return Samples(
            surface=self.surface[index],
            position=take(self.position),
            normal=take(self.normal),
            ray=take(self.ray),
            u=self.u[index],
            v=self.v[index],
            footprint=self.footprint[index],
        )


@dataclass
class Look:
    """albedo and glow (3, n), linear; glow is light sent or mirrored towards the eye. category and instance (n,)."""

    albedo: np.ndarray
    glow: np.ndarray | None = None
    category: np.ndarray | None = None
    instance: np.ndarray | None = None


def cover(distance: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """How much of a pixel lies on the positive side of an edge at a signed distance in meters."""
    return np.clip(distance / footprint + 0.5, 0, 1)


def line(distance: np.ndarray, half: np.ndarray | float, footprint: np.ndarray) -> np.ndarray:
    """How much of a pixel a line of a half width covers, at an unsigned distance from its middle."""
    return np.clip((half - distance) / footprint + 0.5, 0, 1) * np.minimum(1, 2 * half / footprint)


def fourth(x: np.ndarray) -> np.ndarray:
    square = x * x
    return square * square


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    return a + (b - a) * share


def courses(
    u: np.ndarray, v: np.ndarray, course: np.ndarray | float, brick: np.ndarray | float,
    stagger: np.ndarray | float, footprint: np.ndarray, salt: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Rows of stones: how deep in a joint (0..1) and a number in -1..1 for each stone, both fading with distance."""
    row = np.floor(v / course)
    along = u / brick + stagger * row
    stone = np.floor(along)
    dv = v - row * course
    du = (along - stone) * brick
    joint = np.minimum(np.minimum(dv, course - dv), np.minimum(du, brick - du))
    size = np.minimum(course, brick)
    fade = np.clip(1.3 - 2.2 * footprint / size, 0, 1)
    gap = np.clip(1 - joint / (0.07 * size + 0.5 * footprint), 0, 1) * fade
    return gap, (2 * white(stone, row, salt) - 1) * np.clip(1.5 - footprint / size, 0.15, 1)


def mirror(light: Light, s: Samples, wobble: float = 0.0) -> np.ndarray:
    """Radiance (3, n) of what a surface mirrors: the sky above, dim streets below."""
    x, y, z = s.ray
    nx, ny, nz = s.normal
    along = 2 * (x * nx + y * ny + z * nz)
    rx, ry, rz = x - along * nx, y - along * ny, z - along * nz
    if wobble:
        rz = rz + wobble * (smooth(s.u * 0.7 + s.surface, s.v * 0.7) - 0.5)
    above = clear_sky(light, rx, ry, rz)
    # opposite houses hide the sky near the horizon
    high = np.clip((rz - 0.08) * 6, 0, 1)
    return above * (0.25 + 0.75 * high)


def ground(streets: Streets, light: Light, s: Samples) -> Look:
    """Road, markings, curb, pavement, verge and grass by the street plan."""
    px, py = s.position[0], s.position[1]
    foot = s.footprint
    side = px - streets.bend * np.sin(py / streets.wave + streets.phase)
    crossings = np.array(streets.crossings, dtype=np.float32)
    which = np.abs(py[None, :] - crossings[:, None]).argmin(0)
    across = py - crossings[which]
    main, cross = np.abs(side) - streets.half, np.abs(across) - streets.cross_half
    # corners of the blocks are round
    r = streets.corner
    inner = r - np.sqrt(np.maximum(r - main, 0) ** 2 + np.maximum(r - cross, 0) ** 2)
    off = np.where((main < r) & (cross < r), inner, np.minimum(main, cross))
    off = np.where((main < 0) | (cross < 0), np.minimum(main, cross), off)

    road = off < 0
    verge = (off > 0.2) & (off < streets.verge) & (main > 0.2) & (cross > streets.walk)
    walk = ~road & ~verge & (off < streets.walk)
    yard = ~road & ~verge & ~walk
    # beyond the town there are only meadows
    wild = (np.abs(py) > 150) | (np.abs(side) > 110)
    paved = walk | (yard & streets.yard_paved & ~wild)
    grass = verge | (yard & ~paved)

    marks = _markings(streets, side, across, main, cross, foot)
    marked = road & (marks > 0.5) & ~wild
    category = np.where(
        marked, Label.MARKING, np.where(road, Label.ROAD, np.where(grass, Label.GRASS, Label.PAVEMENT))
    ).astype(np.uint8)

    fine = np.clip(1.3 - foot / 0.05, 0, 1)
    speck = white(np.floor(px * 37), np.floor(py * 37)) - 0.5
    coarse = white(np.floor(px * 12 + 0.7 * speck), np.floor(py * 12 - 0.7 * speck), 1) - 0.5
    speck = 0.7 * speck * fine + 0.5 * coarse * np.clip(1.3 - foot / 0.14, 0, 1)
    broad = silky(px * 0.16 + streets.salt, py * 0.16) - 0.5
    middle = silky(px * 0.9, py * 0.9 + streets.salt) - 0.5

    tone = 1 + 0.3 * broad + 0.3 * speck + 0.1 * middle
    tracks = np.clip(1 - np.abs(np.abs(np.abs(side) - 0.5 * (streets.half - 2.1)) - 0.8) / 0.6, 0, 1)
    tone = tone - 0.07 * tracks * (cross > 0)
    cracks = np.abs(silky(px * 0.22 + 7, py * 0.22 + streets.salt) - 0.5)
    tone = tone * (1 - 0.3 * np.clip(1.5 - cracks / 0.006, 0, 1) * np.clip(1.3 - foot / 0.06, 0, 1))
    # holes of pipes and wires: iron lids
    lid = np.sqrt((px % 7.3 - 3.6) ** 2 + (py % 13.1 - 5.5) ** 2)
    tone = tone * (1 - 0.3 * cover(0.36 - lid, foot) + 0.12 * line(np.abs(lid - 0.36), 0.03, foot))
    if streets.cobbled:
        gap, stone = courses(px, py, 0.24, 0.3, 0.5, foot, np.zeros_like(px))
        tone = tone * (1 - 0.35 * gap) + 0.2 * stone
    asphalt = column(streets.asphalt) * tone
    worn = 0.8 + 0.2 * np.clip(3 * (middle + 0.4), 0, 1)
    asphalt = mix(asphalt, column(streets.paint) * (0.94 + 0.1 * speck), marks * worn)

    slab = streets.slab
    gap, stone = courses(px, py, slab, slab if slab > 0.4 else 2 * slab, 0.5, foot, np.ones_like(px))
    tone = (1 + 0.22 * broad + 0.12 * speck) * (1 - 0.3 * gap) + 0.09 * stone
    curb = line(np.abs(off - 0.09), 0.09, foot)
    pavement = column(streets.stone) * (tone + 0.14 * curb)
    gutter = np.clip(1 - np.abs(off) / 0.25, 0, 1)

    blades = speck
    dry = np.clip(2.2 * (smooth(px * 0.3, py * 0.3 + 9) - 0.42), 0, 1)
    meadow = mix(column(streets.grass), column(streets.dry), 0.55 * dry) * (1 + 0.6 * blades + 0.35 * middle)
    flower = (white(np.floor(px * 9), np.floor(py * 9), 5) > 0.985) & (middle > 0.0) & (foot < 0.12)
    meadow = np.where(flower, np.array([[0.95], [0.9], [0.6]], dtype=np.float32), meadow)

    albedo = np.where(road, asphalt, np.where(grass, meadow, pavement)) * (1 - 0.25 * gutter)
    return Look(np.clip(albedo, 0.01, 1) ** 2, category=category)


def _markings(
    streets: Streets, side: np.ndarray, across: np.ndarray, main: np.ndarray, cross: np.ndarray, foot: np.ndarray
) -> np.ndarray:  # fmt: skip
    """How much of each point of the road is painted: center and lane lines, zebra crossings, stop lines."""
    if streets.cobbled:
        dashes = np.zeros_like(side)
    else:
        dash = (across % 6.0 < 3.0) & (cross > 7.0)
        dashes = np.where(dash, line(np.abs(side), 0.09, foot), 0)
        if streets.lanes > 1:
            dashes = np.where(cross > 7.0, line(np.abs(np.abs(side) - 0.14), 0.07, foot), 0)
            width = (streets.half - 2.1) / streets.lanes
            dashes = np.maximum(dashes, np.where(dash, line(np.abs(np.abs(side) - width), 0.08, foot), 0))
        park = (cross > 7.0) & (across % 3.0 < 1.5)
        dashes = np.maximum(dashes, np.where(park, line(np.abs(main + 2.1), 0.06, foot), 0))
        lane = (side % 5.0 < 2.5) & (main > 6.0)
        dashes = np.maximum(dashes, np.where(lane, line(np.abs(across), 0.08, foot), 0))
    # zebra crossings over the main street, before either side of a crossing, and their stop lines
    zebra = (cross > 1.0) & (cross < 3.8) & (main < -0.3)
    stripes = cover(0.27 - np.abs((side + 0.55) % 1.1 - 0.55), foot)
    paint = np.where(zebra, stripes, dashes)
    stop = (side * across < 0) & (main < -0.2)
    paint = np.maximum(paint, np.where(stop, line(np.abs(cross - 5.0), 0.2, foot), 0))
    zebra = (main > 1.0) & (main < 3.6) & (cross < -0.3)
    stripes = cover(0.27 - np.abs((across + 0.55) % 1.1 - 0.55), foot)
    return np.where(zebra, stripes, paint)


def plain(solids: Solids, light: Light, s: Samples) -> Look:
    x, y, z = s.position
    grain = smooth(x * 1.7 + y * 1.1, z * 1.7 + y * 0.6) - 0.5
    return Look(np.clip(np.take(solids.color, s.surface, axis=1) * (1 + 0.14 * grain), 0.01, 1) ** 2)


def tiles(solids: Solids, light: Light, s: Samples) -> Look:
    color, salt = np.take(solids.color, s.surface, axis=1), solids.salt[s.surface]
    course = 0.24 + 0.12 * (salt % 3)
    gap, stone = courses(s.u, s.v, course, 0.3 + 0.1 * (salt % 2), 0.5, s.footprint, salt)
    # each course darkens towards its upper edge, where the next one lies over it
    lap = (s.v / course) % 1.0 * np.clip(1.2 - s.footprint / course * 2, 0, 1)
    moss = np.clip(2.5 * (smooth(s.u * 0.35 + salt, s.v * 0.35) - 0.55), 0, 1)
    color = mix(color, np.take(solids.accent, s.surface, axis=1), moss)
    tone = (1 - 0.4 * gap) * (1 - 0.22 * lap) * (1 + 0.24 * stone)
    return Look(np.clip(color * tone, 0.01, 1) ** 2)


def leaves(solids: Solids, light: Light, s: Samples) -> Look:
    x, y, z = s.position
    salt = solids.salt[s.surface]
    clump = smooth(x * 1.1 + z * 0.7 + salt, y * 1.1 - z * 0.8)
    near = np.clip(1.4 - s.footprint / 0.14, 0, 1)
    blur = 0.9 * white(np.floor(x * 40) + 57 * np.floor(y * 40), np.floor(z * 40)) - 0.45
    leaf = white(np.floor(x * 9 + blur) + 57 * np.floor(y * 9 + blur), np.floor(z * 9 - blur), salt) - 0.5
    share = np.clip(1.5 * (clump - 0.35) + 0.8 * leaf * near + 0.25 * s.normal[2], 0, 1)
    color = mix(np.take(solids.color, s.surface, axis=1) * 0.72, np.take(solids.accent, s.surface, axis=1), share)
    return Look(np.clip(color * (1 + 0.35 * leaf * near), 0.01, 1) ** 2)


def bark(solids: Solids, light: Light, s: Samples) -> Look:
    x, y, z = s.position
    grain = smooth(x * 5 + y * 5, z * 0.9) - 0.5
    rings = (smooth(x * 0.5 + y * 0.5, z * 3.1) > 0.66) & (solids.color[0, s.surface] > 0.7)
    return Look(
        np.clip(np.take(solids.color, s.surface, axis=1) * (1 + 0.7 * grain) * np.where(rings, 0.3, 1), 0.01, 1) ** 2
    )


def paint(solids: Solids, light: Light, s: Samples) -> Look:
    """Car bodies: a clear coat over the color, dust towards the ground."""
    z = s.position[2]
    albedo = np.take(solids.color, s.surface, axis=1) ** 2 * (1 - 0.35 * np.clip(0.5 - z, 0, 1))
    facing = np.abs((s.ray * s.normal).sum(0))
    gloss = 0.05 + 0.5 * fourth(1 - facing)
    return Look(albedo, glow=mirror(light, s) * gloss)


def glass(solids: Solids, light: Light, s: Samples) -> Look:
    facing = np.abs((s.ray * s.normal).sum(0))
    return Look(
        np.take(solids.color, s.surface, axis=1) ** 2, glow=mirror(light, s, 0.1) * (0.22 + 0.6 * fourth(1 - facing))
    )


def wheel(solids: Solids, light: Light, s: Samples) -> Look:
    surface = s.surface
    around = s.position - solids.centers[surface - solids.polygons].T
    radius = np.sqrt((around**2).sum(0))
    size = np.sqrt((solids.axes[surface - solids.polygons, :, 2] ** 2).sum(1))
    hub = radius < 0.62 * size
    return Look(np.where(hub, solids.accent[:, surface], solids.color[:, surface]) ** 2)


def cloth(solids: Solids, light: Light, s: Samples) -> Look:
    z, salt = s.position[2], solids.salt[s.surface]
    wide = 0.05 + 0.05 * (salt % 4)
    striped = (z / wide) % 2 < 1
    color = np.where(striped, np.take(solids.color, s.surface, axis=1), np.take(solids.accent, s.surface, axis=1))
    fold = smooth(s.position[0] * 4 + salt, z * 2.5 + s.position[1] * 4) - 0.5
    return Look(np.clip(color * (1 + 0.35 * fold), 0.01, 1) ** 2)


def stripes(solids: Solids, light: Light, s: Samples) -> Look:
    wave = np.abs((s.u / 0.5) % 2 - 1) - 0.5
    share = cover(wave * 0.5, s.footprint)
    return Look(mix(np.take(solids.color, s.surface, axis=1), np.take(solids.accent, s.surface, axis=1), share) ** 2)


def shining(solids: Solids, light: Light, s: Samples) -> Look:
    color = np.take(solids.color, s.surface, axis=1) ** 2
    return Look(color, glow=color * (0.15 + 2.2 * light.lamps))


def hill(solids: Solids, light: Light, s: Samples) -> Look:
    x, y, z = s.position
    woods = smooth(x / 22 + z / 9, y / 22 - z / 7)
    share = np.clip(5 * (woods - 0.45), 0, 1)
    return Look(mix(np.take(solids.color, s.surface, axis=1), np.take(solids.accent, s.surface, axis=1), share) ** 2)
