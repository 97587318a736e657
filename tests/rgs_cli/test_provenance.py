"""Who fed what: provenance.jsonl, its pictures, `rgs show --sources|--source|--output`, and a source that goes."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.artifact import read_manifest
from pipelines.bank.bank import Bank
from tests.rgs_cli.conftest import content, fails, succeed

CPU = ["--device", "cpu"]


def lines(samples: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (samples / "provenance.jsonl").read_text().splitlines()]


def pixels_by_source(samples: Path) -> dict[str, Counter[str]]:
    """Output -> source -> pixels, counted in the index images."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for line in lines(samples):
        index = cv2.imread(str(samples / "provenance" / f"{line['name']}.png"), cv2.IMREAD_UNCHANGED)
        assert index.dtype == np.uint16 and index.shape == tuple(line["size"])
        for value in index[index > 0].tolist():
            counted[line["name"]][line["pieces"][value - 1]["source"]] += 1
    return counted


@pytest.fixture(scope="module")
def plain(workspace: Path, generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of nothing but sky: one piece of one source."""
    layout = tmp_path_factory.mktemp("plain") / "sky.png"
    cv2.imwrite(str(layout), np.zeros((64, 64), np.uint8))
    succeed("synthesize", generator, "-i", layout, "-o", workspace / "plain", *CPU)
    return workspace / "plain"


def test_the_records_are_what_the_index_images_say(samples: Path, bank: Path) -> None:
    opened = Bank.open(bank)
    counted = pixels_by_source(samples)
    for line in lines(samples):
        assert line["retrieval"] == "shape" and line["size"] == [64, 64]
        mine = counted[line["name"]]
        assert {row["source"]: row["pixels"] for row in line["sources"]} == mine
        assert line["covered"] == pytest.approx(sum(mine.values()) / 64**2, abs=1e-6)
        for k, piece in enumerate(line["pieces"], start=1):
            source = opened.source_of(piece["bank_row"])
            assert piece["index"] == k and (piece["source"], piece["licence"]) == (source.id, source.licence)
            assert piece["id"] == f"{int(opened.ids[piece['bank_row']]):016x}"
            assert piece["category"] == opened.schema.names[opened.categories[piece["bank_row"]]]


def test_all_sources_of_samples(samples: Path) -> None:
    counted = pixels_by_source(samples)
    totals: Counter[str] = Counter()
    for mine in counted.values():
        totals.update(mine)
    found = succeed("show", samples, "--sources", "--json").json
    assert {row["source"]: row["pixels"] for row in found["sources"]} == totals
    assert {row["source"]: row["outputs"] for row in found["sources"]} == Counter(
        s for c in counted.values() for s in c
    )
    assert [row["pixels"] for row in found["sources"]] == sorted(totals.values(), reverse=True)
    assert found["outputs"] == 4 and found["note"] == ""
    share = round(sum(totals.values()) / (4 * 64**2), 6)
    assert found["licences"] == [
        {"licence": "CC0-1.0", "sources": len(totals), "pixels": sum(totals.values()), "share": share}
    ]
    told = succeed("show", samples, "--sources").out.splitlines()
    assert told[0].split() == ["source", "licence", "outputs", "pieces", "pixels", "share"]
    assert [line.split()[0] for line in told[1 : 1 + len(totals)]] == [row["source"] for row in found["sources"]]


def test_every_output_that_used_a_source(samples: Path) -> None:
    counted = pixels_by_source(samples)
    first, second = sorted({s for c in counted.values() for s in c})[:2]
    found = succeed("show", samples, "--source", first, "--source", second, "--json").json
    assert [row["source"] for row in found["sources"]] == [first, second]
    for row in found["sources"]:
        assert row["status"] == "used" and row["licence"] == "CC0-1.0"
        mine = {name: c[row["source"]] for name, c in counted.items() if row["source"] in c}
        assert {o["name"]: o["pixels"] for o in row["outputs"]} == mine
        assert all(o["share"] == round(o["pixels"] / 64**2, 6) for o in row["outputs"])
        for o in row["outputs"]:
            line = next(line for line in lines(samples) if line["name"] == o["name"])
            own = [p for p in line["pieces"] if p["source"] == row["source"] and p["pixels"]]
            assert o["pieces"] == len(own) and set(o["categories"]) == {p["category"] for p in own}
    told = succeed("show", samples, "--source", first).out.splitlines()
    count = len(found["sources"][0]["outputs"])
    assert told[0].startswith(f"{first} (CC0-1.0): in {count} of 4 outputs") and len(told) == 2 + count


def test_a_source_that_was_not_used_and_one_that_never_was(plain: Path, bank: Path) -> None:
    used = lines(plain)[0]["sources"][0]["source"]
    other = next(s.id for s in Bank.open(bank).source_table if s.id != used)
    found = succeed("show", plain, "--source", other, "--json").json["sources"]
    assert found[0]["status"] == "unused" and found[0]["outputs"] == [] and found[0]["licence"] == "CC0-1.0"
    assert succeed("show", plain, "--source", other).out == f"{other} (CC0-1.0): in the bank, but no output used it\n"
    said = fails(3, "show", plain, "--source", used, "--source", "trian/00003")
    assert "the bank has no source 'trian/00003'" in said and "did you mean 'train/00003'" in said


def test_without_the_bank_nobody_can_tell(plain: Path, bank: Path, thinned: Path, tmp_path: Path) -> None:
    moved = tmp_path / "away" / "samples"
    shutil.copytree(plain, moved)
    used = lines(plain)[0]["sources"][0]["source"]
    other = next(s.id for s in Bank.open(bank).source_table if s.id != used)
    assert succeed("show", moved, "--source", used, "--json").json["sources"][0]["status"] == "used"
    said = fails(3, "show", moved, "--source", other)
    assert f"no output used {other!r}" in said and "give --bank" in said
    found = succeed("show", moved, "--source", other, "--bank", bank, "--json").json
    assert found["sources"][0]["status"] == "unused"
    said = fails(3, "show", moved, "--source", other, "--bank", thinned)
    assert read_manifest(bank)["digest"][:12] in said and read_manifest(thinned)["digest"][:12] in said


def test_the_sources_of_a_bank(bank: Path, thinned: Path, workspace: Path) -> None:
    opened = Bank.open(bank)
    found = succeed("show", bank, "--sources", "--json").json
    assert [row["source"] for row in found["sources"]] == [s.id for s in opened.source_table]
    assert sum(row["pieces"] for row in found["sources"]) == len(opened)
    assert sum(row["pixels"] for row in found["sources"]) == opened.areas.sum()
    assert found["licences"] == [{"licence": "CC0-1.0", "sources": 12, "pixels": int(opened.areas.sum())}]
    name = opened.source_table[3].id
    row = succeed("show", bank, "--source", name, "--json").json["sources"][0]
    assert row["status"] == "in the bank" and [p["row"] for p in row["pieces"]] == opened.rows_of_source(name).tolist()
    assert f"{name} (CC0-1.0): {len(row['pieces'])} pieces" in succeed("show", bank, "--source", name).out
    removed = read_manifest(thinned)["config"]["removed"][0]
    assert succeed("show", thinned, "--source", removed).out == f"{removed}: removed from the bank\n"
    succeed("build-bank", "--from", thinned, "--remove-source", "train/00006", "-o", workspace / "two-less")
    for gone in ("train/00004", "train/00006"):  # the bank's own config knows the latter only
        assert "removed" in succeed("show", workspace / "two-less", "--source", gone).out
    assert "has no source 'x'" in fails(3, "show", bank, "--source", "x")


def test_one_output_and_its_picture(samples: Path, tmp_path: Path) -> None:
    line = lines(samples)[1]
    drawn = tmp_path / "new" / "pieces.jpg"
    found = succeed("show", samples, "--output", line["name"], "--picture", drawn, "--json").json
    assert found == line
    assert drawn.read_bytes() == (samples / "attribution" / f"{line['name']}.jpg").read_bytes()
    told = succeed("show", samples, "--output", line["name"]).out.splitlines()
    most = max(line["pieces"], key=lambda piece: piece["pixels"])
    assert len(told) == 1 + len(line["pieces"]) and most["id"] in told[1]
    assert "there is no output '00x'" in fails(3, "show", samples, "--output", "00x")
    assert "PNG or JPEG" in fails(2, "show", samples, "--output", line["name"], "--picture", tmp_path / "x.gif")


def test_pieces_drawn_at_random_have_no_rank(generator: Path, layouts: list[Path], tmp_path: Path) -> None:
    succeed("synthesize", generator, "-i", layouts[0], "--retrieval", "random", "-o", tmp_path / "x", *CPU)
    found = succeed("show", tmp_path / "x", "--output", layouts[0].stem, "--json").json
    assert found["retrieval"] == "random" and {(p["rank"], p["score"]) for p in found["pieces"]} == {(None, None)}
    assert "–" in succeed("show", tmp_path / "x", "--output", layouts[0].stem).out


def test_every_output_has_its_picture_unless_none_is_wanted(
    samples: Path, generator: Path, layouts: list[Path], tmp_path: Path
) -> None:
    listed = [json.loads(line) for line in (samples / "samples.jsonl").read_text().splitlines()]
    assert [entry["attribution"] for entry in listed] == [f"attribution/{entry['name']}.jpg" for entry in listed]
    for entry in listed:
        assert cv2.imread(str(samples / entry["attribution"])).shape[1] > 900
    succeed("synthesize", generator, "-i", layouts[0], "--no-pictures", "-o", tmp_path / "x", *CPU)
    assert not (tmp_path / "x" / "attribution").exists() and (tmp_path / "x" / "provenance.jsonl").exists()


def test_what_no_bank_guided_says_so(
    spade: Path, generator: Path, samples: Path, town: Path, layouts: list[Path], tmp_path: Path
) -> None:
    succeed("synthesize", spade, "-i", layouts[0], "-o", tmp_path / "spade", *CPU)
    told = succeed("show", tmp_path / "spade", "--sources")
    assert "spade retrieves nothing" in told.err and told.out == ""
    found = succeed("show", tmp_path / "spade", "--source", "train/00003", "--json").json
    assert found["sources"][0]["status"] == "unguided" and "spade retrieves nothing" in found["note"]
    assert "spade retrieves nothing" in fails(3, "show", tmp_path / "spade", "--output", layouts[0].stem)
    for retrieval, said in (("oracle", "own photos"), ("none", "blank")):
        out = tmp_path / retrieval
        succeed("synthesize", generator, "--data", town, "--split", "val", "--retrieval", retrieval, "-o", out, *CPU)
        assert {line["retrieval"] for line in lines(out)} == {retrieval} and lines(out)[0]["sources"] == []
        assert said in succeed("show", out, "--sources").err
        assert not (out / "attribution").exists()
        succeed("show", out, "--output", layouts[0].stem, "--picture", out.with_suffix(".png"))


def test_one_question_at_a_time(samples: Path, generator: Path, bank: Path) -> None:
    assert "one question at a time" in fails(2, "show", samples, "--sources", "--source", "x")
    assert "--sources is asked of an artifact" in fails(2, "show", "systems", "--sources")
    assert "of run there are no sources" in fails(2, "show", generator, "--sources")
    assert "a bank has no outputs" in fails(2, "show", bank, "--output", "x")
    assert "--picture draws one output" in fails(2, "show", samples, "--picture", "x.png")
    assert "--bank helps --source only" in fails(2, "show", samples, "--sources", "--bank", bank)
    assert "this is a bank already" in fails(2, "show", bank, "--source", "train/00003", "--bank", bank)


def test_damaged_provenance_is_no_bug(samples: Path, tmp_path: Path) -> None:
    copy = tmp_path / "samples"
    shutil.copytree(samples, copy)
    file = copy / "provenance.jsonl"
    text = file.read_text()
    name = lines(samples)[0]["name"]
    index = np.full((64, 64), 60000, np.uint16)
    path = copy / "provenance" / f"{name}.png"
    size = path.stat().st_size
    data = cv2.imencode(".png", index)[1].tobytes()
    path.write_bytes(data + bytes(size - len(data)))  # the manifest's sizes are right
    assert "of different outputs" in fails(3, "show", copy, "--output", name, "--picture", tmp_path / "x.png")
    for broken in (text[:-9] + " " * 9, text.replace('"sources"', '"sourcse"')):
        file.write_text(broken)
        assert "the provenance cannot be read" in fails(3, "show", copy, "--sources")


MAGENTA = (255, 0, 255)
"""A color that the toy town has nowhere."""


@pytest.fixture(scope="module")
def thinned(workspace: Path, bank: Path) -> Path:
    """The bank without one of its sources."""
    succeed("build-bank", "--from", bank, "--remove-source", "train/00004", "-o", workspace / "one-less")
    return workspace / "one-less"


def magenta(folder: Path) -> int:
    """How many pixels of the images of a folder are about magenta."""
    counts = []
    for path in sorted(folder.iterdir()):
        b, g, r = np.moveaxis(cv2.imread(str(path)), -1, 0)
        counts.append(int(((r > 200) & (g < 60) & (b > 200)).sum()))
    return sum(counts)


def test_a_source_goes_from_bank_guidance_and_records_without_training(
    samples: Path, town: Path, generator: Path, tmp_path: Path
) -> None:
    """The photo that was used most is painted magenta: wherever it is retrieved, it shows."""
    goes = succeed("show", samples, "--sources", "--json").json["sources"][0]["source"]
    shutil.copytree(town, tmp_path / "town")
    photo = tmp_path / "town" / "train" / "img" / f"{Path(goes).name}.png"
    assert photo.is_file()
    cv2.imwrite(str(photo), np.full((64, 64, 3), MAGENTA, np.uint8))  # the same in RGB and BGR
    before = content(generator)
    again = ["synthesize", generator, "--data", tmp_path / "town", "--split", "val", *CPU]

    succeed("build-bank", tmp_path / "town", "-o", tmp_path / "bank")
    succeed("train", "index", "--bank", tmp_path / "bank", "-o", tmp_path / "index")
    succeed(*again, "--bank", tmp_path / "bank", "--index", tmp_path / "index", "-o", tmp_path / "with")
    used = succeed("show", tmp_path / "with", "--source", goes, "--json").json["sources"][0]
    assert used["status"] == "used" and len(used["outputs"]) >= 1
    assert magenta(tmp_path / "with" / "guidance") > 0.8 * used["pixels"] > 20

    succeed("build-bank", "--from", tmp_path / "bank", "--remove-source", goes, "-o", tmp_path / "less")
    words = [*again, "--bank", tmp_path / "less"]
    said = fails(3, *words, "--index", tmp_path / "index", "-o", tmp_path / "x")
    assert "rgs train index" in said and read_manifest(tmp_path / "less")["digest"][:4] in said
    succeed("train", "index", "--bank", tmp_path / "less", "-o", tmp_path / "less-index")
    succeed(*words, "--index", tmp_path / "less-index", "-o", tmp_path / "without")

    assert magenta(tmp_path / "without" / "guidance") == 0
    assert goes not in (tmp_path / "without" / "provenance.jsonl").read_text()
    assert goes not in pixels_by_source(tmp_path / "without")
    gone = succeed("show", tmp_path / "without", "--source", goes, "--json").json["sources"][0]
    assert gone["status"] == "removed" and gone["outputs"] == []
    assert succeed("show", tmp_path / "without", "--source", goes).out == f"{goes}: removed from the bank\n"
    assert content(generator) == before
