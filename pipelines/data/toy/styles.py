"""How buildings are drawn at random: walls, openings, colors and roofs that go together."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.data.toy.dice import Color, Dice


@dataclass(frozen=True)
class Style:
    """What all walls of one building share."""

    floors: int
    layout: dict[str, float]
    colors: dict[str, Color]
    wall: Color
    bay: float  # wished width of a bay
    roof: str  # flat, gable (ridge along the street), front (gable to the street), hip, mansard
    pitch: float
    roof_color: Color
    depth: float
    balconies: bool = False
    awnings: bool = False
    dormers: bool = False

    @property
    def height(self) -> float:
        return self.layout["ground"] + self.floors * self.layout["floor"]


_COURSES: dict[str, tuple[float, float, float, float, float, float]] = {
    # course, brick, stagger, mortar, jitter, rough
    "brick": (0.16, 0.42, 0.5, 0.55, 0.34, 0.10),
    "big brick": (0.24, 0.55, 0.5, 0.45, 0.22, 0.12),
    "stone": (0.45, 0.95, 0.5, 0.40, 0.16, 0.14),
    "rubble": (0.32, 0.5, 0.37, 0.50, 0.40, 0.22),
    "siding": (0.22, 60.0, 0.0, 0.60, 0.07, 0.06),
    "planks": (60.0, 0.24, 0.0, 0.60, 0.16, 0.10),
    "panels": (1.5, 1.9, 0.0, 0.35, 0.07, 0.08),
    "plaster": (60.0, 60.0, 0.0, 0.0, 0.0, 0.22),
    "tiles": (0.3, 0.3, 0.0, 0.30, 0.16, 0.05),
}


def _wall_color(dice: Dice, pattern: str) -> Color:
    if pattern in ("brick", "big brick"):
        return dice.weighted(
            [
                (dice.color((0.0, 0.05), (0.45, 0.65), (0.45, 0.68)), 5.0),
                (dice.color((0.07, 0.12), (0.3, 0.5), (0.6, 0.8)), 2.0),
                (dice.color((0.0, 0.1), (0.1, 0.25), (0.3, 0.45)), 1.0),
                (dice.color((0.0, 1.0), (0.02, 0.06), (0.8, 0.9)), 1.0),
            ]
        )
    if pattern in ("stone", "rubble"):
        return dice.color((0.07, 0.14), (0.08, 0.28), (0.6, 0.86))
    if pattern in ("panels", "tiles"):
        return dice.weighted(
            [
                (dice.color((0.05, 0.6), (0.02, 0.08), (0.5, 0.8)), 2.0),
                (dice.color((0.0, 1.0), (0.15, 0.4), (0.5, 0.75)), 1.0),
            ]
        )
    if pattern == "planks":
        return dice.color((0.03, 0.09), (0.4, 0.65), (0.35, 0.6))
    return dice.weighted(
        [
            (dice.color((0.06, 0.15), (0.12, 0.5), (0.78, 0.93)), 4.0),
            (dice.color((0.9, 1.05), (0.18, 0.5), (0.72, 0.9)), 2.0),
            (dice.color((0.25, 0.62), (0.1, 0.36), (0.6, 0.86)), 3.0),
            (dice.color((0.0, 1.0), (0.0, 0.05), (0.82, 0.95)), 1.5),
        ]
    )


def draw_style(dice: Dice, kind: str) -> Style:
    """A building of a kind: town, gabled, timbered, house, block, office, grand or mill."""
    integer, uniform, chance = dice.integer, dice.uniform, dice.chance
    pattern = dice.pick(
        {
            "town": ("brick", "plaster", "plaster", "stone", "big brick"),
            "gabled": ("brick", "plaster", "big brick"),
            "timbered": ("plaster",),
            "house": ("siding", "plaster", "brick", "planks", "rubble"),
            "block": ("panels", "plaster", "brick", "tiles"),
            "office": ("panels", "tiles", "stone"),
            "grand": ("stone", "plaster"),
            "mill": ("brick", "big brick"),
        }[kind]
    )
    course, brick, stagger, mortar, jitter, rough = _COURSES[pattern]
    scale = uniform(0.9, 1.3)
    floors = {
        "town": integer(2, 4), "gabled": integer(2, 3), "timbered": integer(1, 3), "house": integer(0, 1),
        "block": integer(4, 8), "office": integer(5, 11), "grand": integer(3, 5), "mill": integer(2, 4),
    }[kind]  # fmt: skip
    floor = uniform(2.8, 3.3) + (0.4 if kind in ("grand", "mill", "office") else 0.0)
    shop = kind in ("town", "gabled", "grand", "timbered") and chance(0.45)
    ground = floor + (uniform(0.4, 0.9) if shop or kind in ("grand", "office") else uniform(0.0, 0.25))
    tall = kind in ("grand", "mill")
    window_height = uniform(1.9, 2.3) if tall else uniform(1.25, 1.8)
    window_width = uniform(0.85, 1.35)
    if kind == "mill":
        window_width = uniform(1.5, 2.1)
    if kind == "block":
        window_width = uniform(1.1, 2.2)
    bay = window_width + uniform(0.8, 1.7)
    if kind == "office":
        window_width, window_height, bay = uniform(1.6, 2.6), floor - uniform(0.5, 1.3), 0.0
        bay = window_width + uniform(0.12, 0.7)
    sill = max(0.15, (floor - window_height) * uniform(0.45, 0.62))
    light_frame = chance(0.75)
    trim = dice.weighted(
        [
            (dice.color((0.08, 0.16), (0.02, 0.15), (0.82, 0.97)), 3.0),
            (dice.color((0.05, 0.1), (0.1, 0.3), (0.5, 0.7)), 1.0),
        ]
    )
    layout = {
        "ground": ground,
        "floor": floor,
        "window_width": window_width,
        "window_height": window_height,
        "sill": sill,
        "arch": dice.weighted([(0.0, 5.0), (0.25, 1.5), (1.0, 1.0 if tall or kind == "town" else 0.0)])
        if kind not in ("block", "office", "house")
        else 0.0,
        "bars_x": float(dice.pick((1, 2, 2, 3)) if kind != "mill" else integer(3, 4)),
        "bars_y": float(dice.pick((1, 2, 2, 3)) if kind != "mill" else integer(3, 5)),
        "frame": uniform(0.05, 0.09),
        "door_width": uniform(1.0, 1.5),
        "door_height": uniform(2.15, 2.6),
        "door_style": float(integer(0, 3)),
        "shop": float(shop),
        "shutters": float(kind in ("town", "house", "timbered", "gabled") and chance(0.35) and not shop),
        "surround": float(chance(0.45)) * uniform(0.1, 0.2),
        "lintel": float(chance(0.5)),
        "course": course * (scale if course < 30 else 1.0),
        "brick": brick * (scale if brick < 30 else 1.0),
        "stagger": stagger,
        "mortar": mortar * uniform(0.5, 1.0),
        "jitter": jitter * uniform(0.4, 1.0),
        "rough": rough * uniform(0.5, 1.2),
        "timber": float(kind == "timbered"),
        "quoins": float(kind in ("town", "grand", "mill", "gabled") and chance(0.4)),
        "bands": float(kind in ("town", "grand", "block", "gabled") and chance(0.55)),
        "cornice": uniform(0.25, 0.6) if kind in ("town", "grand", "mill") else uniform(0.0, 0.2),
        "plinth": uniform(0.3, 0.8) if chance(0.6) else 0.0,
        "curtain": uniform(0.1, 0.8),
        "lit": uniform(0.25, 0.8),
    }
    frame_color = dice.color((0.05, 0.2), (0.0, 0.1), (0.82, 0.97))
    if not light_frame:
        frame_color = dice.color((0.0, 1.0), (0.1, 0.5), (0.12, 0.35))
    bright = dice.color((0.0, 1.0), (0.45, 0.8), (0.3, 0.65))
    return Style(
        floors=floors,
        layout=layout,
        colors={
            "trim": trim,
            "frame_color": frame_color,
            "door_color": dice.color((0.0, 1.0), (0.3, 0.8), (0.22, 0.6)),
            "shop_color": dice.color((0.0, 1.0), (0.3, 0.8), (0.2, 0.6)),
            "shutter_color": bright,
            "curtain_color": dice.color((0.0, 1.0), (0.02, 0.35), (0.6, 0.95)),
        },
        wall=_wall_color(dice, pattern),
        bay=bay,
        roof={
            "town": dice.pick(("gable", "gable", "hip", "flat", "mansard")),
            "gabled": "front",
            "timbered": dice.pick(("front", "gable")),
            "house": dice.pick(("gable", "hip", "front")),
            "block": "flat",
            "office": "flat",
            "grand": "mansard",
            "mill": dice.pick(("flat", "gable", "front")),
        }[kind],
        pitch=uniform(0.55, 1.0) if kind != "gabled" else uniform(1.0, 1.5),
        roof_color=dice.weighted(
            [
                (dice.color((0.01, 0.06), (0.5, 0.75), (0.45, 0.7)), 4.0),
                (dice.color((0.55, 0.68), (0.05, 0.25), (0.25, 0.45)), 3.0),
                (dice.color((0.03, 0.1), (0.25, 0.5), (0.25, 0.45)), 2.0),
                (dice.color((0.38, 0.48), (0.2, 0.4), (0.4, 0.6)), 1.0),
            ]
        ),
        depth=uniform(9.0, 13.0),
        balconies=(kind == "block" and chance(0.7)) or (kind == "grand" and chance(0.35)),
        awnings=shop and chance(0.65),
        dormers=kind in ("town", "grand", "house") and chance(0.6),
    )
