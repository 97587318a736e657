"""Published networks become runs: those give the authors' numbers, and what does not fit is refused by name."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from pipelines.artifact import locked, read_manifest
from pipelines.config import dump_yaml, read_yaml
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, ConfigError, DataError, EnvironmentFault, RgsError
from pipelines.stages import import_published as stage
from pipelines.stages import synthesize
from pipelines.stages.embedders import open_embedder
from pipelines.stages.train import config_of, initialize
from pipelines.systems.table import find_system
from pipelines.systems.trained import load_networks
from pipelines.train.checkpoint import weight_shapes
from rgs_cli.main import app

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))  # its modules import each other by their bare names

import fill  # type: ignore[import-not-found]  # noqa: E402
import published_keys as keys  # type: ignore[import-not-found]  # noqa: E402

TOLERANCE = 1e-4


@cache
def golden(system: str) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads((GOLDEN / f"{system}.json").read_text())
    return spec


@cache
def golden_state(system: str, part: str) -> dict[str, Tensor]:
    shapes = {key: tuple(shape) for key, shape in golden(system)["parameters"][part].items()}
    state: dict[str, Tensor] = keys.tensors(part, shapes)
    return state


def write_classes(path: Path, count: int, **more: Any) -> Path:
    entries = [{"id": 10 + i, "name": f"class {i}", "thing": i == 1} for i in range(count)]
    path.write_text(json.dumps({"classes": entries, **more}))
    return path


def published(
    folder: Path, system: str, state: Any, options: dict[str, Any], *, part: str = "G", classes: int | None = None
) -> stage.Published:
    """The state in a .pth file beside its classes.json, one class for each channel if not told."""
    torch.save(state, folder / "net.pth")
    count = options.get("semantic_nc", 1) if classes is None else classes
    return stage.Published(
        folder / "net.pth", system, part, options, write_classes(folder / "classes.json", count), "CC BY-NC-SA 4.0"
    )


def golden_network(folder: Path, system: str, part: str = "G") -> stage.Published:
    return published(folder, system, golden_state(system, part), golden(system)["config"], part=part)


def labels(system: str, side: int) -> Tensor:
    return torch.from_numpy(fill.one_hot_labels(system, 2, 6, side, side)[0])


def given(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(fill.model_input(name, shape))


def assert_golden(output: Tensor, system: str, key: str) -> None:
    expected = load_file(GOLDEN / f"{system}.safetensors")[key]
    assert output.shape == expected.shape
    assert (output - expected).abs().max() <= TOLERANCE * expected.abs().max()


GENERATORS = {
    "spade": lambda net: net(labels("spade", 64)),
    "resail": lambda net: net(labels("resail", 128), given("resail.guidance", 2, 3, 128, 128)),
    "oasis": lambda net: net(labels("oasis", 64), given("oasis.z", 2, 8)),
}


@torch.no_grad()
@pytest.mark.parametrize("system", list(GENERATORS))
def test_a_generator_gives_the_authors_numbers(tmp_path: Path, system: str) -> None:
    stage.run(golden_network(tmp_path, system), tmp_path / "x")
    loaded = load_networks(tmp_path / "x", trainable=system)
    assert set(loaded.nets) == {"G"} and not loaded.nets["G"].training
    assert_golden(GENERATORS[system](loaded.nets["G"]), system, "image")


@torch.no_grad()
def test_discriminator_and_encoder_of_spade_give_the_authors_numbers(tmp_path: Path) -> None:
    for part in "DE":
        stage.run(golden_network(tmp_path, "spade", part), tmp_path / part)
    features = load_networks(tmp_path / "D").nets["D"](
        torch.cat([labels("spade", 64), given("spade.image", 2, 3, 64, 64)], 1)
    )
    for i, scale in enumerate(features):
        assert_golden(scale[-1], "spade", f"D{i}_logit")
    mu, logvar = load_networks(tmp_path / "E").nets["E"](given("spade.exemplar", 2, 3, 256, 256))
    assert_golden(mu, "spade", "vae_mu")
    assert_golden(logvar, "spade", "vae_logvar")


@torch.no_grad()
@pytest.mark.slow
def test_discriminator_of_oasis_gives_the_authors_numbers(tmp_path: Path) -> None:
    stage.run(golden_network(tmp_path, "oasis", "D"), tmp_path / "x")
    logits = load_networks(tmp_path / "x").nets["D"](given("oasis.image", 2, 3, 64, 64))
    assert_golden(logits, "oasis", "D_logits")


def test_the_manifest_says_what_was_imported(tmp_path: Path) -> None:
    network = golden_network(tmp_path, "spade")
    artifact = stage.run(network, tmp_path / "x")
    manifest = artifact.manifest
    assert (manifest["trainable"], manifest["status"], manifest["step"]) == ("spade", "finished", 0)
    assert [w["step"] for w in manifest["weights"]] == [0] and manifest["trained_with"] == {}
    sha256 = stage.sha256_file(network.file)
    assert manifest["imported"] == {
        "part": "G",
        "file": "net.pth",
        "sha256": sha256,
        "options": golden("spade")["config"],
        "licence": "CC BY-NC-SA 4.0",
    }
    assert manifest["inputs"] == [{"role": "published", "path": "net.pth", "digest": sha256}]
    assert Schema.from_json(manifest["schema"]).ids.tolist() == [10, 11, 12, 13, 14, 15]
    config = config_of("spade").model_validate(manifest["config"])
    assert (config.model.ngf, config.model.framing.size, config.model.upsamplings) == (4, (64, 64), 5)
    assert config.model.framing.load == find_system("spade").Config().framing.load
    assert config_of("spade").model_validate(read_yaml(tmp_path / "x" / "config.yaml")) == config
    assert artifact.statistics["tensors"] == len(golden_state("spade", "G"))
    assert artifact.statistics["types"]["float32"] > 0 and artifact.statistics["unwrapped"] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.json", "net.pth", "x"]


def test_running_statistics_are_kept(tmp_path: Path) -> None:
    stage.run(golden_network(tmp_path, "spade"), tmp_path / "x")
    kept = load_networks(tmp_path / "x").nets["G"].state_dict()
    state = golden_state("spade", "G")
    assert set(kept) == set(state)
    for key, tensor in state.items():
        assert torch.equal(kept[key], tensor), key


def test_the_same_import_elsewhere_has_the_same_digest(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        digests.append(stage.run(golden_network(tmp_path / name, "spade"), tmp_path / name / "x").digest)
    assert digests[0] == digests[1]


def test_synthesis_from_an_imported_run(tmp_path: Path) -> None:
    stage.run(golden_network(tmp_path, "spade"), tmp_path / "x")
    hot = labels("spade", 64)
    (tmp_path / "layouts").mkdir()
    for i, indices in enumerate(hot.argmax(1).numpy()):
        cv2.imwrite(str(tmp_path / "layouts" / f"{i}.png"), (indices + 10).astype(np.uint8))
    asked = synthesize.Requested(str(tmp_path / "x"), [tmp_path / "layouts"])
    samples, _ = synthesize.run(synthesize.Synthesize(), asked, tmp_path / "s", device="cpu")
    assert samples.statistics["count"] == 2 and samples.statistics["trained_with"] == {}
    expected = load_file(GOLDEN / "spade.safetensors")["image"]
    for i in range(2):
        image = cv2.imread(str(tmp_path / "s" / "images" / f"{i}.png"))[..., ::-1].astype(float)
        np.testing.assert_allclose(image, (expected[i].permute(1, 2, 0).numpy() + 1) * 127.5, atol=0.51)


def test_synthesis_by_retrieval_asks_for_bank_and_index(tmp_path: Path) -> None:
    stage.run(golden_network(tmp_path, "resail"), tmp_path / "x")
    cv2.imwrite(str(tmp_path / "l.png"), np.full((32, 32), 10, np.uint8))
    asked = synthesize.Requested(str(tmp_path / "x"), [tmp_path / "l.png"])
    with pytest.raises(ConfigError, match="knows no bank") as caught:
        synthesize.run(synthesize.Synthesize(), asked, tmp_path / "s", device="cpu")
    assert "--bank" in str(caught.value.fix) and "--index" in str(caught.value.fix)


def test_synthesis_without_a_generator_is_refused(tmp_path: Path) -> None:
    stage.run(golden_network(tmp_path, "spade", "D"), tmp_path / "x")
    cv2.imwrite(str(tmp_path / "l.png"), np.full((32, 32), 10, np.uint8))
    asked = synthesize.Requested(str(tmp_path / "x"), [tmp_path / "l.png"])
    with pytest.raises(ArtifactError, match="holds D alone, but G is needed"):
        synthesize.run(synthesize.Synthesize(), asked, tmp_path / "s", device="cpu")


def test_a_training_starts_from_an_imported_network(tmp_path: Path) -> None:
    stage.run(golden_network(tmp_path, "spade"), tmp_path / "x")
    loaded = load_networks(tmp_path / "x")
    for init in (f"{tmp_path / 'x'}:G", f"{tmp_path / 'x'}@0:G", str(tmp_path / "x")):
        nets = loaded.trainable.networks()
        before = {key: tensor.clone() for key, tensor in nets["D"].state_dict().items()}
        initialize(nets, init)
        for key, tensor in golden_state("spade", "G").items():
            assert torch.equal(nets["G"].state_dict()[key], tensor)
        assert all(torch.equal(before[key], tensor) for key, tensor in nets["D"].state_dict().items())
    with pytest.raises(ArtifactError, match="no network D"):
        initialize(loaded.trainable.networks(), f"{tmp_path / 'x'}:D")


def test_a_trained_run_without_a_network_stays_an_error(tmp_path: Path) -> None:
    stage.run(golden_network(tmp_path, "spade"), tmp_path / "x")
    manifest = read_manifest(tmp_path / "x")
    del manifest["imported"]
    (tmp_path / "x" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="hold no network D"):
        load_networks(tmp_path / "x")


def small(norm: str = "spectralspadebatch3x3", **form: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A generator of SPADE with 3 channels of labels."""
    kernel, below = int(norm[-1]), "" if "instance" in norm else "param_free_norm"
    layer = partial(keys.spade, maps=3, kernel=kernel, batch=below)
    state = keys.tensors("G", keys.spade_generator(3, 2, layer, spectral=norm.startswith("spectral"), **form))
    return state, {"semantic_nc": 3, "ngf": 2, "height": 32, "width": 64, "norm_G": norm}


def of_resail(kernel: int) -> dict[str, Tensor]:
    def layer(key: str, features: int) -> dict[str, tuple[int, ...]]:
        shapes = keys.resail(key, features, 3)
        branch = [f"{key}.{name}.weight" for name in ("conv1", "conv2", "conv3", "conv_gamma", "conv_beta")]
        return shapes | {name: (*shapes[name][:2], kernel, kernel) for name in branch}

    state: dict[str, Tensor] = keys.tensors("G", keys.spade_generator(3, 2, layer))
    return state


MORE, MOST = {"num_upsampling_layers": "more"}, {"num_upsampling_layers": "most"}
OASIS = {"semantic_nc": 3, "channels_G": 2, "z_dim": 4}
FORMS: dict[str, tuple[str, str, Any]] = {
    "instance": ("spade", "G", lambda: small("spectralspadeinstance3x3")),
    "kernel 5": ("spade", "G", lambda: small("spectralspadesyncbatch5x5")),
    "not spectral": ("spade", "G", lambda: small("spadebatch1x1")),
    "more": ("spade", "G", lambda: (small()[0], small()[1] | MORE)),
    "most": ("spade", "G", lambda: (small(most=True)[0], small()[1] | MOST)),
    "latent": ("spade", "G", lambda: (small(z_dim=5, start=(1, 2))[0], small()[1] | {"z_dim": 5})),
    "aspect": (
        "spade",
        "G",
        lambda: (small(z_dim=5, start=(2, 4))[0], {"semantic_nc": 3, "ngf": 2, "z_dim": 5} | CROP),
    ),
    "deep D": ("spade", "D", lambda: (keys.tensors("D", keys.spade_discriminator(6, 8, 5, 3)), DEEP)),
    "encoder of 128": ("spade", "E", lambda: (keys.tensors("E", keys.encoder(4, 5)), {"semantic_nc": 3, "ngf": 4})),
    "guidance 5": ("resail", "G", lambda: (of_resail(5), {"semantic_nc": 3, "ngf": 2} | MORE)),
    "sesame": ("resail", "D", lambda: (keys.tensors("D", keys.sesame_discriminator(3, 8, 3, 1)), SHALLOW)),
    "noise": ("oasis", "G", lambda: (keys.tensors("G", keys.oasis_generator(3, 2, 4, 5)), OASIS | {"spade_ks": 5})),
    "no noise": ("oasis", "G", lambda: (keys.tensors("G", keys.oasis_generator(3, 2, 0)), OASIS)),
}
CROP = {"crop_size": 128, "aspect_ratio": 2}
DEEP = {"semantic_nc": 3, "ndf": 8, "n_layers_D": 5, "num_D": 3}
SHALLOW = {"semantic_nc": 3, "ndf": 8, "n_layers_D": 3, "num_D": 1}


@torch.no_grad()
@pytest.mark.parametrize("form", list(FORMS))
def test_every_published_form_is_kept_by_its_run(tmp_path: Path, form: str) -> None:
    """The run's network has the file's tensors and computes what the loader's own computes."""
    system, part, make = FORMS[form]
    state, options = make()
    stage.run(published(tmp_path, system, state, options, part=part), tmp_path / "x")
    loaded = load_networks(tmp_path / "x")
    kept, reference = loaded.nets[part], stage.published_module(system).load(part, state, options)
    assert set(kept.state_dict()) == set(reference.state_dict())
    torch.manual_seed(0)
    size = (64, 128)
    hot = torch.nn.functional.one_hot(torch.randint(0, 3, (1, *size)), 3).permute(0, 3, 1, 2).float()
    noise, image = torch.randn(1, max(getattr(loaded.config, "z_dim", 1), 1)), torch.randn(1, 3, *size)
    inputs = {
        ("spade", "G"): (hot, noise),
        ("spade", "D"): (torch.cat([hot, image], 1),),
        ("spade", "E"): (image,),
        ("resail", "G"): (hot, image),
        ("resail", "D"): (torch.cat([hot, image], 1),),
        ("oasis", "G"): (hot, noise),
    }[system, part]
    for one, other in zip(flat(kept(*inputs)), flat(reference(*inputs)), strict=True):
        assert torch.equal(one, other)


def flat(outputs: Any) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else [tensor for part in outputs for tensor in flat(part)]


def test_a_channel_of_edges_is_no_class(tmp_path: Path) -> None:
    state, options = small()
    edged = published(tmp_path, "spade", state, options | {"no_instance": False}, classes=2)
    stage.run(edged, tmp_path / "x")
    assert load_networks(tmp_path / "x").config.edges
    with pytest.raises(ConfigError, match="2 classes are listed, and the network has 3") as caught:
        stage.run(published(tmp_path, "spade", state, options, classes=2), tmp_path / "y")
    assert "«unknown»" in str(caught.value.fix) and "no_instance: false" in str(caught.value.fix)


@pytest.mark.parametrize("wrap", [["state_dict"], ["model"], ["netG"], ["model", "G"], ["G"], []])
@pytest.mark.parametrize("parallel", [False, True])
def test_what_is_around_the_tensors_is_taken_off_and_told(tmp_path: Path, wrap: list[str], parallel: bool) -> None:
    tensors, options = small()
    state: dict[str, Any] = {f"module.{k}": v for k, v in tensors.items()} if parallel else dict(tensors)
    for key in reversed(wrap):
        state = {"epoch": 3, key: state, "D": {}, "optimizer": {"state": {}}}
    artifact = stage.run(published(tmp_path, "spade", state, options), tmp_path / "x")
    assert artifact.statistics["unwrapped"] == wrap + ["module."] * parallel
    assert artifact.statistics["tensors"] == len(tensors)
    kept = load_networks(tmp_path / "x").nets["G"].state_dict()
    assert all(torch.equal(kept[key], tensor) for key, tensor in tensors.items())


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "legacy", "half"])
def test_forms_of_files(tmp_path: Path, suffix: str) -> None:
    state, options = small()
    network = published(tmp_path, "spade", state, options)
    if suffix == "safetensors":
        save_file(state, tmp_path / "net.safetensors")
        network = stage.Published(tmp_path / "net.safetensors", "spade", "G", options, network.classes)
    elif suffix == "legacy":  # the form of torch before 1.6, in which SPADE was published
        torch.save(state, network.file, _use_new_zipfile_serialization=False)
    elif suffix == "half":
        state = {key: t.half() if t.is_floating_point() else t for key, t in state.items()}
        torch.save(state, network.file)
    artifact = stage.run(network, tmp_path / "x")
    kept = load_networks(tmp_path / "x").nets["G"].state_dict()
    assert all(torch.equal(kept[key], tensor.to(kept[key].dtype)) for key, tensor in state.items())
    assert kept["conv_img.weight"].dtype == torch.float32
    assert ("float16" in artifact.statistics["types"]) == (suffix == "half")


def refused(network: stage.Published, out: Path, kind: type[RgsError], said: str) -> RgsError:
    """What both the run and its plan raise; neither leaves anything behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(kind, match=said) as caught:
        stage.plan(network, out)
    with pytest.raises(kind, match=said):
        stage.run(network, out)
    assert sorted(out.parent.iterdir()) == before
    return caught.value


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_classes(tmp_path: Path, count: int) -> None:
    state, options = small()
    network = published(tmp_path, "spade", state, options, classes=count)
    error = refused(network, tmp_path / "x", ConfigError, f"{count} classes are listed, and the network has 3")
    assert "classes.json" in str(error.where)


def test_an_ignored_id_is_no_class(tmp_path: Path) -> None:
    state, options = small()
    network = published(tmp_path, "spade", state, options)
    write_classes(network.classes, 3, ignore_id=12)
    error = refused(network, tmp_path / "x", ConfigError, "2 classes are listed")
    assert "12" in str(error.fix)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"system": "pix2pix"}, ConfigError, "unknown system"),
        ({"system": "segmenter"}, ConfigError, "unknown system"),
        ({"system": "resail"}, ArtifactError, "head_0.norm_0.conv1"),
        ({"system": "oasis", "options": {"semantic_nc": 3}}, ArtifactError, "do not fit"),
        ({"part": "F"}, ConfigError, "no part 'F'"),
        ({"part": "D"}, ArtifactError, "do not fit"),
        ({"options": {"semantic_nc": 3, "ngf": 4}}, ArtifactError, "misshaped"),
        ({"options": {"ngf": 2}}, ConfigError, "'semantic_nc' is missing"),
        ({"options": {"semantic_nc": 3, "nfg": 2}}, ConfigError, "unknown option 'nfg'"),
        ({"options": {"semantic_nc": 3, "ngf": 0}}, ConfigError, "ngf: .*published options"),
        ({"options": {"semantic_nc": 3, "ngf": 2, "height": 0}}, ConfigError, "not positive"),
        ({"options": {"semantic_nc": 3, "ngf": 2, "aspect_ratio": float("nan")}}, ConfigError, "not positive"),
        ({"options": {"semantic_nc": 3, "ngf": 2, "norm_G": "spectralsean3x3"}}, ConfigError, "norm_G"),
        ({"file": Path("missing.pth")}, ArtifactError, "no such file"),
        ({"classes": Path("missing.json")}, DataError, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], kind: type[RgsError], said: str) -> None:
    state, options = small()
    network = published(tmp_path, "spade", state, options)
    refused(replace(network, **change), tmp_path / "x", kind, said)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beside", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path: Path, beside: bool, legacy: bool) -> None:
    state, options = small()
    network = published(tmp_path, "spade", state, options)
    payload = Payload(tmp_path / "executed")
    content = {"state_dict": state, "more": payload} if beside else payload
    torch.save(content, network.file, _use_new_zipfile_serialization=not legacy)
    error = refused(network, tmp_path / "x", ArtifactError, "refused")
    assert error.exit_code == 3 and "weights_only=False" in str(error.fix) and not (tmp_path / "executed").exists()


def test_options_pickled_beside_the_tensors_are_named(tmp_path: Path) -> None:
    state, options = small()
    network = published(tmp_path, "spade", {"state_dict": state, "opt": argparse.Namespace(ngf=2)}, options)
    refused(network, tmp_path / "x", ArtifactError, r"argparse\.Namespace")


def with_nan(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return state | {"conv_img.bias": torch.tensor([0.0, float("nan"), 0.0])}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "up_1.conv_0.bias"}, r"1 missing: up_1\.conv_0\.bias"),
        (lambda s: s | {"up_9.bias": torch.zeros(2)}, r"1 unexpected: up_9\.bias"),
        (lambda s: s | {"step": 3}, "'step'"),
        (lambda s: s | {7: torch.zeros(2)}, "first is 7"),
        (with_nan, r"conv_img\.bias holds values that are not finite"),
        (lambda s: s | {"conv_img.bias": torch.zeros(3, dtype=torch.complex64)}, "no plain tensor"),
        (lambda s: s | {"conv_img.bias": torch.zeros(3).to_sparse()}, "no plain tensor"),
        (lambda s: s | {"conv_img.bias": torch.tensor(1.0)}, "misshaped"),
        (lambda s: {}, "holds nothing"),
        (lambda s: [1, 2], "no state dict"),
        (lambda s: {"epoch": 3, "weights": s}, "the file holds epoch, weights"),
        (lambda s: {"model": s, "state_dict": s}, "not clear"),
    ],
)
def test_what_is_no_state_dict_of_the_part(tmp_path: Path, content: Any, said: str) -> None:
    state, options = small()
    refused(published(tmp_path, "spade", content(state), options), tmp_path / "x", ArtifactError, said)


def test_a_state_dict_inside_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["model"] = loop
    refused(published(tmp_path, "spade", loop, small()[1]), tmp_path / "x", ArtifactError, "not clear")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", ["cut", "garbage", "empty"])
def test_damaged_files(tmp_path: Path, name: str, content: str) -> None:
    state, options = small()
    network = replace(published(tmp_path, "spade", state, options), file=tmp_path / name)
    if name != "net.pth":
        save_file(state, network.file)
    whole = network.file.read_bytes()
    network.file.write_bytes({"cut": whole[: len(whole) // 2], "garbage": b"GIF89a" * 99, "empty": b""}[content])
    error = refused(network, tmp_path / "x", ArtifactError, "weights|refused")
    assert error.exit_code == 3 and error.fix


def test_outputs_are_not_overwritten_and_have_one_writer(tmp_path: Path) -> None:
    state, options = small()
    network = published(tmp_path, "spade", state, options)
    with locked(tmp_path / "x.partial"), pytest.raises(EnvironmentFault, match="another process"):
        stage.run(network, tmp_path / "x")
    (tmp_path / "x.partial" / "left").mkdir()  # of an import that was killed
    stage.run(network, tmp_path / "x")
    assert not (tmp_path / "x.partial").exists() and not (tmp_path / "x" / "left").exists()
    refused(network, tmp_path / "x", ArtifactError, "exists already")


def test_a_dry_run_says_what_would_be_written(tmp_path: Path) -> None:
    network = golden_network(tmp_path, "oasis")
    planned = stage.plan(network, tmp_path / "x")
    assert dump_yaml(planned) and not (tmp_path / "x").exists()
    made = stage.run(network, tmp_path / "x")
    assert planned["config"] == made.config and planned["inputs"] == made.manifest["inputs"]
    assert planned["bytes"] == pytest.approx(made.manifest["files"][0]["bytes"], rel=0.05)
    assert planned["parameters"] == made.statistics["parameters"]
    shapes = weight_shapes(tmp_path / "x" / made.manifest["files"][0]["path"])
    assert len(shapes) == planned["tensors"] and all(key.startswith("G/") for key in shapes)


def test_the_command(tmp_path: Path) -> None:
    state, options = small()
    network = published(tmp_path, "spade", {"state_dict": state}, options | {"ngf": 4})
    (tmp_path / "c.yaml").write_text(dump_yaml(network.options))
    out = str(tmp_path / "x")
    given = ["import", str(network.file), "--system", "spade", "--config", str(tmp_path / "c.yaml"), "--set", "ngf=2"]
    given += ["--classes", str(network.classes), "--out", out]
    dry = CliRunner().invoke(app, [*given, "--dry-run"])
    assert dry.exit_code == 0 and yaml.safe_load(dry.stdout)["unwrapped"] == ["state_dict"]
    assert not Path(out).exists()
    made = CliRunner().invoke(app, [*given, "--licence", "CC0"])
    assert made.exit_code == 0 and made.stdout == out + "\n" and "state_dict" in made.stderr
    assert read_manifest(Path(out))["imported"]["licence"] == "CC0"


def both_towers(head: bool = True) -> dict[str, Tensor]:
    """A checkpoint of two small SAIG towers, of street images 32x64 and aerial images 32x32."""
    state = {}
    for prefix, tokens in (("model_grd.", 8), ("model_sat.", 4)):
        shapes = keys.saig(64, 3, tokens, (16, 32, 32, 64, 64, 128))
        state |= {f"{prefix}backbone.{key}": tensor for key, tensor in keys.tensors("backbone", shapes).items()}
        mixing = keys.tensors("smd_head", keys.smd(tokens, 4 * tokens, 8)) if head else {}
        state |= {prefix + key: tensor for key, tensor in mixing.items()}
    return state


TOWERS = {"embed_dim": 64, "depth": 3, "num_heads": 4, "height": 32, "width": 64, "aerial_height": 32}
TOWERS |= {"aerial_width": 32}


@pytest.mark.parametrize("head", [True, False])
def test_a_checkpoint_of_two_towers_becomes_an_embedder(tmp_path: Path, head: bool) -> None:
    torch.save({"state_dict": both_towers(head)}, tmp_path / "saig.pth")
    network = stage.Published(tmp_path / "saig.pth", "crossview", "embedder", TOWERS)
    made = stage.run(network, tmp_path / "x")
    assert made.manifest["trainable"] == "embedder-crossview"
    embedder = open_embedder(str(tmp_path / "x"))
    assert embedder.kind == "crossview" and embedder.dimension == (512 if head else 64)
    authors = stage.published_module("crossview").load("embedder", both_towers(head), TOWERS)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 64, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = authors["ground"](torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    assert np.allclose(embedder.embed(images, "ground"), expected.numpy(), atol=1e-5)


def test_classes_are_given_where_there_are_labels(tmp_path: Path) -> None:
    torch.save(both_towers(), tmp_path / "saig.pth")
    classes = write_classes(tmp_path / "classes.json", 3)
    network = stage.Published(tmp_path / "saig.pth", "crossview", "embedder", TOWERS, classes)
    refused(network, tmp_path / "x", ConfigError, "read no labels")
    state, options = small()
    refused(replace(published(tmp_path, "spade", state, options), classes=None), tmp_path / "x", ConfigError, "labels")


@pytest.mark.parametrize(("part", "said"), [("backbone", "no run"), ("smd_head", "no run"), ("G", "no part 'G'")])
def test_half_an_embedder_makes_no_run(tmp_path: Path, part: str, said: str) -> None:
    torch.save(both_towers(), tmp_path / "saig.pth")
    refused(stage.Published(tmp_path / "saig.pth", "crossview", part, TOWERS), tmp_path / "x", ConfigError, said)
