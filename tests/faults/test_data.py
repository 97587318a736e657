"""What can be wrong with pictures, over every verb that reads them; and what is odd but right."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.artifact import open_artifact, read_manifest, sha256_file
from pipelines.bank.bank import Bank
from pipelines.train.run import open_weights
from tests.faults.conftest import ON_CPU, House, Words, copy, refused
from tests.rgs_cli.conftest import call, content, fails, succeed

SCENE = "00002"
"""The scene of the split train that is spoiled."""

LAYERS = {"image", "label"}


def image(data: Path) -> Path:
    return data / "train" / "img" / f"{SCENE}.png"


def label(data: Path) -> Path:
    return data / "train" / "label" / f"{SCENE}.png"


# ---- faults ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What is wrong with a dataset. plant: spoils it and returns the file that must be named. said: of the reason.

    layers: verbs that read one of them meet the fault.
    """

    name: str
    plant: Callable[[Path], Path]
    said: str
    layers: frozenset[str]


def foreign_id(data: Path) -> Path:
    values = np.array(Image.open(label(data)))
    values[3:5, 3:6] = 77
    Image.fromarray(values).save(label(data))
    return label(data)


def wide_id(data: Path) -> Path:
    values = np.array(Image.open(label(data))).astype(np.uint16)
    values[3:5, 3:6] = 5000
    Image.fromarray(values).save(label(data))
    return label(data)


def colors(data: Path) -> Path:
    """A label map in colors that are nobody's."""
    Image.new("RGB", (64, 64), (1, 2, 3)).save(label(data))
    return label(data)


def foreign_palette(data: Path) -> Path:
    picture = Image.fromarray(np.full((64, 64), 200, np.uint8), "P")
    picture.putpalette([1, 2, 3] * 256)
    picture.save(label(data))
    return label(data)


def other_size(data: Path) -> Path:
    Image.open(image(data)).resize((48, 32)).save(image(data))
    return label(data)


def deep_photo(data: Path) -> Path:
    """PNG of RGB with 16 bits, which Pillow does not write."""
    raw = b"".join(b"\0" + b"\x12\x34" * 3 * 64 for _ in range(64))
    image(data).write_bytes(png(64, 64, 16, raw))
    return image(data)


def truncated_jpeg(data: Path) -> Path:
    jpeg = image(data).with_suffix(".jpg")
    Image.open(image(data)).convert("RGB").save(jpeg)
    image(data).unlink()
    whole = jpeg.read_bytes()
    jpeg.write_bytes(whole[: len(whole) // 2])
    return jpeg


def bomb(data: Path, of: Callable[[Path], Path]) -> Path:
    """A few hundred bytes that claim ten gigapixels."""
    of(data).write_bytes(png(100_000, 100_000, 8, bytes(1000)))
    return of(data)


def png(width: int, height: int, depth: int, raw: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def link_out(data: Path, of: Callable[[Path], Path]) -> Path:
    """A picture that is a link to one outside the dataset, perfect in itself."""
    secret = data.parent / f"{of(data).parent.name}-secret.png"
    of(data).rename(secret)
    of(data).symlink_to(Path("../../..") / secret.name)
    return of(data)


def circle(data: Path) -> Path:
    image(data).unlink()
    image(data).symlink_to(image(data).name)
    return image(data)


def no_picture(data: Path) -> Path:
    label(data).write_bytes(b"")
    return label(data)


def no_partner(data: Path) -> Path:
    image(data).unlink()
    return image(data).with_suffix(".jpg")


BOTH, IMAGE, LABEL = frozenset(LAYERS), frozenset({"image"}), frozenset({"label"})
FAULTS = [
    Fault("foreign label id", foreign_id, "label id 77 is outside the classes", LABEL),
    Fault("foreign 16-bit label id", wide_id, "label id 5000 is outside the classes", LABEL),
    Fault("label in foreign colors", colors, "3 channels|color of no class", LABEL),
    Fault("label in a foreign palette", foreign_palette, "label id 200 is outside", LABEL),
    Fault("image and label of different size", other_size, "is 64x64 but the image is 48x32", frozenset({"pair"})),
    Fault("16-bit photo", deep_photo, "16 bits per channel", IMAGE),
    Fault("truncated JPEG", truncated_jpeg, "damaged or cut off", IMAGE),
    Fault("bomb of a photo", lambda data: bomb(data, image), "claims more than", IMAGE),
    Fault("bomb of a label map", lambda data: bomb(data, label), "claims more than", LABEL),
    Fault("photo behind a link", lambda data: link_out(data, image), "leads out of the dataset", IMAGE),
    Fault("label behind a link", lambda data: link_out(data, label), "leads out of the dataset", frozenset({"pair"})),
    Fault("links in a circle", circle, "cannot be read|leads out", IMAGE),
    Fault("empty file", no_picture, "the file is empty", LABEL),
    Fault("no photo", no_partner, "the file is missing", IMAGE),
]


# ---- verbs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verb:
    """A verb over a dataset: which layers it reads («pair»: as scenes), its words,."""

    name: str
    reads: frozenset[str]
    words: Callable[[House, Path, Path], Words]


def training(system: str) -> Callable[[House, Path, Path], Words]:
    strict: Words = [] if system == "resail" else ["--max-bad", 0]  # its bank has sorted bad scenes out
    return lambda house, data, out: [*house.train(system, data), *strict, "--steps", 1, "-o", out]


SCENES = frozenset({*LAYERS, "pair"})
VERBS = [
    Verb("data check", SCENES, lambda house, data, out: ["data", "check", data]),
    Verb("build-bank", SCENES, lambda house, data, out: ["build-bank", data, "--max-bad", 0, "-o", out]),
    Verb(
        "build-bank --add-to",
        SCENES,
        lambda house, data, out: ["build-bank", data, "--add-to", house.other, "--max-bad", 0, "-o", out],
    ),
    Verb("train segmenter", SCENES, training("segmenter")),
    Verb("train generator spade", SCENES, training("spade")),
    Verb("train generator oasis", SCENES, training("oasis")),
    Verb("train generator resail", SCENES, training("resail")),
    Verb(
        "synthesize --data",
        SCENES,
        lambda house, data, out: ["synthesize", house.spade, "--data", data, "--split", "train", *ON_CPU, "-o", out],
    ),
    Verb(
        "synthesize --inputs",
        LABEL,
        lambda house, data, out: ["synthesize", house.spade, "-i", label(data).parent, *ON_CPU, "-o", out],
    ),
    Verb("search", LABEL, lambda house, data, out: ["search", house.index, label(data)]),
    Verb("eval", IMAGE, lambda house, data, out: ["eval", house.samples, "-r", data, *ON_CPU, "-o", out]),
]

MATRIX = [pytest.param(f, v, id=f"{f.name}-{v.name}") for f in FAULTS for v in VERBS if f.layers & v.reads]


@pytest.mark.parametrize(("fault", "verb"), MATRIX)
def test_a_fault_is_refused(fault: Fault, verb: Verb, house: House, tmp_path: Path) -> None:
    data = copy(house.town, tmp_path / "town")
    named = fault.plant(data)
    before = content(tmp_path)
    ended = call(*verb.words(house, data, tmp_path / "out"))
    if verb.name == "data check":  # it tells all faults in a report instead of one
        assert ended.code == 3 and ended.out == "" and "Traceback" not in ended.err
        said = ended.err
    else:
        said = refused(ended, [3], tmp_path / "out")
    assert any(part in said for part in fault.said.split("|")) and named.name in said, said
    assert {k: v for k, v in content(tmp_path).items() if not k.startswith("out")} == before


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_bank_lists_a_bad_scene_and_goes_on(fault: Fault, house: House, tmp_path: Path) -> None:
    data = copy(house.town, tmp_path / "town")
    named = fault.plant(data)
    ended = succeed("build-bank", data, "-o", tmp_path / "out")
    [bad] = open_artifact(tmp_path / "out", "bank").statistics["bad"]
    assert bad["id"] == f"train/{SCENE}" and named.name in bad["reason"]
    assert f"not usable: train/{SCENE}" in ended.err
    kept, whole = Bank.open(tmp_path / "out"), Bank.open(house.bank)
    np.testing.assert_array_equal(kept.ids, whole.ids[whole.sources != 2])


def test_a_training_lists_bad_scenes_and_never_sees_them(house: House, tmp_path: Path) -> None:
    """Scene by scene the run is that of a dataset without the bad one, resumed or not."""
    spoiled, without = copy(house.town, tmp_path / "spoiled"), copy(house.town, tmp_path / "without")
    foreign_id(spoiled)
    for layer in ("img", "label", "inst"):
        (without / "train" / layer / f"{SCENE}.png").unlink()
    (without / "annotations_train.json").unlink()
    ended = succeed(*house.train("segmenter", spoiled), "--steps", 3, "--stop-after", "0s", "-o", tmp_path / "run")
    assert f"not usable: train/{SCENE}: train/label/{SCENE}.png: label id 77" in ended.err
    manifest = read_manifest(tmp_path / "run")
    assert manifest["scenes"] == 3 and [bad["id"] for bad in manifest["bad"]] == [f"train/{SCENE}"]
    said = refused(call(*house.train("segmenter", spoiled), "--steps", 3, "--max-bad", 0, "-o", tmp_path / "run"), [3])
    assert "more than 0 scenes cannot be used" in said and "--max-bad" in said
    succeed(*house.train("segmenter", spoiled), "--steps", 3, "-o", tmp_path / "run")
    succeed(*house.train("segmenter", without), "--steps", 3, "-o", tmp_path / "expected")
    assert open_weights(tmp_path / "run").sha256 == open_weights(tmp_path / "expected").sha256


def test_no_scene_that_can_be_used(house: House, tmp_path: Path) -> None:
    data = copy(house.town, tmp_path / "town")
    for path in (data / "train" / "label").iterdir():
        path.write_bytes(b"")
    said = refused(call(*house.train("segmenter", data), "--steps", 1, "-o", tmp_path / "out"), [3])
    assert "no scene can be used" in said and not (tmp_path / "out").exists()


# ---- sidecars -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/passwd", "out.png"])
def test_a_sidecar_that_leads_out(name: str, house: House, tmp_path: Path) -> None:
    """It is named by `data check`; the scenes are those of the folders, so nothing outside is ever read."""
    data = copy(house.town, tmp_path / "town")
    (tmp_path / "secret.png").write_bytes(image(data).read_bytes())
    if name == "out.png":
        (data / "train" / "img" / name).symlink_to(tmp_path / "secret.png")
    sidecar = data / "annotations_train.json"
    annotations = json.loads(sidecar.read_text())
    annotations["images"][0]["file"] = name
    sidecar.write_text(json.dumps(annotations))
    said = fails(3, "data", "check", data)
    assert "lies outside" in said and sidecar.name in said
    ended = call("build-bank", data, "-o", tmp_path / "out")
    assert ended.code == 0 and {s.id for s in Bank.open(tmp_path / "out").source_table} == {
        f"train/{k:05d}" for k in range(4)
    }


SIDECARS = {
    "no JSON": lambda data: (data / "classes.json").write_text('{"classes": ['),
    "no classes": lambda data: (data / "classes.json").write_text('{"classes": []}'),
    "a class twice": lambda data: (data / "classes.json").write_text(
        json.dumps({"classes": [{"id": 1, "name": name, "thing": False} for name in "ab"]})
    ),
    "deep JSON": lambda data: (data / "annotations_train.json").write_text("[" * 100_000),
    "no table": lambda data: (data / "domains.csv").write_bytes(b"split,id\n\xff\xfe\0"),
}
LISTING = {
    "data check": lambda house, data, out: ["data", "check", data],
    "data palette": lambda house, data, out: ["data", "palette", data, "-o", out],
    "data split": lambda house, data, out: ["data", "split", data, "--folds", 2, "-o", out],
    "build-bank": lambda house, data, out: ["build-bank", data, "-o", out],
    "train segmenter": lambda house, data, out: [*house.train("segmenter", data), "-o", out],
    "train generator": lambda house, data, out: [*house.train("resail", data), "-o", out],
    "synthesize": lambda house, data, out: ["synthesize", house.spade, "--data", data, *ON_CPU, "-o", out],
    "eval": lambda house, data, out: ["eval", house.samples, "-r", data, *ON_CPU, "-o", out],
}


@pytest.mark.parametrize("verb", LISTING)
@pytest.mark.parametrize("fault", SIDECARS)
def test_a_sidecar_that_cannot_be_understood(fault: str, verb: str, house: House, tmp_path: Path) -> None:
    data = copy(house.town, tmp_path / "town")
    SIDECARS[fault](data)
    ended = call(*LISTING[verb](house, data, tmp_path / "out"))
    assert ended.code == 3 and ended.out == "" and "Traceback" not in ended.err
    assert str(data) in ended.err and not (tmp_path / "out").exists()


# ---- odd but right --------------------------------------------------------------------------------------------------


def sixteen_bits(data: Path) -> None:
    values = np.array(Image.open(label(data))).astype(np.uint16)
    Image.fromarray(values).save(label(data))


def palette(data: Path) -> None:
    """The same ids, with the classes' colors as their palette."""
    table = np.zeros((256, 3), np.uint8)
    for entry in json.loads((data / "classes.json").read_text())["classes"]:
        table[entry["id"]] = entry["color"]
    picture = Image.fromarray(np.array(Image.open(label(data))), "P")
    picture.putpalette(table.ravel().tolist())
    picture.save(label(data))


def link_within(data: Path) -> None:
    image(data).rename(image(data).with_name(".original.png"))
    image(data).symlink_to(".original.png")


def linked_folder(data: Path) -> None:
    (data / "train" / "img").rename(data.parent / "photos")
    (data / "train" / "img").symlink_to("../../photos")


RIGHT = {
    "16-bit label": sixteen_bits,
    "palette label": palette,
    "link within": link_within,
    "folder link": linked_folder,
}


def pieces(out: Path) -> object:
    bank = Bank.open(out)
    return open_artifact(out, "bank").statistics, [bank.crop(row).tobytes() for row in range(len(bank))]


def pictures(out: Path) -> object:
    return [sha256_file(path) for path in sorted((out / "images").iterdir())]


SAME: dict[str, Callable[[Path], object]] = {
    "build-bank": pieces,
    "train segmenter": lambda out: open_weights(out).sha256,
    "synthesize --data": pictures,
    "synthesize --inputs": pictures,
    "eval": lambda out: open_artifact(out, "report").statistics,
}
RIGHT_MATRIX = [pytest.param(odd, v, id=f"{odd}-{v.name}") for odd in RIGHT for v in VERBS if v.name in SAME]


@pytest.mark.parametrize(("odd", "verb"), RIGHT_MATRIX)
def test_what_is_odd_but_right_gives_the_same(odd: str, verb: Verb, house: House, tmp_path: Path) -> None:
    data = copy(house.town, tmp_path / "town")
    expected = house.root / f"expected-{verb.name.replace(' ', '-')}"
    if not expected.exists():
        succeed(*verb.words(house, house.town, expected))
    RIGHT[odd](data)
    assert call("data", "check", data).code == 0
    succeed(*verb.words(house, data, tmp_path / "out"))
    assert SAME[verb.name](tmp_path / "out") == SAME[verb.name](expected)


@pytest.mark.parametrize("odd", ["16-bit label", "palette label"])
def test_a_search_finds_the_same_for_an_odd_layout(odd: str, house: House, tmp_path: Path) -> None:
    data = copy(house.town, tmp_path / "town")
    expected = succeed("search", house.index, label(data)).out
    RIGHT[odd](data)
    assert succeed("search", house.index, label(data)).out == expected


def rare_classes(data: Path) -> None:
    """A class that no pixel has, and one of a single segment."""
    file = data / "classes.json"
    classes = json.loads(file.read_text())
    classes["classes"] += [
        {"id": 100, "name": "unicorn", "thing": True, "color": [255, 0, 255]},
        {"id": 101, "name": "comet", "thing": False, "color": [0, 255, 255]},
    ]
    file.write_text(json.dumps(classes))
    values = np.array(Image.open(label(data)))
    values[:9, :11] = 101
    Image.fromarray(values).save(label(data))
    instances = data / "train" / "inst" / f"{SCENE}.png"
    kept = np.array(Image.open(instances))
    kept[:9, :11] = 0
    Image.fromarray(kept).save(instances)


@pytest.mark.slow
def test_an_empty_class_and_one_of_a_single_segment(house: House, tmp_path: Path) -> None:
    """Through the whole chain: such a class has no neighbor and nothing is pasted there; images come all the same."""
    data = copy(house.town, tmp_path / "town")
    rare_classes(data)
    assert "unicorn" in call("data", "check", data).err
    home = House(tmp_path)
    succeed("build-bank", data, "-o", home.bank)
    counts = open_artifact(home.bank, "bank").statistics["per_class"]
    assert counts["unicorn"] == 0 and counts["comet"] == 1
    succeed("train", "index", "--bank", home.bank, "-o", home.index)
    bank = Bank.open(home.bank)
    comet = int(bank.ids[np.flatnonzero(bank.categories == bank.schema.names.index("comet"))[0]])
    assert succeed("search", home.index, f"{comet:016x}").out == ""
    succeed(*home.train("segmenter"), "--steps", 1, "-o", home.segmenter)
    for system in ("resail", "spade", "oasis"):
        succeed(*home.train(system), "--steps", 1, "-o", tmp_path / system)
        samples = tmp_path / f"{system}-samples"
        succeed("synthesize", tmp_path / system, "-i", label(data).parent, *ON_CPU, "-o", samples)
        assert len(list((samples / "images").iterdir())) == 4
    judge = [*home.train("segmenter"), "--arch", "lraspp"]
    succeed(*judge, "--steps", 1, "-o", home.judge)
    succeed("eval", tmp_path / "resail-samples", "-r", data, "--judge", home.judge, *ON_CPU, "-o", home.report)


def test_a_layout_whose_class_has_no_piece(house: House, tmp_path: Path) -> None:
    """Every pixel of a class that the bank lacks: nothing is found, which is an answer."""
    schema = Bank.open(house.bank).schema
    counts = open_artifact(house.bank, "bank").statistics["per_class"]
    empty = next((name for name, count in counts.items() if not count), None)
    if empty is None:
        pytest.skip("this town shows every class")
    ids = np.full((64, 64), schema.classes[schema.names.index(empty)].id, np.uint8)
    Image.fromarray(ids).save(tmp_path / "layout.png")
    assert succeed("search", house.index, tmp_path / "layout.png").out == ""
    succeed("synthesize", house.resail, "-i", tmp_path / "layout.png", *ON_CPU, "-o", tmp_path / "out")


def test_files_that_cannot_be_opened(house: House, tmp_path: Path) -> None:
    """A folder where a picture should be."""
    data = copy(house.town, tmp_path / "town")
    label(data).unlink()
    os.mkdir(label(data))
    for words in (["build-bank", data, "--max-bad", 0], [*house.train("segmenter", data), "--max-bad", 0]):
        assert SCENE in refused(call(*words, "-o", tmp_path / "out"), [3], tmp_path / "out")
