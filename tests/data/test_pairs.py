from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.check import check_dataset, usable
from pipelines.data.digest import dataset_digest
from pipelines.data.open import open_dataset
from pipelines.data.pairs import read_rows
from pipelines.data.split import folds_by_group
from pipelines.errors import DataError

from .pair_trees import AERIAL, STREET, pair, seed_of, write_pairs
from .trees import REAL, photo, real, write_picture


def test_a_table_gives_the_views_and_what_is_known_of_each_pair(tmp_path: Path) -> None:
    rows = [
        pair("b", source="north", split="val", group="g", licence="CC0", heading="1.5", x="2", y="-3", note="fog"),
        pair("a", source="south", split="train", yaw="90", semi="s; t", street_kind="panorama", aerial_id="A"),
    ]
    dataset = open_dataset(write_pairs(tmp_path, rows))
    assert dataset.format == "pairs" and dataset.schema.classes == () and dataset.schema.domains == ("north", "south")
    first, second = dataset.records()
    assert (first.id, first.split, first.domain, first.group) == ("a", "train", "south", "A")
    assert first.extra == {"yaw": 90.0, "semi": ["s", "t"], "street_kind": "panorama", "aerial_id": "A"}
    assert (second.id, second.split, second.domain, second.group) == ("b", "val", "north", "g")
    assert second.licence == "CC0" and second.image is None and second.labels is None
    assert second.extra == {"heading": 1.5, "position": [2.0, -3.0], "note": "fog", "aerial_id": "aerial/b.png"}
    scene = dataset.read(first)
    assert scene.image is None and set(scene.views) == {"aerial", "ground"}
    np.testing.assert_array_equal(scene.views["aerial"], photo(seed_of("aerial/a.png"), *AERIAL))
    np.testing.assert_array_equal(dataset.read_view(first, "ground"), photo(seed_of("street/a.png"), *STREET))


def test_a_table_without_splits_is_all_for_training(tmp_path: Path) -> None:
    dataset = open_dataset(write_pairs(tmp_path, [pair("a"), pair("b")]))
    assert [record.split for record in dataset.records("train")] == ["train", "train"]


def test_an_aerial_without_a_street_picture_is_in_galleries_only(tmp_path: Path) -> None:
    dataset = open_dataset(write_pairs(tmp_path, [pair("a"), {**pair("b"), "street": ""}]))
    lone = dataset.records()[1]
    assert set(lone.views) == {"aerial"} and lone.group and set(dataset.read(lone).views) == {"aerial"}
    report = check_dataset(tmp_path)
    assert report.valid and report.pairs == 1 and "1 aerial pictures have no street" in report.notes[0]


def test_pairs_that_share_an_aerial_or_a_group_are_one_place(tmp_path: Path) -> None:
    shared = {"aerial": "aerial/one.png"}
    rows = [{**pair("a"), **shared}, {**pair("b"), **shared}, pair("c"), pair("d", group="g"), pair("e", group="g")]
    groups = {record.id: record.group for record in open_dataset(write_pairs(tmp_path, rows)).records()}
    assert groups["a"] == groups["b"] and groups["d"] == groups["e"] == "g"
    assert len(set(groups.values())) == 3 and all(groups.values())


def test_an_aerial_in_two_groups_is_a_fault_and_they_are_one_place(tmp_path: Path) -> None:
    shared = {"aerial": "aerial/one.png"}
    rows = [pair("a", group="g"), {**pair("b", group="g"), **shared}, {**pair("c", group="h"), **shared}]
    rows.append(pair("d", group="h"))
    dataset = open_dataset(write_pairs(tmp_path, rows))
    assert len({record.group for record in dataset.records()}) == 1
    faulty = [record for record in dataset.records() if "fault" in record.extra]
    assert [record.id for record in faulty] == ["c"]
    with pytest.raises(DataError, match=r"line 4: the aerial picture one\.png is in another group, 'g'"):
        dataset.read(faulty[0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("pqrst"), st.sampled_from(["", "g", "h", "i"])), min_size=1, max_size=12))
def test_places_are_the_connected_parts(tmp_path_factory: pytest.TempPathFactory, links: list[tuple[str, str]]) -> None:
    """Against a walk over «shares an aerial or a group»."""
    root = tmp_path_factory.mktemp("places")
    rows = [{**pair(f"{k:02}", group=group), "aerial": f"aerial/{name}.png"} for k, (name, group) in enumerate(links)]
    root.mkdir(exist_ok=True)
    with (root / "pairs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    found = [record.group for record in open_dataset(root).records()]
    # a line without a group stands where its aerial is; that is one place by the aerial alone
    together = [[a[0] == b[0] or (a[1] == b[1] != "") for b in links] for a in links]
    reach = np.linalg.matrix_power(np.array(together, dtype=int) + np.eye(len(links), dtype=int), len(links)) > 0
    np.testing.assert_array_equal(np.array(found)[:, None] == np.array(found)[None], reach)


@pytest.mark.parametrize("dress", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n")])
def test_a_byte_order_mark_and_other_line_endings_change_nothing(tmp_path: Path, dress) -> None:
    write_pairs(tmp_path, [pair("a", split="x"), pair("b", split="y")])
    plain = open_dataset(tmp_path).records()
    table = tmp_path / "pairs.csv"
    table.write_bytes(dress(table.read_bytes()) + b"\n\n")
    assert open_dataset(tmp_path).records() == plain


CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r\0"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=1, max_size=5))
def test_rows_are_those_of_the_csv_module(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("rows") / "t.csv"
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    path.write_bytes(text.getvalue().encode())
    expected = [[cell.strip() for cell in row] for row in rows if any(row)]
    if any(row[0].startswith("\ufeff") for row in rows[:1]):
        return  # a mark within quotes is a character
    assert [cells for _, cells in read_rows(path)] == expected


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_table_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("wild")
    (root / "pairs.csv").write_bytes(b"id,aerial,street\n" + data)
    try:
        dataset = open_dataset(root)
    except DataError as error:
        assert error.where is not None and "pairs.csv" in str(error.where)
        return
    assert dataset.listed
    for record in dataset.listed:
        with pytest.raises(DataError):
            dataset.read(record)  # there is no picture


def test_the_digest_follows_pictures_and_table_and_no_path(tmp_path: Path) -> None:
    rows = [pair("a", split="train"), pair("b", split="train")]
    base, again, other = (write_pairs(tmp_path / name, rows) for name in ("1", "2", "3"))
    digests = [dataset_digest(d, d.records()) for d in map(open_dataset, (base, again))]
    assert digests[0] == digests[1]
    write_picture(other / "street/a.png", photo(5))
    changed = open_dataset(other)
    assert dataset_digest(changed, changed.records()) != digests[0]
    moved = open_dataset(write_pairs(tmp_path / "4", [{**rows[0], "group": "x"}, rows[1]]))
    assert dataset_digest(moved, moved.records()) != digests[0]


def test_a_report_counts_sources_and_sizes(tmp_path: Path) -> None:
    shared = {"aerial": "aerial/a.png"}
    rows = [pair("a", source="n"), {**pair("b", source="n"), **shared}, pair("c", source="s"), pair("d", source="s")]
    report = check_dataset(write_pairs(tmp_path, rows))
    assert report.valid and report.pairs == 4 and report.groups == 3
    assert [(s.name, s.pairs, s.aerials, s.groups) for s in report.sources] == [("n", 2, 1, 1), ("s", 2, 2, 2)]
    assert report.views == {"aerial": {AERIAL: 4}, "ground": {STREET: 4}} and report.notes == []
    assert report.to_json()["views"]["ground"] == [{"height": 16, "width": 48, "images": 4}]


def test_a_copy_of_a_picture_under_another_name_is_told(tmp_path: Path) -> None:
    rows = [pair("a", split="train"), pair("b", split="train"), pair("c", split="val"), pair("d", split="val")]
    write_pairs(tmp_path, rows)
    for copy in ("b", "d"):
        (tmp_path / f"street/{copy}.png").write_bytes((tmp_path / "street/a.png").read_bytes())
    report = check_dataset(tmp_path)
    assert [fault.file.name for fault in report.warnings] == ["b.png"]  # within training
    assert [fault.file.name for fault in report.faults] == ["d.png"]
    assert "the ground view of d is pixel by pixel that of a" in report.faults[0].reason


def test_pairs_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    dataset = open_dataset(write_pairs(tmp_path, [pair("a"), pair("b"), pair("c")]))
    (tmp_path / "street/b.png").unlink()
    kept, bad = usable(dataset, dataset.records(), (), max_bad=1, views=("aerial", "ground"))
    assert [record.id for record in kept] == ["a", "c"] and "street/b.png" in bad["b"]
    kept, bad = usable(dataset, dataset.records(), (), max_bad=0, views=("aerial",))
    assert len(kept) == 3 and not bad


@real
def test_the_pack_of_six_sources() -> None:
    dataset = open_dataset(REAL / "crossview")
    records = dataset.records()
    sources = {"cvusa_pano": 24, "cvusa_persp": 24, "dayton": 28, "cvact": 8, "london": 7, "helsinki": 8}
    assert Counter(record.domain for record in records) == sources
    groups: dict[str, set[str]] = {}
    for record in records:
        groups.setdefault(record.group, set()).add(record.domain)
    both = {group for group, there in groups.items() if len(there) > 1}
    assert both == {"cvusa_0000027", "cvusa_0000035", "cvusa_0000037"}
    report = check_dataset(REAL / "crossview")
    assert report.valid and report.pairs == 99 and not report.warnings
    assert report.views["ground"][(224, 1232)] == 24
    london = next(record for record in records if record.domain == "london")
    assert 51 < london.extra["lat"] < 52 and 0 <= london.extra["yaw"] < 360


@real
def test_folds_of_the_pack_divide_no_group_and_hold_every_source() -> None:
    records = open_dataset(REAL / "crossview").records()
    known = {record.id: record for record in records}
    folds = folds_by_group(records, 5)
    assert sorted(name for fold in folds for name in fold) == [record.id for record in records]
    owners: dict[str, set[int]] = {}
    for number, fold in enumerate(folds):
        for name in fold:
            owners.setdefault(known[name].group, set()).add(number)
    assert all(len(there) == 1 for there in owners.values())
    per_fold = [Counter(known[name].domain for name in fold) for fold in folds]
    for source in {record.domain for record in records} - {"london"}:  # London has three groups
        assert all(counts[source] for counts in per_fold), source
    assert sum(counts["london"] > 0 for counts in per_fold) == 3
    for source in ("cvusa_pano", "cvusa_persp", "cvact", "helsinki"):
        assert max(c[source] for c in per_fold) - min(c[source] for c in per_fold) == 1, source
