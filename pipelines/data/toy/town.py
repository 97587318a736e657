"""Scenes of the toy town: which place, which light, where the camera stands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pipelines.data.toy.camera import street_camera
from pipelines.data.toy.dice import Dice
from pipelines.data.toy.light import draw_light
from pipelines.data.toy.render import render
from pipelines.data.toy.world import World, build_world

SCENES_PER_PLACE = 2


@dataclass(frozen=True)
class View:
    """Where a camera stands: meters, radians; heading from north to east; horizon in parts of the height."""

    position: tuple[float, float, float]
    heading: float
    field_of_view: float
    horizon: float


@dataclass(frozen=True)
class ToyScene:
    """image (h, w, 3) uint8 RGB; labels (h, w) uint8 class ids; instances (h, w) int32, 1..N per thing, 0 for none."""

    image: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    group: str
    domain: str
    camera: View


@lru_cache(maxsize=2)
def _world(seed: int, place: int) -> World:
    return build_world(seed, place)


def draw_scene(seed: int, index: int, size: tuple[int, int] = (256, 256)) -> ToyScene:
    """Draw scene number index of the town, (height, width) in pixels: a function of its arguments alone."""
    place = index // SCENES_PER_PLACE
    world = _world(seed, place)
    dice = Dice(seed, index, 2)
    light = draw_light(dice, dice.weighted([("day", 0.46), ("dusk", 0.27), ("overcast", 0.27)]))
    view = _draw_view(dice, world)
    camera = street_camera(view.position, view.heading, view.field_of_view, view.horizon, size)
    image, labels, instances = render(world, camera, light)
    # the world's ids to 1..N, in their order
    present = np.unique(instances)
    present = present[present > 0]
    renumbered = np.where(instances > 0, np.searchsorted(present, instances) + 1, 0).astype(np.int32)
    return ToyScene(image, labels, renumbered, f"block-{place:04d}", light.domain, view)


def _draw_view(dice: Dice, world: World) -> View:
    """Down the street or obliquely at the houses across, from where nothing stands right before the lens."""
    views = []
    for _ in range(24):
        view = _try_view(dice, world)
        views.append((_free(world, view), view))
        if views[-1][0] > 6.5:
            break
    return max(views, key=lambda pair: pair[0])[1]


def _try_view(dice: Dice, world: World) -> View:
    street = world.streets
    y = dice.uniform(-45, 45)
    s = dice.uniform(-1, 1) * (street.half + 0.6 * street.walk)
    ahead = dice.pick((0.0, math.pi))
    # turned from the street's direction towards its other side
    turn = dice.uniform(0.35, 1.05) if dice.chance(0.5) else dice.uniform(-0.1, 0.3)
    across = -math.copysign(1.0, s) * (1.0 if ahead == 0.0 else -1.0)
    eye = dice.uniform(1.5, 2.1) if dice.chance(0.7) else dice.uniform(2.5, 5.0)
    return View(
        position=(street.center(y) + s, y, eye),
        heading=street.heading(y) + ahead + across * turn,
        field_of_view=dice.uniform(1.0, 1.35),
        horizon=dice.uniform(0.55, 0.7),
    )


def _free(world: World, view: View) -> float:
    """Meters ahead of the camera to the first thing that stands in its view, at most 30."""
    x, y, radius = world.footprints.T
    dx, dy = x - view.position[0], y - view.position[1]
    sin, cos = math.sin(view.heading), math.cos(view.heading)
    along, across = dx * sin + dy * cos, np.abs(dx * cos - dy * sin)
    blocks = (along > -2.5) & (across < 0.8 * np.abs(along) + radius)
    return float(min(along[blocks].min(initial=30.0), 30.0))
