"""What makes an artifact complete, resumable and recognizable elsewhere."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifact import Input, locked, open_artifact, read_manifest, verify_files, writing
from pipelines.config import Config
from pipelines.errors import ArtifactError, EnvironmentFault


class Settings(Config):
    size: int = 1
    """Some setting."""


def write(out: Path, content: bytes = b"abc", size: int = 1, digest: str = "d", path: str = "data") -> dict[str, Any]:
    statistics: dict[str, Any] = {"n": 1}
    with writing(out, "bank", Settings(size=size), [Input("data", path, digest)], statistics) as partial:
        (partial / "shards").mkdir(exist_ok=True)
        (partial / "shards" / "0.bin").write_bytes(content)
    return read_manifest(out)


def test_a_finished_artifact_opens_and_verifies(tmp_path: Path) -> None:
    write(tmp_path / "x")
    artifact = open_artifact(tmp_path / "x", "bank")
    verify_files(artifact)
    assert artifact.kind == "bank" and artifact.statistics == {"n": 1}
    assert not (tmp_path / "x.partial").exists()
    assert sorted(p.name for p in (tmp_path / "x").iterdir()) == ["config.yaml", "manifest.json", "shards"]


def test_the_digest_covers_work_and_content_but_not_place(tmp_path: Path) -> None:
    digests = {
        name: write(tmp_path / name, **kwargs)["digest"]
        for name, kwargs in {
            "a": {},
            "same": {"path": "elsewhere/data"},
            "content": {"content": b"abd"},
            "config": {"size": 2},
            "input": {"digest": "e"},
        }.items()
    }
    assert digests["a"] == digests["same"]
    assert len(set(digests.values())) == 4


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "x")
    before = (tmp_path / "x" / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match="exists already"):
        write(tmp_path / "x", b"other")
    assert (tmp_path / "x" / "manifest.json").read_bytes() == before


def test_a_failed_stage_leaves_a_partial_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "x"
    with pytest.raises(RuntimeError), writing(out, "bank", Settings(), [], {}) as partial:
        (partial / "kept").write_bytes(b"1")
        raise RuntimeError
    assert not out.exists()
    with pytest.raises(ArtifactError, match="no such artifact"):
        open_artifact(out, "bank")
    with writing(out, "bank", Settings(), [], {}) as partial:
        assert (partial / "kept").read_bytes() == b"1"


def test_a_partial_of_other_work_is_emptied(tmp_path: Path) -> None:
    out = tmp_path / "x"
    with pytest.raises(RuntimeError), writing(out, "bank", Settings(size=1), [], {}) as partial:
        (partial / "old").write_bytes(b"1")
        raise RuntimeError
    with writing(out, "bank", Settings(size=2), [], {}) as partial:
        assert not (partial / "old").exists()


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest", "newer", "kind"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "x"
    write(out)
    manifest = out / "manifest.json"
    if damage == "truncate":
        (out / "shards" / "0.bin").write_bytes(b"ab")
    elif damage == "remove":
        (out / "shards" / "0.bin").unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:50])
    elif damage == "newer":
        manifest.write_text(manifest.read_text().replace("rgs/bank@1", "rgs/bank@2"))
    said = {
        "truncate": "has 2 bytes instead of 3",
        "remove": "is missing",
        "manifest": "cannot be read",
        "newer": "newer rgs",
        "kind": "this is a bank, not a run",
    }[damage]
    with pytest.raises(ArtifactError, match=said):
        open_artifact(out, "run" if damage == "kind" else "bank")


def test_a_flipped_bit_is_found_by_verification(tmp_path: Path) -> None:
    out = tmp_path / "x"
    write(out)
    (out / "shards" / "0.bin").write_bytes(b"abb")
    with pytest.raises(ArtifactError, match="was changed after it was written"):
        verify_files(open_artifact(out, "bank"))


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from pipelines.artifact import locked
        with locked(Path(sys.argv[1])):
            print("held", flush=True)
            time.sleep(60)
    """)
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(EnvironmentFault, match="another process"), locked(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_what_a_disk_refuses_is_an_environment_fault(tmp_path: Path, number: int) -> None:
    with pytest.raises(EnvironmentFault) as error, writing(tmp_path / "x", "bank", Settings(), [], {}):
        raise OSError(number, os.strerror(number), str(tmp_path / "shard"))
    assert error.value.exit_code == 4 and error.value.where == str(tmp_path / "shard")


def test_the_manifest_names_no_path_host_or_user(tmp_path: Path) -> None:
    manifest = write(tmp_path / "x")
    text = json.dumps({k: v for k, v in manifest.items() if k != "command"})
    assert str(tmp_path) not in text and os.uname().nodename not in text
