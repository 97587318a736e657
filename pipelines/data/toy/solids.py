"""What the town is made of: convex polygons and ellipsoids in meters, x east, y north, z up.

Both are hit exactly by a ray of any camera, so the same solids serve a street view, a view from above and
the shadows of the sun. A surface is one polygon or one ellipsoid; polygons come first in the numbering.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import chain

import numpy as np

from pipelines.data.scene import Category, Schema
from pipelines.data.toy.dice import Color

Point = tuple[float, float, float]

MAX_VERTICES = 6


class Label(IntEnum):
    """Class indices of the toy town; they are its label ids as well."""

    SKY = 0
    CLOUD = 1
    GRASS = 2
    ROAD = 3
    MARKING = 4
    PAVEMENT = 5
    BUILDING = 6
    ROOF = 7
    WINDOW = 8
    DOOR = 9
    TREE = 10
    LAMP = 11
    CAR = 12
    PERSON = 13


SCHEMA = Schema(
    classes=tuple(
        Category(int(label), label.name.lower(), color, thing)
        for label, color, thing in (
            (Label.SKY, (112, 178, 228), False),
            (Label.CLOUD, (226, 236, 244), False),
            (Label.GRASS, (142, 196, 88), False),
            (Label.ROAD, (98, 94, 112), False),
            (Label.MARKING, (250, 240, 150), False),
            (Label.PAVEMENT, (206, 176, 198), False),
            (Label.BUILDING, (196, 140, 106), False),
            (Label.ROOF, (166, 58, 52), False),
            (Label.WINDOW, (52, 104, 198), True),
            (Label.DOOR, (112, 66, 32), True),
            (Label.TREE, (34, 118, 56), True),
            (Label.LAMP, (244, 182, 36), True),
            (Label.CAR, (206, 40, 140), True),
            (Label.PERSON, (240, 96, 62), True),
        )
    ),
    domains=("day", "dusk", "overcast"),
)


class Material(IntEnum):
    """How a surface takes its look. color and accent are its two own colors."""

    GROUND = 0  # classes and colors by the street plan
    FACADE = 1  # walls with windows and doors by a row of the facade table
    PLAIN = 2  # paint, plaster or metal with a little grain
    TILES = 3  # roofs: courses of tiles; accent is the color of old ones
    LEAVES = 4  # crowns: ragged rim, leaf noise between color and accent
    BARK = 5
    PAINT = 6  # car bodies: mirrors the sky
    GLASS = 7
    WHEEL = 8  # tire with a hub in the accent color
    CLOTH = 9  # color, striped with the accent
    STRIPES = 10  # awnings: vertical stripes of color and accent
    LIGHT = 11  # shines in the dark
    HILL = 12  # far meadows and woods


@dataclass(frozen=True)
class Solids:
    """The surfaces of a world: P polygons, then E ellipsoids, S = P + E.

    vertices: (P, MAX_VERTICES, 3), counterclockwise seen from outside, the last one repeated; the first edge
    is the bottom edge. u and v: (P, 3) unit vectors of the surface's own coordinates, in meters from the
    first vertex. axes: (E, 3, 3), the columns are the semi-axes. instance: (S,) the first instance id of the
    surface, 0 for stuff. wall: (S,) row of the table of facade walls or -1; their openings have instances of their
    own. walls, styles: columns of the tables; a wall names its row of styles, which it shares with its house.
    """

    vertices: np.ndarray
    normals: np.ndarray
    u: np.ndarray
    v: np.ndarray
    centers: np.ndarray
    axes: np.ndarray
    inverse_axes: np.ndarray
    material: np.ndarray
    category: np.ndarray
    instance: np.ndarray
    wall: np.ndarray
    color: np.ndarray
    accent: np.ndarray
    salt: np.ndarray
    walls: dict[str, np.ndarray]
    styles: dict[str, np.ndarray]

    @property
    def polygons(self) -> int:
        return len(self.vertices)

    @cached_property
    def planes(self) -> np.ndarray:
        """(11, S) float32: normal, then u and v as affine functions of the position; zeros for ellipsoids."""
        start = self.vertices[:, 0]
        table = np.zeros((11, len(self.material)), dtype=np.float32)
        table[:3, : self.polygons] = self.normals.T
        for row, axis in ((3, self.u), (7, self.v)):
            table[row : row + 3, : self.polygons] = axis.T
            table[row + 3, : self.polygons] = -(axis * start).sum(1)
        return table


@dataclass(frozen=True)
class Frame:
    """A place to stand on: local (x right, y ahead, z up) to the world. heading: radians from north to east."""

    x: float
    y: float
    heading: float = 0.0
    scale: float = 1.0


GROUND_ZERO = Frame(0.0, 0.0)


class Builder:
    """Collects surfaces in the coordinates of their frames, in plain lists, and makes arrays of them once."""

    def __init__(self) -> None:
        self._polygons: list[Sequence[Point]] = []
        self._polygon_rows: list[tuple[float, ...]] = []
        self._ellipsoids: list[tuple[Point, ...]] = []
        self._ellipsoid_rows: list[tuple[float, ...]] = []
        self._walls: list[dict[str, float]] = []
        self._styles: list[dict[str, float]] = []
        self._instances = 0

    def instances(self, count: int = 1) -> int:
        """Reserve count consecutive instance ids and return the first."""
        first = self._instances + 1
        self._instances += count
        return first

    def style(self, columns: dict[str, float]) -> float:
        """Add what walls share to the style table and return its row."""
        self._styles.append(columns)
        return float(len(self._styles) - 1)

    def polygon(
        self,
        frame: Frame,
        points: Sequence[Point],
        material: Material,
        label: Label,
        color: Color,
        *,
        accent: Color | None = None,
        instance: int = 0,
        salt: float = 0.0,
        wall: dict[str, float] | None = None,
    ) -> None:
        """A convex polygon, counterclockwise seen from outside, its bottom edge first."""
        row = -1
        if wall is not None:
            row = len(self._walls)
            self._walls.append(wall)
        self._polygons.append([*points, *[points[-1]] * (MAX_VERTICES - len(points))])
        self._polygon_rows.append(_row(frame, material, label, instance, row, salt, color, accent))

    def ellipsoid(
        self,
        frame: Frame,
        center: Point,
        axes: tuple[Point, Point, Point],
        material: Material,
        label: Label,
        color: Color,
        *,
        accent: Color | None = None,
        instance: int = 0,
        salt: float = 0.0,
    ) -> None:
        """An ellipsoid by its center and three orthogonal semi-axes."""
        self._ellipsoids.append((center, *axes))
        self._ellipsoid_rows.append(_row(frame, material, label, instance, -1, salt, color, accent))

    def finish(self) -> Solids:
        flat = chain.from_iterable([*self._polygon_rows, *self._ellipsoid_rows])
        rows = np.fromiter(flat, np.float64).reshape(-1, 15)
        count = len(self._polygons)
        flat = chain.from_iterable(chain.from_iterable(self._polygons))
        vertices = _placed(np.fromiter(flat, np.float64).reshape(-1, MAX_VERTICES, 3), rows[:count], 1.0)
        u = vertices[:, 1] - vertices[:, 0]
        u /= np.sqrt((u * u).sum(1, keepdims=True))
        normals = np.cross(u, vertices[:, 2] - vertices[:, 1])
        normals /= np.sqrt((normals * normals).sum(1, keepdims=True))
        flat = chain.from_iterable(chain.from_iterable(self._ellipsoids))
        balls = np.fromiter(flat, np.float64).reshape(-1, 4, 3)
        axes = _placed(balls[:, 1:], rows[count:], 0.0)
        return Solids(
            vertices=vertices,
            normals=normals,
            u=u,
            v=np.cross(normals, u),
            centers=_placed(balls[:, :1], rows[count:], 1.0)[:, 0],
            axes=axes.transpose(0, 2, 1).copy(),
            # the semi-axes are orthogonal: the inverse is the transpose over squared lengths
            inverse_axes=axes / (axes * axes).sum(2, keepdims=True),
            material=rows[:, 4].astype(np.uint8),
            category=rows[:, 5].astype(np.uint8),
            instance=rows[:, 6].astype(np.int32),
            wall=rows[:, 7].astype(np.int32),
            salt=rows[:, 8].astype(np.float32),
            color=rows[:, 9:12].T.astype(np.float32),
            accent=rows[:, 12:15].T.astype(np.float32),
            walls=_table(self._walls),
            styles=_table(self._styles),
        )


def _row(
    frame: Frame, material: Material, label: Label, instance: int, wall: int, salt: float,
    color: Color, accent: Color | None,
) -> tuple[float, ...]:  # fmt: skip
    place = (frame.x, frame.y, frame.heading, frame.scale)
    return (*place, material, label, instance, wall, salt, *color, *(accent or color))


def _placed(points: np.ndarray, rows: np.ndarray, shift: float) -> np.ndarray:
    """Points (n, k, 3) of n frames to the world; shift is 0 for directions, which move nowhere."""
    x, y, heading, scale = (rows[:, k, None] for k in range(4))
    sin, cos = np.sin(heading), np.cos(heading)
    px, py, pz = (points[..., k] for k in range(3))
    return np.stack(
        [shift * x + scale * (px * cos + py * sin), shift * y + scale * (py * cos - px * sin), scale * pz], -1
    )


def _table(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Columns of rows that all have the same keys in the same order."""
    if not rows:
        return {}
    values = np.array([list(row.values()) for row in rows], dtype=np.float32).T
    return {name: np.ascontiguousarray(column) for name, column in zip(rows[0], values, strict=True)}


def upright(rx: float, ry: float, rz: float) -> tuple[Point, Point, Point]:
    """Semi-axes along x, y and z."""
    return ((rx, 0.0, 0.0), (0.0, ry, 0.0), (0.0, 0.0, rz))


def limb(start: Point, end: Point, radius: float) -> tuple[Point, tuple[Point, Point, Point]]:
    """Center and semi-axes of an ellipsoid that reaches a little beyond both ends."""
    ax, ay, az = ((e - s) / 2 for s, e in zip(start, end, strict=True))
    half = math.sqrt(ax * ax + ay * ay + az * az)
    grow = (half + 0.6 * radius) / half
    # any vector across the limb will do; the horizontal one exists unless the limb is upright
    flat = math.hypot(ax, ay)
    px, py = (-ay / flat, ax / flat) if flat > 1e-6 * half else (1.0, 0.0)
    qx, qy, qz = -az * py / half, az * px / half, (ax * py - ay * px) / half
    center = tuple((s + e) / 2 for s, e in zip(start, end, strict=True))
    return center, (  # type: ignore[return-value]
        (ax * grow, ay * grow, az * grow),
        (px * radius, py * radius, 0.0),
        (qx * radius, qy * radius, qz * radius),
    )
