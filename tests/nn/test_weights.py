"""Finding and checking files of pretrained weights."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch

from pipelines.errors import ArtifactError, EnvironmentFault
from pipelines.weights import read, resolve


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def named(folder, stem="net"):
    folder.mkdir(exist_ok=True)
    torch.save({"a": torch.ones(2)}, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:8]
    return (folder / "new.pth").rename(folder / f"{stem}-{digest}.pth")


def test_the_directory_comes_before_the_cache(cache, tmp_path):
    cached = named(cache)
    assert resolve(cached.name) == cached
    given = named(tmp_path / "given")
    assert resolve(given.name, tmp_path / "given") == given
    assert resolve(cached.name, tmp_path / "empty") == cached
    assert torch.equal(read(given)["a"], torch.ones(2))


def test_missing_weights_say_where_they_were_looked_for(cache, tmp_path):
    with pytest.raises(EnvironmentFault) as error:
        resolve("vgg19-dcbb9e9d.pth", tmp_path / "given", alternative="--perceptual random")
    text = str(error.value)
    for part in ("vgg19-dcbb9e9d.pth", str(tmp_path / "given"), str(cache), "--perceptual random"):
        assert part in text
    assert error.value.exit_code == 4


def test_a_damaged_file_is_refused(cache):
    file = named(cache)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="sha256"):
        resolve(file.name)
    with pytest.raises(ArtifactError, match="not a file of weights"):
        read(file)


def test_a_name_without_a_digest_is_taken_as_it_is(cache):
    (cache / "weights-vgg16-lpips.pth").write_bytes(b"x")
    assert resolve("weights-vgg16-lpips.pth") == cache / "weights-vgg16-lpips.pth"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_nothing_in_a_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ArtifactError):
        read(tmp_path / "evil.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ArtifactError, match="no state dict"):
        read(tmp_path / "list.pth")
    assert not (tmp_path / "owned").exists()
