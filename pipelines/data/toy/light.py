"""Light and sky: time of day, sun, clouds and haze."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pipelines.data.toy.dice import Color, Dice
from pipelines.data.toy.noise import silky


@dataclass(frozen=True)
class Light:
    """What shines on a scene. Colors are linear radiance; white under full day is near 1.

    sun: unit vector towards the sun. soft: blur of the shadows in meters. lamps: how bright lamps and lit
    windows are, 0 by day. haze: per meter. cover: share of clouds; puff: how hard their edges are.
    """

    domain: str
    sun: tuple[float, float, float]
    sun_color: Color
    ambient: Color
    bounce: Color
    zenith: Color
    horizon: Color
    cloud_light: Color
    cloud_shade: Color
    haze: float
    soft: float
    lamps: float
    cover: float
    puff: float
    cloud_scale: float
    cloud_shift: tuple[float, float]
    exposure: float


def _times(color: Color, k: float) -> Color:
    return (color[0] * k, color[1] * k, color[2] * k)


def draw_light(dice: Dice, domain: str) -> Light:
    """A light of a domain: day, dusk or overcast."""
    azimuth = dice.uniform(0, 2 * math.pi)
    low, high = {"day": (0.6, 1.15), "dusk": (0.07, 0.3), "overcast": (1.2, 1.45)}[domain]
    height = dice.uniform(low, high)
    sun = (
        math.sin(azimuth) * math.cos(height),
        math.cos(azimuth) * math.cos(height),
        math.sin(height),
    )
    shift = (dice.uniform(0, 50), dice.uniform(0, 50))
    scale = dice.uniform(0.5, 1.1)
    if domain == "day":
        warm = dice.uniform(0, 1)
        blue = dice.color((0.56, 0.62), (0.55, 0.8), (0.6, 0.85))
        return Light(
            domain=domain,
            sun_color=(1.85, 1.75 - 0.15 * warm, 1.6 - 0.45 * warm),
            ambient=_times((0.36, 0.45, 0.6), dice.uniform(0.75, 1.05)),
            bounce=(0.22, 0.2, 0.17),
            zenith=_times(_squared(blue), 1.0),
            horizon=_squared(dice.color((0.53, 0.6), (0.12, 0.3), (0.85, 0.97))),
            cloud_light=(0.98, 0.97, 0.95),
            cloud_shade=(0.5, 0.55, 0.64),
            haze=dice.uniform(0.0006, 0.003),
            soft=0.05,
            lamps=0.0,
            cover=dice.uniform(0.25, 0.6),
            puff=dice.uniform(3.0, 9.0),
            exposure=dice.uniform(0.95, 1.25),
            sun=sun,
            cloud_shift=shift,
            cloud_scale=scale,
        )
    if domain == "dusk":
        glow = dice.color((0.0, 0.1), (0.4, 0.75), (0.9, 1.0))
        violet = dice.color((0.6, 0.78), (0.35, 0.65), (0.3, 0.55))
        power = dice.uniform(0.25, 0.9)
        return Light(
            domain=domain,
            sun_color=_times((1.5, 0.82, 0.42), power),
            ambient=_times((0.25, 0.28, 0.46), dice.uniform(0.7, 1.2)),
            bounce=(0.13, 0.1, 0.09),
            zenith=_squared(violet),
            horizon=_squared(glow),
            cloud_light=_squared(dice.color((0.95, 1.1), (0.25, 0.6), (0.85, 1.0))),
            cloud_shade=_squared(dice.color((0.65, 0.85), (0.2, 0.4), (0.4, 0.6))),
            haze=dice.uniform(0.0008, 0.003),
            soft=0.15,
            lamps=dice.uniform(0.7, 1.4),
            cover=dice.uniform(0.25, 0.6),
            puff=dice.uniform(2.0, 6.0),
            exposure=dice.uniform(1.1, 1.5),
            sun=sun,
            cloud_shift=shift,
            cloud_scale=scale,
        )
    gray = dice.uniform(0.55, 0.8)
    tint = dice.uniform(-0.03, 0.03)
    return Light(
        domain=domain,
        sun_color=(0.28, 0.28, 0.28),
        ambient=_times((0.62 + tint, 0.65, 0.7 - tint), dice.uniform(0.8, 1.1)),
        bounce=(0.26, 0.25, 0.24),
        zenith=_squared(dice.color((0.55, 0.62), (0.2, 0.4), (0.6, 0.8))),
        horizon=(gray, gray, gray * 1.03),
        cloud_light=(gray * 1.1, gray * 1.1, gray * 1.12),
        cloud_shade=(gray * 0.45, gray * 0.48, gray * 0.54),
        haze=dice.uniform(0.001, 0.008),
        soft=0.5,
        lamps=0.35 if dice.chance(0.3) else 0.0,
        cover=dice.uniform(0.72, 0.98),
        puff=dice.uniform(2.5, 5.0),
        exposure=dice.uniform(0.95, 1.2),
        sun=sun,
        cloud_shift=shift,
        cloud_scale=scale,
    )


def _squared(color: Color) -> Color:
    """sRGB to linear, with the square as gamma."""
    return (color[0] ** 2, color[1] ** 2, color[2] ** 2)


def column(color: Color) -> np.ndarray:
    return np.array(color, dtype=np.float32)[:, None]


def clear_sky(light: Light, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Radiance (3, n) of the cloudless sky in unit directions; below the horizon, that of the ground's haze."""
    up = np.clip(z, 0, 1)
    blend = 1 - (1 - up) * (1 - up) * (1 - up)
    sky = column(light.horizon) * (1 - blend) + column(light.zenith) * blend
    near_sun = np.clip(x * light.sun[0] + y * light.sun[1] + z * light.sun[2], 0, 1)
    glow = near_sun * near_sun
    glow *= glow
    disc = glow * glow
    disc *= disc
    disc *= disc
    glow = 0.12 * glow + 0.5 * disc
    return sky + column(light.sun_color) * (glow if light.domain != "overcast" else 0.0)


def sky(light: Light, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Radiance (3, n) of the sky with its clouds and the density (n,) of the cloud, 0..1, in unit directions."""
    clear = clear_sky(light, x, y, z)
    # clouds hang in a layer that bends down towards the horizon; one noise bends the other into billows
    far = light.cloud_scale / (np.maximum(z, 0) + 0.15)
    u, v = x * far + light.cloud_shift[0], y * far + light.cloud_shift[1]
    bend = silky(0.6 * u + 11.7, 0.6 * v + 5.2) - 0.5
    u, v = u + 0.5 * bend, v - 0.4 * bend
    shape = silky(u, v)
    body = 0.8 * shape + 0.2 * silky(3.1 * u + 3.3, 3.1 * v)
    edge = 0.74 - 0.62 * light.cover
    density = np.clip((body - edge) * light.puff, 0, 1)
    density = density * density * (3 - 2 * density)
    # the side towards the sun is bright, the thick middle is dark: compare with the layer a step that way
    toward = silky(u + 0.25 * light.sun[0], v + 0.25 * light.sun[1])
    lit = np.clip(0.72 + 1.5 * (shape - toward) - 0.6 * (body - edge), 0, 1)
    cloud = column(light.cloud_shade) * (1 - lit) + column(light.cloud_light) * lit
    return clear * (1 - density) + cloud * density, density
