"""Label maps, configs and manifests that nobody would write, from hypothesis."""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel

from pipelines.artifact import manifest_digest, open_artifact, read_manifest
from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decompose, decompose
from pipelines.config import Config, Layer, dump_yaml, merge, nested, parse_assignments, parse_yaml, resolve
from pipelines.data.open import open_dataset
from pipelines.errors import ArtifactError, ConfigError, DataError, RgsError
from pipelines.index.neighbors import Neighbors
from pipelines.index.shape_index import ShapeIndex
from pipelines.metrics.samples import read_samples
from pipelines.stages import build_bank, evaluate, search, synthesize, train, train_index
from pipelines.stages.show import artifact as show
from pipelines.stages.show import schema_of
from pipelines.systems.resail.retrieval import paste, rows_of_scene
from pipelines.systems.table import TRAINABLES, preset_layer, presets
from pipelines.systems.trained import load_networks
from pipelines.train.run import open_weights
from tests.faults.conftest import House, copy

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# ---- label maps -----------------------------------------------------------------------------------------------------

IDS = {3: False, 0: True, 40: False, 254: True}
"""Ids of classes, in the order of a classes.json, and which are things."""
IGNORED_ID = 255


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Label ids (h, w), from one pixel on, of some classes, one class or none; and instance numbers (h, w)."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    used = draw(st.lists(st.sampled_from([*IDS, IGNORED_ID]), min_size=1, max_size=5, unique=True))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coarse = draw(st.integers(1, 12))  # from noise to patches
    cells = tuple(-(-side // coarse) for side in shape)
    grow = np.ones((coarse, coarse), np.uint8)
    labels = np.kron(rng.choice(used, cells).astype(np.uint8), grow)[: shape[0], : shape[1]]
    instances = np.kron(rng.integers(0, 4, cells).astype(np.uint8), grow)[: shape[0], : shape[1]]
    for number, (label, thing) in enumerate(IDS.items()):  # an instance has one class
        instances[labels == label] += np.uint8(10 * number) if thing else 0
        instances[(labels == label) & (not thing)] = 0
    instances[labels == IGNORED_ID] = 0
    return labels, instances


def write(root: Path, labels: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """A dataset of one scene; its photo (h, w, 3)."""
    photo = np.random.default_rng(0).integers(1, 256, (*labels.shape, 3)).astype(np.uint8)
    for layer, pixels in (("img", photo), ("label", labels), ("inst", instances)):
        (root / "train" / layer).mkdir(parents=True)
        Image.fromarray(pixels).save(root / "train" / layer / "a.png")
    classes = [{"id": label, "name": f"class {label}", "thing": thing} for label, thing in IDS.items()]
    text = json.dumps({"classes": classes, "ignore_id": IGNORED_ID, "inst_encoding": "index"})
    (root / "classes.json").write_text(text)
    return photo


@settings(max_examples=12, deadline=None)
@given(scene=scenes(), ratio=st.sampled_from([0.5, 0.9, 1.0]), min_area=st.integers(1, 9))
def test_any_label_map_through_bank_search_and_composition(
    scene: tuple[np.ndarray, np.ndarray], ratio: float, min_area: int
) -> None:
    """A bank holds exactly the segments; each finds itself; pasted where they were they are the photo again."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        photo = write(home / "data", *scene)
        dataset = open_dataset(home / "data")
        read = dataset.read(dataset.records()[0])
        assert read.labels is not None
        how = Decompose(preserved_ratio=ratio, min_area=min_area)
        parts = decompose(read.labels, read.instances, dataset.schema.things, how)
        config = build_bank.BuildBank(decompose=how)
        if not parts.segments:
            with pytest.raises(DataError, match="no scene has a segment"):
                build_bank.run(config, data=home / "data", out=home / "bank")
            return
        bank = Bank.open(build_bank.run(config, data=home / "data", out=home / "bank").path)
        assert len(bank) == len(parts.segments) and int(bank.areas.sum()) == int((parts.owner >= 0).sum())

        index = train_index.run(train_index.TrainIndex(k=3, exclude="self"), bank=bank.path, out=home / "index").path
        neighbors = Neighbors.open(index, bank)
        assert not (neighbors.rows == np.arange(len(bank))[:, None]).any()
        shapes = ShapeIndex.open(index, bank)
        rows, scores = shapes.search(bank.canonical(), shapes.sizes(parts), bank.categories, 1)
        assert (scores == 0).all() and (bank.categories[rows[:, 0]] == bank.categories).all()
        found = search.run(index, [str(home / "data" / "train" / "label" / "a.png")])
        assert all(bank.categories[hits.rows[0]] in bank.categories for hits in found)

        own = rows_of_scene(bank, "train/a", parts)
        guidance = paste(bank, own, parts, read.labels, dataset.schema)
        covered = parts.owner >= 0
        np.testing.assert_array_equal(guidance.owner, parts.owner)
        np.testing.assert_array_equal(guidance.image[covered], photo[covered])
        assert not guidance.image[~covered].any()


# ---- configs --------------------------------------------------------------------------------------------------------

CONFIGS: dict[str, type[Config]] = {
    **{name: train.config_of(name) for name in TRAINABLES},
    "build-bank": build_bank.BuildBank,
    "train index": train_index.TrainIndex,
    "synthesize": synthesize.Synthesize,
    "eval": evaluate.Evaluate,
}


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def tree(flat: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in flat.items():
        result = merge(result, nested(key, value))
    return result


@cache
def value_pool(name: str) -> dict[str, list[Any]]:
    """Values that each key has somewhere: by default, or in a preset."""
    layers = [[preset_layer(name, preset)] for preset in presets(name)] if name in TRAINABLES else []
    pool: dict[str, list[Any]] = {}
    for chosen in [[], *layers]:
        for key, value in leaves(resolve(CONFIGS[name], chosen).model_dump(mode="json")).items():
            if value is not None:
                pool.setdefault(key, []).append(value)
    return pool


@QUICK
@given(data=st.data(), name=st.sampled_from(list(CONFIGS)))
def test_a_config_is_what_its_layers_say_and_survives_being_written(data: st.DataObject, name: str) -> None:
    pool, kind = value_pool(name), CONFIGS[name]
    one_layer = st.lists(st.sampled_from(sorted(pool)), unique=True, max_size=8)
    layers, last = [], {}
    for number, keys in enumerate(data.draw(st.lists(one_layer, min_size=1, max_size=4))):
        chosen = {key: data.draw(st.sampled_from(pool[key])) for key in keys}
        layers.append(Layer(f"layer {number}", tree(chosen)))
        last |= chosen
    try:
        config = resolve(kind, layers)
    except ConfigError:  # values that no preset has together
        assume(False)
    resolved = leaves(config.model_dump(mode="json"))
    assert {key: resolved[key] for key in last} == last
    rest = leaves(kind().model_dump(mode="json"))
    assert {k: v for k, v in resolved.items() if k not in last} == {k: v for k, v in rest.items() if k not in last}
    assert resolve(kind, [Layer("file", parse_yaml(dump_yaml(config), "config.yaml"))]) == config
    typed = [f"{key}={json.dumps(value)}" for key, value in resolved.items() if value is not None]
    assert resolve(kind, [Layer("--set", parse_assignments(typed))]) == config


@QUICK
@given(data=st.data(), name=st.sampled_from(list(CONFIGS)))
def test_a_key_that_is_misspelled_is_refused_with_the_nearest_name(data: st.DataObject, name: str) -> None:
    kind = CONFIGS[name]
    key = data.draw(st.sampled_from(sorted(k for k in value_pool(name) if not k.startswith("options"))))
    *above, last = key.split(".")
    place = data.draw(st.integers(0, len(last)))
    wrong = data.draw(
        st.sampled_from([last[:place] + "x" + last[place:], last[:place] + last[place + 1 :], last[::-1]])
    )
    model: type[BaseModel] = kind
    for part in above:
        model = type(getattr(model(), part))
    assume(wrong and wrong not in model.model_fields)
    with pytest.raises(ConfigError) as caught:
        resolve(kind, [Layer("mine", tree({".".join([*above, wrong]): 1}))])
    said = caught.value.what
    assert f"unknown key {'.'.join([*above, wrong])!r}" in said and "(from mine)" in said
    if len(last) >= 4 and wrong != last[::-1]:
        assert "did you mean" in said and any(repr(field) in said for field in model.model_fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_lowercase, max_size=4), inner),
    max_leaves=6,
)


@QUICK
@given(data=st.data(), name=st.sampled_from(list(CONFIGS)), value=json_values)
def test_any_value_is_taken_or_refused_with_its_key(data: st.DataObject, name: str, value: Any) -> None:
    key = data.draw(st.sampled_from(sorted(value_pool(name))))
    above = data.draw(st.integers(1, key.count(".") + 1))
    key = ".".join(key.split(".")[:above])
    try:
        config = resolve(CONFIGS[name], [Layer("mine", nested(key, value))])
    except ConfigError as error:
        assert key in error.what
    else:
        assert resolve(CONFIGS[name], [Layer("again", parse_yaml(dump_yaml(config), "x"))]) == config


@settings(max_examples=100, deadline=None)
@given(text=st.text(string.printable, max_size=30) | st.text("{}[]:-&*!|>'\"#, \nab1", max_size=20))
def test_any_text_is_a_config_or_no_yaml(text: str) -> None:
    for read in (lambda: parse_yaml(text, "x"), lambda: parse_assignments([text])):
        try:
            values = read()
        except ConfigError:
            continue
        assert isinstance(values, dict)
        for kind in (train.config_of("spade"), build_bank.BuildBank):
            try:
                assert isinstance(resolve(kind, [Layer("mine", values)]), kind)
            except ConfigError as error:
                assert error.what


# ---- manifests ------------------------------------------------------------------------------------------------------

KINDS = {"bank": "bank", "index": "index", "spade": "run", "samples": "samples", "report": "report"}
CONSUMERS: dict[str, Callable[[Path, House], object]] = {
    "bank": lambda path, house: [len(Bank.open(path)), Bank.open(path).crop(0)],
    "index": lambda path, house: Neighbors.open(path, Bank.open(house.bank)),
    "spade": lambda path, house: [open_weights(path), load_networks(path)],
    "samples": lambda path, house: read_samples(open_artifact(path, "samples")),
    "report": lambda path, house: open_artifact(path, "report").statistics,
}
COVERED = ("format", "config", "files", "weights", "trainable")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value inside a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


@st.composite
def manifests(draw: st.DrawFn, text: bytes) -> bytes:
    """The manifest, damaged as disks do it or as editors do it."""
    if draw(st.booleans()):
        place = draw(st.integers(0, len(text) - 1))
        return draw(
            st.sampled_from(
                [
                    text[:place],
                    text[:place] + bytes([text[place] ^ 1 << draw(st.integers(0, 7))]) + text[place + 1 :],
                    text[:place] + text[place + draw(st.integers(1, 40)) :],
                    text[:place] + draw(st.binary(min_size=1, max_size=8)) + text[place:],
                ]
            )
        )
    manifest = json.loads(text)
    path = draw(st.sampled_from(places(manifest)[1:]))
    holder = manifest
    for key in path[:-1]:
        holder = holder[key]
    if draw(st.booleans()):
        del holder[path[-1]]
    else:
        holder[path[-1]] = draw(json_values)
    return json.dumps(manifest).encode()


@pytest.mark.parametrize("name", list(KINDS))
def test_a_damaged_manifest_is_refused_or_says_the_same(name: str, house: House, tmp_path: Path) -> None:
    """Whatever opens is the artifact that it was, with the digest that it had; and no reader stumbles over the rest."""
    path = copy(house.root / name, tmp_path / name)
    text = (path / "manifest.json").read_bytes()
    true = read_manifest(path)

    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    @given(damaged=manifests(text))
    def check(damaged: bytes) -> None:
        (path / "manifest.json").write_bytes(damaged)
        try:
            opened = open_artifact(path, KINDS[name])
        except ArtifactError as error:
            assert error.where and str(path) in error.where
        else:
            assert opened.digest == true["digest"] == manifest_digest(opened.manifest)
            assert [opened.manifest.get(key) for key in COVERED] == [true.get(key) for key in COVERED]
            given = [[i["role"], i["digest"]] for i in true["inputs"]]
            assert KINDS[name] == "run" or sorted(
                [i["role"], i["digest"]] for i in opened.manifest["inputs"]
            ) == sorted(given)
        for reader in (
            lambda: CONSUMERS[name](path, house),
            lambda: show(path),
            lambda: schema_of(path),
        ):
            try:
                reader()
            except RgsError as error:
                assert error.exit_code in (2, 3)

    check()


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_plan_of_a_partial_that_is_damaged_begins_anew(data: st.DataObject, house: House) -> None:
    """What a killed build left, with any damage to its plan, is not trusted; the result is the same."""
    with tempfile.TemporaryDirectory() as name:
        partial = Path(name) / "index.partial"
        partial.mkdir()
        (partial / "plan.json").write_bytes(data.draw(st.binary(max_size=40)))
        (partial / "shapes.h5").write_bytes(b"half")
        made = train_index.run(train_index.TrainIndex(), bank=house.bank, out=Path(name) / "index")
        assert made.digest == read_manifest(house.index)["digest"]
        assert {p.name for p in made.path.iterdir()} == {p.name for p in house.index.iterdir()}
