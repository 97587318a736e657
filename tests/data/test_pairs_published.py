"""CVUSA, CVACT and VIGOR as they are published, made small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from pipelines.data.check import check_dataset
from pipelines.data.open import FORMATS, open_dataset
from pipelines.data.vigor import find_reading
from pipelines.errors import DataError

from .pair_trees import AERIAL, Tile, label, seed_of, tiles, write_cvact, write_cvusa, write_pairs, write_vigor
from .trees import photo, write_folder, write_picture

# ---- CVUSA ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("annotated", [True, False])
def test_cvusa_lists_pairs_of_matching_stems(tmp_path: Path, annotated: bool) -> None:
    dataset = open_dataset(write_cvusa(tmp_path, {"train": ["0000002", "0000001", "7"], "val": ["9"]}, annotated))
    assert dataset.format == "cvusa" and dataset.splits() == ["train", "val"]
    train = dataset.records("train")
    assert [record.id for record in train] == ["0000001", "0000002", "7"]
    for record in dataset.records():
        assert record.group == record.extra["aerial_id"] == record.id and record.domain == "cvusa"
        assert {view.path.stem for view in record.views.values()} == {record.id}
    scene = dataset.read(train[0])
    assert scene.views["aerial"].shape == (*AERIAL, 3) and not scene.record.extra.get("fault")
    assert check_dataset(tmp_path).valid


def test_cvusa_reads_one_list_alone(tmp_path: Path) -> None:
    assert len(open_dataset(write_cvusa(tmp_path, {"val": ["1", "2"]})).records("val")) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg", "the line has 1 cells"),
        ("a.jpg,", "the line has 2 cells"),
        ("a.jpg,b.jpg,c.png,d.png", "the line has 4 cells"),
    ],
)
def test_a_line_of_cvusa_that_is_no_pair(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train-19zl.csv").write_text(f"{line}\n")
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(tmp_path)
    assert "train-19zl.csv, line 1" in str(caught.value.where)


def test_a_pair_of_cvusa_in_both_lists_is_a_fault(tmp_path: Path) -> None:
    report = check_dataset(write_cvusa(tmp_path, {"train": ["1", "2"], "val": ["2", "3"]}))
    assert report.total_faults == 1 and report.faults[0].file.name == "val-19zl.csv"
    assert "line 1: the pair '2' is listed a second time" in report.faults[0].reason


# ---- CVACT ----------------------------------------------------------------------------------------------------------

IDS = ["pano_aa", "pano_b", "pano_cc", "pano_d", "pano_e"]


@pytest.mark.parametrize(
    "ids",
    [IDS, np.array([[name] for name in IDS], dtype=object), np.array(IDS, dtype=object)],
    ids=["characters", "column of cells", "row of cells"],
)
def test_cvact_counts_places_from_one(tmp_path: Path, ids: Any) -> None:
    dataset = open_dataset(write_cvact(tmp_path, ids, train=[1, 4, 3], val=[5]))
    assert dataset.format == "cvact"
    assert [record.id for record in dataset.records("train")] == ["pano_aa", "pano_cc", "pano_d"]
    assert [record.id for record in dataset.records("val")] == ["pano_e"]
    first = dataset.records("train")[0]
    assert first.views["ground"].path.name == "pano_aa_grdView.png"  # releases differ: JPEG as the aerial is, or PNG
    assert first.views["aerial"].path.name == "pano_aa_satView_polish.jpg"


def test_a_panorama_of_cvact_is_its_middle_rows(tmp_path: Path) -> None:
    dataset = open_dataset(write_cvact(tmp_path, IDS, [1], [2]))
    view = dataset.read_view(dataset.records("val")[0], "ground")
    assert view.shape == (16, 64, 3) and (view == seed_of("pano_b") % 120).all()
    published = np.broadcast_to(np.arange(832)[:, None, None] % 251, (832, 8, 3)).astype(np.uint8)
    write_picture(tmp_path / "streetview/pano_b_grdView.png", published)
    view = dataset.read_view(dataset.records("val")[0], "ground")
    np.testing.assert_array_equal(view, published[208:624])


def test_a_pair_of_cvact_without_a_picture_is_left_out_and_counted(tmp_path: Path) -> None:
    write_cvact(tmp_path, IDS, train=[1, 2, 3], val=[4, 5], missing=["pano_b"])
    (tmp_path / "satview_polish/pano_e_satView_polish.jpg").unlink()
    report = check_dataset(tmp_path)
    assert report.valid and report.splits == {"train": 2, "val": 1} and report.total_warnings == 2
    assert [fault.file.stem for fault in report.warnings] == ["pano_b_satView_polish", "pano_e_satView_polish"]
    assert "the pair pano_e is left out" in report.warnings[1].reason


def test_a_stem_of_cvact_that_repeats_is_a_fault(tmp_path: Path) -> None:
    write_cvact(tmp_path, IDS, train=[1, 2], val=[4])
    write_picture(tmp_path / "streetview/pano_b_grdView.jpg", photo(1))
    report = check_dataset(tmp_path)
    assert report.total_faults == 1 and "the stem 'pano_b_grdView' repeats" in report.faults[0].reason


def test_cvact_without_any_whole_pair(tmp_path: Path) -> None:
    write_cvact(tmp_path, IDS, train=[1, 2], val=[4], missing=IDS)
    with pytest.raises(DataError, match=r"there is no pair \(3 left out, the first: .*pano_aa"):
        open_dataset(tmp_path)


def table(**change: Any) -> dict[str, Any]:
    whole = {"panoIds": IDS, "trainSet": {"trainInd": [[1.0]]}, "valSet": {"valInd": [[2.0]]}}
    return {name: value for name, value in {**whole, **change}.items() if value is not None}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (table(trainSet={"trainInd": [[0.0]]}), "train lists the panorama number 0 of 5, from 1"),
        (table(valSet={"valInd": [[6.0]]}), "val lists the panorama number 6 of 5"),
        (table(valSet={"valInd": [[1.5]]}), "an index is no whole number"),
        (table(valSet={"valInd": [[np.nan]]}), "an index is no whole number"),
        (table(valSet=None), "the lists cannot be read"),
        (table(valSet=[[1.0]]), "the lists cannot be read"),
        (table(valSet={"other": [[1.0]]}), "the lists cannot be read"),
        (table(panoIds=None), "the lists cannot be read"),
        (table(panoIds=["../../aa", "b"]), "'../../aa' is no part of a file name"),
    ],
)
def test_a_table_of_cvact_that_cannot_be(tmp_path: Path, data: dict[str, Any], said: str) -> None:
    savemat(tmp_path / "ACT_data.mat", data)
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(tmp_path)
    assert str(caught.value.where) == str(tmp_path / "ACT_data.mat")


@settings(max_examples=8, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 700))
def test_a_damaged_table_of_cvact_is_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int
) -> None:
    root = tmp_path_factory.mktemp("wild")
    savemat(root / "ACT_data.mat", table())
    whole = (root / "ACT_data.mat").read_bytes()
    (root / "ACT_data.mat").write_bytes(whole[:at] + data + (whole[at + len(data) :] if at % 2 else b""))
    with pytest.raises(DataError):  # a table that is whole by chance lists no picture that is there
        open_dataset(root)


def test_a_table_of_matlab_73_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ACT_data.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(DataError, match=r"MATLAB 7\.3") as caught:
        open_dataset(tmp_path)
    assert "-v7" in str(caught.value.fix)


# ---- VIGOR ----------------------------------------------------------------------------------------------------------

SAME = ("same_area_balanced_train.txt", "same_area_balanced_test.txt")


def small_vigor(root: Path) -> tuple[Path, list[Tile], list[Tile]]:
    """Two cities of six and five tiles; in New York two panoramas to train on and one other, in Chicago one each."""
    york, chicago = tiles("NewYork", 6), tiles("Chicago", 5, 41.8, -87.6)
    lists = {
        "NewYork": {
            SAME[0]: [label("p1,40.7,-74.0,.jpg", york, 5, 7), label("p2,40.8,-74.0,.jpg", york[1:], 1, 2)],
            SAME[1]: [label("p3,40.9,-74.0,.jpg", york[2:], 3, 4)],
        },
        "Chicago": {
            SAME[0]: [label("q1,41.8,-87.6,.jpg", chicago, 9, 9)],
            SAME[1]: [label("q2,41.9,-87.6,.jpg", chicago, 8, 8)],
        },
    }
    for there in lists.values():
        there["pano_label_balanced.txt"] = there[SAME[0]] + there[SAME[1]]
    return write_vigor(root, {"NewYork": york, "Chicago": chicago}, lists), york, chicago


def test_vigor_lists_a_positive_and_three_semi_positives(tmp_path: Path) -> None:
    root, york, _ = small_vigor(tmp_path)
    dataset = open_dataset(root)
    assert dataset.format == "vigor" and dataset.schema.domains == ("vigor",)
    first = next(record for record in dataset.records("train") if record.id == "NewYork/p1,40.7,-74.0,")
    assert first.views["aerial"].path == root / "NewYork/satellite" / york[0].name
    assert first.views["ground"].path == root / "NewYork/panorama/p1,40.7,-74.0,.jpg"
    assert first.extra["aerial_id"] == first.group == york[0].id
    assert first.extra["semi"] == [tile.id for tile in york[1:4]] and first.extra["city"] == "NewYork"
    assert set(dataset.read(first).views) == {"aerial", "ground"}


def test_the_gallery_of_vigor_is_every_tile_of_its_cities(tmp_path: Path) -> None:
    root, york, chicago = small_vigor(tmp_path)
    test = open_dataset(root).records("test")
    assert sorted({record.extra["aerial_id"] for record in test}) == sorted(tile.id for tile in york + chicago)
    assert len(test) == 11 and sum("ground" in record.views for record in test) == 2
    assert all("ground" in record.views for record in open_dataset(root).records("train"))


def test_the_cross_area_of_vigor_parts_the_cities(tmp_path: Path) -> None:
    root, york, chicago = small_vigor(tmp_path)
    dataset = open_dataset(root, "vigor-cross")
    assert dataset.format == "vigor-cross" and len(dataset.records("train")) == 3
    assert {record.extra["city"] for record in dataset.records("train")} == {"NewYork"}
    test = dataset.records("test")
    assert {record.extra["aerial_id"] for record in test} == {tile.id for tile in chicago}
    assert sum("ground" in record.views for record in test) == 2
    assert york[4].id not in {record.extra["aerial_id"] for record in dataset.records()}


def test_what_the_published_lists_of_vigor_divide_is_a_warning(tmp_path: Path) -> None:
    root, _, _ = small_vigor(tmp_path)
    report = check_dataset(root)
    assert report.valid and report.pairs == 5 and report.views["aerial"] == {(64, 64): 3 + 11}
    reasons = [fault.reason for fault in report.warnings]
    assert sum("the city has no satellite_list.txt" in reason for reason in reasons) == 2  # San Francisco, Seattle
    assert any(reason.startswith("the published lists divide 3 groups") for reason in reasons)
    assert check_dataset(root, "vigor-cross").valid


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a,1,2,.jpg t.png 0 0", "the line has 4 words"),
        (" ".join(["../a.jpg", *["t.png 0 0"] * 4]), "'../a.jpg' is no file name"),
        (" ".join(["a,1,2,.jpg", *["t.png zero 0"] * 4]), "an offset is no number"),
        (" ".join(["a,1,2,.jpg", *["t.png nan 0"] * 4]), "an offset is not finite"),
    ],
)
def test_a_line_of_vigor_that_is_no_label(tmp_path: Path, line: str, said: str) -> None:
    root, _, _ = small_vigor(tmp_path)
    path = root / "splits/NewYork" / SAME[0]
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=said) as caught:
        open_dataset(root)
    assert str(caught.value.where) == f"{path}, line 3"


def test_a_tile_that_the_city_does_not_list_is_a_fault(tmp_path: Path) -> None:
    root, york, _ = small_vigor(tmp_path)
    path = root / "splits/NewYork/satellite_list.txt"
    path.write_text("".join(f"{tile.name}\n" for tile in york if tile is not york[3]))
    report = check_dataset(root)
    assert report.total_faults == 3  # it is a semi-positive of the three panoramas
    assert f"the tile {york[3].name!r} is not in satellite_list.txt" in report.faults[0].reason


# ---- centered VIGOR -------------------------------------------------------------------------------------------------

PLACES = [(-120.0, 40.0), (96.0, 150.0), (30.0, -130.0), (-64.0, -96.0), (150.0, -20.0)]
"""Right and down of a tile's middle, in pixels of 640."""

CONVENTIONS = {  # (first, second) of (right, down)
    "right down": lambda right, down: (right, down),
    "down right": lambda right, down: (down, right),
    "up right": lambda right, down: (-down, right),
    "left up": lambda right, down: (-right, -down),
}


def centered_vigor(root: Path, convention: str, places: list[tuple[float, float]] = PLACES) -> Path:
    """One tile and panorama for each place, marked white in its tile; offsets as the convention writes them."""
    there = {city: tiles(city, len(places), latitude) for city, latitude in (("NewYork", 40.7), ("Seattle", 47.6))}
    lists: dict[str, dict[str, list[str]]] = {city: {SAME[0]: [], SAME[1]: []} for city in there}
    for city, listed in there.items():
        for number, (tile, (right, down)) in enumerate(zip(listed, places, strict=True)):
            name = tile.panorama(f"{city}{number}", right, down)
            line = label(name, [tile, *listed, *listed], *CONVENTIONS[convention](right, down))
            lists[city][SAME[number % 2]].append(line)
    write_vigor(root, there, lists)
    for listed in there.values():
        for tile, (right, down) in zip(listed, places, strict=True):
            marked = photo(seed_of(tile.id), 128, 128) // 20
            row, column = round(64 + down / 5), round(64 + right / 5)
            marked[max(0, row - 3) : row + 3, max(0, column - 3) : column + 3] = 255
            write_picture(root / tile.city / "satellite" / tile.name, marked)
    return root


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_squares_have_their_panorama_in_the_middle(tmp_path: Path, convention: str) -> None:
    dataset = open_dataset(centered_vigor(tmp_path, convention), "vigor_centered")
    assert len(dataset.records()) == 2 * len(PLACES)
    assert dataset.splits() == ["test", "train"] and not [f for f in dataset.faults if "city" not in f.reason]
    assert len({record.extra["aerial_id"] for record in dataset.records()}) == 2 * len(PLACES)
    for record in dataset.records():
        view = dataset.read_view(record, "aerial")
        assert view.shape == (64, 64, 3) and "semi" not in record.extra
        assert (view[30:34, 30:34] > 200).all() and view.mean() < 20
        assert record.group == record.extra["tile"]


def test_a_square_that_would_leave_its_tile_drops_the_panorama(tmp_path: Path) -> None:
    centered_vigor(tmp_path, "up right", [*PLACES, (161.0, 10.0), (20.0, -170.0)])
    report = check_dataset(tmp_path, "vigor_centered")
    assert report.valid and report.pairs == 2 * len(PLACES)
    assert sum("the square around it would leave its tile" in fault.reason for fault in report.warnings) == 4
    assert all("panorama" in str(f.file) for f in report.warnings if "square" in f.reason)


def test_an_offset_that_its_names_deny_drops_the_panorama(tmp_path: Path) -> None:
    centered_vigor(tmp_path, "up right", PLACES * 4)
    path = tmp_path / "splits/Seattle" / SAME[0]
    lines = path.read_text().splitlines()
    words = lines[1].split(" ")
    words[2] = str(float(words[2]) + 90)
    path.write_text("\n".join([lines[0], " ".join(words), *lines[2:]]) + "\n")
    dataset = open_dataset(tmp_path, "vigor_centered")
    [fault] = [fault for fault in dataset.faults if "its offset is" in fault.reason]
    assert fault.file.name == words[0] and len(dataset.records()) == 8 * len(PLACES) - 1


def test_offsets_that_contradict_the_names_are_refused(tmp_path: Path) -> None:
    centered_vigor(tmp_path, "right down")
    for path in (tmp_path / "splits").glob("*/same*.txt"):
        lines = [line.split(" ") for line in path.read_text().splitlines()]
        turned = [
            [*words[:2], *words_of[2:4], *words[4:]]
            for words, words_of in zip(lines, lines[1:] + lines[:1], strict=True)
        ]
        path.write_text("".join(" ".join(words) + "\n" for words in turned))
    with pytest.raises(DataError, match=r"contradict the positions .* leaves \d+% .* unexplained"):
        open_dataset(tmp_path, "vigor_centered")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.sampled_from([-1, 1]), st.sampled_from([-1, 1]))
def test_every_reading_is_found_through_noise(seed: int, swapped: bool, right: int, down: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-160, 160, (40, 2))
    written = pixels * (right, down)
    reading = find_reading(written[:, ::-1] if swapped else written, (pixels + rng.normal(0, 8, (40, 2))) / 7e5, Path())
    assert (reading.order, reading.signs) == ((1, 0) if swapped else (0, 1), (right, down))
    assert reading.scale == pytest.approx(7e5, rel=0.1)


def test_offsets_that_two_readings_explain_are_refused(tmp_path: Path) -> None:
    offsets = np.array([[50.0, 50.0], [-20.0, -20.0]])
    with pytest.raises(DataError, match="contradict"):
        find_reading(offsets, offsets / 1e6, tmp_path)


def test_panoramas_in_the_middle_of_their_tiles_need_no_reading(tmp_path: Path) -> None:
    none = np.zeros((3, 2))
    np.testing.assert_array_equal(find_reading(none, none, tmp_path).pixels(none), none)
    with pytest.raises(DataError, match="contradict"):
        find_reading(none, none + 1e-4, tmp_path)


def test_names_without_positions_are_refused(tmp_path: Path) -> None:
    root = centered_vigor(tmp_path, "right down")
    path = root / "splits/Seattle" / SAME[1]
    path.write_text("odd.jpg" + path.read_text().partition(" ")[1] + path.read_text().partition(" ")[2])
    with pytest.raises(DataError, match="no positions in the names 'odd"):
        open_dataset(root, "vigor_centered")


# ---- all ------------------------------------------------------------------------------------------------------------


def test_no_two_formats_fit_one_folder(tmp_path: Path) -> None:
    roots = {
        "folder": write_folder(tmp_path / "folder"),
        "pairs": write_pairs(tmp_path / "pairs", [{"id": "a", "aerial": "x.png", "street": "y.png"}]),
        "cvusa": write_cvusa(tmp_path / "cvusa", {"train": ["1"]}),
        "cvact": write_cvact(tmp_path / "cvact", IDS, [1], [2]),
        "vigor": small_vigor(tmp_path / "vigor")[0],
    }
    for name, root in roots.items():
        assert open_dataset(root).format == name
        assert [f for f, known in FORMATS.items() if known.recognizes and known.recognizes(root)] == [name]


@pytest.mark.parametrize("name", ["vigor", "vigor-cross", "vigor_centered"])
def test_vigor_by_name_where_it_is_not(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        open_dataset(tmp_path, name)


def test_listing_decodes_no_picture(tmp_path: Path) -> None:
    """Pictures of garbage are listed, and refused when they are read."""
    roots = [
        (write_cvusa(tmp_path / "1", {"train": ["1"]}), "cvusa"),
        (write_cvact(tmp_path / "2", IDS, [1], [2]), "cvact"),
        (small_vigor(tmp_path / "3")[0], "vigor"),
        (centered_vigor(tmp_path / "4", "left up"), "vigor_centered"),
    ]
    for root, format_ in roots:
        for picture in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
            picture.write_bytes(b"garbage")
        dataset = open_dataset(root, format_)
        for record in dataset.records():
            with pytest.raises(DataError, match="neither PNG nor JPEG"):
                dataset.read(record)


def test_seeds_differ() -> None:
    assert len({seed_of(name) for name in ("aerial/a.png", "aerial/b.png", "street/a.png")}) == 3
