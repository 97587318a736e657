"""Reports side by side, through the stage and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines.artifact import Artifact
from pipelines.errors import ArtifactError, ConfigError
from pipelines.stages import compare, evaluate
from pipelines.stages.compare import Compare
from pipelines.stages.evaluate import Evaluate
from tests.rgs_cli.conftest import fails, succeed
from tests.stages.test_evaluate import (
    SCHEMA,
    color_judge,
    make_judge,
    make_reference,
    make_samples,
    noisy,
    paint_labels,
)

__all__ = ["color_judge"]


def faint(name: str, labels: np.ndarray) -> np.ndarray:
    """Nearer to the reference than `noisy`, by the same noise."""
    clean = paint_labels(labels, SCHEMA).astype(int)
    return (clean + (noisy(name, labels).astype(int) - clean) // 3).astype(np.uint8)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return make_reference(tmp_path / "real", 6)


def make_report(
    tmp_path: Path, name: str, draw: Any, reference: Path | None, config: Evaluate | None = None, **given: Any
) -> Path:
    samples = make_samples(tmp_path / "samples" / name, draw, count=6)
    out = tmp_path / "reports" / name
    chosen = config or Evaluate()
    return evaluate.run(chosen, samples=samples, reference=reference, out=out, device="cpu", **given).path


def content(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact.path / "report.json").read_text())
    return found


def test_two_runs_side_by_side(tmp_path: Path, reference: Path) -> None:
    judge = make_judge(tmp_path / "judge")
    a = make_report(tmp_path, "a", noisy, reference, judge=judge)
    b = make_report(tmp_path, "b", faint, reference, judge=judge)
    artifact = compare.run(Compare(rows=2), reports=[a, b], out=tmp_path / "reports" / "both")
    assert artifact.kind == "comparison" and [i["role"] for i in artifact.manifest["inputs"]] == ["report", "report"]
    rows = {row["name"]: row for row in content(artifact)["rows"]}
    for name in ("psnr", "ssim", "miou", "accuracy"):
        first, second = rows[name]["entries"]
        low, high = second["difference_interval"]
        assert second["difference"] == pytest.approx(second["value"] - first["value"])
        assert 0 < low <= second["difference"] <= high
    distance = rows["frechet[segmenter:judge]"]["entries"][1]
    assert distance["difference"] < 0 and distance["difference_interval"] is None
    page = (artifact.path / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)""", page)
    assert links and all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert re.findall(r'alt="(\w+) of s\d+"', page) == ["layout", "a", "b"] * 2
    assert 'class="good"' in page and "<script" not in page


def test_other_judges_stand_in_other_rows(tmp_path: Path) -> None:
    metrics = Evaluate(metrics=("accuracy",))
    a = make_report(tmp_path, "a", noisy, None, metrics, judge=make_judge(tmp_path / "judge"))
    b = make_report(tmp_path, "b", noisy, None, metrics, judge=make_judge(tmp_path / "other" / "judge", seed=0.01))
    with pytest.raises(
        ArtifactError, match="no score of b can stand beside one of a: accuracy differs in judge weights"
    ):
        compare.run(Compare(), reports=[a, b], out=tmp_path / "both")
    c = make_report(tmp_path, "c", faint, None, metrics, judge=tmp_path / "judge")
    with pytest.raises(ArtifactError, match="no score of b"):
        compare.run(Compare(), reports=[a, c, b], out=tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_samples_that_are_gone_are_said_so(tmp_path: Path, reference: Path) -> None:
    a, b = (make_report(tmp_path, name, noisy, reference) for name in "ab")
    (tmp_path / "samples" / "b").rename(tmp_path / "samples" / "moved")
    artifact = compare.run(Compare(), reports=[a, b], out=tmp_path / "reports" / "both")
    page = (artifact.path / "report.html").read_text()
    assert "its samples cannot be shown" in page and re.findall(r'alt="(\w+) of s00"', page) == ["layout", "a"]


def test_reports_of_one_name_are_told_apart(tmp_path: Path, reference: Path) -> None:
    a = make_report(tmp_path / "one", "x", noisy, reference)
    b = make_report(tmp_path / "two", "x", faint, reference)
    artifact = compare.run(Compare(), reports=[a, b], out=tmp_path / "both")
    assert [run["name"] for run in content(artifact)["runs"]] == ["one/reports/x", "two/reports/x"]


def test_the_same_comparison_has_the_same_digest(tmp_path: Path, reference: Path) -> None:
    a, b = (make_report(tmp_path, name, draw, reference) for name, draw in (("a", noisy), ("b", faint)))
    outs = [compare.run(Compare(), reports=[a, b], out=tmp_path / "reports" / name).digest for name in "xy"]
    assert outs[0] == outs[1]
    assert compare.run(Compare(), reports=[b, a], out=tmp_path / "reports" / "z").digest != outs[0]


def test_fewer_than_two_are_refused(tmp_path: Path, reference: Path) -> None:
    a = make_report(tmp_path, "a", noisy, reference)
    with pytest.raises(ConfigError, match="two reports"):
        compare.run(Compare(), reports=[a], out=tmp_path / "both")


def test_the_command(tmp_path: Path, reference: Path) -> None:
    a, b = (make_report(tmp_path, name, draw, reference) for name, draw in (("a", noisy), ("b", faint)))
    out = tmp_path / "reports" / "both"
    plan = yaml.safe_load(succeed("eval", "--compare", a, b, "-o", out, "--set", "rows=3", "--dry-run").out)
    assert plan["config"] == {"rows": 3, "seed": 0} and plan["rows"] == ["psnr", "ssim"] and len(plan["inputs"]) == 2
    assert not out.exists()
    assert succeed("eval", "--compare", a, b, "-o", out).out == f"{out}\n"
    assert (out / "report.html").is_file()
    nowhere = tmp_path / "nowhere"
    assert "two reports" in fails(2, "eval", "--compare", a, "-o", nowhere)
    assert "not a report" in fails(3, "eval", "--compare", a, tmp_path / "samples" / "a", "-o", nowhere)
    assert "one folder of samples" in fails(2, "eval", a, b, "-o", nowhere)
    assert "exists already" in fails(3, "eval", "--compare", a, b, "-o", out)
