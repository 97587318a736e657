from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.data.check import check_dataset
from pipelines.errors import ConfigError

from .trees import (
    CAR,
    IDS,
    NONE,
    PERSON,
    REAL,
    ROAD,
    SKY,
    photo,
    png,
    real,
    scene_layers,
    write_folder,
    write_json,
    write_map,
    write_picture,
)


def test_a_sound_dataset_has_no_faults(tmp_path: Path) -> None:
    report = check_dataset(write_folder(tmp_path))
    assert report.valid and report.total_faults == 0 and report.scenes == 4
    assert report.splits == {"train": 2, "val": 2} and report.sizes == {(24, 32): 4}
    layers = [scene_layers(number) for number in range(4)]
    labels = np.stack([labels for labels, _ in layers])
    for index, count in enumerate(report.classes):
        assert count.share == pytest.approx((labels == index).sum() / (labels != NONE).sum())
        assert count.scenes == 4
        assert count.instances == {SKY: 0, ROAD: 0, CAR: 8, PERSON: 4}[index]
    assert report.unlabelled == pytest.approx((labels == NONE).mean())
    assert report.total_warnings == 1  # the bare bit of car
    bare = sum(int(((la == CAR) & (inst == 0)).sum()) for la, inst in layers)
    assert f"{bare} pixels of car" in report.warnings[0].reason and "4 scenes" in report.warnings[0].reason
    assert report.notes == []
    json.dumps(report.to_json())


def plant(root: Path) -> dict[str, str]:
    """Spoil one scene after another; file (relative) to a part of the reason expected."""
    jpeg = cv2.imencode(".jpg", photo(1)[..., ::-1])[1].tobytes()
    good = cv2.imencode(".png", photo(1)[..., ::-1])[1].tobytes()
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    labels, instances = scene_layers(0)
    two_classes = np.where(instances > 0, 1, 0)
    faults: dict[str, str] = {}

    def spoil(file: str, data: bytes | np.ndarray | None, reason: str) -> None:
        path = root / file
        if isinstance(data, np.ndarray):
            write_map(path, data)
        elif data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        faults[file] = reason

    strange = IDS[labels]
    strange[3, 4:6] = 77
    spoil("train/label/a.png", strange, "label id 77 is outside the classes (2 pixels)")
    spoil("train/label/b.png", IDS[labels][:, :30], "is 32x24 but the label map is 30x24")
    faults["train/inst/b.png"] = faults.pop("train/label/b.png")
    spoil("train/label/c.png", None, "missing")
    spoil("train/img/d.png", good[: len(good) // 2], "damaged or cut off")
    (root / "train/img/e.png").unlink()
    spoil("train/img/e.jpg", jpeg[: len(jpeg) // 2], "damaged or cut off")
    spoil("val/img/a.png", good[:12] + header + struct.pack(">I", zlib.crc32(header)) + good[33:], "claims more than")
    spoil("val/img/b.png", png(np.zeros((24, 32, 3), int), 16, 2), "16 bits")
    spoil("val/inst/c.png", two_classes, "instance 1 lies on several classes")
    spoil("val/img/d.png", b"garbage", "neither PNG nor JPEG")
    write_picture(root / "val/img/e.jpg", photo(4))
    faults["val/img/e.png"] = "the stem 'e' repeats"
    car = {"index": 1, "class_id": 2, "bbox": [20, 10, 40, 5]}
    entries = [
        {"file": "f.png", "objects": [car]},
        {"file": "../../../a.png", "objects": []},
        {"file": "z.png", "objects": []},
    ]
    write_json(root / "annotations_val.json", {"images": entries})
    faults["val/img/f.png"] = "reaches out of the image of 32x24"
    (root / "train.txt").write_text("a\nb\nc\nd\ne\nf\ny\n")
    faults["train.txt"] = "'train/y'"
    return faults


def test_every_planted_fault_is_found_with_its_file(tmp_path: Path) -> None:
    write_folder(tmp_path, "index", stems=6)
    faults = plant(tmp_path)
    report = check_dataset(tmp_path, limit=100)
    found = {str(fault.file.relative_to(tmp_path)): fault.reason for fault in report.faults}
    outside = [fault.reason for fault in report.faults if fault.file.name == "annotations_val.json"]
    assert len(outside) == 2 and "lies outside" in outside[0] and "'z'" in outside[1]
    found.pop("annotations_val.json")
    assert set(found) == set(faults)
    for file, reason in faults.items():
        assert reason in found[file], file
    assert report.total_faults == len(faults) + 2 and not report.valid
    assert report.scenes == 12 and sum(report.sizes.values()) == 2  # train/f and val/f were read


def test_the_first_faults_are_named_and_all_are_counted(tmp_path: Path) -> None:
    write_folder(tmp_path, stems=6)
    for path in tmp_path.glob("*/label/*.png"):
        write_map(path, np.full((24, 32), 77))
    steps: list[tuple[int, int]] = []
    report = check_dataset(tmp_path, progress=lambda done, of: steps.append((done, of)))
    assert len(report.faults) == 10 and report.total_faults == 12
    assert report.faults[0].file == tmp_path / "train/label/a.png"
    assert steps == [(n, 12) for n in range(1, 13)]
    assert len(check_dataset(tmp_path, limit=3).faults) == 3


def test_warnings_and_notes(tmp_path: Path) -> None:
    write_folder(tmp_path, None)
    (tmp_path / "domains.csv").write_text(
        "split,id,sequence,domain\ntrain,a,s1,day\ntrain,b,s2,day\nval,a,s1,dusk\nval,b,s3,\n"
    )
    (tmp_path / "train/img/notes.webp").write_bytes(b"")
    for path in tmp_path.glob("*/label/*.png"):
        write_map(path, IDS[np.zeros((24, 32), int)])
    report = check_dataset(tmp_path)
    assert report.valid and report.groups == 3 and report.domains == {"day": 2, "dusk": 1}
    assert [warning.reason for warning in report.warnings] == [
        "the file is no .jpg or .jpeg or .png and is not read",
        "the group 's1' is in several splits: train, val",
    ]
    assert report.notes == ["3 classes have no pixel: road, car, person", "4 of 4 scenes have no instance maps"]


def test_a_dataset_that_cannot_be_opened_is_one_fault(tmp_path: Path) -> None:
    report = check_dataset(tmp_path)
    assert report.total_faults == 1 and "no dataset is recognized" in report.faults[0].reason
    write_folder(tmp_path)
    (tmp_path / "classes.json").write_text("{")
    report = check_dataset(tmp_path)
    assert report.total_faults == 1 and "classes.json" in str(report.faults[0].file)
    with pytest.raises(ConfigError):
        check_dataset(tmp_path, "voc")


@real
@pytest.mark.slow
@pytest.mark.parametrize("pack", ["camvid", "cmp_facades", "coco_panoptic", "coco_instances"])
def test_the_packs_are_sound(pack: str) -> None:
    report = check_dataset(REAL / pack)
    assert report.total_faults == 0, report.faults
    if pack == "camvid":
        assert any("0016E5" in warning.reason for warning in report.warnings)
