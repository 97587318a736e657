"""Each kind of failure ends with its documented code and says what, where and how to fix it; never a stack trace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.stages import build_bank as build_bank_stage
from tests.rgs_cli.conftest import SMALL, call, content, fails


def test_2_an_unknown_key_names_the_nearest_and_its_layer(town: Path, tmp_path: Path) -> None:
    words = ["train", "segmenter", "--data", town, "-o", tmp_path / "x"]
    said = fails(2, *words, "--set", "train.bach=4")
    assert "unknown key 'train.bach'; did you mean 'batch'?" in said and "from --set" in said
    config = tmp_path / "mine.yaml"
    config.write_text("model: {arhc: unet}\n")
    said = fails(2, *words, "--config", config)
    assert "did you mean 'arch'?" in said and f"from --config {config}" in said
    said = fails(2, *words, "--precision", "fp8")
    assert "train.precision" in said and "'fp8'" in said and "from the command line" in said
    assert content(tmp_path).keys() == {"mine.yaml"}


def test_2_a_config_that_cannot_be_read(town: Path, tmp_path: Path) -> None:
    words = ["build-bank", town, "-o", tmp_path / "x", "--config"]
    assert "cannot read the config" in fails(2, *words, tmp_path / "missing.yaml")
    (tmp_path / "bad.yaml").write_text("codec: [png\n")
    assert "this is not YAML" in fails(2, *words, tmp_path / "bad.yaml")
    assert "--set 'codec' is not KEY=VALUE" in fails(2, "build-bank", town, "-o", tmp_path / "x", "--set", "codec")


@pytest.mark.parametrize("size", ["big", "0", "64x"])
def test_2_a_wrong_size(size: str, town: Path, generator: Path, tmp_path: Path) -> None:
    for words in (
        ["data", "toy", tmp_path / "x"],
        ["data", "palette", town, "-o", tmp_path / "x"],
        ["train", "segmenter", "--data", town, "-o", tmp_path / "x"],
        ["synthesize", generator, "--data", town, "-o", tmp_path / "x"],
    ):
        assert f"{size!r} is no size" in fails(2, *words, "--size", size)
    assert not content(tmp_path)


def test_2_a_system_or_preset_that_is_not_there(town: Path, tmp_path: Path) -> None:
    words = ["train", "generator", "--data", town, "-o", tmp_path / "x", "--system"]
    said = fails(2, *words, "gaugan")
    assert "unknown system 'gaugan'" in said and "oasis, resail, retrievegan, spade" in said
    assert "unknown system 'segmenter'" in fails(2, *words, "segmenter")
    assert "spade has no preset 'tiny'" in fails(2, *words, "spade", "--preset", "tiny")


def test_2_what_a_system_needs_and_what_it_does_not(
    town: Path, bank: Path, index: Path, segmenter: Path, tmp_path: Path
) -> None:
    def refused(system: str, *words: object) -> str:
        start = ["train", "generator", "--system", system, "--preset", "toy", "--data", town, "-o", tmp_path / "x"]
        return fails(2, *start, *words)

    assert "resail needs a bank" in refused("resail")
    assert "resail needs an index" in refused("resail", "--bank", bank)
    assert "--with segmenter=" in refused("resail", "--bank", bank, "--index", index)
    assert "spade with this config uses no bank" in refused("spade", "--bank", bank)
    assert "uses no 'segmenter'" in refused("spade", "--with", f"segmenter={segmenter}")
    assert "'segmenter' is not ROLE=RUN" in refused("resail", "--with", "segmenter")
    assert "is no duration" in refused("spade", "--stop-after", "soon")
    assert not content(tmp_path)


def test_3_an_artifact_that_is_missing_or_another(town: Path, bank: Path, generator: Path, tmp_path: Path) -> None:
    x = tmp_path / "x"
    assert "no such artifact" in fails(3, "train", "index", "--bank", tmp_path / "b", "-o", x)
    assert "no such artifact" in fails(3, "synthesize", tmp_path / "g", "--data", town, "-o", x)
    assert "no such artifact" in fails(3, "eval", tmp_path / "s", "-r", town, "-o", x)
    assert "no such artifact" in fails(3, "show", tmp_path / "s")
    assert "no such artifact" in fails(3, "search", tmp_path / "i", "0" * 16)
    assert "this is a bank, not a run" in fails(3, "synthesize", bank, "--data", town, "-o", x)
    assert "this is a bank, not a folder of samples" in fails(3, "eval", bank, "-r", town, "-o", x)
    assert "this is a bank, not an index" in fails(3, "search", bank, "0" * 16)
    assert "this is a run, not a bank" in fails(3, "train", "index", "--bank", generator, "-o", x)
    assert "holds no finished artifact" in fails(3, "train", "index", "--bank", town, "-o", x)
    assert "keeps no weights of step 7" in fails(3, "synthesize", f"{generator}@7", "--data", town, "-o", x)
    assert not content(tmp_path)


def test_3_a_segmenter_makes_no_images(segmenter: Path, town: Path, tmp_path: Path) -> None:
    said = fails(3, "synthesize", segmenter, "--data", town, "-o", tmp_path / "x")
    assert "this is a run of segmenter, which makes no images" in said


def test_3_data_that_is_not_there_or_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "missing", tmp_path / "empty"):
        assert str(folder) in fails(3, "build-bank", folder, "-o", tmp_path / "x")
        assert str(folder) in fails(3, "data", "check", folder)
        assert str(folder) in fails(3, "train", "segmenter", "--data", folder, "-o", tmp_path / "x")


def test_3_an_output_that_exists_is_left_alone(
    town: Path, bank: Path, index: Path, samples: Path, generator: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "precious").write_text("mine")
    for words in (
        ["data", "toy", out],
        ["data", "palette", town, "-o", out],
        ["data", "split", town, "-o", out],
        ["build-bank", town, "-o", out],
        ["train", "index", "--bank", bank, "-o", out],
        ["synthesize", generator, "--data", town, "-o", out],
        ["eval", samples, "-r", town, "--split", "val", "-o", out],
    ):
        for dry in ([], ["--dry-run"]):
            said = fails(3, *words, *dry)
            assert "the output exists already" in said and str(out) in said
    assert "is no run" in fails(3, "train", "segmenter", "--data", town, "-o", out, *SMALL)
    assert {name for name in content(tmp_path) if not name.endswith(".lock")} == {"mine/precious"}


def test_3_a_dataset_with_faults_does_not_pass_its_check(town: Path, tmp_path: Path) -> None:
    broken = tmp_path / "town"
    shutil.copytree(town, broken)
    (broken / "train" / "img" / "00003.png").write_bytes(b"no image")
    ended = call("data", "check", broken)
    assert ended.code == 3 and ended.out == "" and "00003.png" in ended.err
    ended = call("data", "check", broken, "--json")
    assert ended.code == 3 and ended.json["faults"]
    assert call("data", "check", town).code == 0


def test_4_missing_weights_name_the_way_without(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    words = ["train", "generator", "--system", "spade", "--data", town, "-o", tmp_path / "x"]
    said = fails(4, *words, "--preset", "toy", "--perceptual", "vgg19", *SMALL)
    assert "vgg19-dcbb9e9d.pth are not on this machine" in said
    assert "--perceptual random" in said and "--weights" in said and str(tmp_path / "cache") in said
    assert not content(tmp_path)


def test_4_a_device_that_is_not_there(town: Path, generator: Path, tmp_path: Path) -> None:
    said = fails(4, "synthesize", generator, "--data", town, "-o", tmp_path / "x", "--device", "cuda:99")
    assert "no device 'cuda:99'" in said and "--device cpu" in said
    assert "unknown device" in fails(2, "synthesize", generator, "--data", town, "-o", tmp_path / "x", "--device", "x")


def test_5_a_loss_that_is_no_number(town: Path, tmp_path: Path) -> None:
    words = ["train", "segmenter", "--data", town, "-o", tmp_path / "x", "--arch", "unet", "--set", "model.width=8"]
    said = fails(5, *words, *SMALL, "--steps", 5, "--set", "model.lr=1e30")
    assert "loss S/cross_entropy is" in said and "at step" in said and "learning rate" in said


def test_2_a_training_size_that_the_networks_cannot_take(town: Path, tmp_path: Path) -> None:
    words = ["train", "generator", "--system", "spade", "--preset", "toy", "--data", town, "-o", tmp_path / "x"]
    fails(2, *words, *SMALL, "--size", 8, "--steps", 1, "--set", "model.weights.perceptual=0")


def test_4_an_output_below_a_file(town: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for words in (["build-bank", town, "-o"], ["data", "toy"], ["data", "palette", town, "-o"]):
        assert "a file is where a folder is needed" in fails(4, *words, tmp_path / "file" / "x")


def _failing(error: Exception) -> Any:
    def run(*args: Any, **kwargs: Any) -> None:
        raise error

    return run


def test_1_a_bug_asks_to_be_reported(town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_bank_stage, "run", _failing(ZeroDivisionError("planted")))
    words = ["build-bank", town, "-o", tmp_path / "x"]
    said = fails(1, *words)
    assert "this is a bug in rgs: ZeroDivisionError: planted" in said and "--debug" in said
    ended = call("--debug", *words)
    assert ended.code == 1 and "Traceback" in ended.err and "planted" in ended.err
    assert "Traceback" not in call(*words).err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device", "/full/disk"), "the disk is full"),
        (PermissionError(13, "Permission denied", "/not/mine"), "/not/mine"),
    ],
)
def test_4_what_the_machine_lacks_is_no_bug(
    error: Exception, said: str, town: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_bank_stage, "run", _failing(error))
    assert said in fails(4, "build-bank", town, "-o", tmp_path / "x")
