"""What can be wrong with pairs of aerial and street pictures: told by `rgs data check`, refused by what reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from pipelines.data.check import usable
from pipelines.data.open import open_dataset
from pipelines.errors import DataError
from tests.data.pair_trees import label, pair, tiles, write_cvact, write_cvusa, write_pairs, write_vigor
from tests.faults.conftest import refused
from tests.faults.test_data import png
from tests.rgs_cli.conftest import call, content, succeed

ROWS = [pair(name, source="n", group=f"g{name}", split="train" if name < "d" else "val") for name in "abcde"]


def sound(root: Path) -> Path:
    return write_pairs(root, ROWS)


def rewrite(root: Path, change: Callable[[str], str], name: str = "pairs.csv") -> Path:
    path = root / name
    path.write_text(change(path.read_text()))
    return path


# ---- one pair -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """plant: spoils the pair b (or its line) and returns the file that must be named. said: of the reason."""

    name: str
    plant: Callable[[Path], Path]
    said: str


def remove(root: Path, view: str) -> Path:
    (root / view / "b.png").unlink()
    return root / view / "b.png"


def bomb(root: Path) -> Path:
    """A few hundred bytes that claim ten gigapixels."""
    (root / "aerial/b.png").write_bytes(png(100_000, 100_000, 8, bytes(1000)))
    return root / "aerial/b.png"


def cut(root: Path) -> Path:
    path = root / "street/b.png"
    path.write_bytes(path.read_bytes()[:90])
    return path


def garbage(root: Path) -> Path:
    (root / "street/b.png").write_bytes(b"GIF89a")
    return root / "street/b.png"


def no_file(root: Path) -> Path:
    remove(root, "street").mkdir()
    return root / "street/b.png"


def link_out(root: Path) -> Path:
    path = root / "street/b.png"
    path.rename(root.parent / "secret.png")
    path.symlink_to(Path("../../secret.png"))
    return path


def climb(root: Path) -> Path:
    Image.new("RGB", (8, 8)).save(root.parent / "secret.png")
    return rewrite(root, lambda text: text.replace("aerial/b.png", "aerial/../../secret.png"))


def absolute(root: Path) -> Path:
    Image.new("RGB", (8, 8)).save(root.parent / "secret.png")
    return rewrite(root, lambda text: text.replace("street/b.png", str(root.parent / "secret.png")))


def again(root: Path) -> Path:
    return rewrite(root, lambda text: text + "b,aerial/e.png,street/c.png,n,ge,val\n")


def same_street(root: Path) -> Path:
    return rewrite(root, lambda text: text.replace("street/c.png", "street/b.png"))


def two_groups(root: Path) -> Path:
    return rewrite(root, lambda text: text.replace("aerial/c.png", "aerial/b.png"))


def no_aerial(root: Path) -> Path:
    return rewrite(root, lambda text: text.replace("aerial/b.png", ""))


def no_split(root: Path) -> Path:
    return rewrite(root, lambda text: text.replace("n,gb,train", "n,gb,"))


def no_number(root: Path) -> Path:
    extended = "\n".join(f"{line},{'heading' if line.startswith('id') else '0.5'}" for line in table(root).splitlines())
    return rewrite(root, lambda _: extended.replace("gb,train,0.5", "gb,train,north"))


def table(root: Path) -> str:
    return (root / "pairs.csv").read_text()


FAULTS = [
    Fault("aerial missing", lambda root: remove(root, "aerial"), "the file is missing"),
    Fault("street missing", lambda root: remove(root, "street"), "the file is missing"),
    Fault("bomb", bomb, "claims more than"),
    Fault("cut off", cut, "damaged or cut off"),
    Fault("no picture", garbage, "neither PNG nor JPEG"),
    Fault("folder", no_file, "cannot be read"),
    Fault("link out", link_out, "leads out of the dataset"),
    Fault("path out", climb, "line 3: the aerial picture 'aerial/../../secret.png' lies outside"),
    Fault("absolute path", absolute, "secret.png' lies outside"),
    Fault("id twice", again, "line 7: the pair 'b' is listed a second time"),
    Fault("street picture twice", same_street, "line 4: the street picture b.png is also that of 'b'"),
    Fault("aerial picture in two groups", two_groups, "line 4: the aerial picture b.png is in another group, 'gb'"),
    Fault("no aerial", no_aerial, "line 3: there is no aerial picture"),
    Fault("no split", no_split, "line 3: the split is empty"),
    Fault("no number", no_number, "line 3: heading is 'north', no number"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_of_one_pair_is_told_and_refused(fault: Fault, tmp_path: Path) -> None:
    root = sound(tmp_path / "pairs")
    named = fault.plant(root)
    before = content(tmp_path)
    ended = call("data", "check", root)
    assert ended.code == 3 and ended.out == "" and "Traceback" not in ended.err
    assert fault.said in ended.err and named.name in ended.err and "1 fault:" in ended.err
    assert content(tmp_path) == before
    dataset = open_dataset(root)
    assert all(set(record.views) == {"aerial", "ground"} for record in dataset.records())  # so none is passed over
    kept, bad = usable(dataset, dataset.records(), (), max_bad=1, views=("aerial", "ground"))
    [reason] = bad.values()
    assert fault.said in reason and str(tmp_path) not in reason.replace(str(root.parent / "secret.png"), "")
    assert len(kept) == 4
    with pytest.raises(DataError, match="more than 0 scenes cannot be used"):
        usable(dataset, dataset.records(), (), max_bad=0, views=("aerial", "ground"))


# ---- the whole ------------------------------------------------------------------------------------------------------

TABLES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda root: (root / "pairs.csv").write_bytes(b""), "the table is empty"),
    "blank": (lambda root: (root / "pairs.csv").write_bytes(b"\n\n\r\n"), "the table is empty"),
    "no pairs": (lambda root: rewrite(root, lambda text: text.split("\n")[0] + "\n"), "there is no pair"),
    "aerials alone": (lambda root: (root / "pairs.csv").write_text("id,aerial,street\na,aerial/a.png,\n"), "no pair"),
    "no column": (lambda root: rewrite(root, lambda text: text.replace("street,", "ground,", 1)), "columns street"),
    "a column twice": (lambda root: rewrite(root, lambda text: text.replace("source", "group", 1)), "name 'group'"),
    "a column of rgs": (lambda root: rewrite(root, lambda text: text.replace("source", "fault", 1)), "called 'fault'"),
    "no id": (lambda root: rewrite(root, lambda text: text.replace("\nc,", "\n,")), "line has no id"),
    "short line": (lambda root: rewrite(root, lambda text: text.replace(",gc,train", "")), "4 cells, the first line 6"),
    "long line": (lambda root: rewrite(root, lambda text: text.replace("gc,", "gc,x,")), "7 cells, the first line 6"),
    "open quote": (lambda root: rewrite(root, lambda text: text.replace("gc,", '"gc,')), "cannot be read"),
    "not UTF-8": (lambda root: (root / "pairs.csv").write_bytes(b"id,aerial,street\n\xff\xfe,b,c\n"), "not UTF-8"),
    "UTF-16": (lambda root: (root / "pairs.csv").write_text(table(root), encoding="utf-16"), "not UTF-8"),
    "a folder": (lambda root: [(root / "pairs.csv").unlink(), (root / "pairs.csv").mkdir()], "no dataset is recogn"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_cannot_be_understood(name: str, tmp_path: Path) -> None:
    root = sound(tmp_path / "pairs")
    spoil, said = TABLES[name]
    spoil(root)
    ended = call("data", "check", root)
    assert ended.code == 3 and ended.out == "" and "Traceback" not in ended.err
    assert said in ended.err and str(root) in ended.err
    told = refused(call("data", "split", root, "--folds", 2, "-o", tmp_path / "out"), [3], tmp_path / "out")
    assert said in told and not (tmp_path / "out").exists()


def test_a_group_on_both_sides_of_a_split(tmp_path: Path) -> None:
    root = sound(tmp_path / "pairs")
    rewrite(root, lambda text: text.replace("gd,val", "ga,val"))
    ended = call("data", "check", root)
    assert ended.code == 3 and "the group 'ga' is in several splits: train, val" in ended.err


def test_a_shared_aerial_on_both_sides_of_a_split(tmp_path: Path) -> None:
    """Without groups in the table it is the aerial picture that tells the place."""
    rows = [{**row, "group": "", "aerial": "aerial/one.png"} if row["id"] in "ae" else row for row in ROWS]
    ended = call("data", "check", write_pairs(tmp_path, rows))
    assert ended.code == 3 and "the group 'aerial/one.png' is in several splits: train, val" in ended.err


def test_a_copied_picture_on_both_sides_of_a_split(tmp_path: Path) -> None:
    root = sound(tmp_path)
    (root / "street/e.png").write_bytes((root / "street/a.png").read_bytes())
    ended = call("data", "check", root)
    assert ended.code == 3 and "the ground view of e is pixel by pixel that of a, of another group" in ended.err


def test_only_the_first_faults_are_named_and_all_are_counted(tmp_path: Path) -> None:
    root = sound(tmp_path)
    for path in (root / "street").iterdir():
        path.unlink()
    ended = call("data", "check", root, "--limit", 2)
    assert ended.code == 3 and "5 faults, the first 2:" in ended.err and ended.err.count("the file is missing") == 2


def test_published_layouts_with_faults(tmp_path: Path) -> None:
    usa = write_cvusa(tmp_path / "usa", {"train": ["1", "2"], "val": ["3"]})
    (usa / "streetview/panos/2.jpg").unlink()
    ended = call("data", "check", usa)
    assert ended.code == 3 and "streetview/panos/2.jpg: the file is missing" in ended.err

    rewrite(usa, lambda text: text.replace("bingmap/19/1", "../usa/bingmap/19/1"), "splits/train-19zl.csv")
    ended = call("data", "check", usa)
    assert ended.code == 3 and "line 1: the picture '../usa/bingmap/19/1.jpg' lies outside the dataset" in ended.err

    act = write_cvact(tmp_path / "act", ["aa", "bb", "cc"], [1, 2], [3, 2], missing=["aa"])
    ended = call("data", "check", act)
    assert ended.code == 3 and "panorama 2: the pair 'bb' is listed a second time" in ended.err
    assert "1 warning" in ended.err and "the pair aa is left out" in ended.err

    city = tiles("Seattle", 5)
    lists = {"same_area_balanced_train.txt": [label("a,1,2,.jpg", city)]}
    vigor = write_vigor(tmp_path / "vigor", {"Seattle": city}, {"Seattle": lists})
    ended = call("data", "check", vigor)
    assert ended.code == 3 and "same_area_balanced_test.txt" in ended.err and "cannot be read" in ended.err


def test_pairs_have_no_classes_to_draw_with(tmp_path: Path) -> None:
    root = sound(tmp_path / "pairs")
    told = refused(call("data", "palette", root, "-o", tmp_path / "out"), [3], tmp_path / "out")
    assert "this dataset has no classes" in told and str(root) in told


# ---- sound ----------------------------------------------------------------------------------------------------------


def test_sound_pairs_are_counted_and_parted(tmp_path: Path) -> None:
    root = sound(tmp_path / "pairs")
    ended = succeed("data", "check", root)
    assert ended.out.strip() == str(root) and "5 pairs of 5 groups" in ended.err and "no faults" in ended.err
    assert "ground views: sizes 48x16 (5)" in ended.err and "warning" not in ended.err
    told = succeed("data", "check", root, "--json").json
    assert told["pairs"] == 5 and told["sources"] == [{"name": "n", "pairs": 5, "aerials": 5, "groups": 5}]
    assert told["views"]["aerial"] == [{"height": 24, "width": 24, "images": 5}]
    succeed("data", "split", root, "--folds", 2, "-o", tmp_path / "folds")
    held_out = [(tmp_path / f"folds/fold-{k}/val.txt").read_text().split() for k in range(2)]
    assert sorted(name for fold in held_out for name in fold) == list("abcde")
