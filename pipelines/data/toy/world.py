"""The world of one place: a street with crossings, its buildings, trees, cars, people and lamps.

Made from (seed, place) alone and knowing nothing of cameras and light, so that one place can be seen from the
street, from above and in another season.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipelines.data.toy.buildings import add_building
from pipelines.data.toy.dice import Color, Dice
from pipelines.data.toy.props import TREES, add_car, add_lamp, add_person, add_tree
from pipelines.data.toy.solids import GROUND_ZERO, Builder, Frame, Label, Material, Point, Solids, upright
from pipelines.data.toy.styles import draw_style

REACH = 95.0  # meters of street built up on either side of the origin


@dataclass(frozen=True)
class Streets:
    """The plan of the ground: a main street along y that may wind, straight cross streets along x.

    Lengths in meters. verge: grass between curb and pavement. The yard lies behind the pavement.
    """

    half: float
    bend: float
    wave: float
    phase: float
    crossings: tuple[float, ...]
    cross_half: float
    corner: float
    verge: float
    pavement: float
    yard_paved: bool
    lanes: int  # per direction
    cobbled: bool
    slab: float
    asphalt: Color
    stone: Color
    grass: Color
    dry: Color
    paint: Color
    salt: int

    @property
    def walk(self) -> float:
        """From curb to yard."""
        return self.verge + self.pavement

    def center(self, y: float) -> float:
        return self.bend * math.sin(y / self.wave + self.phase)

    def heading(self, y: float) -> float:
        return math.atan(self.bend / self.wave * math.cos(y / self.wave + self.phase))

    def frame(self, s: float, y: float, turn: float = 0.0, scale: float = 1.0) -> Frame:
        """A frame s meters to the right of the main street's center line at y, turned from its direction."""
        return Frame(self.center(y) + s, y, self.heading(y) + turn, scale)


@dataclass(frozen=True)
class World:
    """A place: its solids, the plan of its ground and where its lamps shine.

    footprints: (n, 3) x, y, radius of what stands about, for cameras that need a free view.
    """

    solids: Solids
    streets: Streets
    lamps: np.ndarray
    footprints: np.ndarray
    character: str


def build_world(seed: int, place: int) -> World:
    """The same world for the same numbers, whoever asks and whatever else was drawn."""
    dice = Dice(seed, place, 1)
    character = dice.pick(("old town", "suburb", "boulevard", "downtown", "mixed"))
    streets = _draw_streets(dice, character)
    builder = Builder()
    far = 4000.0
    builder.polygon(
        GROUND_ZERO, [(-far, -far, 0.0), (far, -far, 0.0), (far, far, 0.0), (-far, far, 0.0)],
        Material.GROUND, Label.GRASS, streets.grass,
    )  # fmt: skip
    footprints: list[Point] = []
    _hills(builder, dice)
    park = dice.pick((-1, 1)) if dice.chance(0.3) else 0
    _buildings(builder, dice, streets, character, park)
    _trees(builder, dice, streets, character, park, footprints)
    lamps = _lamps(builder, dice, streets, character, footprints)
    _cars(builder, dice, streets, footprints)
    _people(builder, dice, streets, footprints)
    return World(
        solids=builder.finish(),
        streets=streets,
        lamps=np.array(lamps, dtype=np.float64).reshape(-1, 3),
        footprints=np.array(footprints, dtype=np.float64).reshape(-1, 3),
        character=character,
    )


def _draw_streets(dice: Dice, character: str) -> Streets:
    lanes = 2 if character in ("downtown", "boulevard") and dice.chance(0.6) else 1
    parking = 2.1
    first = dice.uniform(-35, 35)
    crossings = [first]
    crossings += [y for y in (first - dice.uniform(48, 70), first + dice.uniform(48, 70)) if abs(y) < REACH]
    green = {"suburb": 0.8, "boulevard": 0.75, "mixed": 0.5, "old town": 0.2, "downtown": 0.35}[character]
    cobbled = character == "old town" and dice.chance(0.6)
    gray = dice.uniform(0.3, 0.52)
    return Streets(
        half=lanes * dice.uniform(3.0, 3.4) + parking,
        bend=0.0 if dice.chance(0.4) else dice.uniform(1.5, 4.5),
        wave=dice.uniform(28, 45),
        phase=dice.uniform(0, 2 * math.pi),
        crossings=tuple(sorted(crossings)),
        cross_half=dice.uniform(3.2, 4.6),
        corner=dice.uniform(2.0, 4.0),
        verge=dice.uniform(1.6, 2.8) if dice.chance(green) else 0.0,
        pavement=dice.uniform(2.2, 4.0),
        yard_paved=character in ("old town", "downtown") and dice.chance(0.6),
        lanes=lanes,
        cobbled=cobbled,
        slab=dice.pick((0.3, 0.45, 0.6, 0.9)),
        asphalt=dice.near((gray, gray, gray * 1.03), 0.03) if not cobbled
        else dice.color((0.0, 0.12), (0.04, 0.2), (0.42, 0.6)),
        stone=dice.weighted(
            [
                (dice.color((0.05, 0.15), (0.02, 0.12), (0.55, 0.78)), 3.0),
                (dice.color((0.0, 0.06), (0.15, 0.38), (0.55, 0.7)), 1.0),
                (dice.color((0.55, 0.65), (0.03, 0.12), (0.5, 0.68)), 1.0),
            ]
        ),
        grass=dice.color((0.2, 0.33), (0.4, 0.7), (0.38, 0.62)),
        dry=dice.color((0.12, 0.2), (0.35, 0.6), (0.5, 0.7)),
        paint=(0.93, 0.93, 0.9) if dice.chance(0.75) else (0.93, 0.8, 0.35),
        salt=dice.integer(0, 10_000),
    )  # fmt: skip


def _hills(builder: Builder, dice: Dice) -> None:
    turn = dice.uniform(0, math.pi)
    for k in range(dice.integer(4, 8)):
        angle = turn + k * 0.9 + dice.uniform(-0.3, 0.3)
        away = dice.uniform(500, 900)
        builder.ellipsoid(
            GROUND_ZERO, (away * math.sin(angle), away * math.cos(angle), -10.0),
            upright(dice.uniform(120, 260), dice.uniform(120, 260), dice.uniform(25, 75)),
            Material.HILL, Label.GRASS, dice.color((0.22, 0.36), (0.3, 0.5), (0.3, 0.5)),
            accent=dice.color((0.28, 0.4), (0.35, 0.5), (0.2, 0.35)),
        )  # fmt: skip


_KINDS: dict[str, list[tuple[str, float]]] = {
    "old town": [("gabled", 3), ("timbered", 3), ("town", 3), ("grand", 0.5)],
    "suburb": [("house", 8), ("town", 0.6), ("timbered", 0.6)],
    "boulevard": [("grand", 4), ("town", 3), ("block", 1.2)],
    "downtown": [("office", 4), ("block", 3), ("grand", 1), ("mill", 1)],
    "mixed": [("town", 3), ("house", 2), ("mill", 1.5), ("block", 1), ("gabled", 1), ("office", 0.4)],
}
_WIDTHS: dict[str, tuple[float, float]] = {
    "town": (7, 12), "gabled": (6, 8.5), "timbered": (6.5, 10), "house": (8, 12),
    "block": (13, 20), "office": (14, 22), "grand": (11, 17), "mill": (12, 18),
}  # fmt: skip


def _row(
    builder: Builder, dice: Dice, character: str, start: float, stop: float, place: Placer, setback: float
) -> None:
    """Houses side by side along one edge of a block."""
    at = start
    detached = character == "suburb" or (character == "mixed" and dice.chance(0.5))
    while stop - at > 6.0:
        kind = dice.weighted(_KINDS[character])
        low, high = _WIDTHS[kind]
        width = min(dice.uniform(low, high), stop - at)
        if stop - at - width < 6.0:
            width = min(stop - at, 1.35 * high)
        style = draw_style(dice, kind)
        step = dice.uniform(-0.4, 1.2) if detached else dice.uniform(0.0, 0.12)
        add_building(builder, dice, place(at + width / 2, setback + step), width, style)
        at += width + (dice.uniform(2.0, 5.0) if detached else 0.0)


class Placer:
    """Frames for the buildings of one row: by distance along the row and setback from the pavement."""

    def __init__(self, streets: Streets, side: int, along_cross: float | None = None, face: int = 1) -> None:
        self.streets, self.side, self.cross, self.face = streets, side, along_cross, face

    def __call__(self, at: float, setback: float) -> Frame:
        street = self.streets
        if self.cross is None:
            # the inside of a house on the right (+1) lies to the right: local +y is world +x
            away = self.side * (street.half + street.walk + setback)
            return street.frame(away, at, self.side * math.pi / 2)
        away = street.cross_half + street.walk + setback
        return Frame(self.side * at, self.cross + self.face * away, 0.0 if self.face > 0 else math.pi)


def _blocks(streets: Streets) -> list[tuple[float, float]]:
    """The stretches of the main street between the pavements of its crossings."""
    edge = streets.cross_half + streets.walk
    cuts = [-REACH]
    for y in streets.crossings:
        cuts += [y - edge, y + edge]
    cuts.append(REACH)
    return [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=True) if b - a > 7.0]


def _buildings(builder: Builder, dice: Dice, streets: Streets, character: str, park: int) -> None:
    setback = {"suburb": dice.uniform(3.5, 6.5), "mixed": dice.uniform(0.5, 4.0)}.get(character, dice.uniform(0.0, 0.8))
    for side in (-1, 1):
        if side != park:
            for start, stop in _blocks(streets):
                _row(builder, dice, character, start + 0.3, stop - 0.3, Placer(streets, side), setback)
        # beyond the corner houses, along the cross streets
        for y in streets.crossings:
            for face in (-1, 1):
                start = streets.half + streets.walk + setback + 14.0
                _row(
                    builder, dice, character, start, start + 24.0,
                    Placer(streets, side, y, face), max(setback, 0.3),
                )  # fmt: skip
    # houses that close the view at both ends
    for end in (-1, 1):
        for x in range(-2, 3):
            style = draw_style(dice, dice.weighted(_KINDS[character]))
            frame = Frame(x * 15.0 + streets.center(end * REACH), end * (REACH + 45.0), 0.0 if end > 0 else math.pi)
            if dice.chance(0.75):
                add_building(builder, dice, frame, dice.uniform(9, 14), style)


def _trees(builder: Builder, dice: Dice, streets: Streets, character: str, park: int, footprints: list[Point]) -> None:
    autumn = dice.weighted([(0.0, 3.0), (0.25, 1.0), (0.85, 1.0)])
    avenue = dice.pick(TREES)

    def plant(frame: Frame, kind: str) -> None:
        if kind != "shrub":
            footprints.append((frame.x, frame.y, 1.6))
        add_tree(builder, dice, frame, kind, autumn)

    lined = {"boulevard": 0.95, "suburb": 0.8, "mixed": 0.7, "downtown": 0.6, "old town": 0.45}[character]
    for side in (-1, 1):
        if dice.chance(lined):
            step = dice.uniform(9, 16)
            s = side * (streets.half + (streets.verge / 2 if streets.verge else 0.9))
            for start, stop in _blocks(streets):
                y = start + dice.uniform(2, 6)
                while y < stop - 2:
                    if dice.chance(0.85):
                        kind = avenue if dice.chance(0.8) else dice.pick(TREES)
                        plant(streets.frame(s, y, scale=dice.uniform(0.75, 1.1)), kind)
                    y += step * dice.uniform(0.9, 1.1)
        inner = streets.half + streets.walk
        if side == park:
            for _ in range(dice.integer(14, 22)):
                y = dice.uniform(-REACH, REACH)
                if min(abs(y - c) for c in streets.crossings) > streets.cross_half + streets.walk + 1:
                    plant(
                        streets.frame(side * (inner + dice.uniform(1.5, 13)), y, scale=dice.uniform(0.8, 1.3)),
                        dice.pick(TREES),
                    )
        elif character in ("suburb", "mixed"):
            for start, stop in _blocks(streets):
                for _ in range(int((stop - start) / 7)):
                    y = dice.uniform(start, stop)
                    plant(streets.frame(side * (inner + dice.uniform(0.6, 1.8)), y), "shrub")


def _lamps(builder: Builder, dice: Dice, streets: Streets, character: str, footprints: list[Point]) -> list[Point]:
    style = 0 if character in ("old town", "boulevard") else dice.integer(0, 1)
    color = dice.pick(((0.12, 0.14, 0.13), (0.1, 0.2, 0.16), (0.45, 0.47, 0.48), (0.2, 0.16, 0.12)))
    step = dice.uniform(17, 25)
    bulbs: list[Point] = []
    for side in (-1, 1):
        y = -REACH + dice.uniform(0, step)
        while y < REACH:
            if min(abs(y - c) for c in streets.crossings) > streets.cross_half + 1.5:
                frame = streets.frame(side * (streets.half + 0.45), y, -side * math.pi / 2)
                footprints.append((frame.x, frame.y, 0.6))
                bulbs.append(add_lamp(builder, dice, frame, style, color))
            y += step
    return bulbs


def _cars(builder: Builder, dice: Dice, streets: Streets, footprints: list[Point]) -> None:
    def car(frame: Frame) -> None:
        footprints.append((frame.x, frame.y, 2.6))
        add_car(builder, dice, frame)

    clear = streets.cross_half + 8.0
    parked, traffic = dice.uniform(0.2, 0.75), dice.uniform(12, 34)
    for side in (-1, 1):
        along = 0.0 if side > 0 else math.pi
        y = -REACH * 0.8
        while y < REACH * 0.8:
            if min(abs(y - c) for c in streets.crossings) > clear and dice.chance(parked):
                car(streets.frame(side * (streets.half - 1.05), y, along + dice.uniform(-0.03, 0.03)))
            y += dice.uniform(5.6, 7.5)
        for lane in range(streets.lanes):
            width = (streets.half - 2.1) / streets.lanes
            y = -REACH * 0.8 + dice.uniform(0, traffic)
            while y < REACH * 0.8:
                car(streets.frame(side * (lane + 0.5) * width, y, along + dice.uniform(-0.04, 0.04)))
                y += traffic * dice.uniform(0.7, 1.6)
        for y in streets.crossings:
            if dice.chance(0.6):
                x = side * (streets.half + 5.5 + dice.uniform(0, 18))
                toward = dice.pick((-1, 1))
                car(Frame(x, y - toward * 0.5 * streets.cross_half, toward * math.pi / 2))


def _people(builder: Builder, dice: Dice, streets: Streets, footprints: list[Point]) -> None:
    rain = dice.chance(0.15)

    def person(frame: Frame) -> None:
        footprints.append((frame.x, frame.y, 0.7))
        add_person(builder, dice, frame, rain and dice.chance(0.6))

    def scale() -> float:
        return dice.uniform(0.62, 0.75) if dice.chance(0.15) else dice.uniform(0.92, 1.08)

    for side in (-1, 1):
        for _ in range(dice.integer(9, 18)):
            y = dice.uniform(-0.75 * REACH, 0.75 * REACH)
            s = side * (streets.half + streets.verge + dice.uniform(0.5, streets.pavement - 0.4))
            turn = dice.pick((0.0, math.pi)) + dice.uniform(-0.3, 0.3)
            person(streets.frame(s, y, turn, scale()))
            if dice.chance(0.35):  # a couple
                person(streets.frame(s + dice.uniform(0.55, 0.7), y + dice.uniform(-0.2, 0.2), turn, scale()))
    for y in streets.crossings:  # on the zebra crossings
        for way in (-1, 1):
            for _ in range(dice.integer(0, 2)):
                at = y + way * (streets.cross_half + 2.4 + dice.uniform(-0.9, 0.9))
                s = dice.uniform(-streets.half, streets.half)
                person(streets.frame(s, at, dice.pick((-1, 1)) * math.pi / 2, scale()))
