"""Places of the toy town seen twice: from above, and from the street as a panorama and as a perspective view."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.data.toy.camera import distant_camera, street_camera
from pipelines.data.toy.dice import Dice
from pipelines.data.toy.light import Light, draw_light
from pipelines.data.toy.panorama import draw_panorama
from pipelines.data.toy.render import render
from pipelines.data.toy.world import World, build_world

STREET_KINDS = ("panorama", "perspective")
AERIAL_METERS = 56.0  # across an aerial image
FIELD_OF_VIEW = 1.4  # of the perspective view, radians
HORIZON = 0.58  # of the perspective view, in parts of its height
_FINER = 2  # rows and columns of an aerial image that are averaged into one: cars are a few pixels
_CLEAR = 2.2  # meters around the camera that should hold nothing


@dataclass(frozen=True)
class ToyPlace:
    """One place. All pictures are (h, w, 3) uint8 RGB.

    aerial: orthographic from above, the camera in its middle, the heading up at its top. streets: by kind of
    STREET_KINDS, with up in the middle column. position: of the street camera in the world of this place, meters.
    up: radians from north to east. aerial_light, street_light: day, dusk or overcast, drawn independently.
    """

    aerial: np.ndarray
    streets: Mapping[str, np.ndarray]
    position: tuple[float, float, float]
    up: float
    aerial_light: str
    street_light: str


def draw_place(seed: int, place: int, size: int, kinds: Sequence[str] = STREET_KINDS) -> ToyPlace:
    """Draw a place: aerial and perspective size x size pixels, panorama size / 2 x 2 size.

    Each picture is a function of (seed, place, size) alone, whatever else is drawn.
    """
    world = build_world(seed, place)
    position, up = _stand(Dice(seed, place, 3), world)
    above = _light(Dice(seed, place, 4), [("day", 0.6), ("overcast", 0.4)])
    below = _light(Dice(seed, place, 5), [("day", 0.6), ("overcast", 0.25), ("dusk", 0.15)])
    aerial = distant_camera(
        (*position[:2], 0.0), (0.0, 0.0, -1.0), _FINER * size / AERIAL_METERS, (_FINER * size, _FINER * size), up=up
    )
    streets = {}
    for kind in kinds:
        if kind == "panorama":
            streets[kind] = draw_panorama(world, position, up, below, (size // 2, 2 * size))
        else:
            camera = street_camera(position, up, FIELD_OF_VIEW, HORIZON, (size, size))
            streets[kind] = render(world, camera, below)[0]
    seen = cv2.resize(render(world, aerial, above)[0], (size, size), interpolation=cv2.INTER_AREA)
    return ToyPlace(seen, streets, position, up, above.domain, below.domain)


def _light(dice: Dice, domains: list[tuple[str, float]]) -> Light:
    return draw_light(dice, dice.weighted(domains))


def _stand(dice: Dice, world: World) -> tuple[tuple[float, float, float], float]:
    """Where the camera stands, on the street or the pavement, and the heading at the top of the aerial image."""
    best, clear = (0.0, 0.0), -math.inf
    for _ in range(24):
        y = dice.uniform(-45, 45)
        street = world.streets
        x = street.center(y) + dice.uniform(-1, 1) * (street.half + 0.6 * street.walk)
        free = float((np.hypot(*(world.footprints[:, :2] - (x, y)).T) - world.footprints[:, 2]).min(initial=math.inf))
        if free > clear:
            best, clear = (x, y), free
        if clear > _CLEAR:
            break
    return (*best, dice.uniform(1.7, 2.8)), dice.uniform(0, 2 * math.pi)
