"""Artifacts that are damaged, from a later rgs, of something else, or pickles: over every verb that opens them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.artifact import manifest_digest, read_manifest, sha256_file
from pipelines.bank.storage import read_arrays, write_arrays
from tests.faults.conftest import ON_CPU, House, Words, copy, refused
from tests.rgs_cli.conftest import call, content, succeed

Verb = Callable[[House, Path, Path], Words]
"""Words of a verb, from the house, the artifact under test and where to write."""


def layouts(house: House) -> Path:
    return house.town / "val" / "label"


def one_layout(house: House) -> Path:
    return min(layouts(house).iterdir())


def resume(house: House, run: Path, out: Path) -> Words:
    return [*house.train("spade"), "--steps", 1, "-o", run]


LOOK: dict[str, Verb] = {
    "show": lambda house, x, out: ["show", x],
    "show --verify": lambda house, x, out: ["show", x, "--verify"],
}
CLASSES: dict[str, Verb] = {"data palette": lambda house, x, out: ["data", "palette", x, "-o", out]}
VERBS: dict[str, dict[str, Verb]] = {
    "bank": {
        "train index": lambda house, x, out: ["train", "index", "--bank", x, "-o", out],
        "train generator --bank": lambda house, x, out: [*house.train("resail", bank=x), "-o", out],
        "build-bank --add-to": lambda house, x, out: [
            "build-bank",
            house.town,
            "--split",
            "val",
            "--add-to",
            x,
            "-o",
            out,
        ],
        "build-bank --from": lambda house, x, out: [
            *("build-bank", "--from", x, "--remove-source", "train/00000", "-o", out)
        ],
        "search --bank": lambda house, x, out: ["search", house.index, one_layout(house), "--bank", x],
        "synthesize --bank": lambda house, x, out: [
            *("synthesize", house.resail, "-i", layouts(house), "--bank", x, "--index", house.index, *ON_CPU, "-o", out)
        ],
        **CLASSES,
        **LOOK,
    },
    "index": {
        "search": lambda house, x, out: ["search", x, one_layout(house), "--bank", house.bank],
        "train generator --index": lambda house, x, out: [*house.train("resail", index=x), "-o", out],
        "synthesize --index": lambda house, x, out: [
            *("synthesize", house.resail, "-i", layouts(house), "--bank", house.bank, "--index", x, *ON_CPU, "-o", out)
        ],
        **LOOK,
    },
    "spade": {
        "synthesize": lambda house, x, out: ["synthesize", x, "-i", layouts(house), *ON_CPU, "-o", out],
        "train generator --init": lambda house, x, out: [*house.train("spade"), "--init", x, "-o", out],
        "train generator again": resume,
        **CLASSES,
        **LOOK,
    },
    "segmenter": {
        "train generator --with": lambda house, x, out: (
            [word if word != f"segmenter={house.segmenter}" else f"segmenter={x}" for word in house.train("resail")]
            + ["-o", out]
        ),
        "eval --judge": lambda house, x, out: ["eval", house.samples, "--judge", x, *ON_CPU, "-o", out],
    },
    "samples": {
        "eval": lambda house, x, out: ["eval", x, "-r", house.town, *ON_CPU, "-o", out],
        **CLASSES,
        **LOOK,
    },
    "report": LOOK,
}


# ---- damage to any artifact -----------------------------------------------------------------------------------------


def edit(artifact: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = False) -> None:
    """Change a manifest; sign: with the digest that it then has."""
    manifest = read_manifest(artifact)
    change(manifest)
    if sign:
        manifest["digest"] = manifest_digest(manifest)
    (artifact / "manifest.json").write_text(json.dumps(manifest))


def largest(artifact: Path) -> Path:
    files = [artifact / file["path"] for file in read_manifest(artifact)["files"]]
    return max(files, key=lambda file: (file.stat().st_size, file))


def cut(artifact: Path) -> None:
    file = largest(artifact)
    file.write_bytes(file.read_bytes()[:-10])


def newer(artifact: Path) -> None:
    edit(artifact, lambda manifest: manifest.update(format=manifest["format"].replace("@1", "@2")))


def climb(artifact: Path) -> None:
    """A manifest that names a file elsewhere, and says the truth of it."""
    secret = artifact.parent / "secret"
    secret.write_bytes(b"secret")
    entry = {"path": "../secret", "bytes": 6, "sha256": sha256_file(secret)}
    edit(artifact, lambda manifest: manifest["files"].append(entry), sign=True)


MANIFEST = "manifest.json"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "file cut off": (cut, "bytes instead of"),
    "file gone": (lambda x: largest(x).unlink(), "is missing"),
    "unfinished": (lambda x: (x / MANIFEST).unlink(), "no finished artifact|is no run|no dataset"),
    "manifest cut off": (lambda x: (x / MANIFEST).write_bytes((x / MANIFEST).read_bytes()[:200]), "cannot be read"),
    "manifest of nothing": (lambda x: (x / MANIFEST).write_text("[]"), "cannot be read"),
    "newer": (newer, "written by a newer rgs"),
    "unheard of": (lambda x: edit(x, lambda manifest: manifest.update(format="rgs/cake@1")), "unknown artifact format"),
    "changed": (lambda x: edit(x, lambda manifest: manifest["config"].update(sneaky=1)), "changed or damaged"),
    "climbing out": (climb, "lies outside|not those of its checkpoints"),
}
OF_FILES = ("file cut off", "file gone", "changed", "climbing out")
"""What a verb that reads the classes in the manifest alone does not meet."""
MATRIX = [
    pytest.param(kind, verb, damage, id=f"{kind}-{verb}-{damage}")
    for kind, verbs in VERBS.items()
    for verb in verbs
    for damage in DAMAGE
    if not (verb == "data palette" and damage in OF_FILES)
]


@pytest.mark.parametrize(("kind", "verb", "damage"), MATRIX)
def test_damage_is_refused(kind: str, verb: str, damage: str, house: House, tmp_path: Path) -> None:
    spoiled = copy(house.root / kind, tmp_path / "spoiled")
    plant, said = DAMAGE[damage]
    plant(spoiled)
    before = content(tmp_path)
    told = refused(call(*VERBS[kind][verb](house, spoiled, tmp_path / "out")), [3], tmp_path / "out")
    assert any(part in told for part in said.split("|")) and str(spoiled) in told, told
    after = {k: v for k, v in content(tmp_path).items() if not k.startswith("out") and not k.endswith(".lock")}
    assert after == {k: v for k, v in before.items() if not k.endswith(".lock")}


# ---- flipped bits ---------------------------------------------------------------------------------------------------


def result(ended: Any, out: Path) -> object:
    """What a verb said or made, apart from where."""
    return read_manifest(out)["digest"] if out.exists() else ended.out


FLIPPED = [
    ("bank", "train index"),
    ("bank", "build-bank --from"),
    ("bank", "build-bank --add-to"),
    ("bank", "search --bank"),
    ("bank", "show --verify"),
    ("index", "search"),
    ("index", "show --verify"),
    ("spade", "synthesize"),
    ("spade", "train generator --init"),
    ("segmenter", "eval --judge"),
    ("samples", "eval"),
    ("samples", "show --verify"),
]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.999])
@pytest.mark.parametrize(("kind", "verb"), FLIPPED, ids=lambda value: value)
def test_a_flipped_bit_is_found_or_was_not_read(
    kind: str, verb: str, share: float, house: House, tmp_path: Path
) -> None:
    """The exit is 3, or the result is that of the whole artifact."""
    spoiled = copy(house.root / kind, tmp_path / "spoiled")
    file = next(spoiled.rglob("weights.safetensors"), None) or largest(spoiled)
    data = bytearray(file.read_bytes())
    data[int(share * len(data))] ^= 0b1000
    file.write_bytes(data)
    ended = call(*VERBS[kind][verb](house, spoiled, tmp_path / "out"))
    if ended.code:
        assert file.name in refused(ended, [3], tmp_path / "out")
        return
    assert verb in ("train index", "search --bank", "search"), "these alone may leave parts unread"
    expected = tmp_path / "expected"
    whole = call(*VERBS[kind][verb](house, house.root / kind, expected))
    assert result(ended, tmp_path / "out") == result(whole, expected)


def test_a_shard_of_a_newer_rgs(house: House, tmp_path: Path) -> None:
    spoiled = copy(house.bank, tmp_path / "spoiled")
    shard = largest(spoiled)
    arrays = read_arrays(shard)
    table = arrays["table"].tobytes().replace(b"rgs/shard@1", b"rgs/shard@2")
    write_arrays(shard, {**arrays, "table": torch.frombuffer(bytearray(table), dtype=torch.uint8).numpy()})
    resign(spoiled)
    for verb in ("train index", "build-bank --from", "search --bank"):
        said = refused(call(*VERBS["bank"][verb](house, spoiled, tmp_path / "out")), [3], tmp_path / "out")
        assert "rgs/shard@2" in said and "upgrade rgs" in said


# ---- pickles --------------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.mark, "executed")


def resign(artifact: Path) -> None:
    """Make the manifest tell the truth of the files as they are: nothing but their content can give them away."""

    def change(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            path = artifact / file["path"]
            file.update(bytes=path.stat().st_size, sha256=sha256_file(path))
            for weights in manifest.get("weights", []):
                if f"step-{weights['step']:07d}" in file["path"]:
                    weights["sha256" if path.suffix == ".safetensors" else "state"] = file["sha256"]

    edit(artifact, change, sign=True)


def plain(trap: Trap, file: Path) -> None:
    file.write_bytes(pickle.dumps({"G": trap}))


def of_torch(trap: Trap, file: Path) -> None:
    torch.save({"G": {"weight": torch.zeros(1)}, "optimizers": trap}, file)


@pytest.mark.parametrize("form", [plain, of_torch], ids=["pickle", "torch"])
@pytest.mark.parametrize(
    ("kind", "verb", "name"),
    [
        ("spade", "synthesize", "weights.safetensors"),
        ("spade", "train generator --init", "weights.safetensors"),
        ("segmenter", "train generator --with", "weights.safetensors"),
        ("segmenter", "eval --judge", "weights.safetensors"),
        ("stopped", "train generator again", "weights.safetensors"),
        ("stopped", "train generator again", "state.pt"),
    ],
)
def test_a_pickled_checkpoint_is_never_executed(
    kind: str, verb: str, name: str, form: Callable[[Trap, Path], None], house: House, tmp_path: Path
) -> None:
    if kind == "stopped":
        spoiled = tmp_path / "spoiled"
        succeed(*house.train("spade"), "--steps", 2, "--stop-after", "0s", "-o", spoiled)
        words: Words = [*house.train("spade"), "--steps", 2, "-o", spoiled]
    else:
        spoiled = copy(house.root / kind, tmp_path / "spoiled")
        words = VERBS[kind][verb](house, spoiled, tmp_path / "out")
    [file] = spoiled.rglob(name)
    form(Trap(tmp_path / "mark"), file)
    resign(spoiled)
    assert str(file) in refused(call(*words), [3], tmp_path / "out")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("form", [plain, of_torch], ids=["pickle", "torch"])
def test_pickled_weights_from_elsewhere_are_never_executed(
    form: Callable[[Trap, Path], None], house: House, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "vgg19-dcbb9e9d.pth"
    form(Trap(tmp_path / "mark"), file)
    learn = ["--perceptual", "vgg19", "--weights", file.parent, "--set", "model.weights.perceptual=1"]
    said = refused(call(*house.train("spade"), *learn, "-o", tmp_path / "out"), [3], tmp_path / "out")
    assert "sha256" in said
    options = ["--system", "spade", "--classes", house.town / "classes.json", "--set", "semantic_nc=12"]
    said = refused(call("import", file, *options, "-o", tmp_path / "out"), [2, 3], tmp_path / "out")
    assert not (tmp_path / "mark").exists()


# ---- what does not belong together ----------------------------------------------------------------------------------


def test_a_bank_and_an_index_of_different_digests(house: House, tmp_path: Path) -> None:
    for verb in ("search --bank", "train generator --bank", "synthesize --bank"):
        said = refused(call(*VERBS["bank"][verb](house, house.other, tmp_path / "out")), [3], tmp_path / "out")
        assert f"index {house.index} was built from bank" in said and "rebuild it with: rgs train index" in said


def test_a_checkpoint_of_another_system(house: House, tmp_path: Path) -> None:
    """Elsewhere: synthesis from a segmenter, and --init of a run without the network (tests/rgs_cli)."""
    out = tmp_path / "out"
    said = refused(call(*VERBS["segmenter"]["train generator --with"](house, house.spade, out)), [3], out)
    assert "this is a run of spade, not of segmenter" in said
    said = refused(call(*VERBS["segmenter"]["eval --judge"](house, house.spade, out)), [3], out)
    assert "this is a run of spade, not of segmenter" in said
    said = refused(call(*house.train("spade"), "--init", f"{house.resail}:G", "-o", out), [3], out)
    assert "the weights do not fit network G" in said
    run = copy(house.spade, tmp_path / "run")
    before = content(run)
    said = refused(call(*house.train("segmenter"), "--steps", 1, "-o", run), [2])
    assert "it trains spade, not segmenter" in said
    assert {k: v for k, v in content(run).items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}


def test_weights_that_were_swapped(house: House, tmp_path: Path) -> None:
    """A run that says it is one system and holds the weights of another, with every hash right."""
    run = copy(house.spade, tmp_path / "run")
    [mine], [theirs] = run.rglob("weights.safetensors"), house.resail.rglob("weights.safetensors")
    mine.write_bytes(theirs.read_bytes())
    resign(run)
    said = refused(call(*VERBS["spade"]["synthesize"](house, run, tmp_path / "out")), [3], tmp_path / "out")
    assert "the weights do not fit network G" in said


CHANGES: dict[str, tuple[list[object], str]] = {
    "seed": (["--seed", 7], "train.seed was 0 and is 7 now"),
    "steps": (["--steps", 9], "train.steps was 2 and is 9 now"),
    "network": (["--set", "model.ngf=5"], "model.ngf was 4 and is 5 now"),
    "split": (["--split", "val"], "split was 'train' and is 'val' now"),
    "start": (["--init", "SPADE"], "its init was None"),
}


@pytest.mark.parametrize("system", ["spade", "resail"])
def test_a_run_does_not_go_on_with_a_changed_config(system: str, house: House, tmp_path: Path) -> None:
    """Elsewhere: a segmenter, and its data (tests/rgs_cli/test_train.py)."""
    run = tmp_path / "run"
    succeed(*house.train(system), "--steps", 2, "--stop-after", "0s", "-o", run)
    before = content(run)
    for change, said in CHANGES.values():
        if system == "resail" and "val" in change:
            continue  # its bank lacks them, which is said first
        words = [house.root / system if word == "SPADE" else word for word in change]
        told = refused(call(*house.train(system), "--steps", 2, *words, "-o", run), [2], run)
        assert said in told and "run the command that began it" in told
        assert content(run) == before
