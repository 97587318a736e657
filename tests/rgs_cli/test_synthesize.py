"""rgs synthesize: what layouts may be, where guidance comes from, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.artifact import read_manifest
from pipelines.data.palette import paint_labels
from pipelines.data.toy.solids import SCHEMA
from tests.rgs_cli.conftest import content, fails, succeed

CPU = ["--device", "cpu"]


def records(samples: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (samples / name).read_text().splitlines()]


def pieces(samples: Path) -> Iterator[dict[str, Any]]:
    """Every placed segment's record of provenance."""
    for record in records(samples, "provenance.jsonl"):
        yield from record["pieces"]


def sources(samples: Path) -> set[str]:
    return {piece["source"] for piece in pieces(samples) if piece.get("source")}


def images(samples: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((samples / "images").iterdir())}


def write(path: Path, pixels: np.ndarray) -> Path:
    """(h, w) label ids or (h, w, 3) RGB as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    return path


def test_layouts_come_as_a_folder_a_list_or_on_stdin(generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    two = layouts[:2]
    listed = tmp_path / "some.txt"
    listed.write_text("".join(f"{path}\n" for path in two))
    given: dict[str, tuple[list[object], str]] = {
        "folder": (["-i", two[0].parent], ""),
        "files": (["-i", two[0], "-i", two[1]], ""),
        "list": (["-i", listed], ""),
        "stdin": (["-i", "-"], f"{two[0]}\n\n{two[1]}\n"),
    }
    for name, (words, stdin) in given.items():
        succeed("synthesize", generator, *words, "-o", tmp_path / name, *CPU, stdin=stdin)
    assert images(tmp_path / "files").keys() == {path.name for path in two}
    assert images(tmp_path / "files") == images(tmp_path / "list") == images(tmp_path / "stdin")
    assert len(images(tmp_path / "folder")) == 4
    digests = {read_manifest(tmp_path / name)["digest"] for name in ("files", "list", "stdin")}
    assert len(digests) == 1


def test_no_layout_on_stdin(generator: Path, town: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    assert "nothing came on standard input" in fails(3, "synthesize", generator, "-i", "-", "-o", out, stdin="\n")
    said = fails(3, "synthesize", generator, "-i", "-", "-o", out, stdin="nowhere.png\n")
    assert "the layout is missing" in said and "nowhere.png" in said
    assert "give either layouts or a dataset" in fails(2, "synthesize", generator, "-o", out)
    assert "give either" in fails(2, "synthesize", generator, "-i", town / "val" / "label", "--data", town, "-o", out)
    assert not content(tmp_path)


def test_a_layout_in_colors_is_the_layout_in_ids(generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    ids = cv2.imread(str(layouts[0]), cv2.IMREAD_UNCHANGED)
    painted = paint_labels(SCHEMA.indices(ids, layouts[0]), SCHEMA)
    colored = write(tmp_path / "colored" / layouts[0].name, painted)
    succeed("synthesize", generator, "-i", layouts[0], "-o", tmp_path / "a", *CPU)
    succeed("synthesize", generator, "-i", colored, "-o", tmp_path / "b", *CPU)
    assert images(tmp_path / "a") == images(tmp_path / "b")
    written = cv2.imread(str(tmp_path / "b" / "layouts" / layouts[0].name), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(written, ids)


def test_a_color_beside_the_palette_names_the_nearest_class(generator: Path, tmp_path: Path) -> None:
    sky = SCHEMA.classes[SCHEMA.names.index("sky")].color
    pixels = np.full((64, 64, 3), sky, np.uint8)
    pixels[10, 20] = [max(c - 2, 0) for c in sky]
    layout = write(tmp_path / "drawn.png", pixels)
    said = fails(3, "synthesize", generator, "-i", layout, "-o", tmp_path / "x", *CPU)
    assert "1 pixels have a color of no class" in said and "x=20, y=10" in said
    assert "the nearest class is sky" in said and "rgs data palette" in said and str(layout) in said
    ids = np.zeros((64, 64), np.uint8)
    ids[3, 4] = 200
    said = fails(3, "synthesize", generator, "-i", write(tmp_path / "ids.png", ids), "-o", tmp_path / "x", *CPU)
    assert "label id 200 is outside the classes" in said


def test_drawn_on_a_blank_layout(town: Path, generator: Path, tmp_path: Path) -> None:
    """What `rgs data palette` writes is a layout."""
    succeed("data", "palette", generator, "-o", tmp_path / "palette", "--size", "64x96", "--fill", "sky")
    succeed("synthesize", generator, "-i", tmp_path / "palette" / "layout.png", "-o", tmp_path / "x", *CPU)
    assert cv2.imread(str(tmp_path / "x" / "images" / "layout.png")).shape == (64, 96, 3)
    said = fails(2, "data", "palette", town, "-o", tmp_path / "other", "--fill", "skye")
    assert "there is no class 'skye'" in said and not (tmp_path / "other").exists()
    succeed("data", "palette", town, "-o", tmp_path / "other", "--fill", "sky")


@pytest.mark.parametrize("retrieval", ["shape", "random", "oracle", "none"])
def test_every_way_to_retrieve(retrieval: str, generator: Path, town: Path, tmp_path: Path) -> None:
    out = tmp_path / "x"
    succeed("synthesize", generator, "--data", town, "--split", "val", "--retrieval", retrieval, "-o", out, *CPU)
    assert len(images(out)) == 4 == len(records(out, "samples.jsonl"))
    found = sources(out)
    assert bool(found) == (retrieval in ("shape", "random"))
    assert all(source.startswith("train/") for source in found)
    guidance = [cv2.imread(str(path)) for path in sorted((out / "guidance").iterdir())]
    photos = [cv2.imread(str(path)) for path in sorted((town / "val" / "img").iterdir())]
    close = [np.mean(np.abs(a.astype(int) - b) < 8) for a, b in zip(guidance, photos, strict=True)]
    assert min(close) > 0.8 if retrieval == "oracle" else max(close) < 0.8
    assert (len({image.std() for image in guidance}) == 1) == (retrieval == "none")


def test_what_only_a_dataset_allows(generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    words = ["synthesize", generator, "-i", layouts[0], "-o", tmp_path / "x", *CPU]
    assert "oracle retrieval needs the layouts' photos" in fails(2, *words, "--retrieval", "oracle")
    assert "only a dataset knows" in fails(2, *words, "--exclude", "source")
    assert "not 'nearest'" in fails(2, *words, "--retrieval", "nearest")
    assert "did you mean 'rank'?" in fails(2, *words, "--set", "options.rnk=2")


@pytest.mark.parametrize("exclude", ["source", "group"])
def test_excluded_pieces_are_not_used(exclude: str, generator: Path, town: Path, tmp_path: Path) -> None:
    words = ["synthesize", generator, "--data", town, "--split", "train", *CPU]
    succeed(*words, "-o", tmp_path / "all")
    succeed(*words, "-o", tmp_path / "others", "--exclude", exclude)
    own = {"source": {s: {s} for s in (f"train/{i:05d}" for i in range(12))}}
    own["group"] = {s: {f"train/{int(s[6:]) // 2 * 2 + i:05d}" for i in (0, 1)} for s in own["source"]}

    def used_its_own(samples: Path) -> int:
        found = records(samples, "provenance.jsonl")
        return sum(p.get("source") in own[exclude]["train/" + r["name"]] for r in found for p in r["pieces"])

    assert used_its_own(tmp_path / "all") > 100  # a layout's own pieces fit it best
    assert used_its_own(tmp_path / "others") == 0


def test_several_images_of_a_layout_take_further_ranks(generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "x"
    succeed("synthesize", generator, "-i", layouts[0], "--num", 3, "-o", out, *CPU)
    stem = layouts[0].stem
    assert images(out).keys() == {f"{stem}-{n}.png" for n in (1, 2, 3)}
    assert len(set(images(out).values())) == 3
    listed = records(out, "samples.jsonl")
    assert [(entry["source"], entry["variant"]) for entry in listed] == [(stem, n) for n in (0, 1, 2)]
    ranks = [max(p.get("rank") or 0 for p in record["pieces"]) for record in records(out, "provenance.jsonl")]
    assert ranks == [1, 2, 3]
    succeed("synthesize", generator, "-i", layouts[0], "-o", tmp_path / "one", *CPU)
    assert images(tmp_path / "one")[f"{stem}.png"] == images(out)[f"{stem}-1.png"]


def test_neither_batch_nor_company_changes_an_image(generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    words = ["synthesize", generator, "--retrieval", "random", *CPU]
    succeed(*words, "-i", layouts[0].parent, "--batch", 4, "-o", tmp_path / "all")
    succeed(*words, "-i", layouts[2], "--batch", 1, "-o", tmp_path / "one")
    together, alone = (cv2.imread(str(tmp_path / d / "images" / layouts[2].name)) for d in ("all", "one"))
    assert np.abs(together.astype(int) - alone).mean() < 0.05
    assert (
        next(r for r in records(tmp_path / "all", "provenance.jsonl") if r["name"] == layouts[2].stem)
        == (records(tmp_path / "one", "provenance.jsonl")[0])
    )
    succeed(*words, "-i", layouts[2], "--seed", 1, "-o", tmp_path / "other")
    assert records(tmp_path / "other", "provenance.jsonl") != records(tmp_path / "one", "provenance.jsonl")


@pytest.mark.parametrize(("size", "expected"), [("layout", (40, 72)), ("run", (64, 64)), ("32x48", (32, 48))])
def test_sizes(size: str, expected: tuple[int, int], generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    ids = cv2.imread(str(layouts[0]), cv2.IMREAD_UNCHANGED)
    layout = write(tmp_path / "wide.png", cv2.resize(ids, (72, 40), interpolation=cv2.INTER_NEAREST))
    succeed("synthesize", generator, "-i", layout, "--size", size, "-o", tmp_path / "x", *CPU)
    for kind in ("images", "guidance", "layouts", "provenance"):
        assert cv2.imread(str(tmp_path / "x" / kind / "wide.png"), cv2.IMREAD_UNCHANGED).shape[:2] == expected


def test_instances_may_be_given(generator: Path, layouts: list[Path], town: Path, tmp_path: Path) -> None:
    words = ["synthesize", generator, "-i", layouts[0], *CPU]
    assert "connected components" in succeed(*words, "-o", tmp_path / "without").err
    told = succeed(*words, "-o", tmp_path / "with", "--instances", town / "val" / "inst")
    assert "connected components" not in told.err
    succeed("synthesize", generator, "--data", town, "--split", "val", "-o", tmp_path / "data", *CPU)
    # alone or beside others in a batch an image is the same to rounding: which neighborhoods are distinct is shared
    alone, beside = (cv2.imread(str(tmp_path / out / "images" / layouts[0].name)) for out in ("with", "data"))
    assert np.abs(alone.astype(int) - beside).max() <= 1
    said = fails(3, *words, "-o", tmp_path / "x", "--instances", tmp_path / "data")
    assert "has no instance map" in said


def test_bf16_paints_nearly_the_same(generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    words = ["synthesize", generator, "-i", layouts[0], *CPU]
    for precision in ("fp32", "bf16"):
        succeed(*words, "--precision", precision, "-o", tmp_path / precision)
    exact, rough = (cv2.imread(str(tmp_path / out / "images" / layouts[0].name)) for out in ("fp32", "bf16"))
    apart = np.abs(exact.astype(int) - rough)
    assert apart.max() > 0 and apart.mean() < 4
    assert "precision" in fails(2, *words, "--precision", "fp8", "-o", tmp_path / "x")


@pytest.fixture(scope="session")
def thinned(workspace: Path, bank: Path, samples: Path) -> tuple[Path, Path, str]:
    """The bank without the source that the samples used most, and its index."""
    used = [piece["source"] for piece in pieces(samples) if piece.get("source")]
    removed = max(set(used), key=used.count)
    out = workspace / "thinned"
    succeed("build-bank", "--from", bank, "--remove-source", removed, "-o", out)
    succeed("train", "index", "--bank", out, "--exclude", "group", "-o", workspace / "thinned-index")
    return out, workspace / "thinned-index", removed


def test_a_source_that_was_removed_is_in_no_new_image(
    thinned: tuple[Path, Path, str], samples: Path, generator: Path, town: Path, tmp_path: Path
) -> None:
    bank, index, removed = thinned
    assert removed in sources(samples)
    again = ["synthesize", generator, "--data", town, "--split", "val", *CPU]
    succeed(*again, "--bank", bank, "--index", index, "-o", tmp_path / "x")
    assert sources(tmp_path / "x") and removed not in sources(tmp_path / "x")
    assert removed not in (tmp_path / "x" / "provenance.jsonl").read_text()
    inputs = {i["role"]: i["digest"] for i in read_manifest(tmp_path / "x")["inputs"]}
    assert inputs["bank"] == read_manifest(bank)["digest"] and inputs["index"] == read_manifest(index)["digest"]
    random = ["--bank", bank, "--retrieval", "random"]
    succeed(*again, *random, "-o", tmp_path / "random")
    assert removed not in sources(tmp_path / "random")


def test_a_swapped_index_is_refused_with_both_digests(
    thinned: tuple[Path, Path, str], bank: Path, index: Path, generator: Path, town: Path, tmp_path: Path
) -> None:
    other_bank, other_index, _ = thinned
    words = ["synthesize", generator, "--data", town, "-o", tmp_path / "x", *CPU]
    for given, built_from, found in (
        (["--bank", other_bank, "--index", index], bank, other_bank),
        (["--index", other_index], other_bank, bank),
    ):
        said = fails(3, *words, *given)
        assert read_manifest(built_from)["digest"][:4] in said and read_manifest(found)["digest"][:4] in said
        assert "rgs train index" in said
    assert "another bank needs its own index" in fails(2, *words, "--bank", other_bank)
    assert not content(tmp_path)


def test_a_system_that_retrieves_nothing_takes_no_bank(
    spade: Path, bank: Path, index: Path, layouts: list[Path], tmp_path: Path
) -> None:
    words = ["synthesize", spade, "-i", layouts[0], "-o", tmp_path / "x", *CPU]
    assert "spade with this config uses no bank" in fails(2, *words, "--bank", bank)
    assert "spade with this config uses no index" in fails(2, *words, "--index", index)
    assert "unknown key 'retrieval'; known here: none" in fails(2, *words, "--retrieval", "shape")
    succeed(*words)
    assert {p.name for p in (tmp_path / "x").iterdir()} >= {"images", "layouts", "samples.jsonl"}
    assert not (tmp_path / "x" / "provenance.jsonl").exists()


def test_a_moved_bank_is_asked_for(
    generator: Path, bank: Path, index: Path, layouts: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "away" / "run"
    shutil.copytree(generator, run)
    said = fails(3, "synthesize", run, "-i", layouts[0], "-o", tmp_path / "x", *CPU)
    assert "the bank of the run is not at bank" in said and "--bank" in said
    succeed("synthesize", run, "-i", layouts[0], "--bank", bank, "--index", index, "-o", tmp_path / "x", *CPU)


@pytest.mark.slow
def test_a_large_layout_of_many_segments(generator: Path, tmp_path: Path) -> None:
    """512 x 1024 pixels, 8 x 13 fields of other classes than their neighbors'."""
    rows, columns = np.arange(512) * 8 // 512, np.arange(1024) * 13 // 1024
    indices = (rows[:, None] * 3 + columns[None, :] * 2) % len(SCHEMA.classes)
    layout = write(tmp_path / "large.png", SCHEMA.ids[indices].astype(np.uint8))
    succeed("synthesize", generator, "-i", layout, "-o", tmp_path / "x", *CPU)
    assert cv2.imread(str(tmp_path / "x" / "images" / "large.png")).shape == (512, 1024, 3)
    assert 80 <= len(list(pieces(tmp_path / "x"))) <= 104
