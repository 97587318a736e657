"""Every verb says what it does, shows an example that can be typed, and documents its options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from rgs_cli.main import app
from tests.rgs_cli.conftest import call, fails, succeed


def _verbs(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _verbs(command, (*words, name))
        else:
            yield (*words, name), command


VERBS = [pytest.param(words, command, id=" ".join(words)) for words, command in _verbs(get_command(app))]


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_a_verb_has_help_with_documented_options(words: tuple[str, ...], command: Any) -> None:
    shown = succeed(*words, "--help").out
    assert "Example" in shown and "Usage: rgs " + " ".join(words) in shown
    for parameter in command.params:
        assert (parameter.help or "").strip(), f"{parameter.name} has no help"


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_the_examples_of_a_verb_can_be_typed(words: tuple[str, ...], command: Any) -> None:
    text = " ".join(command.help.split()).partition("Example")[2].partition(": ")[2]
    typed = [part.strip() for part in re.split(r";|&&|\|", text) if part.strip().startswith("rgs ")]
    assert any(part.startswith("rgs " + " ".join(words)) for part in typed), f"no example of it in: {text}"
    for part in typed:
        spoken, target = shlex.split(part)[1:], get_command(app)
        while hasattr(target, "commands"):
            target = target.commands[spoken.pop(0)]
        target.make_context("rgs", spoken)  # parses and checks, runs nothing


@pytest.mark.parametrize(("words", "command"), VERBS)
def test_a_verb_that_writes_has_a_dry_run_and_json(words: tuple[str, ...], command: Any) -> None:
    names = {parameter.name: parameter.opts for parameter in command.params}
    if "out" in names:
        assert names["dry_run"] == ["--dry-run"] and names["json"] == ["--json"]


def test_the_version_is_one_line() -> None:
    assert re.fullmatch(r"rgs \S+\n", succeed("--version").out)


def test_a_wrong_word_is_a_usage_error() -> None:
    assert "No such command" in fails(2, "bild-bank")
    assert "No such option" in fails(2, "build-bank", "photos", "-o", "x", "--ouput", "y")
    assert "Missing option" in fails(2, "build-bank", "photos")
    assert "Missing argument" in fails(2, "synthesize", "-o", "x")
    assert "Invalid value" in fails(2, "train", "index", "--bank", "b", "-o", "x", "--k", "0")


def test_without_words_there_is_help() -> None:
    for words in ((), ("train",), ("data",)):
        assert "Usage:" in call(*words).out
