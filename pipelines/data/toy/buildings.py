"""Buildings: extruded footprints with facade layouts, roofs, dormers, chimneys, balconies and awnings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from pipelines.data.toy.dice import Color, Dice
from pipelines.data.toy.solids import Builder, Frame, Label, Material, Point
from pipelines.data.toy.styles import Style

_COLORS = ("trim", "frame_color", "door_color", "shop_color", "shutter_color", "curtain_color")


def add_building(builder: Builder, dice: Dice, front: Frame, width: float, style: Style) -> None:
    """A building whose front stands on the local x axis of the frame, centered, its inside at y > 0."""
    depth, top = style.depth, style.height
    a, b = -width / 2, width / 2
    corners = [(a, 0.0), (b, 0.0), (b, depth), (a, depth)]
    row = _register(builder, style)
    rise = 0.0
    if style.roof == "gable":
        rise = min(style.pitch * depth / 2, 5.5)
    elif style.roof == "front":
        rise = min(style.pitch * width / 2, 6.5)
    for side in range(4):
        (x0, y0), (x1, y1) = corners[side], corners[(side + 1) % 4]
        points: list[Point] = [(x0, y0, 0.0), (x1, y1, 0.0), (x1, y1, top)]
        gabled = rise > 0 and (side % 2 == 1) == (style.roof == "gable")
        if gabled:
            points.append(((x0 + x1) / 2, (y0 + y1) / 2, top + rise))
        points.append((x0, y0, top))
        length = math.hypot(x1 - x0, y1 - y0)
        wall = _wall(builder, dice, style, row, length, side, rise if gabled else 0.0)
        builder.polygon(
            front,
            points,
            Material.FACADE,
            Label.BUILDING,
            style.wall,
            wall=wall,
        )
        if side == 0:
            _front_extras(builder, dice, front, style, wall)
    _roof(builder, dice, front, width, style, rise)


def _register(builder: Builder, style: Style) -> float:
    """The style as a row of the table that walls share."""
    columns = dict(style.layout)
    for name in _COLORS:
        for channel, value in zip("rgb", style.colors[name], strict=True):
            columns[f"{name}_{channel}"] = value
    return builder.style(columns)


def _wall(
    builder: Builder, dice: Dice, style: Style, row: float, width: float, side: int, gable: float
) -> dict[str, float]:
    """A row of the table of walls. Sides have fewer windows than the front, only the front has shops."""
    layout = style.layout
    bays = max(1, round((width - 0.6) / style.bay))
    if side != 0 and dice.chance(0.12):
        bays = 0
    margin = max(0.0, min(0.3, (width - bays * layout["window_width"]) / 2))
    space = (width - 2 * margin) / max(bays, 1)
    shop = layout["shop"] if side == 0 else 0.0
    return {
        "style": row,
        "width": width,
        "height": style.height,
        "floors": float(style.floors),
        "bays": float(bays),
        "margin": margin,
        "first": float(builder.instances((style.floors + 1) * max(bays, 1) + 1)),
        "door": float(dice.integer(0, bays - 1)) if bays and (side == 0 or dice.chance(0.2)) else -1.0,
        "salt": float(dice.integer(0, 10_000)),
        "gable": gable,
        "window_width": min(layout["window_width"], space - 0.3),
        "door_width": min(layout["door_width"], space - 0.2),
        "shop": shop,
        "sill": max(layout["sill"], 0.5) if shop else layout["sill"],
    }


def _box(
    builder: Builder,
    frame: Frame,
    low: Point,
    high: Point,
    material: Material,
    label: Label,
    color: Color,
    *,
    bottom: bool = False,
    accent: Color | None = None,
) -> None:
    """A box in the frame with its sides, its top and, where it can be seen from below, its bottom."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    corners = ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    faces: list[list[Point]] = []
    for k in range(4):
        (p, q), (r, s) = corners[k], corners[(k + 1) % 4]
        faces.append([(p, q, z0), (r, s, z0), (r, s, z1), (p, q, z1)])
    faces.append([(x, y, z1) for x, y in corners])
    if bottom:
        faces.append([(x, y, z0) for x, y in reversed(corners)])
    for face in faces:
        builder.polygon(frame, face, material, label, color, accent=accent)


def _front_extras(builder: Builder, dice: Dice, front: Frame, style: Style, wall: dict[str, float]) -> None:
    """Balconies and awnings, in the bays of the front."""
    bays, width = int(wall["bays"]), wall["width"]
    if not bays:
        return
    space = (width - 2 * wall["margin"]) / bays
    start = -width / 2 + wall["margin"]
    if style.balconies:
        every = dice.integer(1, 2)
        color = dice.near(style.colors["trim"], 0.12)
        for floor in range(style.floors):
            z = style.layout["ground"] + floor * style.layout["floor"]
            for bay in range(dice.integer(0, every - 1) if floor == 0 else bays % every, bays, every):
                x = start + (bay + 0.5) * space
                half = min(space * 0.46, wall["window_width"] / 2 + 0.3)
                _box(
                    builder, front, (x - half, -0.9, z - 0.15), (x + half, 0.0, z + 0.75),
                    Material.PLAIN, Label.BUILDING, color, bottom=True,
                )  # fmt: skip
    if style.awnings:
        z1 = style.layout["ground"] - 0.3
        z0 = z1 - 0.55
        color, accent = style.colors["shop_color"], dice.color((0.1, 0.2), (0.0, 0.1), (0.85, 0.98))
        x0, x1, out = start + 0.1, start + bays * space - 0.1, -1.1
        slope: list[Point] = [(x0, out, z0), (x1, out, z0), (x1, 0.0, z1), (x0, 0.0, z1)]
        flap: list[Point] = [(x0, out, z0 - 0.22), (x1, out, z0 - 0.22), (x1, out, z0), (x0, out, z0)]
        for face in (slope, [slope[1], slope[0], slope[3], slope[2]], flap):
            builder.polygon(front, face, Material.STRIPES, Label.BUILDING, color, accent=accent)
        for x, order in ((x0, 1), (x1, -1)):
            triangle: list[Point] = [(x, out, z0), (x, 0.0, z1), (x, 0.0, z0)]
            builder.polygon(front, triangle[::order], Material.PLAIN, Label.BUILDING, color)


def _roof(builder: Builder, dice: Dice, front: Frame, width: float, style: Style, rise: float) -> None:
    z, depth = style.height, style.depth
    a, b = -width / 2, width / 2
    color, old = style.roof_color, dice.near(style.roof_color, 0.12)
    salt = float(dice.integer(0, 10_000))

    def plane(points: Sequence[Point]) -> None:
        builder.polygon(front, points, Material.TILES, Label.ROOF, color, accent=old, salt=salt)

    def trim(points: Sequence[Point]) -> None:
        builder.polygon(front, points, Material.PLAIN, Label.ROOF, style.colors["trim"])

    out = 0.35
    if style.roof == "flat":
        plane([(a, 0, z), (b, 0, z), (b, depth, z), (a, depth, z)])
        if dice.chance(0.5):  # what lifts and stairs end in
            x, y = dice.uniform(a + 2, max(a + 2.1, b - 5)), depth / 2
            _box(
                builder, front, (x, y, z), (min(x + 3.5, b), y + 3, z + 2.4),
                Material.PLAIN, Label.BUILDING, style.wall,
            )  # fmt: skip
        return
    drop = out * (style.pitch if style.roof != "gable" else 2 * rise / depth)
    if style.roof == "gable":
        m, low = depth / 2, z - drop
        plane([(a - 0.2, -out, low), (b + 0.2, -out, low), (b + 0.2, m, z + rise), (a - 0.2, m, z + rise)])
        plane([(b + 0.2, depth + out, low), (a - 0.2, depth + out, low),
               (a - 0.2, m, z + rise), (b + 0.2, m, z + rise)])  # fmt: skip
    elif style.roof == "front":
        drop = out * 2 * rise / width
        low, back = z - drop, depth + 0.2
        plane([(b + out, -0.25, low), (b + out, back, low), (0, back, z + rise), (0, -0.25, z + rise)])
        plane([(a - out, back, low), (a - out, -0.25, low), (0, -0.25, z + rise), (0, back, z + rise)])
        for x, way in ((a - out, 1), (b + out, -1)):  # the boards along the gable
            board: list[Point] = [
                (x, -0.26, low - 0.25), (0, -0.26, z + rise - 0.3), (0, -0.26, z + rise), (x, -0.26, low),
            ]  # fmt: skip
            trim(board if way == 1 else [board[1], board[0], board[3], board[2]])
        return
    elif style.roof == "hip":
        rise = min(style.pitch * min(width, depth) / 2, 5.0)
        inset = min(width, depth) / 2 * 0.98
        low = z - out * style.pitch
        p, q = (a - out, -out, low), (b + out, -out, low)
        r, s = (b + out, depth + out, low), (a - out, depth + out, low)
        if width >= depth:
            left, right = (a + inset, depth / 2, z + rise), (b - inset, depth / 2, z + rise)
            for face in ([p, q, right, left], [q, r, right], [r, s, left, right], [s, p, left]):
                plane(face)
        else:
            near, far = (0.0, inset, z + rise), (0.0, depth - inset, z + rise)
            for face in ([p, q, near], [q, r, far, near], [r, s, far], [s, p, near, far]):
                plane(face)
    else:
        rise, inset = 2.6, 1.1
        high = z + rise
        p, q, r, s = (a, -0.2, z), (b, -0.2, z), (b, depth + 0.2, z), (a, depth + 0.2, z)
        t, u = (a + inset, inset, high), (b - inset, inset, high)
        v, w = (b - inset, depth - inset, high), (a + inset, depth - inset, high)
        for face in ([p, q, u, t], [q, r, v, u], [r, s, w, v], [s, p, t, w], [t, u, v, w]):
            plane(face)
    # the eaves: a board in front and what one sees of the roof from below
    low = z - (drop if style.roof != "mansard" else 0.0)
    reach = out if style.roof != "mansard" else 0.2
    trim([(a, -reach, low - 0.2), (b, -reach, low - 0.2), (b, -reach, low), (a, -reach, low)])
    trim([(b, -reach, low - 0.2), (a, -reach, low - 0.2), (a, 0, low - 0.2), (b, 0, low - 0.2)])
    if style.dormers and style.roof in ("gable", "mansard"):
        _dormers(builder, dice, front, width, style, rise)
    if dice.chance(0.75):
        x, y = dice.uniform(a + 1, b - 1), depth * dice.uniform(0.35, 0.65)
        base = z + rise * 0.5 if style.roof != "mansard" else z + rise
        _box(
            builder, front, (x - 0.45, y - 0.35, base), (x + 0.45, y + 0.35, z + rise + dice.uniform(0.7, 1.4)),
            Material.PLAIN, Label.BUILDING, dice.near((0.5, 0.3, 0.25), 0.12),
        )  # fmt: skip


def _dormers(builder: Builder, dice: Dice, front: Frame, width: float, style: Style, rise: float) -> None:
    """Small gabled boxes with one window each on the front slope of the roof."""
    count = max(1, int(width / 4.5))
    low = style.height + (0.35 if style.roof == "mansard" else 0.25 * rise)
    y0 = 0.1 if style.roof == "mansard" else 0.13 * style.depth
    y1 = y0 + 2.2
    size, high = 0.75, low + 1.5
    row_style = replace(
        style,
        floors=0,
        bay=2 * size,
        layout={
            **style.layout, "ground": 1.5, "window_height": 1.1, "window_width": 0.85, "sill": 0.2, "shop": 0.0,
            "arch": 0.0, "shutters": 0.0, "timber": 0.0, "cornice": 0.0, "plinth": 0.0, "bands": 0.0,
            "quoins": 0.0,
        },
    )  # fmt: skip
    row = _register(builder, row_style)
    for k in range(count):
        x = -width / 2 + (k + 0.5) * width / count
        face: list[Point] = [
            (x - size, y0, low), (x + size, y0, low), (x + size, y0, high), (x, y0, high + 0.5), (x - size, y0, high),
        ]  # fmt: skip
        wall = _wall(builder, dice, row_style, row, 2 * size, 1, 0.0)
        wall.update(bays=1.0, margin=0.0, door=-1.0, window_width=0.85)
        builder.polygon(
            front, face, Material.FACADE, Label.BUILDING, style.colors["trim"],
            wall=wall,
        )  # fmt: skip
        for sign in (-1, 1):
            xs = x + sign * size
            side: list[Point] = [(xs, y0, low), (xs, y1, low), (xs, y1, high), (xs, y0, high)]
            over = x + sign * (size + 0.12)
            tile: list[Point] = [
                (over, y0 - 0.12, high - 0.06), (over, y1, high - 0.06),
                (x, y1, high + 0.52), (x, y0 - 0.12, high + 0.52),
            ]  # fmt: skip
            if sign < 0:
                side = [side[1], side[0], side[3], side[2]]
                tile = [tile[1], tile[0], tile[3], tile[2]]
            builder.polygon(front, side, Material.PLAIN, Label.BUILDING, style.wall)
            builder.polygon(front, tile, Material.TILES, Label.ROOF, style.roof_color, salt=float(k))
