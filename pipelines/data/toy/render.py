"""(world, camera, light) -> image, class labels, instances. Any camera of camera.py will do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipelines.data.toy import facade, materials
from pipelines.data.toy.camera import Camera, distant_camera
from pipelines.data.toy.light import Light, column, sky
from pipelines.data.toy.materials import Look, Samples
from pipelines.data.toy.solids import Label, Material, Solids
from pipelines.data.toy.visibility import visible
from pipelines.data.toy.world import World

_MATERIALS: dict[Material, Callable[[Solids, Light, Samples], Look]] = {
    Material.FACADE: facade.facade,
    Material.PLAIN: materials.plain,
    Material.TILES: materials.tiles,
    Material.LEAVES: materials.leaves,
    Material.BARK: materials.bark,
    Material.PAINT: materials.paint,
    Material.GLASS: materials.glass,
    Material.WHEEL: materials.wheel,
    Material.CLOTH: materials.cloth,
    Material.STRIPES: materials.stripes,
    Material.LIGHT: materials.shining,
    Material.HILL: materials.hill,
}
_SHADOW_RESOLUTION = 320  # rows and columns of the sun's view
_LAMPS = 6  # the nearest lamps that light their surroundings


@dataclass(frozen=True)
class Shine:
    """How light falls around a point: a z-buffer from the sun (shadow map) and the lamps near by.

    depth: (height, width) of the sun's camera, meters. lamps: (k, 3). Views that share one show no seam between them.
    """

    sun: Camera
    depth: np.ndarray
    lamps: np.ndarray


def shine(world: World, light: Light, middle: np.ndarray, reach: float, near: np.ndarray, lamps: int = _LAMPS) -> Shine:
    """The light reach meters around middle (x, y, ...), with the number of lamps that are nearest to near (x, y, z)."""
    size = _SHADOW_RESOLUTION if light.soft < 0.3 else _SHADOW_RESOLUTION // 2
    sun = distant_camera(
        (float(middle[0]), float(middle[1]), 0.0),
        (-light.sun[0], -light.sun[1], -light.sun[2]),
        size / (2 * reach),
        (size, size),
    )
    _, depth = visible(world.solids, sun, 0.5)
    order = np.argsort(((world.lamps - near) ** 2).sum(1), kind="stable")[:lamps]
    return Shine(sun, depth, world.lamps[order] if light.lamps > 0.5 else world.lamps[:0])


def _shine_before(world: World, camera: Camera, light: Light) -> Shine:
    """The light on what lies before a camera."""
    eye = camera.origins @ np.array([camera.width / 2, camera.height / 2, 1.0])
    ahead = camera.directions @ np.array([camera.width / 2, camera.height / 2, 1.0])
    reach = 30.0 if camera.perspective else 0.75 * max(camera.width, camera.height) / camera.focal
    middle = eye + (0.8 * reach if camera.perspective else 500.0) * ahead
    return shine(world, light, middle, reach, eye + 14 * ahead)


def render(
    world: World, camera: Camera, light: Light, lit: Shine | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (h, w, 3) uint8 RGB, labels (h, w) uint8 class indices, instances (h, w) int32 of the world, 0 for none.

    lit: the light there, worked out before for several cameras; without it, for what lies before this one.
    Labels are what the ray through the center of each pixel meets. The color of a pixel is the mean of that
    ray (half) and of the four at its corners (an eighth each), so edges are smooth at twice the cost of one.
    """
    h, w = camera.height, camera.width
    centers, depth = visible(world.solids, camera, 0.5)
    grown = replace(camera, height=h + 1, width=w + 1)
    corners, corner_depth = visible(world.solids, grown, 0.0)
    # a corner amid one surface of even look is as good as the mean of the pixels around it
    padded = np.pad(centers, 1, mode="edge")
    even = (world.solids.material != Material.FACADE)[corners] | (corners < 0)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        even &= corners == padded[i : i + h + 1, j : j + w + 1]
    uneven = np.flatnonzero(~even)

    rows, columns = (k.ravel() + np.float32(0.5) for k in np.indices((h, w), dtype=np.float32))
    corner_rows, corner_columns = (uneven // (w + 1)).astype(np.float32), (uneven % (w + 1)).astype(np.float32)
    color, category, instance = _shade(
        world,
        camera,
        light,
        lit or _shine_before(world, camera, light),
        np.concatenate([centers.ravel(), corners.ravel()[uneven]]),
        np.concatenate([depth.ravel(), corner_depth.ravel()[uneven]]),
        np.concatenate([rows, corner_rows]),
        np.concatenate([columns, corner_columns]),
    )
    middle = color[:, : h * w].reshape(3, h, w)
    around = _box(np.pad(middle, ((0, 0), (1, 1), (1, 1)), mode="edge")) / 4
    around.reshape(3, -1)[:, uneven] = color[:, h * w :]
    image = 0.5 * middle + 0.125 * _box(around)
    return (
        np.ascontiguousarray((image.transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)),
        category[: h * w].reshape(h, w),
        instance[: h * w].reshape(h, w),
    )


def _box(values: np.ndarray) -> np.ndarray:
    """Sums of 2x2 neighbors."""
    rows = values[:, :-1] + values[:, 1:]
    return rows[:, :, :-1] + rows[:, :, 1:]


def _shade(
    world: World, camera: Camera, light: Light, lit: Shine, surface: np.ndarray, depth: np.ndarray,
    rows: np.ndarray, columns: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Display color (3, n) in 0..1, category and instance (n,) of samples at image points (columns, rows)."""
    solids = world.solids
    ray = _affine(camera.directions, columns, rows)
    length = np.sqrt((ray * ray).sum(0))
    category = np.full(len(surface), Label.SKY, dtype=np.uint8)
    instance = np.zeros(len(surface), dtype=np.int32)
    radiance = np.empty((3, len(surface)), dtype=np.float32)

    empty = np.flatnonzero(surface < 0)
    if len(empty):
        radiance[:, empty], density = sky(light, *(ray[:, empty] / length[empty]))
        category[empty] = np.where(density > 0.5, Label.CLOUD, Label.SKY)

    hit = np.flatnonzero(surface >= 0)
    # sorted by material, so that each material's samples are one slice
    hit = hit[np.argsort(solids.material[surface[hit]], kind="stable")]
    samples = _samples(
        solids, camera, surface[hit], depth[hit], np.take(ray, hit, axis=1), length[hit], columns[hit], rows[hit]
    )
    category[hit] = solids.category[samples.surface]
    instance[hit] = solids.instance[samples.surface]
    albedo = np.empty((3, len(hit)), dtype=np.float32)
    glow = np.zeros((3, len(hit)), dtype=np.float32)
    kinds = solids.material[samples.surface]
    for material in Material:
        start, stop = np.searchsorted(kinds, [material, material + 1])
        if start == stop:
            continue
        part = slice(int(start), int(stop))
        own = samples.of(part)
        if material == Material.GROUND:
            look = materials.ground(world.streets, light, own)
        else:
            look = _MATERIALS[material](solids, light, own)
        albedo[:, part] = look.albedo
        if look.glow is not None:
            glow[:, part] = look.glow
        if look.category is not None:
            category[hit[part]] = look.category
        if look.instance is not None:
            instance[hit[part]] = look.instance

    bright = albedo * _irradiance(light, lit, samples, kinds) + glow
    # views of parallel rays come from outside the air
    away = depth[hit] * length[hit] * camera.perspective
    clear = np.exp(-light.haze * away)
    radiance[:, hit] = bright * clear + column(light.horizon) * (1 - clear)
    return _develop(radiance, light), category, instance


def _affine(matrix: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    m = matrix.astype(np.float32)
    return np.stack([m[k, 0] * columns + m[k, 1] * rows + m[k, 2] for k in range(3)])


def _samples(
    solids: Solids, camera: Camera, surface: np.ndarray, depth: np.ndarray, ray: np.ndarray, length: np.ndarray,
    columns: np.ndarray, rows: np.ndarray,
) -> Samples:  # fmt: skip
    """Where the rays ended, with the surface's normal and coordinates there."""
    position = _affine(camera.origins, columns, rows) + depth * ray
    planes = np.take(solids.planes, surface, axis=1)
    normal = planes[:3].copy()
    x, y, z = position
    u = planes[3] * x + planes[4] * y + planes[5] * z + planes[6]
    v = planes[7] * x + planes[8] * y + planes[9] * z + planes[10]
    at = np.flatnonzero(surface >= solids.polygons)
    own = surface[at] - solids.polygons
    relative = position[:, at] - np.take(solids.centers.T.astype(np.float32), own, axis=1)
    # the normal of |A^-1 (p - c)| = 1 is along A^-T A^-1 (p - c)
    inverse = np.take(solids.inverse_axes.transpose(1, 2, 0).astype(np.float32), own, axis=2)
    local = (inverse * relative[None]).sum(1)
    outward = (inverse * local[:, None]).sum(0)
    normal[:, at] = outward / np.sqrt((outward * outward).sum(0))
    unit = ray / length
    footprint = camera.footprint(depth)
    # a surface seen at a slant spreads each pixel out
    slant = np.abs((unit * normal).sum(0))
    return Samples(surface, position, normal, unit, u, v, footprint / np.maximum(np.sqrt(slant), 0.25))


def _irradiance(light: Light, lit: Shine, s: Samples, kinds: np.ndarray) -> np.ndarray:
    """Light (3, n) that falls on each sample: sky from above, ground from below, sun, street lamps."""
    nx, ny, nz = s.normal
    up = 0.5 + 0.5 * nz
    x, y, z = s.position
    # near the ground and under eaves there is less sky to see
    open_sky = 0.72 + 0.28 * np.clip(z / 3, 0, 1)
    open_sky = np.where(kinds == Material.GROUND, 1.0, open_sky)
    total = (column(light.ambient) * up + column(light.bounce) * (1 - up)) * open_sky
    facing = nx * light.sun[0] + ny * light.sun[1] + nz * light.sun[2]
    leafy = kinds == Material.LEAVES
    facing = np.where(leafy, 0.35 + 0.65 * facing, facing)  # leaves let light through
    sunny = np.clip(facing, 0, 1) * _sunshine(light, lit, s)
    if light.domain == "overcast":
        sunny = sunny * 1.6  # the «sun» of an overcast sky is its brighter zenith
    total = total + column(light.sun_color) * sunny
    for lamp in lit.lamps.astype(np.float32):
        dx, dy, dz = lamp[0] - x, lamp[1] - y, lamp[2] - z
        square = dx * dx + dy * dy + dz * dz
        incidence = np.clip((dx * nx + dy * ny + dz * nz) / np.sqrt(square + 0.01), 0, 1) + 0.1
        total = total + column((1.0, 0.72, 0.38)) * (16 * light.lamps * incidence / (square + 5))
    return total


def _sunshine(light: Light, lit: Shine, s: Samples) -> np.ndarray:
    """How much of the sun each sample sees, 0..1: the sun's z-buffer, softened by four taps."""
    sun, size = lit.sun, lit.sun.width
    p = sun.projection.astype(np.float32)
    meters = 1 / sun.focal
    n = s.normal * np.float32(1.2 * meters)  # a step off the surface, or it would shade itself
    x, y, z = s.position + n
    px = p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]
    py = p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]
    toward = sun.directions[:, 2].astype(np.float32)
    start = sun.origins @ np.array([size / 2, size / 2, 1.0])
    depth = (x - start[0]) * toward[0] + (y - start[1]) * toward[1] + (z - start[2]) * toward[2]
    spread = max(0.5, light.soft / meters * 2)
    seen = np.zeros_like(px)
    flat = lit.depth.ravel()
    for dx, dy in ((-0.75, -0.25), (0.25, -0.75), (0.75, 0.25), (-0.25, 0.75)):
        i = np.clip((py + dy * spread).astype(np.int32), 0, size - 1)
        j = np.clip((px + dx * spread).astype(np.int32), 0, size - 1)
        seen += flat[i * size + j] > depth - 0.05
    seen /= 4
    outside = (px < 0) | (py < 0) | (px >= size) | (py >= size)
    return np.where(outside, 1.0, seen)


def _develop(radiance: np.ndarray, light: Light) -> np.ndarray:
    """Linear radiance to display values: exposure, a soft shoulder, the square root as gamma."""
    exposed = radiance * np.float32(1.15 * light.exposure)
    return np.sqrt(np.clip(1 - np.exp(-exposed), 0, 1))
