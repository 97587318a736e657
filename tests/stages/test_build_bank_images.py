"""Banks of whole images: each picture once, under the name that the dataset gives it, and nothing else of the pairs."""

from __future__ import annotations

import csv
import pickle
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.artifact import Artifact, verify_files
from pipelines.bank.bank import Bank
from pipelines.bank.images import pictures
from pipelines.bank.writer import BankWriter, Cut, Elsewhere
from pipelines.data.digest import record_digests
from pipelines.data.open import open_dataset
from pipelines.data.pixels import read_image
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.stages import build_bank, provenance, train_index
from pipelines.stages.build_bank import BuildBank
from pipelines.stages.evaluate_bank import open_bank
from pipelines.stages.train import open_retrieval
from pipelines.systems.base import Needs
from tests.bank.photos import draw, write_dataset
from tests.data.trees import REAL, real
from tests.rgs_cli.conftest import call

AERIAL = BuildBank(kind="images", view="aerial", shard_sources=2)
GROUND = BuildBank(kind="images", view="ground", shard_sources=2)

PLACES: dict[str, dict[str, str]] = {
    "p1": {"aerial_id": "tile 1", "group": "g1", "source": "pano", "licence": "CC0"},
    "p2": {"aerial_id": "tile 1", "group": "g1", "source": "pano", "licence": "CC0"},
    "p3": {"aerial_id": "tile 3", "group": "g3", "source": "persp", "licence": ""},
    "p4": {"aerial_id": "tile 4", "group": "g4", "source": "persp", "licence": ""},
}
"""Two street photos of one tile, and two places more; a fifth tile has no street photo."""
TILES = {"tile 1": 1, "tile 3": 3, "tile 4": 4, "tile 5": 5}
"""By aerial_id the seed of the picture."""


def aerial(seed: int) -> np.ndarray:
    return noise(100 + seed, 20, 20)


def street(seed: int) -> np.ndarray:
    return noise(200 + seed, 12, 40)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def write_pairs(root: Path, names: str = "p1 p2 p3 p4", alone: bool = True) -> Path:
    """Pairs of PLACES, and the tile without a partner."""
    for folder in ("aerial", "street"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for name in names.split():
        tile = TILES[PLACES[name]["aerial_id"]]
        rows.append({"id": name, "aerial": f"aerial/{tile}.png", "street": f"street/{name}.png", **PLACES[name]})
        write(root / rows[-1]["street"], street(int(name[1:])))
        write(root / rows[-1]["aerial"], aerial(tile))
    if alone:
        write(root / "aerial/5.png", aerial(5))
        rows.append({"id": "alone", "aerial": "aerial/5.png", "aerial_id": "tile 5", "source": "pano"})
    write_table(root, rows)
    return root


def write_table(root: Path, rows: list[dict[str, str]]) -> None:
    columns = ["id", "aerial", "street", "source", "group", "aerial_id", "licence"]
    with (root / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns, restval="")
        table.writeheader()
        table.writerows(rows)


def read_table(root: Path) -> list[dict[str, str]]:
    with (root / "pairs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, pixels: np.ndarray) -> None:
    assert cv2.imwrite(str(path), pixels[..., ::-1])


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "data")


@pytest.fixture(scope="module")
def tiles(pairs: Path) -> Artifact:
    return build_bank.run(AERIAL, data=pairs, out=pairs.parent / "tiles")


# ---- what is in it --------------------------------------------------------------------------------------------------


def test_every_aerial_photo_is_one_piece(tiles: Artifact) -> None:
    bank = Bank.open(tiles.path)
    assert bank.kind == "images" and bank.view == "aerial" and len(bank) == 4
    assert [source.id for source in bank.source_table] == ["tile 1", "tile 3", "tile 4", "tile 5"]
    assert [(source.group, source.domain, source.licence) for source in bank.source_table[:2]] == [
        ("g1", "pano", "CC0"),
        ("g3", "persp", ""),
    ]
    for row, seed in enumerate(TILES.values()):
        np.testing.assert_array_equal(bank.crop(row), aerial(seed))
        assert not bank.masked(row) and bank.mask(row).shape == (20, 20) and bank.mask(row).all()
        assert bank.boxes[row].tolist() == [0, 0, 20, 20] and bank.areas[row] == 400
    assert bank.categories.tolist() == [-1] * 4 and not bank.things.any() and not bank.ordinals.any()
    assert bank.canonical().shape == (4, 0) and bank.canonical([2]).shape == (1, 0)
    assert bank.exclusion_key("source", "tile 3") == bank.exclusion_keys("source")[1]
    assert bank.exclusion_key("group", "g4") == bank.exclusion_keys("group")[2]


def test_street_photos_are_named_as_their_scenes(pairs: Path, tmp_path: Path) -> None:
    bank = Bank.open(build_bank.run(GROUND, data=pairs, out=tmp_path / "x").path)
    assert [source.id for source in bank.source_table] == ["p1", "p2", "p3", "p4"]  # «alone» has none
    assert bank.exclusion_keys("group").tolist() == [0, 0, 2, 3]
    for row in range(4):
        np.testing.assert_array_equal(bank.crop(row), street(row + 1))


def test_statistics_of_photos_without_classes(tiles: Artifact) -> None:
    statistics = tiles.statistics
    assert statistics["kind"] == "images" and statistics["items"] == statistics["sources"] == 4
    assert statistics["per_class"] == {} and statistics["bad"] == []
    assert statistics["pixels"] == {"labeled": 0, "kept": 1600}
    assert statistics["schema"]["classes"] == [] and statistics["schema"]["domains"] == ["pano", "persp"]
    verify_files(tiles)


def test_photos_of_a_labelled_dataset_need_no_view(tmp_path: Path) -> None:
    photos = write_dataset(tmp_path / "photos", range(3), groups={1: "a"})
    bank = Bank.open(build_bank.run(BuildBank(kind="images"), data=photos, out=tmp_path / "x").path)
    assert [source.id for source in bank.source_table] == ["train/0000", "train/0001", "train/0002"]
    assert bank.view is None and bank.schema.names == ["sky", "road", "car"] and bank.source_table[1].group == "a"
    np.testing.assert_array_equal(bank.crop(2), draw(2)[0])
    assert not bank.artifact.statistics["per_class"].get("sky")


def test_jpeg_keeps_the_whole_picture(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "data")
    smooth = np.linspace(0, 255, 400).reshape(20, 20, 1).repeat(3, axis=2).astype(np.uint8)
    write(root / "aerial/1.png", smooth)
    made = build_bank.run(BuildBank(kind="images", view="aerial", codec="jpeg"), data=root, out=tmp_path / "x")
    assert np.abs(Bank.open(made.path).crop(0).astype(int) - smooth).max() <= 3


# ---- what decides its digest ----------------------------------------------------------------------------------------


def test_shards_jobs_and_place_do_not_matter(pairs: Path, tiles: Artifact, tmp_path: Path) -> None:
    moved = shutil.copytree(pairs, tmp_path / "elsewhere" / "data")
    again = build_bank.run(AERIAL, data=moved, out=tmp_path / "x", jobs=2)
    assert again.digest == tiles.digest and again.statistics == tiles.statistics


def test_the_other_view_is_not_read(pairs: Path, tiles: Artifact, tmp_path: Path) -> None:
    other = Path(shutil.copytree(pairs, tmp_path / "data"))
    for photo in (other / "street").iterdir():
        photo.write_bytes(b"no picture")
    assert build_bank.run(AERIAL, data=other, out=tmp_path / "x").digest == tiles.digest


@pytest.mark.parametrize("change", ["picture", "group", "domain"])
def test_the_digest_follows_the_pictures(pairs: Path, tiles: Artifact, tmp_path: Path, change: str) -> None:
    other = Path(shutil.copytree(pairs, tmp_path / "data"))
    rows = read_table(other)
    if change == "picture":
        write(other / "aerial/3.png", aerial(33))
    elif change == "group":
        rows[2]["group"] = "another"
    else:
        rows[3]["source"] = "dayton"
    write_table(other, rows)
    assert build_bank.plan(AERIAL, data=other, out=tmp_path / "x")["inputs"][0]["digest"] != tiles.input("data").digest  # type: ignore[union-attr]
    assert build_bank.run(AERIAL, data=other, out=tmp_path / "y").digest != tiles.digest


def test_banks_of_segments_are_what_they_were(tmp_path: Path) -> None:
    """Config and sources, and so digest and shards, are those of banks built before there were views and domains."""
    config = BuildBank(shard_sources=2).model_dump(mode="json")
    assert "view" not in config and config["kind"] == "segments"
    assert set(config) == {"kind", "format", "split", "decompose", "codec", "shard_sources", "removed"}
    photos = write_dataset(tmp_path / "photos", range(2), groups={1: "a"})
    bank = Bank.open(build_bank.run(BuildBank(), data=photos, out=tmp_path / "x").path)
    assert all(source.domain == "" and "domain" not in source.to_json() for source in bank.source_table)


# ---- growing and shrinking ------------------------------------------------------------------------------------------


def test_a_bank_grows_by_new_pictures_alone(tmp_path: Path) -> None:
    few = build_bank.run(AERIAL, data=write_pairs(tmp_path / "few", "p1 p3", alone=False), out=tmp_path / "x")
    more = write_pairs(tmp_path / "more")  # p2 shows tile 1 again
    grown = build_bank.run(BuildBank(), add_to=few.path, data=more, out=tmp_path / "y")
    bank = Bank.open(grown.path)
    assert [source.id for source in bank.source_table] == ["tile 1", "tile 3", "tile 4", "tile 5"]
    assert bank.view == "aerial" and bank.schema.domains == ("pano", "persp")
    assert (grown.path / "shards/00000.h5").samefile(few.path / "shards/00000.h5")
    with pytest.raises(DataError, match="in the bank already"):
        build_bank.run(BuildBank(), add_to=grown.path, data=more, out=tmp_path / "z")
    with pytest.raises(ConfigError, match="view is ground but the other bank was built with aerial"):
        build_bank.run(BuildBank(view="ground"), add_to=grown.path, data=more, out=tmp_path / "z")


def test_a_changed_picture_is_no_new_one(tiles: Artifact, pairs: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(pairs, tmp_path / "data"))
    write(other / "aerial/4.png", aerial(44))
    with pytest.raises(DataError, match="in the bank with other content: tile 4"):
        build_bank.run(BuildBank(), add_to=tiles.path, data=other, out=tmp_path / "x")


def test_segments_and_images_do_not_mix(tmp_path: Path, tiles: Artifact) -> None:
    photos = write_dataset(tmp_path / "photos", [1])
    segments = build_bank.run(BuildBank(), data=photos, out=tmp_path / "x")
    assert "view" not in segments.config
    with pytest.raises(ConfigError, match="kind is images but the other bank was built with segments"):
        build_bank.run(BuildBank(kind="images"), add_to=segments.path, data=photos, out=tmp_path / "y")
    with pytest.raises(ConfigError, match="view is aerial but the other bank was built with none"):
        build_bank.run(BuildBank(view="aerial"), add_to=segments.path, data=photos, out=tmp_path / "y")
    with pytest.raises(ConfigError, match="these scenes have no aerial view"):
        build_bank.run(BuildBank(), add_to=tiles.path, data=photos, out=tmp_path / "y")


def test_a_removed_picture_leaves_no_byte(tiles: Artifact, tmp_path: Path) -> None:
    thinned = build_bank.run(BuildBank(), base=tiles.path, remove=["tile 3"], out=tmp_path / "x")
    bank = Bank.open(thinned.path)
    assert [source.id for source in bank.source_table] == ["tile 1", "tile 4", "tile 5"] and bank.view == "aerial"
    stored = Bank.open(tiles.path)._part(1, "pixels").tobytes()
    shards = [shard.read_bytes() for shard in (thinned.path / "shards").iterdir()]
    assert not any(stored in shard for shard in shards)
    np.testing.assert_array_equal(bank.crop(1), aerial(4))


# ---- what cannot be used --------------------------------------------------------------------------------------------


def test_unreadable_pictures_are_listed(pairs: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(pairs, tmp_path / "data"))
    (data / "aerial/3.png").write_bytes(b"no picture")
    (data / "aerial/4.png").unlink()
    with pytest.raises(DataError, match="more than 1 scenes cannot be used: tile 3"):
        build_bank.run(AERIAL, data=data, out=tmp_path / "x", max_bad=1)
    made = build_bank.run(AERIAL, data=data, out=tmp_path / "y", max_bad=2)
    assert [bad["id"] for bad in made.statistics["bad"]] == ["tile 3", "tile 4"]
    assert [source.id for source in Bank.open(made.path).source_table] == ["tile 1", "tile 5"]


def test_a_picture_that_scenes_disagree_about(pairs: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(pairs, tmp_path / "data"))
    rows = read_table(data)
    rows[1]["licence"] = "CC BY 4.0"
    write_table(data, rows)
    with pytest.raises(DataError, match="aerial view tile 1 is shared by scenes that disagree about its licence, p2"):
        build_bank.run(AERIAL, data=data, out=tmp_path / "x")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (BuildBank(kind="images"), "one view"),
        (BuildBank(), "no classes to cut segments of"),
        (BuildBank(view="aerial"), "a bank of segments holds no view"),
        (BuildBank.model_validate({**AERIAL.model_dump(), "decompose": {"min_area": 9}}), "are not decomposed"),
    ],
)
def test_kinds_that_do_not_fit_pairs(pairs: Path, tmp_path: Path, config: BuildBank, says: str) -> None:
    with pytest.raises((ConfigError, DataError), match=says):
        build_bank.plan(config, data=pairs, out=tmp_path / "x")


def test_a_dry_run_cuts_a_few_and_writes_nothing(pairs: Path, tmp_path: Path) -> None:
    plan = build_bank.plan(AERIAL, data=pairs, out=tmp_path / "x")
    assert plan["sources"] == 4 and plan["shards"] == {"shared": 0, "written": 2}
    assert plan["config"]["view"] == "aerial" and not list(tmp_path.iterdir())
    assert 4 * 20 * 20 * 3 < plan["bytes"] < 4 * (20 * 20 * 3 + 400)  # noise does not compress


# ---- what others make of it -----------------------------------------------------------------------------------------


def test_shapes_are_those_of_segments(tiles: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="one of images, which have no shapes"):
        train_index.run(train_index.TrainIndex(), bank=tiles.path, out=tmp_path / "x")


def test_generators_and_evaluations_want_segments(tiles: Artifact) -> None:
    with pytest.raises(ArtifactError, match="a bank of images, an evaluation of pieces needs one of segments"):
        open_bank(tiles.path, tiles, Schema(()))
    with pytest.raises(ArtifactError, match="a bank of images, resail needs one of segments"):
        open_retrieval(Needs(bank="segments"), tiles.path, None, "resail")
    bank, _ = open_retrieval(Needs(bank="any"), tiles.path, None, "embedder-pieces")
    assert bank is not None and bank.kind == "images"


def test_what_it_holds_can_be_shown(tiles: Artifact) -> None:
    shown: dict[str, Any] = provenance.uses(tiles.path, ["tile 3"])["sources"][0]
    assert shown["status"] == "in the bank" and shown["pixels"] == 400 and shown["categories"] == []
    assert [piece["box"] for piece in shown["pieces"]] == [[0, 0, 20, 20]]
    assert [row["source"] for row in provenance.sources(tiles.path)["sources"]] == list(TILES)


def test_from_the_command_line(pairs: Path, tmp_path: Path) -> None:
    made = call("build-bank", pairs, "--kind", "images", "--view", "ground", "-o", tmp_path / "x", "--json")
    assert made.code == 0 and made.json["path"] == str(tmp_path / "x")
    assert Bank.open(tmp_path / "x").view == "ground"
    shown = call("show", tmp_path / "x", "--source", "p3")
    assert shown.code == 0 and "p3" in shown.out
    refused = call("build-bank", pairs, "--kind", "images", "-o", tmp_path / "y")
    assert refused.code == 2 and "add --view aerial or --view ground" in refused.err
    strange = call("build-bank", pairs, "--kind", "images", "--view", "side", "-o", tmp_path / "y")
    assert strange.code == 2 and "view" in strange.err


# ---- elsewhere, and for real ----------------------------------------------------------------------------------------


def test_shards_are_the_same_made_on_another_machine(pairs: Path, tiles: Artifact) -> None:
    dataset = open_dataset(pairs)
    assert dataset.format == "pairs"
    shown = tuple(pictures(dataset.records("train"), "aerial", pairs)[:2])
    digests = record_digests(dataset, shown)
    writer = BankWriter(Path("nowhere"), dataset, build_bank.KINDS["images"].cutter(AERIAL, dataset.schema))
    sent: Elsewhere = pickle.loads(pickle.dumps(Elsewhere(writer)))
    made = sent(Cut("00000.h5", shown, tuple(digests[record.id] for record in shown)))
    assert made.data == (tiles.path / "shards/00000.h5").read_bytes()


@real
def test_the_real_pairs(tmp_path: Path) -> None:
    bank = Bank.open(build_bank.run(AERIAL, data=REAL / "crossview", out=tmp_path / "x").path)
    assert len(bank) == 99 and len(bank.schema.domains) == 6
    assert {source.domain for source in bank.source_table} == set(bank.schema.domains)
    photo = bank.source_table[0].id  # the path, where pairs name their photos by nothing else
    np.testing.assert_array_equal(bank.crop(0), read_image(REAL / "crossview" / photo))
