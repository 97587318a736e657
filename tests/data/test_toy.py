"""The toy town: exact visibility against ray tests, exact labels, tables that match the pixels, determinism."""

from __future__ import annotations

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.toy import SCHEMA, draw_scene, write_town
from pipelines.data.toy import write as write_module
from pipelines.data.toy.buildings import add_building
from pipelines.data.toy.camera import Camera, distant_camera, street_camera
from pipelines.data.toy.dice import Dice
from pipelines.data.toy.light import draw_light
from pipelines.data.toy.render import render
from pipelines.data.toy.solids import GROUND_ZERO, Builder, Frame, Label, Material, Solids, limb
from pipelines.data.toy.styles import draw_style
from pipelines.data.toy.town import View, _world
from pipelines.data.toy.visibility import NEAR, visible
from pipelines.data.toy.world import build_world
from pipelines.errors import ArtifactError, ConfigError

GRAY = (0.5, 0.5, 0.5)
ABOVE = (0.0, 0.0, -1.0)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "town"
    write_town(out, seed=5, train=3, val=2, size=(72, 96))
    return out


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


# --- visibility -------------------------------------------------------------------------------------------------------


def cast(solids: Solids, origin: np.ndarray, ray: np.ndarray) -> np.ndarray:
    """Depth (S,) along one ray at which each surface is first hit from its front, inf for a miss: by triangles
    (Moller and Trumbore) and by the quadratic of the unit ball, one surface at a time."""
    depths = np.full(len(solids.material), np.inf)
    for p, corners in enumerate(solids.vertices):
        for k in range(1, len(corners) - 1):
            edge, other = corners[k] - corners[0], corners[k + 1] - corners[0]
            pvec = np.cross(ray, other)
            det = edge @ pvec
            if det < 1e-12:
                continue  # degenerate, or its back
            s = origin - corners[0]
            u, q = (s @ pvec) / det, np.cross(s, edge)
            v, t = (ray @ q) / det, (other @ q) / det
            if u >= 0 and v >= 0 and u + v <= 1 and t > NEAR:
                depths[p] = min(depths[p], t)
    for e in range(len(solids.centers)):
        inverse = np.linalg.inv(solids.axes[e])
        q, d = inverse @ (origin - solids.centers[e]), inverse @ ray
        roots = np.roots([d @ d, 2 * q @ d, q @ q - 1])
        if np.isreal(roots).all() and roots.real.min() > NEAR:
            depths[solids.polygons + e] = roots.real.min()
    return depths


def ray_of(camera: Camera, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    point = np.array([x, y, 1.0])
    return camera.origins @ point, camera.directions @ point


def random_solids(rng: np.random.Generator) -> Solids:
    """Triangles to hexagons in any position, and ellipsoids; some reach behind the camera at the origin."""
    builder = Builder()
    for _ in range(12):
        center = rng.uniform((-6, -3, -4), (6, 14, 4))
        a, b = np.linalg.qr(rng.normal(size=(3, 3)))[0][:2]
        angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 7)))
        ring = [tuple(center + 3 * (math.cos(t) * a + math.sin(t) * b)) for t in angles]
        builder.polygon(GROUND_ZERO, ring, Material.PLAIN, Label.BUILDING, GRAY)
    for _ in range(8):
        center = rng.uniform((-5, 3, -3), (5, 14, 3))
        axes = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.2, 1.5, (3, 1))
        builder.ellipsoid(
            GROUND_ZERO, tuple(center), tuple(map(tuple, axes)), Material.PLAIN, Label.CAR, GRAY, instance=1
        )
    return builder.finish()


@pytest.mark.parametrize("kind", ["street", "distant"])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([0.0, 0.5]))
def test_the_z_buffer_agrees_with_a_ray_test_of_every_surface(kind: str, seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    solids = random_solids(rng)
    if kind == "street":
        camera = street_camera((0.0, 0.0, 0.0), rng.uniform(-0.5, 0.5), 1.2, 0.5, (24, 30))
    else:
        camera = distant_camera((0.0, 5.0, 0.0), tuple(rng.normal(size=3)), 2.5, (24, 30))
    surface, depth = visible(solids, camera, offset)
    for i, j in rng.integers(0, (24, 30), (40, 2)):
        # a hair beside the ray, so that rays through an edge are left out
        hair = 2e-3
        shots = [
            cast(solids, *ray_of(camera, j + offset + a, i + offset + b)) for a in (-hair, hair) for b in (-hair, hair)
        ]
        nearest = {int(s.argmin()) if np.isfinite(s.min()) else -1 for s in shots}
        if len(nearest) > 1:
            continue
        exact = cast(solids, *ray_of(camera, j + offset, i + offset))
        assert surface[i, j] in nearest
        assert depth[i, j] == pytest.approx(exact.min(), rel=1e-4)


def test_in_the_town_nothing_shines_through() -> None:
    """Real scenes too: the surface seen is the nearest one; crowns are frayed, so their leaves may let a ray pass."""
    solids = build_world(1, 3).solids
    camera = street_camera((0.0, -10.0, 1.7), 0.2, 1.2, 0.6, (64, 64))
    surface, depth = visible(solids, camera)
    leaves = solids.material == Material.LEAVES
    rng = np.random.default_rng(0)
    for i, j in rng.integers(0, 64, (8, 2)):
        depths = cast(solids, *ray_of(camera, j + 0.5, i + 0.5))
        seen = surface[i, j]
        if seen >= 0:
            assert depths[seen] == pytest.approx(depth[i, j], rel=1e-3)
        assert depth[i, j] <= depths[~leaves].min() * (1 + 1e-3)


def test_shared_edges_leave_no_crack() -> None:
    builder = Builder()
    fan = [(3 * math.cos(t), 10.0, 3 * math.sin(t)) for t in np.linspace(0, 2 * math.pi, 14)]
    for a, b in itertools.pairwise(fan):
        builder.polygon(GROUND_ZERO, [(0.0, 10.0, 0.0), a, b], Material.PLAIN, Label.BUILDING, GRAY)
    camera = street_camera((0.1, 0.0, 0.05), 0.0, 1.0, 0.5, (101, 97))
    surface, _ = visible(builder.finish(), camera)
    hit = (surface >= 0).astype(np.uint8)
    holes, _ = cv2.connectedComponents(1 - hit, connectivity=4)
    assert holes == 2  # the outside, and no other


# --- cameras ----------------------------------------------------------------------------------------------------------


def test_a_street_camera_sees_ahead_in_the_middle_and_right_to_the_right() -> None:
    camera = street_camera((1.0, 2.0, 1.5), 0.0, math.pi / 2, 0.6, (100, 100))
    x, y, w = camera.projection @ [1.0, 12.0, 1.5, 1.0]
    assert (x / w, y / w, w) == pytest.approx((50, 60, 10))
    x, y, w = camera.projection @ [6.0, 12.0, -8.5, 1.0]  # 5 m right and 10 m down at 10 m; focal length 50
    assert (x / w, y / w) == pytest.approx((75, 110))


def test_a_view_from_above_has_north_at_the_top() -> None:
    camera = distant_camera((10.0, 20.0, 0.0), ABOVE, 4.0, (80, 60))
    assert camera.projection @ [12.0, 23.0, 7.0, 1.0] == pytest.approx([30 + 8, 40 - 12, 1])


@pytest.mark.parametrize(
    "camera",
    [
        street_camera((3.0, -2.0, 1.6), 2.1, 1.1, 0.62, (40, 70)),
        distant_camera((3.0, 1.0, 0.0), (0.4, 0.3, -0.8), 3.0, (40, 70)),
    ],
)
def test_rays_come_back_to_the_image_point_they_left(camera: Camera) -> None:
    for x, y, t in ((0.5, 0.5, 1.0), (33.0, 12.5, 20.0), (69.5, 39.5, 300.0)):
        origin, ray = ray_of(camera, x, y)
        px, py, w = camera.projection @ [*(origin + t * ray), 1.0]
        assert (px / w, py / w) == pytest.approx((x, y))


def test_a_limb_is_an_ellipsoid_with_orthogonal_axes_along_the_bone() -> None:
    for end in ((0.3, -0.2, 1.0), (0.0, 0.0, 2.0), (1.0, 0.0, 0.0)):
        center, axes = limb((0.0, 0.0, 0.0), end, 0.1)
        a = np.array(axes)
        assert center == pytest.approx(np.array(end) / 2)
        assert np.abs(a @ a.T - np.diag((a * a).sum(1))).max() < 1e-12
        assert np.cross(a[0], end) == pytest.approx(np.zeros(3), abs=1e-12)
        assert np.linalg.norm(a[1:], axis=1) == pytest.approx([0.1, 0.1])


# --- rendering --------------------------------------------------------------------------------------------------------


def test_a_facade_shows_each_window_where_it_was_planned() -> None:
    """A wall seen straight on: windows at known meters are at known pixels, each with an id of its own."""
    style = replace(draw_style(Dice(3), "block"), roof="flat", balconies=False, bay=3.0, floors=2)
    layout = {
        "ground": 3.0,
        "floor": 3.0,
        "window_width": 1.0,
        "window_height": 1.5,
        "sill": 1.0,
        "arch": 0.0,
        "shop": 0.0,
    }
    style = replace(style, layout={**style.layout, **layout})
    builder = Builder()
    add_building(builder, Dice(3), Frame(0.0, 20.0), 12.0, style)
    world = replace(build_world(0, 0), solids=builder.finish())
    camera = street_camera((0.0, 0.0, 0.0), 0.0, math.pi / 2, 1.0, (200, 200))
    _, labels, instances = render(world, camera, draw_light(Dice(1), "day"))
    focal, distance = 100.0, 20.0
    # width 12, margins 0.3: four bays of 2.85 m; upper floors from 3 m and 6 m
    for floor in (0, 1):
        ids = set()
        for bay in range(4):
            middle = -6 + 0.3 + 2.85 * (bay + 0.5)
            z = 3.0 + 3.0 * floor + 1.0
            left, right = (100 + focal * (middle + d) / distance for d in (-0.5, 0.5))
            top, bottom = (200 - focal * (z + d) / distance for d in (1.5, 0.0))
            inside = np.zeros((200, 200), dtype=bool)
            centers = np.arange(200) + 0.5
            inside[np.ix_((centers > top) & (centers < bottom), (centers > left) & (centers < right))] = True
            assert (labels[inside] == Label.WINDOW).all()
            (own,) = np.unique(instances[inside])
            assert ((instances == own) == inside).all()
            ids.add(int(own))
        assert len(ids) == 4
    assert (labels == Label.DOOR).any()


@pytest.mark.parametrize("domain", ["day", "dusk"])
def test_a_slab_in_the_air_throws_its_shadow_away_from_the_sun(domain: str) -> None:
    builder = Builder()
    ground = [(-500.0, -500.0, 0.0), (500.0, -500.0, 0.0), (500.0, 500.0, 0.0), (-500.0, 500.0, 0.0)]
    builder.polygon(GROUND_ZERO, ground, Material.PLAIN, Label.GRASS, GRAY)
    slab = [(-2.0, -2.0, 2.0), (2.0, -2.0, 2.0), (2.0, 2.0, 2.0), (-2.0, 2.0, 2.0)]
    builder.polygon(GROUND_ZERO, slab, Material.PLAIN, Label.ROOF, GRAY)
    world = replace(build_world(0, 0), solids=builder.finish(), lamps=np.zeros((0, 3)))
    # from the east, and as strong at dusk as by day
    light = replace(draw_light(Dice(4), domain), sun=(0.8, 0.0, 0.6), sun_color=(1.5, 1.5, 1.5), lamps=0.0)
    camera = distant_camera((0.0, 0.0, 0.0), ABOVE, 8.0, (160, 160))
    image, _, _ = render(world, camera, light)

    def brightness(x: float, y: float) -> float:
        return float(image[int(80 - 8 * y), int(80 + 8 * x)].mean())

    # 2 m up, the sun 2 * 0.8 / 0.6 = 2.67 m away to the side: the shadow lies from -4.67 to -0.67
    assert brightness(-3.3, 0.0) < 0.85 * brightness(6.0, 0.0)
    assert brightness(3.3, 0.0) == pytest.approx(brightness(6.0, 0.0), rel=0.1)
    assert brightness(-5.5, 0.0) == pytest.approx(brightness(6.0, 0.0), rel=0.1)


def test_the_town_can_be_seen_from_above() -> None:
    world = build_world(2, 1)
    camera = distant_camera((0.0, 0.0, 0.0), ABOVE, 2.0, (96, 96))
    image, labels, instances = render(world, camera, draw_light(Dice(1), "day"))
    assert {Label.ROAD, Label.PAVEMENT, Label.ROOF, Label.CAR} <= set(np.unique(labels).tolist())
    assert not np.isin(labels, [Label.SKY, Label.CLOUD]).any()
    assert ((instances > 0) == SCHEMA.things[labels]).all()
    assert image.std() > 10


# --- scenes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 64), (37, 61), (48, 160), (160, 40)])
def test_labels_and_instances_say_the_same(size: tuple[int, int]) -> None:
    for index in range(4):
        scene = draw_scene(7, index, size)
        assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
        assert scene.labels.shape == scene.instances.shape == size
        assert scene.labels.max() < len(SCHEMA.classes)
        assert ((scene.instances > 0) == SCHEMA.things[scene.labels]).all()
        ids = np.unique(scene.instances[scene.instances > 0])
        assert (ids == np.arange(1, len(ids) + 1)).all()
        pairs = np.unique(np.stack([scene.instances, scene.labels])[:, scene.instances > 0], axis=1)
        assert pairs.shape[1] == len(ids)  # one class each


def test_a_scene_is_a_function_of_its_numbers_alone() -> None:
    scenes = [draw_scene(11, index, (64, 80)) for index in range(4)]
    _world.cache_clear()
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        again = [draw_scene(11, index, (64, 80)) for index in reversed(range(4))][::-1]
    finally:
        cv2.setNumThreads(threads)
    for a, b in zip(scenes, again, strict=True):
        assert (a.image == b.image).all() and (a.labels == b.labels).all() and (a.instances == b.instances).all()
        assert (a.group, a.domain, a.camera) == (b.group, b.domain, b.camera)
    assert any((scenes[0].labels != s.labels).any() for s in scenes[1:])
    assert (draw_scene(12, 0, (64, 80)).image != scenes[0].image).any()


def test_scenes_of_one_place_show_it_from_different_positions() -> None:
    a, b, c = (draw_scene(0, index, (32, 32)) for index in (4, 5, 6))
    assert a.group == b.group != c.group
    assert a.camera.position != b.camera.position
    assert isinstance(a.camera, View)


def test_every_class_and_light_is_common_and_no_look_follows_from_its_label() -> None:
    present = np.zeros(len(SCHEMA.classes))
    colors: list[list[np.ndarray]] = [[] for _ in SCHEMA.classes]
    domains = set()
    count = 40
    for index in range(count):
        scene = draw_scene(0, index, (96, 96))
        domains.add(scene.domain)
        for k in np.unique(scene.labels):
            mask = scene.labels == k
            present[k] += 1
            if mask.sum() >= 10:
                colors[k].append(scene.image[mask].mean(0))
    assert domains == set(SCHEMA.domains)
    assert (present >= 0.3 * count).all(), dict(zip(SCHEMA.names, present, strict=True))
    for name, means in zip(SCHEMA.names, colors, strict=True):
        # spread of a class's mean color over scenes, of 255
        assert np.std(means, axis=0).mean() > 12, name


# --- the dataset on disk ----------------------------------------------------------------------------------------------


def test_the_dataset_has_the_folder_layout(town: Path) -> None:
    classes = json.loads((town / "classes.json").read_text())
    assert classes["inst_encoding"] == "index" and classes["ignore_id"] is None
    assert [c["name"] for c in classes["classes"]] == SCHEMA.names
    assert [c["id"] for c in classes["classes"]] == list(range(len(SCHEMA.classes)))
    for split, count in (("train", 3), ("val", 2)):
        ids = (town / f"{split}.txt").read_text().split()
        assert len(ids) == count
        for kind, shape, dtype in (
            ("img", (72, 96, 3), "uint8"),
            ("label", (72, 96), "uint8"),
            ("inst", (72, 96), "uint16"),
        ):
            assert sorted(p.stem for p in (town / split / kind).iterdir()) == ids
            pixels = read(town / split / kind / f"{ids[0]}.png")
            assert (pixels.shape, pixels.dtype) == (shape, dtype)
    assert not town.with_name("town.partial").exists()


def test_the_files_hold_the_scene_that_was_drawn(town: Path) -> None:
    scene = draw_scene(5, 1, (72, 96))
    assert (read(town / "train/img/00001.png")[..., ::-1] == scene.image).all()
    assert (read(town / "train/label/00001.png") == scene.labels).all()
    assert (read(town / "train/inst/00001.png") == scene.instances).all()


def test_annotations_agree_with_the_pixels(town: Path) -> None:
    for split in ("train", "val"):
        images = json.loads((town / f"annotations_{split}.json").read_text())["images"]
        assert [Path(image["file"]).stem for image in images] == (town / f"{split}.txt").read_text().split()
        for image in images:
            assert (image["width"], image["height"], image["license"]) == (96, 72, "CC0-1.0")
            labels = read(town / split / "label" / image["file"])
            instances = read(town / split / "inst" / image["file"])
            assert [o["index"] for o in image["objects"]] == list(range(1, instances.max() + 1))
            for thing in image["objects"]:
                mask = instances == thing["index"]
                assert thing["bbox"] == list(cv2.boundingRect(mask.astype(np.uint8)))
                assert thing["area"] == mask.sum()
                assert set(labels[mask].tolist()) == {thing["class_id"]}
                assert thing["name"] == SCHEMA.names[thing["class_id"]]


def test_places_are_not_split_and_cameras_are_kept(town: Path) -> None:
    rows = list(csv.DictReader((town / "domains.csv").open()))
    groups = {split: {r["sequence"] for r in rows if r["split"] == split} for split in ("train", "val")}
    assert len(rows) == 5 and not groups["train"] & groups["val"]
    assert {r["domain"] for r in rows} <= set(SCHEMA.domains)
    kept = json.loads((town / "toy.json").read_text())
    assert (kept["seed"], kept["size"], kept["counts"]) == (5, [72, 96], {"train": 3, "val": 2})
    for row, camera in zip(rows, kept["cameras"], strict=True):
        scene = draw_scene(5, camera["index"], (8, 8))
        assert (row["id"], row["sequence"], row["domain"]) == (camera["id"], scene.group, scene.domain)
        assert tuple(camera["position"]) == scene.camera.position
        assert (camera["heading"], camera["field_of_view"]) == (scene.camera.heading, scene.camera.field_of_view)


def test_processes_do_not_change_a_byte(town: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_town(tmp_path / "b", seed=5, train=3, val=2, size=(72, 96), jobs=2, progress=lambda *a: told.append(a))
    files = sorted(p.relative_to(town) for p in town.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    for name in files:
        assert (town / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert told[-1] == (5, 5) and told == sorted(told)


def test_an_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(ArtifactError) as error:
        write_town(tmp_path, train=1, val=0, size=(16, 16))
    assert error.value.exit_code == 3 and error.value.fix
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert not tmp_path.with_name(tmp_path.name + ".partial").exists()


def test_a_broken_run_leaves_no_output_and_does_not_hinder_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "deep" / "town"
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OSError("disk full")

        patch.setattr(write_module, "_write_tables", fail)
        with pytest.raises(OSError, match="disk full"):
            write_town(out, train=2, val=1, size=(16, 16))
    assert not out.exists()
    write_town(out, train=1, val=0, size=(16, 16))
    assert sorted(p.name for p in (out / "train" / "img").iterdir()) == ["00000.png"]
    assert list((out / "val" / "img").iterdir()) == []


@pytest.mark.parametrize("wrong", [{"train": 0, "val": 0}, {"train": -1}, {"size": (4, 64)}, {"jobs": 0}, {"seed": -1}])
def test_impossible_requests_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError):
        write_town(tmp_path / "x", **{"train": 1, "val": 1, **wrong})
    assert list(tmp_path.iterdir()) == []
