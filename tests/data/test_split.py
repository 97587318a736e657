from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.open import open_dataset
from pipelines.data.scene import SceneRecord
from pipelines.data.split import folds_by_group, require_disjoint, write_folds
from pipelines.errors import ArtifactError, ConfigError, DataError

from .trees import REAL, real, write_folder


def records(groups: list[str]) -> list[SceneRecord]:
    return [SceneRecord(id=f"train/{i:03}", split="train", image=None, group=group) for i, group in enumerate(groups)]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b", "c", "d", "e"]), min_size=8, max_size=60), st.integers(2, 3))
def test_folds_part_the_scenes_and_no_group(groups: list[str], count: int) -> None:
    listed = records(groups)
    sizes = Counter(groups)
    parts = sizes.pop("", 0) + len(sizes)
    if not sizes or parts < count:
        with pytest.raises((ConfigError, DataError)):
            folds_by_group(listed, count)
        return
    folds = folds_by_group(listed, count)
    assert sorted(scene for fold in folds for scene in fold) == [record.id for record in listed]
    assert folds == folds_by_group(listed[::-1], count)
    owners: dict[str, set[int]] = {}
    for number, fold in enumerate(folds):
        assert fold and fold == sorted(fold)
        for scene in fold:
            owners.setdefault(groups[int(scene[-3:])], set()).add(number)
    assert all(len(found) == 1 for group, found in owners.items() if group)
    largest = max([*sizes.values(), 1])
    assert max(map(len, folds)) - min(map(len, folds)) <= largest  # what greedy dealing promises


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), min_size=12, max_size=60), st.integers(2, 4))
def test_folds_are_even_within_every_domain(scenes: list[tuple[str, int]], count: int) -> None:
    listed = [
        SceneRecord(f"{k:03}", "train", None, group=f"{domain}{group}", domain=domain)
        for k, (domain, group) in enumerate(scenes)
    ]
    if len({record.group for record in listed}) < count:
        return
    folds = folds_by_group(listed, count)
    assert sorted(scene for fold in folds for scene in fold) == [record.id for record in listed]
    assert folds == folds_by_group(listed[::-1], count)
    for domain in {domain for domain, _ in scenes}:
        sizes = Counter(record.group for record in listed if record.domain == domain)
        share = [sum(listed[int(scene)].domain == domain for scene in fold) for fold in folds]
        assert max(share) - min(share) <= max(sizes.values())
        assert sum(n > 0 for n in share) == min(count, len(sizes))


def test_a_group_of_several_domains_stays_whole() -> None:
    both = [SceneRecord(f"{k}{domain}", "", None, group=str(k), domain=domain) for k in range(4) for domain in "pq"]
    only = [SceneRecord(f"{k}r", "", None, group=f"r{k}", domain="r") for k in range(4)]
    for fold in folds_by_group([*both, *only], 4):
        assert len(fold) == 3 and len({name[0] for name in fold if name[1] != "r"}) == 1


def test_what_is_trained_on_is_not_held_out() -> None:
    train, other = records(["a", "b", ""]), records(["c", "d"])
    moved = [SceneRecord(f"val/{record.id}", "val", None, group=record.group) for record in other]
    require_disjoint(train, moved)
    with pytest.raises(DataError, match=r"the group 'b' is both trained on \(train/001\) and held out \(val/9\)"):
        require_disjoint(train, [*moved, SceneRecord("val/9", "val", None, group="b")])
    with pytest.raises(DataError, match=r"the scene 'train/002' is both .*; 2 groups are on both sides"):
        require_disjoint(train, [train[2], train[0]])
    unnamed = SceneRecord("val/8", "val", None)
    require_disjoint(train, [unnamed])  # two scenes of unknown groups are not one


def test_written_folds_are_splits_of_the_dataset(tmp_path: Path) -> None:
    write_folder(tmp_path / "data", stems=4)
    rows = [f"{split},{stem},{split}-{stem in 'ab'}," for split in ("train", "val") for stem in "abcd"]
    (tmp_path / "data/domains.csv").write_text("\n".join(["split,id,sequence,domain", *rows]) + "\n")
    dataset = open_dataset(tmp_path / "data")
    folds = folds_by_group(dataset.records(), 4)
    written = write_folds(folds, tmp_path / "folds")
    assert all(path.is_file() for path in written) and len(written) == 9
    assert json.loads((tmp_path / "folds/folds.json").read_text()) == {"folds": folds}
    for number, fold in enumerate(folds):
        held_out = [record.id for record in dataset.records(str(tmp_path / f"folds/fold-{number}/val.txt"))]
        rest = [record.id for record in dataset.records(str(tmp_path / f"folds/fold-{number}/train.txt"))]
        assert held_out == fold and len(fold) == 2
        assert sorted(held_out + rest) == [record.id for record in dataset.records()]
    with pytest.raises(ArtifactError, match="exists already"):
        write_folds(folds, tmp_path / "folds")


def test_folds_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 groups cannot make 3 folds"):
        folds_by_group(records(["a", "b", "a"]), 3)
    with pytest.raises(ConfigError, match="1 folds are not enough"):
        folds_by_group(records(["a", "b"]), 1)
    with pytest.raises(DataError, match="no scene has a group"):
        folds_by_group(records(["", ""]), 2)


@real
def test_camvid_parts_by_sequence() -> None:
    dataset = open_dataset(REAL / "camvid")
    folds = folds_by_group(dataset.records(), 3)
    group = {record.id: record.group for record in dataset.records()}
    assert [len({group[scene] for scene in fold}) for fold in folds] == [1, 1, 1]
    assert len({group[fold[0]] for fold in folds}) == 3
