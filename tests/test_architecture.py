"""The shape of the code: imports run one way, `pipelines` never speaks, systems are strangers to each other."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("errors", "config", "manifest", "artifact", "runtime", "progress", "weights"),
    ("data", "nn", "metrics"),
    ("bank", "embed", "index", "compose", "train", "segment"),
    ("systems",),
    ("stages",),
    ("rgs_cli",),
)
"""Each layer may import itself and those before it."""
RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

CONTRACT = "pipelines.systems.base"
"""What a trainable is: no system, so the loop, segmenters and embedders, which lie below the systems, may import it."""
MAY_IMPORT_THE_CONTRACT = ("train", "segment", "embed")

USERS = {"h5py": "pipelines/bank/storage.py", "numba": "pipelines/index/", "faiss": "pipelines/index/vectors.py"}
"""Libraries that one place uses, so that it can be changed in one place."""

RECORDS_ARGV = "pipelines/artifact.py"
"""Writes the command into manifests, and reads nothing from it."""
ENDS_WORKERS = "pipelines/stages/processes.py"
"""Ends a worker process whose parent has died: there is nobody left to raise an error to."""

HEAVY = ("torch", "torchvision", "cv2", "h5py", "faiss", "numpy", "numba", "lightning")


class Import(NamedTuple):
    """One imported name in full, and whether it is imported when its module is."""

    target: str
    line: int
    at_once: bool


def module_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = [file for top in ("pipelines", "rgs_cli") for file in sorted((ROOT / top).rglob("*.py"))]
SOURCES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
MODULES = {module_name(file) for file in SOURCES}
PIPELINES = {file: tree for file, tree in SOURCES.items() if module_name(file).startswith("pipelines")}


def imports(file: Path) -> Iterator[Import]:
    """Every import of a file; `from a import b` is a.b where that is a module, else a."""

    def walk(node: ast.AST, at_once: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, at_once) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{place(file, child.lineno)}: write imports in full, not relative ones"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield Import(full if full in MODULES else str(child.module), child.lineno, at_once)
            else:
                late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) or (
                    isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                )
                yield from walk(child, at_once and not late)

    yield from walk(SOURCES[file], True)


def place(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def part_of(module: str) -> str:
    """The part of the tree that a module belongs to: «data» for pipelines.data.scene, «rgs_cli»."""
    names = module.split(".")
    return names[0] if names[0] == "rgs_cli" else names[1] if len(names) > 1 else ""


def explain(breaches: list[str]) -> None:
    assert not breaches, "\n" + "\n".join(breaches)


def test_every_part_of_the_tree_has_its_layer() -> None:
    parts = {part_of(module) for module in MODULES} - {""}
    explain([f"pipelines/{part} is in no layer: add it to LAYERS where it belongs" for part in parts - RANKS.keys()])


def test_imports_run_one_way() -> None:
    breaches = []
    for file in SOURCES:
        mine = part_of(module_name(file))
        for found in imports(file):
            theirs = part_of(found.target) if found.target in MODULES else ""
            if not theirs or not mine or RANKS[theirs] <= RANKS[mine]:
                continue
            if found.target == CONTRACT and mine in MAY_IMPORT_THE_CONTRACT:
                continue
            breaches.append(
                f"{place(file, found.line)} imports {found.target}, but {theirs} lies above {mine}: imports run from "
                f"above to below only. Hand in what is needed as an argument, or move it down."
            )
    explain(breaches)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module_name(file): {i.target for i in imports(file) if i.at_once and i.target in MODULES} for file in SOURCES
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}. What both need belongs into a third module.")


def test_systems_never_import_each_other() -> None:
    breaches = []
    for file in PIPELINES:
        names = module_name(file).split(".")
        if names[:2] != ["pipelines", "systems"] or len(names) < 3 or not (ROOT / "/".join(names[:3])).is_dir():
            continue
        for found in imports(file):
            others = found.target.split(".")
            if others[:2] == names[:2] and found.target != CONTRACT and others[2:3] != names[2:3]:
                breaches.append(
                    f"{place(file, found.line)} imports {found.target}: a system knows the contract and itself, so "
                    f"that it can be deleted with its folder. A part that two need moves to pipelines/nn."
                )
    explain(breaches)


def test_special_libraries_have_one_user() -> None:
    breaches = []
    for file in SOURCES:
        for found in imports(file):
            library = found.target.partition(".")[0]
            if library not in USERS:
                continue
            user = USERS[library]
            if user is None or not str(file.relative_to(ROOT)).startswith(user):
                breaches.append(f"{place(file, found.line)} imports {library}; only {user or 'nobody yet'} may")
    explain(breaches)


def test_pipelines_never_prints_reads_argv_or_exits() -> None:
    said = {
        "print": "pipelines never prints: take a Progress, raise an RgsError, or return what a person should know",
        "sys.stdout": "streams are rgs_cli's",
        "sys.stderr": "streams are rgs_cli's",
        "sys.argv": "pipelines never reads argv: a stage takes a config",
        "sys.exit": "pipelines never exits: raise an RgsError, which has an exit code",
        "exit": "pipelines never exits: raise an RgsError, which has an exit code",
        "quit": "pipelines never exits: raise an RgsError, which has an exit code",
        "SystemExit": "pipelines never exits: raise an RgsError, which has an exit code",
        "os._exit": "pipelines never exits: raise an RgsError, which has an exit code",
        "input": "pipelines never asks: a stage takes a config",
    }
    allowed = {("sys.argv", RECORDS_ARGV), ("os._exit", ENDS_WORKERS)}
    breaches = []
    for file, tree in PIPELINES.items():
        for node in ast.walk(tree):
            name = ast.unparse(node) if isinstance(node, ast.Attribute) else node.id if _is_used(node) else ""
            if name in said and (name, str(file.relative_to(ROOT))) not in allowed:
                breaches.append(f"{place(file, node.lineno)} uses {name}: {said[name]}")
    explain(breaches)


def _is_used(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)


def test_files_are_named_by_what_they_hold() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    files = [f for top in ("pipelines", "rgs_cli", "tests", "benchmarks") for f in (ROOT / top).rglob("*.py")]
    explain([f"{f.relative_to(ROOT)}: say what is in it" for f in files if vague & {f.stem, f.parent.name}])


def test_every_config_field_has_a_docstring() -> None:
    from pipelines.config import Config

    package = importlib.import_module("pipelines")
    for module in pkgutil.walk_packages(package.__path__, "pipelines."):
        importlib.import_module(module.name)

    def below(model: type[Config]) -> Iterator[type[Config]]:
        for child in model.__subclasses__():
            yield child
            yield from below(child)

    models = {m for m in below(Config) if m.__module__.startswith("pipelines.")}
    assert len(models) >= 10
    explain(
        [f"{m.__module__}.{m.__name__} has no docstring" for m in models if not (m.__doc__ or "").strip()]
        + [
            f"{m.__module__}.{m.__name__}.{name} has no docstring: it is the help of `rgs show system`"
            for m in models
            for name, field in m.model_fields.items()
            if not (field.description or "").strip()
        ]
    )


def test_help_imports_nothing_heavy() -> None:
    script = f"""
import sys
from typer.main import get_command
from rgs_cli.main import app
asked = [[]]
for name, command in get_command(app).commands.items():
    asked += [[name], *([name, inner] for inner in getattr(command, "commands", {{}}))]
for words in asked:
    try:
        app([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0, words
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    assert not heavy, f"`rgs {{' '.join(words)}} --help` imports {{', '.join(heavy)}}: import late, inside the command"
print("light", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0 and done.stderr == "light\n", done.stderr
