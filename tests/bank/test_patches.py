"""Banks of patches: every object's box, its pixels at one size, and the scene graphs that the bank alone gives."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.artifact import Artifact, verify_files
from pipelines.bank import patches
from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_graph, bank_objects, graph_rows, graph_sources, load_patches, pixel_box
from pipelines.bank.shard import read_shard
from pipelines.data.graph import GraphSettings
from pipelines.data.open import open_dataset
from pipelines.data.relations import GEOMETRIC, relation
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.stages import build_bank
from pipelines.stages.build_bank import BuildBank
from tests.bank.photos import write_dataset
from tests.data.trees import CLASSES, photo, real, write_json, write_picture
from tests.data.trees import REAL as PACKS

H, W = 40, 50
Item = tuple[int, list[float]]
"""The label id of an object, and its box x, y, w, h in pixels."""
SKY, ROAD, CAR, PERSON = 4, 1, 2, 3  # label ids; class indices are 0, 1, 2, 3

SCENES: dict[str, list[Item]] = {
    "a": [(SKY, [0, 0, 50, 20]), (ROAD, [0, 20, 50, 20]), (CAR, [5, 22, 10, 8]), (CAR, [30, 24, 16, 16])],
    "b": [(SKY, [0, 0, 50, 16]), (PERSON, [10, 5, 2, 2]), (CAR, [4, 20, 20, 10])],  # a person of 0.2 % of the image
    "c": [(CAR, [5.0 * k, 10, 8, 12]) for k in range(6)],
    "d": [(ROAD, [0, 10, 50, 30]), (PERSON, [20.4, 12.6, 6.3, 20.1]), (SKY, [-4, -6, 40, 26])],
}
SMALL = GraphSettings(min_area=0.002, max_objects=4)
SAMPLE = GraphSettings(min_area=0.002, max_objects=4, overflow="sample")
RAW = BuildBank(kind="patches", graph=SAMPLE, patch=None, shard_sources=2)


def write(root: Path, scenes: dict[str, list[Item]], **more: Any) -> Path:
    """A dataset of photos with boxes and no label maps. more: other keys of the entry of every scene."""
    write_json(root / "classes.json", {"classes": CLASSES, "ignored": [9], **more.pop("classes", {})})
    entries = []
    for number, (name, items) in enumerate(scenes.items()):
        write_picture(root / f"train/img/{name}.png", photo(number, H, W))
        listed = [{"index": k, "class_id": c, "bbox": box} for k, (c, box) in enumerate(items, start=1)]
        entries.append({"file": f"{name}.png", "license": "CC0", "objects": listed, **more})
    write_json(root / "annotations_train.json", {"images": entries})
    return root


def build(config: BuildBank, data: Path, out: Path, **more: Any) -> Bank:
    return Bank.open(build_bank.run(config, data=data, out=out, **more).path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("objects") / "data", SCENES)


@pytest.fixture(scope="module")
def raw(data: Path) -> Bank:
    """All objects above 0.2 % of the image with their own pixels."""
    return build(RAW, data, data.parent / "raw")


# ---- pieces ---------------------------------------------------------------------------------------------------------


def test_a_piece_is_the_box_of_an_object(raw: Bank) -> None:
    assert raw.kind == "patches" and [s.id for s in raw.source_table] == [f"train/{name}" for name in "abcd"]
    assert raw.ordinals.tolist() == [0, 1, 2, 3, 0, 2, 0, 1, 2, 3, 4, 5, 0, 1, 2]  # the tiny person keeps its place
    assert raw.categories.tolist() == [0, 1, 2, 2, 0, 2, *[2] * 6, 1, 3, 0]
    assert raw.things.tolist() == [c >= 2 for c in raw.categories.tolist()]
    assert raw.canonical().shape == (15, 0)
    for row in range(len(raw)):
        x, y, w, h = raw.boxes[row].tolist()
        picture = photo("abcd".index(raw.source_of(row).id[-1]), H, W)
        np.testing.assert_array_equal(raw.crop(row), picture[y : y + h, x : x + w])
        assert raw.areas[row] == w * h and not raw.masked(row) and raw.mask(row).shape == (h, w)
    assert raw.boxes[2].tolist() == [5, 22, 10, 8]
    assert raw.boxes[13].tolist() == [20, 13, 7, 20]  # 20.4 to 26.7, 12.6 to 32.7
    assert raw.boxes[14].tolist() == [0, 0, 36, 20]  # reached out of the image


def test_pixels_are_kept_at_one_size(data: Path, tmp_path: Path) -> None:
    bank = build(BuildBank(kind="patches", graph=SAMPLE, patch=8), data, tmp_path / "x")
    for row in range(len(bank)):
        assert bank.crop(row).shape == (8, 8, 3) and bank.mask(row).shape == (8, 8) and bank.mask(row).all()
    picture = photo(0, H, W)
    means = picture[24:40, 30:46].reshape(8, 2, 8, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(bank.crop(3) - means).max() <= 1  # a box of 16x16
    jpeg = build(BuildBank(kind="patches", graph=SAMPLE, patch=8, codec="jpeg"), data, tmp_path / "y")
    assert np.abs(jpeg.crop(3) - means).max() < 40


def test_statistics(raw: Bank, data: Path) -> None:
    statistics = raw.artifact.statistics
    assert statistics["kind"] == "patches" and statistics["items"] == 15 and statistics["sources"] == 4
    assert statistics["per_class"] == {"sky": 3, "road": 2, "car": 9, "person": 1}
    assert statistics["graphs"] == 3 == len(graph_sources(raw)) and statistics["licences"] == {"CC0": 4}
    assert raw.config["graph"] == SAMPLE.model_dump() and raw.config["patch"] is None and "decompose" not in raw.config
    verify_files(raw.artifact)


def test_a_long_patch_does_not_alias() -> None:
    """Stripes of one pixel across a wide and low box become gray, not stripes of another width."""
    stripes = np.zeros((3, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(patches.resize_patch(stripes, (16, 16)).astype(int) - 100).max() <= 1
    np.testing.assert_array_equal(patches.resize_patch(stripes[:, :3], (3, 3)), stripes[:, :3])
    same = cv2.resize(stripes, (32, 3), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(patches.resize_patch(stripes, (3, 32)), same)


@given(
    corners=st.tuples(*[st.floats(0, 1) for _ in range(4)]),
    height=st.integers(1, 300),
    width=st.integers(1, 300),
)
def test_a_pixel_box_is_in_the_picture(corners: tuple[float, ...], height: int, width: int) -> None:
    x0, x1, y0, y1 = *sorted(corners[:2]), *sorted(corners[2:])
    x, y, w, h = pixel_box((x0, y0, x1, y1), height, width)
    assert 0 <= x < x + w <= width and 0 <= y < y + h <= height
    for low, high, first, size, side in ((x0, x1, x, w, width), (y0, y1, y, h, height)):
        assert abs(first - low * side) <= 1 and (abs(first + size - high * side) <= 0.5 or size == 1)


# ---- graphs ---------------------------------------------------------------------------------------------------------


def test_a_graph_is_of_pieces(raw: Bank) -> None:
    assert graph_sources(raw) == ["train/a", "train/c", "train/d"]  # «b» has two objects
    for name in graph_sources(raw):
        graph = bank_graph(raw, name, np.random.default_rng(1))
        assert graph is not None and graph.boxes is not None and graph.ordinals is not None
        rows = graph_rows(raw, name, graph)
        assert len(graph) == min(4, len(raw.rows_of_source(name))) == len(graph.relations)
        np.testing.assert_array_equal(raw.categories[rows], graph.categories)
        np.testing.assert_array_equal(raw.ordinals[rows], graph.ordinals)
        x, y, w, h = raw.boxes[rows].T
        np.testing.assert_allclose(graph.boxes.T, [x / W, y / H, (x + w) / W, (y + h) / H], rtol=1e-6)
        centres = graph.boxes.reshape(-1, 2, 2).mean(axis=1)  # there are no masks
        for s, p, o in graph.relations:
            assert p == relation(graph.boxes[s], centres[s], graph.boxes[o], centres[o])
    assert raw.schema.relations == GEOMETRIC
    assert bank_graph(raw, "train/b", np.random.default_rng(1)) is None
    assert bank_graph(raw, "train/nowhere", np.random.default_rng(1)) is None


def test_too_many_objects_are_drawn_anew(raw: Bank) -> None:
    drawn = [bank_graph(raw, "train/c", np.random.default_rng(seed)) for seed in range(30)]
    chosen = [tuple(graph.ordinals.tolist()) for graph in drawn if graph is not None and graph.ordinals is not None]
    assert len(chosen) == 30 and all(len(set(each)) == 4 for each in chosen) and len(set(chosen)) > 5
    again = bank_graph(raw, "train/c", np.random.default_rng(3))
    assert again is not None and again.ordinals is not None and tuple(again.ordinals.tolist()) == chosen[3]


@pytest.mark.parametrize(
    ("settings", "pieces", "graphs"),
    [
        (SMALL, [4, 0, 0, 3], "ad"),  # sg2im: kept objects of kept images
        (SAMPLE, [4, 2, 6, 3], "acd"),
        (SMALL.model_copy(update={"overflow": "largest"}), [4, 2, 6, 3], "acd"),
        (SMALL.model_copy(update={"min_area": 0.02}), [4, 0, 0, 3], "ad"),
        (SMALL.model_copy(update={"min_objects": 4}), [4, 0, 0, 0], "a"),
        (SMALL.model_copy(update={"min_objects": 2, "max_objects": 6}), [4, 2, 6, 3], "abcd"),
        (SMALL.model_copy(update={"min_area": 0.25, "min_objects": 1}), [2, 1, 0, 2], "abd"),
    ],
)
def test_the_settings_say_which_objects_are_pieces(
    data: Path, tmp_path: Path, settings: GraphSettings, pieces: list[int], graphs: str
) -> None:
    bank = build(BuildBank(kind="patches", graph=settings, patch=8), data, tmp_path / "x")
    assert np.bincount(bank.sources, minlength=4).tolist() == pieces
    assert [name[-1] for name in graph_sources(bank)] == list(graphs)
    made = [s.id for s in bank.source_table if bank_graph(bank, s.id, np.random.default_rng(0)) is not None]
    assert made == graph_sources(bank) and len(made) == bank.artifact.statistics["graphs"]


def test_centres_are_those_of_masks(tmp_path: Path) -> None:
    """A car's mask is its left upper quarter: the centre, and so the relation, is not that of the box."""
    root = write(tmp_path / "data", {"a": [(SKY, [0, 0, 50, 20]), (ROAD, [0, 20, 50, 20]), (CAR, [10, 8, 32, 32])]})
    labels = np.full((H, W), SKY, np.uint8)
    labels[20:] = ROAD
    labels[8:24, 10:26] = CAR
    write_picture(root / "train/label/a.png", np.dstack([labels] * 3))
    assert cv2.imwrite(str(root / "train/label/a.png"), labels)
    bank = build(BuildBank(kind="patches", graph=SMALL, patch=8), root, tmp_path / "x")
    objects, annotated = bank_objects(bank, "train/a")
    assert [item.category for item in objects] == [0, 1, 2] and annotated == []
    x, y = objects[2].centre
    assert math.isclose(x, (10 + 32 * 3.5 / 15) / W, abs_tol=1e-6)  # cells 0 to 7 of 16, from edge to edge
    assert math.isclose(y, (8 + 32 * 3.5 / 15) / H, abs_tol=1e-6)
    assert bank.source_table[0].labeled == H * W


TOLD = {"classes": {"predicates": ["rides", "sees", "has"]}}
GRAPH = {"objects": [1, 2, 3, 4], "triples": [[2, "has", 0], [3, "sees", 2], [3, "rides", 3]]}
ANNOTATED = BuildBank(
    kind="patches", graph=GraphSettings(min_area=0.002, max_objects=9, overflow="sample", relations="annotated")
)


def test_annotated_relations_are_kept(tmp_path: Path) -> None:
    root = write(tmp_path / "data", {"a": SCENES["a"]}, graph=GRAPH, **TOLD)
    write_json(root / "annotations_train.json", {"images": [entry(root, "a", GRAPH), entry(root, "b", GRAPH_OF_B)]})
    write_picture(root / "train/img/b.png", photo(1, H, W))
    bank = build(ANNOTATED, root, tmp_path / "x")
    assert bank.schema.relations == ("rides", "sees", "has")
    assert [dict(s.graph).get("relations") for s in bank.source_table] == [[[2, 2, 0], [3, 1, 2]], None]
    assert graph_sources(bank) == ["train/a"] and bank.artifact.statistics["graphs"] == 1
    graph = bank_graph(bank, "train/a", np.random.default_rng(0))
    assert graph is not None and graph.relations == ((2, 2, 0), (3, 1, 2))
    assert bank_graph(bank, "train/b", np.random.default_rng(0)) is None  # its one relation is of the tiny person
    plain = build(ANNOTATED.model_copy(update={"graph": SAMPLE}), root, tmp_path / "y")
    assert plain.schema.relations == GEOMETRIC and all("relations" not in s.graph for s in plain.source_table)


GRAPH_OF_B = {"objects": [1, 2, 3], "triples": [[1, "sees", 2]]}


def entry(root: Path, name: str, graph: dict[str, Any]) -> dict[str, Any]:
    listed = [{"index": k, "class_id": c, "bbox": box} for k, (c, box) in enumerate(SCENES[name], start=1)]
    return {"file": f"{name}.png", "objects": listed, "graph": graph}


# ---- arrays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_patches_in_one_array(raw: Bank, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(patches, "READ_AT_ONCE", 4)
    found = load_patches(raw, (16, 12), threads=threads)
    assert found.shape == (15, 16, 12, 3) and found.dtype == np.uint8
    for row in range(15):
        np.testing.assert_array_equal(found[row], patches.resize_patch(raw.crop(row), (16, 12)))
    order = np.array([7, 0, 7, 14])
    np.testing.assert_array_equal(load_patches(raw, (16, 12), order, threads), found[order])
    assert load_patches(raw, (16, 12), []).shape == (0, 16, 12, 3)


def test_a_damaged_patch_is_named(data: Path, tmp_path: Path) -> None:
    bank = build(BuildBank(kind="patches", graph=SAMPLE, patch=8), data, tmp_path / "x")
    shard = bank.path / "shards/00000.h5"
    shown = bank._part(5, "pixels").tobytes()
    content = bytearray(shard.read_bytes())
    content[content.index(shown) + len(shown) // 2] ^= 255
    shard.chmod(0o644)
    shard.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"checksum of the pixels of piece .* \(train/b\) is wrong"):
        load_patches(Bank.open(bank.path), (8, 8), threads=2)


# ---- growing and shrinking ------------------------------------------------------------------------------------------


def test_a_bank_grows_under_its_own_settings(data: Path, raw: Bank, tmp_path: Path) -> None:
    few = write(tmp_path / "few", {name: SCENES[name] for name in "ab"})
    small = build_bank.run(RAW, data=few, out=tmp_path / "x")
    grown = build(BuildBank(), data, tmp_path / "y", add_to=small.path)
    assert grown.config["graph"] == raw.config["graph"] and grown.config["patch"] is None
    np.testing.assert_array_equal(grown.ids, raw.ids)
    for row in range(len(raw)):
        np.testing.assert_array_equal(grown.crop(row), raw.crop(row))
    assert grown.source_table == raw.source_table and graph_sources(grown) == graph_sources(raw)
    with pytest.raises(ConfigError, match="patch is 64 but the other bank was built with none"):
        build_bank.run(BuildBank(patch=64), data=data, add_to=small.path, out=tmp_path / "z")
    with pytest.raises(ConfigError, match=r"graph is .* but the other bank was built with"):
        build_bank.run(BuildBank(graph=SMALL), data=data, add_to=small.path, out=tmp_path / "z")
    with pytest.raises(ConfigError, match="kind is segments but the other bank was built with patches"):
        build_bank.run(BuildBank(kind="segments"), data=data, add_to=small.path, out=tmp_path / "z")


def test_annotated_relations_must_be_the_same(tmp_path: Path) -> None:
    root = write(tmp_path / "data", {"a": SCENES["a"]}, graph=GRAPH, **TOLD)
    bank = build_bank.run(ANNOTATED, data=root, out=tmp_path / "x")
    other = write(tmp_path / "other", {"q": SCENES["a"]}, classes={"predicates": ["sees", "rides", "has"]})
    with pytest.raises(DataError, match="have different relations"):
        build_bank.run(BuildBank(), data=other, add_to=bank.path, out=tmp_path / "y")
    none = write(tmp_path / "none", {"q": SCENES["a"]})
    with pytest.raises(DataError, match="names no relations"):
        build_bank.run(ANNOTATED, data=none, out=tmp_path / "z")


def test_a_removed_source_leaves_no_patch_and_no_graph(raw: Bank, tmp_path: Path) -> None:
    thinned = Bank.open(build_bank.run(BuildBank(), base=raw.path, remove=["train/a"], out=tmp_path / "x").path)
    assert [s.id for s in thinned.source_table] == ["train/b", "train/c", "train/d"]
    assert graph_sources(thinned) == ["train/c", "train/d"] and len(thinned) == 11
    assert bank_graph(thinned, "train/a", np.random.default_rng(0)) is None
    one, other = (bank_graph(bank, "train/d", np.random.default_rng(2)) for bank in (raw, thinned))
    assert one is not None and other is not None and one.relations == other.relations
    stored = raw._part(2, "pixels").tobytes()
    assert not any(stored in shard.read_bytes() for shard in (thinned.path / "shards").iterdir())
    with pytest.raises(ConfigError, match="patch is 32 but"):
        build_bank.run(BuildBank(patch=32), base=raw.path, remove=["train/a"], out=tmp_path / "y")


def test_jobs_do_not_matter(data: Path, raw: Bank, tmp_path: Path) -> None:
    again = build_bank.run(RAW, data=data, out=tmp_path / "x", jobs=2)
    assert again.digest == raw.digest and again.statistics == raw.artifact.statistics


# ---- what does not go together --------------------------------------------------------------------------------------


def test_settings_of_other_kinds_are_refused(data: Path, tmp_path: Path) -> None:
    for config, text in (
        (BuildBank(graph=SMALL), "graph is of banks of patches"),
        (BuildBank(kind="images", patch=None), "patch is of banks of patches"),
        (BuildBank(kind="patches", view="aerial"), "a bank of patches holds no view"),
        (BuildBank.model_validate({"kind": "patches", "decompose": {"min_area": 3}}), "patches are not decomposed"),
    ):
        with pytest.raises(ConfigError, match=text):
            build_bank.run(config, data=data, out=tmp_path / "x")
    with pytest.raises(ArtifactError, match="bank of images, a scene graph needs one of patches"):
        graph_sources(build(BuildBank(kind="images"), data, tmp_path / "y"))


def test_banks_of_other_kinds_are_what_they_were(tmp_path: Path) -> None:
    """Their configs and their sources, and so their digests, are those of banks built before there were patches."""
    common = {"kind", "format", "split", "decompose", "codec", "shard_sources", "removed"}
    assert set(BuildBank().model_dump()) == set(BuildBank(kind="images").model_dump()) == common
    assert set(BuildBank(kind="patches").model_dump()) == (common - {"decompose"}) | {"graph", "patch"}
    photos = write_dataset(tmp_path / "photos", range(2))
    for kind in ("segments", "images"):
        made = build_bank.run(BuildBank.model_validate({"kind": kind}), data=photos, out=tmp_path / kind)
        shard = (made.path / "shards/00000.h5").read_bytes()
        assert b'"graph"' not in shard and set(made.config) == common
        assert all("graph" not in source.to_json() for source in Bank.open(made.path).source_table)


# ---- bad data -------------------------------------------------------------------------------------------------------


def test_boxes_that_hold_nothing_are_no_objects(tmp_path: Path) -> None:
    whole = [(SKY, [0, 0, 50, 20]), (ROAD, [0, 20, 50, 20]), (PERSON, [10, 10, 10, 10])]
    empty = [(CAR, [10, 10, 0, 20]), (CAR, [10, 10, 20, 0]), (CAR, [60, 10, 20, 20]), (CAR, [10, -30, 20, 20])]
    data = write(tmp_path / "data", {"a": [*empty, *whole], "b": empty})
    settings = GraphSettings(min_area=0, overflow="sample")
    bank = build(BuildBank(kind="patches", graph=settings, patch=8), data, tmp_path / "x")
    assert bank.ordinals.tolist() == [4, 5, 6] and bank.artifact.statistics["bad"] == []
    assert len(bank.source_table) == 2 and graph_sources(bank) == ["train/a"]


def test_thin_boxes_keep_a_pixel(tmp_path: Path) -> None:
    thin = [(SKY, [49.7, 0, 0.3, 40]), (ROAD, [0, 39.8, 50, 0.2]), (PERSON, [10.2, 10.2, 0.2, 0.2])]
    data = write(tmp_path / "data", {"a": thin})
    bank = build(BuildBank(kind="patches", graph=GraphSettings(min_area=0), patch=None), data, tmp_path / "x")
    assert bank.boxes.tolist() == [[49, 0, 1, 40], [0, 39, 50, 1], [10, 10, 1, 1]]
    np.testing.assert_array_equal(bank.crop(2)[0, 0], photo(0, H, W)[10, 10])
    assert load_patches(bank, (8, 8)).shape == (3, 8, 8, 3)


def test_scenes_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    data = write(tmp_path / "data", {**SCENES, "e": SCENES["a"], "f": [(77, [0, 0, 9, 9])], "g": SCENES["a"]})
    (data / "train/img/a.png").write_bytes(b"no picture")
    listed = json.loads((data / "annotations_train.json").read_text())
    listed["images"][1]["objects"][0]["bbox"] = [0, float("nan"), 10, 10]
    listed["images"][4]["objects"][1]["index"] = 1
    listed["images"][6]["width"], listed["images"][6]["height"] = 100, 100
    write_json(data / "annotations_train.json", listed)
    config = BuildBank(kind="patches", graph=SAMPLE, patch=8)
    with pytest.raises(DataError, match="more than 2 scenes cannot be used"):
        build_bank.run(config, data=data, out=tmp_path / "x", max_bad=2)
    bank = build(config, data, tmp_path / "y")
    reasons = {bad["id"]: bad["reason"] for bad in bank.artifact.statistics["bad"]}
    assert set(reasons) == {f"train/{name}" for name in "abefg"}
    assert "neither PNG nor JPEG" in reasons["train/a"] and "is no box" in reasons["train/b"]
    assert "two objects have the index 1" in reasons["train/e"] and "class_id 77" in reasons["train/f"]
    assert "the annotations say 100x100" in reasons["train/g"]
    assert [s.id for s in bank.source_table] == ["train/c", "train/d"]


def test_a_dataset_without_objects_makes_no_bank(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", {"a": [], "b": []})
    with pytest.raises(DataError, match=r"the bank would be empty: no scene has as many objects as graph\.min_area"):
        build_bank.run(BuildBank(kind="patches"), data=empty, out=tmp_path / "x")
    labels = write_dataset(tmp_path / "labels", [0])
    for path in (labels / "train/img").iterdir():
        path.unlink()
    (labels / "train/img").rmdir()
    with pytest.raises(DataError, match="the scene has no image"):
        build_bank.run(BuildBank(kind="patches", graph=SAMPLE), data=labels, out=tmp_path / "y", max_bad=0)


# ---- for real -------------------------------------------------------------------------------------------------------


@real
@pytest.mark.parametrize("pack", ["cmp_facades", "coco_panoptic"])
def test_the_real_packs(pack: str, tmp_path: Path) -> None:
    """Every box is where the photo has these pixels, and graphs have the boxes that were annotated."""
    settings = GraphSettings(min_area=0.002, overflow="sample")
    artifact: Artifact = build_bank.run(
        BuildBank(kind="patches", graph=settings, patch=None), data=PACKS / pack, out=tmp_path / "x"
    )
    bank = Bank.open(artifact.path)
    assert len(bank) > 800 and len(graph_sources(bank)) >= 95 and not artifact.statistics["bad"]
    dataset = open_dataset(PACKS / pack)
    for record in dataset.records("train")[::20]:
        scene = dataset.read(record)
        assert scene.image is not None
        for row in bank.rows_of_source(record.id).tolist():
            x, y, w, h = bank.boxes[row].tolist()
            np.testing.assert_array_equal(bank.crop(row), scene.image[y : y + h, x : x + w])
            if bank.ordinals[row] < len(record.objects):
                item = record.objects[bank.ordinals[row]]
                assert item.category == bank.categories[row]
                assert np.abs(np.array(item.box) - [x, y, w, h]).max() <= 1
    shard = read_shard(artifact.path / "shards/00000.h5")
    assert all(len(source.graph.get("centres", [])) == len(pieces) for source, pieces in shard.sources)
