"""Trees, cars, people and street lamps. Each is one thing: one instance id over all its solids."""

from __future__ import annotations

import math

from pipelines.data.toy.dice import Color, Dice
from pipelines.data.toy.solids import Builder, Frame, Label, Material, Point, limb, upright

TREES = ("round", "round", "wide", "poplar", "conifer", "birch", "blossom")


def add_tree(builder: Builder, dice: Dice, frame: Frame, kind: str, autumn: float) -> None:
    """A tree of a kind of TREES, or a shrub. autumn: the chance that its leaves have turned."""
    instance = builder.instances()
    salt = float(dice.integer(0, 10_000))
    leaf = dice.color((0.2, 0.32), (0.4, 0.75), (0.32, 0.62))
    if kind == "conifer":
        leaf = dice.color((0.3, 0.45), (0.3, 0.6), (0.24, 0.45))
    elif kind == "blossom":
        leaf = dice.color((0.88, 0.98), (0.12, 0.4), (0.85, 0.98))
    elif dice.chance(autumn):
        leaf = dice.color((0.02, 0.15), (0.6, 0.9), (0.55, 0.85))
    light = (min(1.0, leaf[0] * 1.3 + 0.06), min(1.0, leaf[1] * 1.25 + 0.05), leaf[2] * 1.05)
    bark = dice.color((0.05, 0.1), (0.15, 0.45), (0.25, 0.45))
    if kind == "birch":
        bark = dice.color((0.1, 0.15), (0.0, 0.08), (0.75, 0.9))

    def blob(x: float, y: float, z: float, r: float, tall: float = 0.85) -> None:
        tint = dice.near(leaf, 0.05)
        builder.ellipsoid(
            frame, (x, y, z), upright(r, r, r * tall),
            Material.LEAVES, Label.TREE, tint, accent=light, instance=instance, salt=salt,
        )  # fmt: skip

    def trunk(height: float, radius: float) -> None:
        builder.ellipsoid(
            frame, (0.0, 0.0, 0.15 * height), upright(radius, radius, 0.95 * height),
            Material.BARK, Label.TREE, bark, instance=instance, salt=salt,
        )  # fmt: skip

    if kind == "shrub":
        for _ in range(dice.integer(2, 4)):
            r = dice.uniform(0.35, 0.7)
            blob(dice.uniform(-0.5, 0.5), dice.uniform(-0.4, 0.4), r * 0.6, r)
    elif kind == "conifer":
        height, width = dice.uniform(7, 13), dice.uniform(1.6, 2.6)
        trunk(height * 0.6, 0.2)
        tiers = dice.integer(6, 8)
        for k in range(tiers):
            f = k / (tiers - 1)
            r = width * (1 - 0.86 * f)
            z = 1.4 + (height - 1.4) * f
            blob(0, 0, z, r, 0.62 * height / tiers / max(r, 0.3) + 0.25)
    elif kind == "poplar":
        height = dice.uniform(9, 15)
        trunk(height * 0.7, 0.22)
        for k in range(7):
            f = k / 6
            r = 1.35 * math.sin(math.pi * (0.18 + 0.7 * f)) + 0.15
            blob(dice.uniform(-0.2, 0.2), dice.uniform(-0.2, 0.2), 2.2 + (height - 3.2) * f, r, 1.3)
    else:
        spread = {"wide": 1.45, "birch": 0.8}.get(kind, 1.0) * dice.uniform(1.7, 2.5)
        rise = dice.uniform(2.2, 3.4) * (0.75 if kind == "wide" else 1.0)
        bottom = dice.uniform(2.3, 3.2)
        middle = bottom + 0.75 * rise
        trunk(middle + 0.5, 0.16 + 0.05 * spread)
        for k in range(3):  # boughs into the crown
            turn = dice.uniform(0, 2 * math.pi)
            tip = (0.6 * spread * math.cos(turn), 0.6 * spread * math.sin(turn), middle)
            center, axes = limb((0.0, 0.0, bottom * 0.75), tip, 0.09)
            builder.ellipsoid(frame, center, axes, Material.BARK, Label.TREE, bark, instance=instance, salt=salt + k)
        for k in range(dice.integer(10, 14)):
            turn, lift = 2.4 * k, dice.uniform(-0.8, 0.9)
            reach = spread * math.sqrt(max(0.0, 1 - lift * lift)) * dice.uniform(0.45, 0.75)
            blob(
                reach * math.cos(turn), reach * math.sin(turn), middle + 0.62 * rise * lift,
                dice.uniform(0.42, 0.62) * spread,
            )  # fmt: skip


# side profiles, in halves of the length and in the height to the waist; then the cabin: windshield base and top,
# rear top and base, in halves of the length; roof height in meters
_CARS: dict[str, tuple[float, float, float, tuple[float, float, float, float], float]] = {
    # length, width, waist height, cabin, roof height
    "sedan": (4.5, 1.78, 0.92, (0.38, 0.05, -0.42, -0.72), 1.42),
    "hatchback": (3.9, 1.72, 0.95, (0.44, 0.10, -0.72, -0.94), 1.48),
    "estate": (4.6, 1.8, 0.95, (0.40, 0.08, -0.82, -0.97), 1.46),
    "suv": (4.6, 1.9, 1.1, (0.42, 0.16, -0.80, -0.96), 1.75),
    "van": (5.0, 2.0, 1.25, (0.80, 0.52, -0.96, -0.985), 2.25),
    "mini": (3.4, 1.6, 0.9, (0.52, 0.18, -0.70, -0.93), 1.42),
}


def add_car(builder: Builder, dice: Dice, frame: Frame) -> None:
    """A car on its four wheels, its front towards local +y."""
    kind = dice.weighted(
        [("sedan", 3.0), ("hatchback", 3.0), ("estate", 1.5), ("suv", 2.0), ("van", 1.2), ("mini", 1.0)]
    )
    length, width, waist, (shield, front_top, rear_top, rear), roof = _CARS[kind]
    instance = builder.instances()
    taxi = kind == "sedan" and dice.chance(0.2)
    paint = dice.weighted(
        [
            (dice.color((0.0, 1.0), (0.7, 0.95), (0.4, 0.85)), 4.0),
            (dice.color((0.5, 0.7), (0.0, 0.12), (0.75, 0.95)), 2.0),
            (dice.color((0.5, 0.7), (0.0, 0.15), (0.1, 0.55)), 2.0),
        ]
    )
    if taxi:
        paint = dice.color((0.12, 0.14), (0.8, 0.95), (0.85, 0.95))
    glass, dark = (0.07, 0.09, 0.11), (0.06, 0.06, 0.07)
    half, w, tuck = length / 2, width / 2, width / 2 - dice.uniform(0.14, 0.2)
    wheel = dice.uniform(0.31, 0.35) + (0.05 if kind in ("suv", "van") else 0.0)
    floor, nose = 0.24, waist - dice.uniform(0.06, 0.2) * (kind != "van")
    tail = waist - 0.05 if kind in ("sedan",) else waist

    def panel(points: list[Point], material: Material, color: Color, accent: Color | None = None) -> None:
        builder.polygon(frame, points, material, Label.CAR, color, accent=accent or paint, instance=instance)

    # hull: the two sides, then around: front, hood, (cabin), trunk, back
    outline = [(-half, floor), (half, floor), (half, nose), (shield * half, waist), (rear * half, waist), (-half, tail)]
    for sign in (-1, 1):
        side: list[Point] = [(sign * w, y, z) for y, z in outline]
        # seen from outside the right side runs from front to back: bottom edge first
        panel(side if sign > 0 else side[1::-1] + side[:1:-1], Material.PAINT, paint)
    panel([(w, half, floor), (-w, half, floor), (-w, half, nose), (w, half, nose)], Material.PAINT, paint)
    panel([(-w, -half, floor), (w, -half, floor), (w, -half, tail), (-w, -half, tail)], Material.PAINT, paint)
    panel(
        [(w, half, nose), (-w, half, nose), (-w, shield * half, waist), (w, shield * half, waist)],
        Material.PAINT,
        paint,
    )
    panel(
        [(-w, -half, tail), (w, -half, tail), (w, rear * half, waist), (-w, rear * half, waist)], Material.PAINT, paint
    )
    # cabin: glass all round, painted pillars come with the side panes
    yf, yt, yr, yb = shield * half, front_top * half, rear_top * half, rear * half
    panel([(w, yf, waist), (-w, yf, waist), (-tuck, yt, roof), (tuck, yt, roof)], Material.GLASS, glass)
    panel([(-w, yb, waist), (w, yb, waist), (tuck, yr, roof), (-tuck, yr, roof)], Material.GLASS, glass)
    panel([(-tuck, yr, roof), (tuck, yr, roof), (tuck, yt, roof), (-tuck, yt, roof)], Material.PAINT, paint)
    cargo = kind == "van" and dice.chance(0.6)
    for sign in (-1, 1):

        def at(f: float, g: float, lift: float = 0.0, sign: int = sign) -> Point:
            """Across the cabin's side: f from rear to front, g from waist to roof."""
            lower, upper = yb + f * (yf - yb), yr + f * (yt - yr)
            return (sign * (w + g * (tuck - w) + lift), lower + g * (upper - lower), waist + g * (roof - waist))

        def pane(f0: float, f1: float, g0: float, g1: float, lift: float, at=at, sign: int = sign) -> list[Point]:  # type: ignore[no-untyped-def]
            points = [at(f0, g0, lift), at(f1, g0, lift), at(f1, g1, lift), at(f0, g1, lift)]
            return points if sign > 0 else [points[1], points[0], points[3], points[2]]

        panel(pane(0, 1, 0, 1, 0.0), Material.PAINT, paint)
        if not cargo:
            panel(pane(0.09, 0.49, 0.08, 0.88, 0.015), Material.GLASS, glass)
        panel(pane(0.54 if not cargo else 0.68, 0.93, 0.08, 0.88, 0.015), Material.GLASS, glass)
        for y in (0.62 * half, -0.6 * half):
            hub = dice.near((0.62, 0.63, 0.65), 0.1)
            builder.ellipsoid(
                frame, (sign * (w - 0.02), y, wheel + 0.02), upright(0.03, wheel + 0.07, wheel + 0.07),
                Material.PLAIN, Label.CAR, dark, instance=instance,
            )  # fmt: skip
            builder.ellipsoid(
                frame, (sign * (w - 0.06), y, wheel), upright(0.11, wheel, wheel),
                Material.WHEEL, Label.CAR, dark, accent=hub, instance=instance,
            )  # fmt: skip
        # lamps, bumpers and plates, a finger's breadth before the body
        x0, x1 = sign * w * 0.94, sign * w * 0.58
        lo, hi = min(x0, x1), max(x0, x1)
        front_z, back_z = (nose - 0.24, nose - 0.06), (tail - 0.28, tail - 0.08)
        y = half + 0.015
        panel(
            [(hi, y, front_z[0]), (lo, y, front_z[0]), (lo, y, front_z[1]), (hi, y, front_z[1])],
            Material.LIGHT,
            (0.92, 0.9, 0.8),
        )
        panel(
            [(lo, -y, back_z[0]), (hi, -y, back_z[0]), (hi, -y, back_z[1]), (lo, -y, back_z[1])],
            Material.LIGHT,
            (0.75, 0.06, 0.05),
        )
    for sign in (-1, 1):
        y, z = sign * (half + 0.012), floor
        bumper: list[Point] = [(w, y, z), (-w, y, z), (-w, y, z + 0.2), (w, y, z + 0.2)]
        plate: list[Point] = [(0.26, y + sign * 0.01, z + 0.2), (-0.26, y + sign * 0.01, z + 0.2),
                              (-0.26, y + sign * 0.01, z + 0.32), (0.26, y + sign * 0.01, z + 0.32)]  # fmt: skip
        for face, color in ((bumper, dark), (plate, (0.9, 0.9, 0.82))):
            panel(face if sign > 0 else [face[1], face[0], face[3], face[2]], Material.PLAIN, color)
    y, z = half + 0.014, nose - 0.26
    panel(
        [(0.48 * w, y, z), (-0.48 * w, y, z), (-0.48 * w, y, z + 0.16), (0.48 * w, y, z + 0.16)], Material.PLAIN, dark
    )
    if taxi:
        builder.ellipsoid(
            frame, (0.0, (yt + yr) / 2, roof + 0.06), upright(0.28, 0.28, 0.12),
            Material.LIGHT, Label.CAR, (0.95, 0.9, 0.6), instance=instance,
        )  # fmt: skip


def add_person(builder: Builder, dice: Dice, frame: Frame, rain: bool = False) -> None:
    """A walker towards local +y: limbs in stride, clothes, hair, perhaps a hat, a bag or an umbrella."""
    instance = builder.instances()
    salt = float(dice.integer(0, 10_000))
    skin = dice.pick(((0.93, 0.76, 0.65), (0.85, 0.64, 0.5), (0.62, 0.42, 0.3), (0.4, 0.26, 0.18)))
    hair = dice.pick(((0.12, 0.09, 0.08), (0.35, 0.2, 0.1), (0.75, 0.6, 0.3), (0.6, 0.6, 0.6), (0.5, 0.2, 0.08)))
    top = dice.color((0.0, 1.0), (0.2, 0.9), (0.35, 0.95))
    stripe = dice.color((0.0, 1.0), (0.0, 0.6), (0.5, 0.98)) if dice.chance(0.35) else top
    legs = dice.weighted(
        [
            (dice.color((0.58, 0.66), (0.3, 0.6), (0.2, 0.5)), 2.0),
            (dice.color((0.0, 1.0), (0.05, 0.5), (0.12, 0.7)), 2.0),
        ]
    )
    shoes = dice.color((0.0, 1.0), (0.0, 0.6), (0.08, 0.8))
    stride = dice.uniform(-0.34, 0.34)
    skirt, long_coat = dice.chance(0.25), dice.chance(0.2)
    stout = dice.uniform(0.9, 1.25)

    def bone(p: Point, q: Point, r: float, color: Color, accent: Color | None = None) -> None:
        center, axes = limb(p, q, r)
        builder.ellipsoid(
            frame, center, axes, Material.CLOTH, Label.PERSON, color, accent=accent, instance=instance, salt=salt
        )

    def ball(p: Point, x: float, y: float, z: float, color: Color, accent: Color | None = None) -> None:
        builder.ellipsoid(
            frame, p, upright(x, y, z),
            Material.CLOTH, Label.PERSON, color, accent=accent, instance=instance, salt=salt,
        )  # fmt: skip

    for sign in (-1, 1):
        swing = sign * stride
        knee = (sign * 0.1, 0.55 * swing + 0.04, 0.47)
        ankle = (sign * 0.1, swing, 0.08 + 0.04 * (swing < 0))
        bone((sign * 0.09, 0, 0.88), knee, 0.092 * stout, skin if skirt else legs)
        bone(knee, ankle, 0.07, skin if skirt else legs)
        ball((sign * 0.1, swing + 0.06, 0.055), 0.055, 0.13, 0.06, shoes)
        elbow = (sign * 0.25 * stout, -0.5 * swing, 1.12)
        bone((sign * 0.2 * stout, 0, 1.4), elbow, 0.06, top, stripe)
        hand = (sign * 0.24 * stout, -0.9 * swing + 0.08, 0.88)
        bone(elbow, hand, 0.05, top if dice.chance(0.7) else skin)
        ball(hand, 0.045, 0.045, 0.06, skin)
    ball((0, 0, 1.2), 0.2 * stout, 0.125 * stout, 0.34, top, stripe)
    ball((0, 0, 1.42), 0.215 * stout, 0.1, 0.1, top, stripe)
    ball((0, 0, 0.93), 0.17 * stout, 0.125 * stout, 0.17, legs)
    if skirt or long_coat:
        ball((0, 0, 0.78), 0.24 * stout, 0.21 * stout, 0.32, legs if skirt else top, None)
    bone((0, 0, 1.48), (0, 0.01, 1.58), 0.05, skin)
    ball((0, 0.01, 1.68), 0.098, 0.11, 0.13, skin)
    ball((0, -0.03, 1.71), 0.105, 0.11, 0.125, hair)
    if dice.chance(0.3):
        ball((0, -0.05, 1.58), 0.1, 0.08, 0.16, hair)
    if dice.chance(0.25):
        ball((0, 0.0, 1.78), 0.15, 0.17, 0.035, stripe)
        ball((0, 0.0, 1.82), 0.1, 0.11, 0.08, stripe)
    if dice.chance(0.35):
        ball((0, -0.19, 1.22), 0.15, 0.1, 0.24, dice.color((0.0, 1.0), (0.4, 0.9), (0.3, 0.8)))
    if rain or dice.chance(0.06):
        shade = dice.color((0.0, 1.0), (0.5, 0.9), (0.4, 0.95))
        bone((0.2, 0.15, 1.0), (0.15, 0.1, 2.05), 0.015, (0.2, 0.2, 0.2))
        ball((0.15, 0.1, 1.98), 0.52, 0.52, 0.27, shade, dice.near(shade, 0.25))


def add_lamp(builder: Builder, dice: Dice, frame: Frame, style: int, color: Color) -> Point:
    """A street lamp, its arm towards local +y; returns where it shines."""
    instance = builder.instances()
    height = 4.2 if style == 0 else 6.2

    def rod(p: Point, q: Point, r: float) -> None:
        center, axes = limb(p, q, r)
        builder.ellipsoid(frame, center, axes, Material.PLAIN, Label.LAMP, color, instance=instance)

    rod((0, 0, -1.5), (0, 0, height), 0.085)
    builder.ellipsoid(
        frame, (0.0, 0.0, 0.1), upright(0.16, 0.16, 0.5), Material.PLAIN, Label.LAMP, color, instance=instance
    )
    if style == 0:  # a lantern on a post
        bulb, radii = (0.0, 0.0, height + 0.15), upright(0.24, 0.24, 0.3)
        builder.ellipsoid(
            frame, (0.0, 0.0, height + 0.45), upright(0.3, 0.3, 0.09),
            Material.PLAIN, Label.LAMP, color, instance=instance,
        )  # fmt: skip
    else:  # an arm over the road
        rod((0, 0, height - 0.1), (0, 1.5, height + 0.25), 0.05)
        bulb, radii = (0.0, 1.6, height + 0.2), upright(0.26, 0.26, 0.1)
    builder.ellipsoid(frame, bulb, radii, Material.LIGHT, Label.LAMP, (0.98, 0.93, 0.75), instance=instance)
    sin, cos = math.sin(frame.heading), math.cos(frame.heading)
    return (frame.x + bulb[1] * sin, frame.y + bulb[1] * cos, bulb[2])
