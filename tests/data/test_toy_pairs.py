"""Pairs of the toy town: what stands where is seen there from above and from the street; one light all around."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.data.open import open_dataset
from pipelines.data.toy import draw_place, pairs, write_pairs
from pipelines.data.toy.camera import distant_camera
from pipelines.data.toy.dice import Dice
from pipelines.data.toy.light import draw_light
from pipelines.data.toy.pairs import AERIAL_METERS, FIELD_OF_VIEW, HORIZON, ToyPlace
from pipelines.data.toy.panorama import ELEVATION, draw_panorama
from pipelines.data.toy.solids import GROUND_ZERO, Builder, Label, Material, Point, upright
from pipelines.data.toy.world import World, build_world
from pipelines.errors import ArtifactError, ConfigError
from tests.rgs_cli.conftest import fails, succeed

TOLD: dict[str, Any] = {"seed": 3, "train": 3, "val": 2, "size": 32}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "town"
    write_pairs(out, **TOLD)
    return out


def table(root: Path) -> list[dict[str, str]]:
    with (root / "pairs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path))
    assert pixels is not None
    return pixels[..., ::-1]


# --- geometry ---------------------------------------------------------------------------------------------------------


def draw_with_balls(
    monkeypatch: pytest.MonkeyPatch, place: int, size: int, balls: Callable[[ToyPlace], list[Point]]
) -> ToyPlace:
    """Draw a place that holds only black balls of 0.8 m at the given points, over a bright plain by bright day."""
    stood = draw_place(0, place, 16, ())
    builder = Builder()
    plain = [(-900.0, -900.0, 0.0), (900.0, -900.0, 0.0), (900.0, 900.0, 0.0), (-900.0, 900.0, 0.0)]
    builder.polygon(GROUND_ZERO, plain, Material.PLAIN, Label.GRASS, (0.9, 0.9, 0.9))
    for center in balls(stood):
        builder.ellipsoid(GROUND_ZERO, center, upright(0.8, 0.8, 0.8), Material.CLOTH, Label.LAMP, (0.01, 0.01, 0.01))
    solids = builder.finish()
    white = ("ambient", "zenith", "horizon", "cloud_light", "cloud_shade")
    bright: dict[str, Any] = dict.fromkeys(white, (1.0, 1.0, 1.0))
    dark: dict[str, Any] = dict.fromkeys(("sun_color", "bounce"), (0.0, 0.0, 0.0))
    day = replace(draw_light(Dice(1), "day"), haze=0.0, exposure=1.4, **bright, **dark)
    monkeypatch.setattr(pairs, "build_world", lambda *key: replace(build_world(*key), solids=solids))
    monkeypatch.setattr(pairs, "draw_light", lambda *_: day)
    drawn = draw_place(0, place, size)
    assert (drawn.position, drawn.up) == (stood.position, stood.up)
    return drawn


def dark_spot(image: np.ndarray) -> tuple[float, float]:
    """Row and column of the center of mass of the only dark spot, in pixels."""
    darkness = np.clip(180 - image.max(2).astype(float), 0, 150)
    rows, columns = np.nonzero(darkness)
    assert len(rows) > 4
    assert np.ptp(rows) < 0.3 * len(image) and np.ptp(columns) < 0.3 * len(image)
    weights = darkness[rows, columns] / darkness.sum()
    return float(weights @ (rows + 0.5)), float(weights @ (columns + 0.5))


@pytest.mark.parametrize(
    ("ahead", "right", "above", "column"),
    # meters from the camera, and where in the panorama's width that is
    [
        (9.0, 0.0, 0.0, 0.5),
        (0.0, 11.0, 2.0, 0.75),
        (-7.0, -7.0, 1.0, 0.125),
        (0.0, -12.0, -1.0, 0.25),
        (9.0, 9.0, 3.0, 0.625),
    ],
)
@pytest.mark.parametrize("place", [0, 3])
def test_a_ball_is_seen_where_it_hangs_from_above_and_from_the_street(
    monkeypatch: pytest.MonkeyPatch, place: int, ahead: float, right: float, above: float, column: float
) -> None:
    size = 128

    def hang(stood: ToyPlace) -> list[Point]:
        x, y, z = stood.position
        sin, cos = math.sin(stood.up), math.cos(stood.up)
        return [(x + ahead * sin + right * cos, y + ahead * cos - right * sin, z + above)]

    drawn = draw_with_balls(monkeypatch, place, size, hang)
    assert drawn.aerial.shape == drawn.streets["perspective"].shape == (size, size, 3)
    assert drawn.streets["panorama"].shape == (size // 2, 2 * size, 3)

    row, at = dark_spot(drawn.aerial)
    scale = size / AERIAL_METERS
    assert (row, at) == pytest.approx((size / 2 - ahead * scale, size / 2 + right * scale), abs=0.15)

    row, at = dark_spot(drawn.streets["panorama"])
    elevation = math.atan2(above, math.hypot(ahead, right))
    assert at == pytest.approx(column * 2 * size, abs=0.15)
    assert row == pytest.approx(size / 4 * (1 - elevation / ELEVATION), abs=0.15)

    if ahead > abs(right):
        row, at = dark_spot(drawn.streets["perspective"])
        focal = size / 2 / math.tan(FIELD_OF_VIEW / 2)
        assert at == pytest.approx(size / 2 + focal * right / ahead, abs=0.15)
        assert row == pytest.approx(HORIZON * size - focal * above / ahead, abs=0.15)


def test_a_ball_behind_is_seen_across_the_left_and_right_edges_of_the_panorama(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(stood: ToyPlace) -> list[Point]:
        x, y, z = stood.position
        return [(x - 8 * math.sin(stood.up), y - 8 * math.cos(stood.up), z)]

    drawn = draw_with_balls(monkeypatch, 1, 128, hang)
    dark = np.flatnonzero((drawn.streets["panorama"].max(2) < 70).any(0))
    assert {0, 255} <= set(dark.tolist())
    assert len(dark) == pytest.approx(2 * math.asin(0.1) / (2 * math.pi) * 256, abs=2.1)


@pytest.fixture(scope="module")
def street() -> tuple[World, tuple[float, float, float]]:
    stood = draw_place(0, 2, 16, ())
    return build_world(0, 2), stood.position


@pytest.mark.parametrize("domain", ["day", "dusk"])
def test_panoramas_have_no_seams(street: tuple[World, tuple[float, float, float]], domain: str) -> None:
    world, position = street
    light = draw_light(Dice(9), domain)
    width = 256
    here = draw_panorama(world, position, 0.4, light, (64, width)).astype(int)
    # an eighth further round, the middles of the faces are where their borders were
    there = draw_panorama(world, position, 0.4 + math.pi / 4, light, (64, width)).astype(int)
    off = np.abs(np.roll(here, -width // 8, axis=1) - there).mean((0, 2))
    borders = [j + d for j in range(0, width, width // 8) for d in (-1, 0)]
    assert off.mean() < 4.0
    assert off[borders].mean() < 1.5 * off.mean() + 0.5
    # and a quarter further round, they are the same faces
    same = draw_panorama(world, position, 0.4 + math.pi / 2, light, (64, width)).astype(int)
    assert np.abs(np.roll(here, -width // 4, axis=1) - same).mean() < 0.3


def test_the_same_lamps_shine_all_around() -> None:
    builder = Builder()
    plain = [(-900.0, -900.0, 0.0), (900.0, -900.0, 0.0), (900.0, 900.0, 0.0), (-900.0, 900.0, 0.0)]
    builder.polygon(GROUND_ZERO, plain, Material.PLAIN, Label.ROAD, (0.3, 0.3, 0.3))
    # more lamps than are counted: each face would choose its own
    lamps = np.random.default_rng(0).uniform((-14, -14, 3), (14, 14, 6), (14, 3))
    world = replace(build_world(0, 0), solids=builder.finish(), lamps=lamps)
    dark = (0.0, 0.0, 0.0)
    night = replace(draw_light(Dice(2), "dusk"), sun_color=dark, ambient=dark, bounce=dark, haze=0.0, lamps=1.2)
    image = draw_panorama(world, (0.0, 0.0, 2.0), 1.0, night, (64, 256)).astype(int)[36:]
    assert np.ptp(image[4]) > 40
    assert np.abs(np.roll(image, 1, axis=1) - image).max() < 10


def test_the_top_of_a_view_from_above_can_be_any_heading() -> None:
    up = math.radians(120)
    camera = distant_camera((5.0, -3.0, 0.0), (0.0, 0.0, -1.0), 2.0, (60, 80), up=up)
    point = np.array([5 + 10 * math.sin(up), -3 + 10 * math.cos(up), 7.0, 1.0])
    assert camera.projection @ point == pytest.approx([40, 30 - 20, 1])
    beside = np.array([5 + 10 * math.cos(up), -3 - 10 * math.sin(up), 7.0, 1.0])
    assert camera.projection @ beside == pytest.approx([40 + 20, 30, 1])


# --- places -----------------------------------------------------------------------------------------------------------


def test_cameras_stand_free_on_streets_of_every_direction_in_lights_of_their_own() -> None:
    places = [draw_place(1, number, 16, ()) for number in range(14)]
    for number, place in enumerate(places):
        world = build_world(1, number)
        away = np.hypot(*(world.footprints[:, :2] - place.position[:2]).T) - world.footprints[:, 2]
        assert away.min() > 1.0
        x, y, z = place.position
        assert abs(x - world.streets.center(y)) < world.streets.half + world.streets.walk and 1.5 < z < 3
    # all quarters of the compass, and lights of the street that do not follow from those above
    assert {int(place.up / (math.pi / 2)) for place in places} == {0, 1, 2, 3}
    lights = {(place.aerial_light, place.street_light) for place in places}
    assert len(lights) > 3 and any(above == below for above, below in lights)
    assert {above for above, _ in lights} == {"day", "overcast"}


def test_pictures_depend_on_seed_and_place_alone() -> None:
    both = draw_place(3, 1, 32)
    alone = draw_place(3, 1, 32, ["perspective"])
    assert list(alone.streets) == ["perspective"]
    assert (alone.aerial == both.aerial).all()
    assert (alone.streets["perspective"] == both.streets["perspective"]).all()
    assert (draw_place(4, 1, 32, ()).aerial != both.aerial).any()
    assert (draw_place(3, 2, 32, ()).aerial != both.aerial).any()


# --- the dataset ------------------------------------------------------------------------------------------------------


def test_the_table_lists_two_pairs_of_each_place(town: Path) -> None:
    rows = table(town)
    assert len({row["id"] for row in rows}) == len(rows) == 10
    places: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        places.setdefault(row["group"], []).append(row)
    assert len(places) == 5
    for number, two in enumerate(places.values()):
        assert [(row["source"], row["street_kind"]) for row in two] == [
            ("toy_pano", "panorama"),
            ("toy_persp", "perspective"),
        ]
        for shared in ("split", "aerial", "aerial_id", "x", "y", "up", "light", "aerial_light", "licence"):
            assert two[0][shared] == two[1][shared]
        assert two[0]["split"] == ("train" if number < 3 else "val")
        place = draw_place(3, number, 32)
        assert (read(town / two[0]["aerial"]) == place.aerial).all()
        for row in two:
            assert (read(town / row["street"]) == place.streets[row["street_kind"]]).all()
            assert tuple(float(row[k]) for k in "xyz") == place.position
            assert (float(row["up"]), float(row["heading"])) == (place.up, 0.0)
            assert (row["light"], row["aerial_light"]) == (place.street_light, place.aerial_light)
            assert (float(row["meters"]), row["licence"]) == (AERIAL_METERS, "CC0-1.0")
    assert len({row["aerial_id"] for row in rows}) == 5
    files = {str(path.relative_to(town)) for path in town.rglob("*.png")}
    assert files == {row[view] for row in rows for view in ("aerial", "street")}
    notes = json.loads((town / "toy.json").read_text())
    assert notes["seed"] == 3 and notes["counts"] == {"train": 3, "val": 2} and "meters" in notes["units"]


def test_the_reader_of_pairs_reads_it(town: Path) -> None:
    dataset = open_dataset(town)
    rows = {row["id"]: row for row in table(town)}
    assert list(dataset.schema.domains) == ["toy_pano", "toy_persp"]
    assert len(dataset.records("train")) == 6 and len(dataset.records("val")) == 4
    for record in dataset.records(None):
        row = rows[record.id]
        assert (record.domain, record.extra["aerial_id"]) == (row["source"], row["aerial_id"])
        scene = dataset.read(record)
        assert (scene.views["aerial"] == read(town / row["aerial"])).all()
        assert (scene.views["ground"] == read(town / row["street"])).all()
    groups = {record.id: record.group for record in dataset.records(None)}
    for first in rows.values():
        for second in rows.values():
            assert (groups[first["id"]] == groups[second["id"]]) == (first["group"] == second["group"])


def test_processes_do_not_change_a_byte(town: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_pairs(tmp_path / "b", **TOLD, jobs=2, progress=lambda *a: told.append(a))
    files = sorted(p.relative_to(town) for p in town.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    for name in files:
        assert (town / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert told == [(k, 5) for k in range(1, 6)]


def test_one_street_view_can_be_had_alone(town: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "p", seed=3, train=1, val=0, size=32, kinds=["panorama"])
    (row,) = table(tmp_path / "p")
    assert row == table(town)[0]
    for view in ("aerial", "street"):
        assert (tmp_path / "p" / row[view]).read_bytes() == (town / row[view]).read_bytes()
    assert len(list((tmp_path / "p").rglob("*.png"))) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": 0, "val": 0},
        {"train": -1},
        {"size": 14},
        {"size": 33},
        {"size": 5000},
        {"jobs": 0},
        {"seed": -1},
        {"kinds": []},
        {"kinds": ["fisheye"]},
    ],
)
def test_impossible_requests_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError):
        write_pairs(tmp_path / "x", **{"train": 1, "val": 1, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ArtifactError):
        write_pairs(tmp_path, train=1, val=0, size=16)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_same_town(town: Path, tmp_path: Path) -> None:
    told = ("--kind", "pairs", "--train", 1, "--val", 0, "--size", 32, "--seed", 3)
    planned = succeed("data", "toy", tmp_path / "t", *told, "--dry-run").out
    assert "kind: pairs" in planned and "bytes:" in planned and not (tmp_path / "t").exists()
    said = json.loads(succeed("data", "toy", tmp_path / "t", *told, "--json").out)
    assert said["kind"] == "pairs" and said["views"] == ["panorama", "perspective"] and said["seed"] == 3
    assert table(tmp_path / "t") == table(town)[:2]
    shown = succeed("data", "toy", tmp_path / "u", *told, "--views", "perspective").out
    assert shown.strip() == str(tmp_path / "u")
    assert table(tmp_path / "u") == table(town)[1:2]


def test_options_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    assert "--kind pairs" in fails(2, "data", "toy", tmp_path / "t", "--views", "panorama")
    assert "square" in fails(2, "data", "toy", tmp_path / "t", "--kind", "pairs", "--size", "32x64")
    fails(2, "data", "toy", tmp_path / "t", "--kind", "films")
    assert not (tmp_path / "t").exists()
