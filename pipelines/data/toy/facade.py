"""The look of walls with windows and doors, from the facade table: class and instance of every point."""

from __future__ import annotations

import numpy as np

from pipelines.data.toy.light import Light
from pipelines.data.toy.materials import Look, Samples, courses, cover, fourth, line, mirror, mix
from pipelines.data.toy.noise import smooth, white
from pipelines.data.toy.solids import Label, Solids


class _Columns:
    """Columns of the tables of walls and styles, gathered for samples on first use."""

    def __init__(self, solids: Solids, walls: np.ndarray) -> None:
        self._solids, self._walls = solids, walls
        self._styles = solids.walls["style"].astype(np.int32)[walls]

    def __getattr__(self, name: str) -> np.ndarray:
        if name in self._solids.walls:
            values = self._solids.walls[name][self._walls]
        else:
            values = self._solids.styles[name][self._styles]
        setattr(self, name, values)
        return values

    def color(self, name: str) -> np.ndarray:
        return np.stack([self._solids.styles[f"{name}_{c}"][self._styles] for c in "rgb"])


def facade(solids: Solids, light: Light, s: Samples) -> Look:
    rows = solids.wall[s.surface]
    f = _Columns(solids, rows)
    u, v = s.u, s.v

    # which opening: floor (-1 is the ground floor), bay, and the place in its cell
    level = np.where(v < f.ground, -1, np.floor((v - f.ground) / f.floor))
    low_floor = level < 0
    base = np.where(low_floor, 0, f.ground + level * f.floor)
    tall = np.where(low_floor, f.ground, f.floor)
    space = (f.width - 2 * f.margin) / np.maximum(f.bays, 1)
    bay = np.floor((u - f.margin) / space)
    lu = np.abs(u - f.margin - (bay + 0.5) * space)
    lv = v - base
    celled = (bay >= 0) & (bay < f.bays) & (level < f.floors)
    door = low_floor & (bay == f.door)
    shop = low_floor & (f.shop > 0) & ~door
    half = np.where(door, f.door_width / 2, np.where(shop, space / 2 - 0.18, f.window_width / 2))
    low = np.where(door, 0, np.where(shop, 0.45, f.sill))
    high = np.where(
        door, np.minimum(f.door_height, tall - 0.25),
        np.where(shop, tall - 0.85, np.minimum(f.sill + f.window_height, tall - 0.2)),
    )  # fmt: skip
    # a bow of a fraction of the half width over the opening
    bow = np.where(shop, 0, f.arch) * half
    top = high - bow * (1 - np.sqrt(np.maximum(1 - (lu / half) ** 2, 0)))
    inner = np.minimum(np.minimum(half - lu, top - lv), np.where(door, 9.0, lv - low))
    opening = celled & (inner > 0)
    # a gable has a small round window of its own
    gu, gv = u - f.width / 2, v - f.height - 0.28 * f.gable
    eye = np.where((f.gable > 2.2) & (f.bays > 0), 0.55 - np.sqrt(gu * gu + gv * gv), -1.0)
    opening |= eye > 0
    inner = np.where(eye > 0, eye, inner)
    door &= opening
    window = opening & ~door

    first = f.first.astype(np.int32)
    bays = np.maximum(f.bays, 1).astype(np.int32)
    number = np.where(
        eye > 0, (f.floors.astype(np.int32) + 1) * bays, (level.astype(np.int32) + 1) * bays + bay.astype(np.int32)
    )  # fmt: skip
    instance = np.where(opening, first + number, 0).astype(np.int32)
    category = np.where(door, Label.DOOR, np.where(window, Label.WINDOW, Label.BUILDING)).astype(np.uint8)

    albedo, glow = np.zeros((2, 3, len(u)), dtype=np.float32)
    at = np.flatnonzero(~opening)
    albedo[:, at] = _wall(
        solids, _Columns(solids, rows[at]), s.of(at), level[at], base[at], tall[at], space[at], bay[at],
        lu[at], lv[at], half[at], low[at], high[at], celled[at],
    )  # fmt: skip
    at = np.flatnonzero(window)
    if len(at):
        albedo[:, at], glow[:, at] = _windows(
            light, _Columns(solids, rows[at]), s.of(at), number[at], lu[at], lv[at], half[at],
            low[at], high[at], inner[at], shop[at], (u - f.margin - (bay + 0.5) * space)[at],
        )  # fmt: skip
    at = np.flatnonzero(door)
    if len(at):
        albedo[:, at], glow[:, at] = _doors(
            light, _Columns(solids, rows[at]), s.of(at), lu[at], lv[at], half[at], high[at], inner[at],
            (u - f.margin - (bay + 0.5) * space)[at],
        )  # fmt: skip
    return Look(np.clip(albedo, 0.01, 1) ** 2, glow=glow, category=category, instance=instance)


def _wall(
    solids: Solids, f: _Columns, s: Samples, level: np.ndarray, base: np.ndarray, tall: np.ndarray,
    space: np.ndarray, bay: np.ndarray, lu: np.ndarray, lv: np.ndarray, half: np.ndarray, low: np.ndarray,
    high: np.ndarray, celled: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """sRGB color (3, n) of the wall around the openings."""
    u, v, foot = s.u, s.v, s.footprint
    trim = f.color("trim")
    gap, stone = courses(u, v, f.course, f.brick, f.stagger, foot, f.salt)
    stain = smooth(u * 0.35 + f.salt, v * 0.2) - 0.5
    grain = smooth(u * 2.1, v * 2.1 + f.salt) - 0.5
    tone = 1 + f.jitter * stone + f.rough * (0.9 * grain + 1.3 * stain)
    tone = tone * (1 - 0.12 * np.clip(1 - v / 2.5, 0, 1))
    color = np.take(solids.color, s.surface, axis=1) * tone
    mortar = np.where(f.brick < 30, 0.78, 0.55)
    color = mix(color, mortar * (0.5 * color + 0.35), gap * f.mortar)
    sheltered = np.exp(-np.maximum(f.height - v, 0) / 0.5)
    color = color * (1 - 0.22 * sheltered)

    ground = level < 0
    color = np.where((f.shop > 0) & ground, f.color("shop_color") * (1 + 0.3 * grain), color)
    # beams: posts at the bays, rails at the floors, some braces
    beams = f.timber > 0
    if beams.any():
        post = line(space / 2 - lu, 0.1, foot)
        rail = line(np.minimum(np.abs(lv - 0.08), np.abs(lv - f.sill + 0.1)), 0.09, foot)
        lean = np.abs(np.where(white(bay, level, f.salt) > 0.6, space / 2 - lu - 0.35 * lv, 9.0))
        brace = line(lean, 0.08, foot)
        wood = np.maximum(np.maximum(post, rail), brace) * (beams & ~ground)
        dark = np.array([[0.3], [0.2], [0.14]], dtype=np.float32)
        color = mix(color, dark * (1 + 0.5 * grain), wood)
    # dressed corners, string courses, plinth and cornice
    row = np.floor(v / 0.5) % 2
    corner = cover(np.where(row > 0, 0.55, 0.35) - np.minimum(u, f.width - u), foot) * (f.quoins > 0)
    band = line(np.abs(v - base), 0.13, foot) * ((f.bands > 0) & (v > 1.0))
    cornice = cover(f.cornice - np.abs(f.height - v), foot) * (f.cornice > 0.05)
    dentil = np.where((u / 0.3) % 1.0 < 0.5, 0.82, 1.0)
    color = mix(color, trim, np.maximum(corner * 0.9, band))
    color = mix(color, trim * np.where(f.height - v > 0.5 * f.cornice, dentil, 1.0), cornice)
    color = mix(color, color * 0.45 + 0.16, cover(f.plinth - v, foot) * 0.8)

    # around the openings: surround, sill with the dirt under it, lintel, shutters
    door = ground & (bay == f.door)
    shop = ground & (f.shop > 0)
    beside = np.maximum(lu - half, np.maximum(lv - high, low - lv))
    frame = cover(f.surround - beside, foot) * (celled & (f.surround > 0))
    sill = line(np.abs(lv - low + 0.06), 0.06, foot) * (celled & ~door & ~shop & (lu < half + 0.1))
    lintel = line(np.abs(lv - high - 0.12), 0.12, foot) * (celled & (f.lintel > 0) & (lu < half + 0.12))
    drip = np.clip(1 - (low - lv) / 0.9, 0, 1) * ((lv < low) & celled & ~door & (lu < half))
    color = color * (1 - 0.16 * drip)
    color = mix(color, trim, np.maximum(np.maximum(frame, sill), lintel))
    wing = np.minimum(half * 0.95, space / 2 - half - 0.03)
    wings = celled & (f.shutters > 0) & ~door & (lv > low - 0.03) & (lv < high) & (lu < half + wing)
    slats = 1 - 0.3 * ((lv / 0.09) % 1.0 < 0.4) * np.clip(1.3 - foot / 0.05, 0, 1)
    color = np.where(wings, f.color("shutter_color") * slats, color)
    # the sign over a shop, with something like letters on it
    sign = shop & (np.abs(lv - tall + 0.45) < 0.3) & (u > 0.3) & (u < f.width - 0.3)
    letter = white(np.floor(u / 0.11), np.floor(lv / 0.11), f.salt) > 0.45
    written = (np.abs(lv - tall + 0.45) < 0.17) & (np.abs(u - f.width / 2) < 0.3 * f.width) & ((u / 0.34) % 1 < 0.75)
    plate = np.where(written & letter, trim, f.color("shop_color") * 0.55)
    return np.where(sign, plate, color)


def _windows(
    light: Light, f: _Columns, s: Samples, number: np.ndarray, lu: np.ndarray, lv: np.ndarray, half: np.ndarray,
    low: np.ndarray, high: np.ndarray, inner: np.ndarray, shop: np.ndarray, x: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Color and glow of the windows: frame, bars, panes with the sky in them, curtains, blinds, lamps inside."""
    foot = s.footprint
    chance = white(number, f.salt, 11)
    other = white(number, f.salt, 12)
    third = white(number, f.salt, 13)
    # what is behind the pane: a dim room, drawn curtains at the sides or a blind from above
    room = 0.1 + 0.1 * third
    color = np.stack([room, room * 1.02, room * 1.06])
    drawn = f.curtain * other
    fold = 0.82 + 0.18 * np.sin(lu * 38) * np.clip(1.2 - foot / 0.08, 0, 1)
    curtain = (lu > half * (1 - drawn)) & (chance < 0.6)
    blind = (high - lv < (high - low) * drawn * 1.2) & (chance > 0.8)
    slat = 0.86 + 0.14 * ((lv / 0.1) % 1 < 0.5)
    hung = (curtain | blind) & ~shop
    color = np.where(hung, f.color("curtain_color") * np.where(blind, slat, fold) * 0.8, color)
    # a shop window shows its goods
    goods = white(np.floor(x / 0.38), np.floor(lv / 0.3), number + f.salt)
    shown = shop & (goods > 0.45) & (lv < low + 1.3) & (((lv / 0.3) % 1.0) > 0.18)
    bright = np.stack([goods, white(np.floor(x / 0.38), 7 + np.floor(lv / 0.3), number), 1 - goods]) * 0.7 + 0.2
    color = np.where(shown, bright, color)
    # lamps inside
    lit = (white(number, f.salt, 14) < f.lit) | shop
    warm = np.stack([1.0 + 0.0 * other, 0.62 + 0.22 * other, 0.25 + 0.35 * other])
    power = light.lamps * lit * (0.5 + 0.6 * third) * (0.6 + 0.4 * np.clip((lv - low) / (high - low), 0, 1))
    glow = warm * power * np.where(hung, 0.7, 1.0) * (0.4 + 1.2 * color)

    facing = np.abs((s.ray * s.normal).sum(0))
    shine = 0.28 + 0.6 * fourth(1 - facing)
    glow = glow + mirror(light, s, 0.35) * shine * np.where(hung, 0.6, 1.0)
    # bars and frame, then the shade of the wall on its recessed window
    nx, ny = np.where(shop, 2, f.bars_x), np.where(shop, 1, f.bars_y)
    wx, wy = 2 * half / nx, (high - low) / ny
    dx = np.abs((x + half + wx / 2) % wx - wx / 2)
    dy = np.abs((lv - low + wy / 2) % wy - wy / 2)
    bars = np.maximum(line(dx, 0.5 * f.frame, foot), line(dy, 0.5 * f.frame, foot))
    wood = np.maximum(cover(f.frame - inner, foot), bars)
    shade = 1 - 0.45 * np.exp(-np.maximum(high - lv, 0) / 0.12) - 0.2 * np.exp(-np.maximum(half - lu, 0) / 0.08)
    color = mix(color, f.color("frame_color"), wood)
    return color * shade, glow * (1 - wood) * (0.4 + 0.6 * shade)


def _doors(
    light: Light, f: _Columns, s: Samples, lu: np.ndarray, lv: np.ndarray, half: np.ndarray,
    high: np.ndarray, inner: np.ndarray, x: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Color and glow of the doors: panels, boards, a pane above or glass all over."""
    foot = s.footprint
    color = f.color("door_color") * (1 + 0.2 * (smooth(s.u * 6, lv * 0.8) - 0.5))
    style = f.door_style
    # panels: two columns, three rows of inset fields
    px = np.abs(np.abs(x) - half / 2) - half * 0.32
    py = np.abs((lv / high * 3) % 1 - 0.5) * high / 3 - high * 0.12
    inset = np.maximum(px, py)
    panel = line(np.abs(inset), 0.035, foot) * (style < 2)
    color = color * (1 - 0.45 * panel)
    boards = line(np.abs((x + half) % 0.2 - 0.1), 0.015, foot) * (style == 2)
    color = color * (1 - 0.4 * boards)
    pane = np.where(
        style == 3, cover(-inset, foot),
        np.where(style == 1, cover(np.minimum(lv - high * 0.8, inner - 0.08), foot), 0.0),
    )  # fmt: skip
    dark = np.full_like(color, 0.12)
    color = mix(color, dark, pane)
    facing = np.abs((s.ray * s.normal).sum(0))
    glow = mirror(light, s, 0.3) * (0.25 + 0.5 * fourth(1 - facing)) * pane
    glow = glow + pane * light.lamps * np.array([[0.9], [0.6], [0.3]], dtype=np.float32)
    knob = (np.abs(x - 0.72 * half) < 0.05) & (np.abs(lv - 1.05) < 0.05)
    color = np.where(knob, np.array([[0.85], [0.7], [0.3]], dtype=np.float32), color)
    color = mix(color, f.color("frame_color") * 0.9, cover(0.07 - inner, foot))
    shade = 1 - 0.45 * np.exp(-np.maximum(high - lv, 0) / 0.12)
    return color * shade, glow * shade
