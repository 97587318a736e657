"""Visual Genome: frequent names and predicates of train, aliases, sizes, counts, and annotations that are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.bank.bank import Bank
from pipelines.bank.patches import bank_graph, graph_sources
from pipelines.data.check import check_dataset
from pipelines.data.digest import dataset_digest
from pipelines.data.graph import GraphSettings
from pipelines.data.listing import ListedDataset
from pipelines.data.open import open_dataset
from pipelines.data.scene import SceneRecord
from pipelines.data.visual_genome import Rules, split_of
from pipelines.errors import DataError
from pipelines.stages import build_bank
from pipelines.stages.build_bank import BuildBank
from tests.data.trees import photo, write_json, write_picture

RULES = {
    "min_image_side": 40,
    "min_name_count": 3,
    "min_box_side": 8,
    "min_predicate_count": 2,
    "min_objects": 2,
    "max_objects": 4,
    "max_relations": 3,
}
SPLITS = {"train": [1, 2, 3, 4, 5], "val": [6, 7], "test": [8]}
H, W = 50, 60


def thing(key: int, name: str, x: float = 5, y: float = 5, w: float = 20, h: float = 20) -> dict[str, Any]:
    return {"object_id": key, "names": [name], "x": x, "y": y, "w": w, "h": h, "synsets": []}


def tell(subject: int, predicate: str, target: int) -> dict[str, Any]:
    return {"predicate": predicate, "subject": {"object_id": subject}, "object": {"object_id": target}}


# «man» 6 times in train (one as «guy», one object that is named twice), «hat» 4, «dog» and «tree» 3, «car» 2.
OBJECTS: dict[int, list[dict[str, Any]]] = {
    1: [thing(10, "man"), thing(11, "hat", 10, 1, 9, 9), thing(12, "car"), thing(13, "dog", w=7)],
    2: [thing(20, "guy"), thing(21, "hat"), thing(22, "tree"), thing(23, "dog", -4, 30, 24, 30)],
    3: [thing(30, "man"), thing(31, "tree"), {**thing(32, "car"), "names": ["car", "man", "guy"]}],
    4: [thing(k, "man") for k in (40, 41)] + [thing(42, "hat"), thing(43, "hat"), thing(44, "tree")],  # too many
    5: [thing(50, "dog")],  # too few
    6: [thing(60, "guy"), thing(61, "tree"), thing(62, "hat"), thing(63, "dog", 200, 5)],
    7: [thing(70, "man"), thing(71, "hat")],
    8: [thing(80, "man"), thing(81, "hat")],
    9: [thing(90, "zebra") for _ in range(5)],
}
RELATIONS: dict[int, list[dict[str, Any]]] = {
    1: [tell(10, "Wears ", 11), tell(10, "near", 12), tell(13, "near", 10)],  # a car is no class, the dog is too small
    2: [tell(23, "under", 22), tell(20, "has on", 21), tell(20, "near", 22), tell(20, "sees", 22)],
    3: [tell(30, "near", 31), tell(32, "UNDER", 31), tell(32, "near", 999)],
    4: [tell(40, "near", 41)],
    6: [tell(60, "has on", 62), tell(61, "sees", 60)],  # nobody sees twice in train
    7: [tell(70, "near", 71)] * 4,  # too many
    8: [tell(80, "sees", 81)],  # none of the vocabulary
}


def write(root: Path, *, splits: bool = True, rules: dict[str, Any] | None = RULES) -> Path:
    sizes = {**dict.fromkeys(OBJECTS, (H, W)), 9: (39, 80)}  # the last one is too small
    for key, (h, w) in sizes.items():
        write_picture(root / f"images/VG_100K{'_2' if key % 2 else ''}/{key}.jpg", photo(key, h, w))
    write_json(
        root / "image_data.json",
        [
            {
                "image_id": key,
                "url": f"https://cs.example.edu/people/x/VG_100K{'_2' if key % 2 else ''}/{key}.jpg",
                "width": w,
                "height": h,
                "coco_id": None,
            }
            for key, (h, w) in sizes.items()
        ],
    )
    write_json(root / "objects.json", [{"image_id": key, "objects": items} for key, items in OBJECTS.items()])
    told = [{"image_id": key, "relationships": items} for key, items in RELATIONS.items()]
    write_json(root / "relationships.json", told)
    (root / "object_alias.txt").write_text("man,guy, person in suit\n")
    (root / "relationship_alias.txt").write_text("wears,has on\n")
    if splits:
        write_json(root / "vg_splits.json", SPLITS)
    if rules is not None:
        write_json(root / "vg_rules.json", rules)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("genome") / "vg")


@pytest.fixture
def copy(tree: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tree, tmp_path / "vg"))


def records(dataset: ListedDataset) -> dict[str, SceneRecord]:
    return {record.id: record for record in dataset.records()}


def told(dataset: ListedDataset, scene: str) -> list[tuple[str, str, str]]:
    record, schema = records(dataset)[scene], dataset.schema
    names = [schema.names[item.category] for item in record.objects]
    return [(names[s], schema.relations[p], names[o]) for s, p, o in record.relations]


# ---- what is read ---------------------------------------------------------------------------------------------------


def test_the_vocabulary_is_of_train(tree: Path) -> None:
    schema = open_dataset(tree).schema
    assert schema.names == ["man", "hat", "dog", "tree"]  # dog and tree are as frequent, dog is seen first
    assert [(c.id, c.thing) for c in schema.classes] == [(1, True), (2, True), (3, True), (4, True)]
    assert schema.relations == ("wears", "under", "near")  # not «sees», not «near» first: its objects are gone
    assert len({c.color for c in schema.classes}) == 4


def test_objects_and_relations(tree: Path) -> None:
    dataset = open_dataset(tree)
    assert dataset.format == "visual-genome" and dataset.faults == ()
    found = records(dataset)
    assert list(found) == ["train/1", "train/2", "train/3", "val/6"]
    assert told(dataset, "train/1") == [("man", "wears", "hat")]
    assert told(dataset, "train/2") == [("dog", "under", "tree"), ("man", "wears", "hat"), ("man", "near", "tree")]
    assert told(dataset, "train/3") == [("man", "near", "tree"), ("man", "under", "tree")]
    assert told(dataset, "val/6") == [("man", "wears", "hat")]
    assert found["train/1"].objects[1].box == (10, 1, 9, 9) and len(found["train/1"].objects) == 2
    assert found["train/2"].objects[3].box == (0, 30, 20, 20)  # from -4 to 20, from 30 to 60 of 50
    assert [item.category for item in found["val/6"].objects] == [0, 3, 1]  # a dog beside the image is none
    scene = dataset.read(found["train/3"])
    assert scene.image is not None and scene.image.shape == (H, W, 3) and scene.labels is None
    assert found["train/3"].image == tree / "images/VG_100K_2/3.jpg"


def test_what_was_decided_is_said(tree: Path) -> None:
    notes = check_dataset(tree).notes
    assert any("4 of 8 images are listed" in note and "4 classes, and 1 to 3 relations of 3" in note for note in notes)
    assert any("in all splits" in note for note in notes) and any(note.startswith("1 boxes") for note in notes)
    assert check_dataset(tree).valid


def test_sg2im_s_numbers_are_the_defaults(copy: Path) -> None:
    assert Rules().model_dump() == {
        "min_image_side": 200,
        "min_name_count": 2000,
        "min_box_side": 32,
        "min_predicate_count": 500,
        "min_objects": 3,
        "max_objects": 30,
        "min_relations": 1,
        "max_relations": 30,
    }
    (copy / "vg_rules.json").unlink()
    with pytest.raises(DataError, match="no name occurs 2000 times in train") as error:
        open_dataset(copy)
    assert error.value.fix is not None and "vg_rules.json" in error.value.fix
    write_json(copy / "vg_rules.json", {**RULES, "min_predicate_count": 9})
    with pytest.raises(DataError, match="no predicate occurs 9 times in train"):
        open_dataset(copy)


def test_photos_may_lie_beside_the_annotations(copy: Path) -> None:
    for folder in (copy / "images").iterdir():
        folder.rename(copy / folder.name)
    (copy / "images").rmdir()
    dataset = open_dataset(copy)
    assert all(dataset.read(record).image is not None for record in dataset.records())


def test_splits_without_a_file_follow_from_the_ids(copy: Path) -> None:
    (copy / "vg_splits.json").unlink()
    write_json(copy / "vg_rules.json", {**RULES, "min_name_count": 1, "min_predicate_count": 1})
    dataset = open_dataset(copy)
    assert all(
        record.id == f"{split_of(int(record.id.split('/')[1]))}/{record.image.stem}"
        for record in dataset.records()
        if record.image
    )
    assert any("follows from its id" in note for note in dataset.notes)
    counts = np.unique([split_of(key) for key in range(10_000)], return_counts=True)
    shares = dict(zip(counts[0].tolist(), (counts[1] / 10_000).tolist(), strict=True))
    assert abs(shares["train"] - 0.8) < 0.02 and abs(shares["val"] - 0.1) < 0.02 and abs(shares["test"] - 0.1) < 0.02


def test_the_digest_knows_no_place(tree: Path, copy: Path) -> None:
    one, other = open_dataset(tree), open_dataset(copy)
    assert dataset_digest(one, one.records()) == dataset_digest(other, other.records())
    write_json(copy / "vg_rules.json", {**RULES, "min_name_count": 4})
    third = open_dataset(copy)
    assert dataset_digest(one, one.records()) != dataset_digest(third, third.records())


def test_a_bank_of_patches(tree: Path, tmp_path: Path) -> None:
    settings = GraphSettings(min_area=0, min_objects=2, max_objects=9, overflow="sample", relations="annotated")
    artifact = build_bank.run(BuildBank(kind="patches", graph=settings, patch=16), data=tree, out=tmp_path / "x")
    bank = Bank.open(artifact.path)
    assert bank.schema.relations == ("wears", "under", "near") and len(bank) == 2 + 4 + 3
    assert graph_sources(bank) == ["train/1", "train/2", "train/3"]
    graph = bank_graph(bank, "train/2", np.random.default_rng(0))
    assert graph is not None and graph.relations == ((3, 1, 2), (0, 0, 1), (0, 2, 2))
    assert any("in all splits" in note for note in artifact.statistics["notes"])
    thinned = build_bank.run(BuildBank(), base=bank.path, remove=["train/1"], out=tmp_path / "y")
    assert thinned.statistics["notes"] == artifact.statistics["notes"]


# ---- what is wrong --------------------------------------------------------------------------------------------------


def change(path: Path, position: int, **values: Any) -> None:
    data = json.loads(path.read_text())
    data[position] |= values
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ([thing(30, "man"), thing(30, "tree")], "two objects have the id 30"),
        ([thing(30, "man", x=float("nan"))], "is no box"),
        ([thing(30, "man", w=-3)], "is no box"),
        ([{**thing(30, "man"), "names": "man"}], "the names of object 30 are no list"),
        ([{"object_id": 30}], "'names' is missing"),
        ([{**thing(30, "man"), "object_id": "30"}], "'30' is no whole number"),
        ("man", "string indices must be integers"),
        (3, "not iterable"),
    ],
)
def test_wrong_objects_are_their_scene_s_fault(copy: Path, objects: Any, reason: str) -> None:
    change(copy / "objects.json", 2, objects=objects)
    write_json(copy / "vg_rules.json", {**RULES, "min_name_count": 1, "min_predicate_count": 1})
    dataset = open_dataset(copy)
    with pytest.raises(DataError, match="image 3") as error:
        dataset.read(records(dataset)["train/3"])
    assert reason in error.value.what and error.value.where == str(copy / "objects.json")
    assert "fault" not in records(dataset)["val/6"].extra


def test_wrong_relations_are_their_scene_s_fault(copy: Path) -> None:
    change(copy / "relationships.json", 1, relationships=[{"predicate": "near", "subject": {"object_id": 20}}])
    write_json(copy / "vg_rules.json", {**RULES, "min_predicate_count": 1})
    report = check_dataset(copy)
    assert [fault.reason for fault in report.faults] == ["image 2: 'object' is missing"]


def test_an_image_is_annotated_once(copy: Path) -> None:
    change(copy / "objects.json", 3, image_id=1)
    write_json(copy / "vg_rules.json", {**RULES, "min_name_count": 1, "min_predicate_count": 1})
    report = check_dataset(copy)
    assert "image 1: it is annotated twice" in [fault.reason for fault in report.faults]


def test_images_that_are_wrong(copy: Path) -> None:
    path = copy / "image_data.json"
    change(path, 1, image_id=1)
    change(path, 2, width=0)
    change(path, 6, url="https://x/a/../..")
    change(path, 7, height="9")
    data = json.loads(path.read_text())
    path.write_text(json.dumps([*data, "x"]))
    write_json(copy / "vg_rules.json", {**RULES, "min_name_count": 1, "min_predicate_count": 1})
    reasons = [fault.reason for fault in open_dataset(copy).faults]
    assert reasons[:2] == ["entry 1: the image id 1 repeats", "entry 2: its size is 0x50"]
    assert "names the file '../..', which lies outside" in reasons[2]
    assert reasons[3] == "entry 7: '9' is no whole number" and reasons[4].startswith("entry 9")
    assert reasons[5] == "4 image ids, the first 2, are not in image_data.json"


def test_missing_and_damaged_photos_are_listed(copy: Path, tmp_path: Path) -> None:
    (copy / "images/VG_100K_2/1.jpg").unlink()
    (copy / "images/VG_100K/2.jpg").write_bytes(b"no picture")
    settings = GraphSettings(min_area=0, min_objects=2, relations="annotated")
    artifact = build_bank.run(BuildBank(kind="patches", graph=settings), data=copy, out=tmp_path / "x")
    reasons = {bad["id"]: bad["reason"] for bad in artifact.statistics["bad"]}
    assert set(reasons) == {"train/1", "train/2"} and "missing" in reasons["train/1"]
    assert artifact.statistics["items"] == 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("objects.json", "{}", "it is no list"),
        ("relationships.json", "[", "no valid JSON"),
        ("image_data.json", '{"image_id": 1}', "it is no list"),
        ("vg_splits.json", "[1, 2]", "no lists of image ids"),
        ("vg_splits.json", '{"train": [1], "val": [1]}', "the image 1 is in train and in val"),
        ("vg_splits.json", '{"val": [1]}', "no split «train»"),
        ("vg_splits.json", '{"train": ["1"]}', "'1' is no whole number"),
        ("vg_rules.json", "[]", "no JSON object"),
        ("vg_rules.json", '{"min_names": 3}', "min_name"),
        ("vg_rules.json", '{"min_name_count": 0}', "min_name_count"),
        ("object_alias.txt", "\udcff", "the aliases cannot be read"),
    ],
)
def test_a_file_that_is_wrong_is_named(copy: Path, name: str, content: str, reason: str) -> None:
    (copy / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=reason) as error:
        open_dataset(copy)
    assert error.value.where is not None and name in str(error.value.where)


def test_missing_aliases_are_warned_of(copy: Path) -> None:
    (copy / "object_alias.txt").unlink()
    (fault,) = open_dataset(copy).faults
    assert fault.kind == "warning" and fault.file == copy / "object_alias.txt"
