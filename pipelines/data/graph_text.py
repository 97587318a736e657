"""Scene graphs in one line, for the shell, and reading graphs from wherever a person has them.

    sky; road below sky; car#1 inside road; car#2 left of car#1

Between semicolons stands an object, or two and what the first is to the second. A class that is named again is the same
object; a number makes others of it (without one it is #1). Names are those of the schema, spaces and all.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from pipelines.data.graph import (
    MAX_OBJECTS,
    SceneGraph,
    Triple,
    each_graph,
    find_cycle,
    require_graph,
    unknown_name,
)
from pipelines.data.listing import read_json
from pipelines.data.scene import Schema
from pipelines.errors import DataError

SHOWN = 100
"""Columns of a line that an error quotes."""

NUMBER = r"(?:\s*#\s*(\d{1,6}))?"


def parse_graph(text: str, schema: Schema, where: str = "the graph") -> SceneGraph:
    """The graph that a line of text describes; objects in the order in which they are first named.

    where: what the text is, for errors. Raises DataError that points at the word: an unknown class or predicate, half a
    relation, an object related to itself, objects inside each other in a circle, an object named alone a second time,
    no objects.
    """
    return _Parser(text, schema, where).graph()


def read_graphs(given: Sequence[str], schema: Schema) -> list[tuple[str, SceneGraph]]:
    """Graphs with their names, from texts and files: JSON, and .txt with one graph in each line.

    A graph without a name of its own is named after its file, and by its place where the file has several; a text is
    «graph-0000» by its place among those given. Raises DataError as the readers do, where a file is missing, and where
    two graphs have one name.
    """
    return [(name, require_graph(graph)) for name, graph in each_given(given, schema)]


def each_given(given: Sequence[str], schema: Schema) -> Iterator[tuple[str, SceneGraph | DataError]]:
    """As `read_graphs`, but with the error in the place of a graph that cannot be used."""
    named: dict[str, int] = {}
    for number, source in enumerate(given):
        for name, graph in _read(source, number, schema):
            if named.setdefault(name, number) != number:
                what, fix = f"another graph is named {name!r}", "rename one, or its file"
                yield name, DataError(what, where=source, fix=fix)
            else:
                yield name, graph
    if not named:
        raise DataError(
            "there are no graphs", where=", ".join(given) or None, fix='give a file, or "sky; road below sky"'
        )


def names_file(source: str) -> bool:
    """Is this the name of a file of graphs, and not a graph in words?"""
    return "\n" not in source and Path(source).suffix.lower() in (".json", ".txt")


def _read(source: str, number: int, schema: Schema) -> Iterator[tuple[str, SceneGraph | DataError]]:
    path = Path(source)
    from_file = names_file(source)
    stem = path.stem.lstrip(".") or "graph"  # it names files, which should be seen
    if from_file and path.suffix.lower() == ".json":
        yield from each_graph(read_json(path), schema, source, stem)
        return
    name = f"graph-{number:04d}"
    lines = [source]
    if from_file:
        lines = [line for line in _read_lines(path) if line.strip()]
        name = stem
    for place, line in enumerate(lines):
        called = f"{name}-{place:04d}" if len(lines) > 1 else name
        try:
            yield called, parse_graph(line, schema, f"{source}, {called}" if from_file else "the graph")
        except DataError as error:
            yield called, error


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the graphs cannot be read ({error})", where=path) from error


class _Parser:
    """One text; `graph` reads it clause by clause, and only explains what a clause has wrong when it has."""

    def __init__(self, text: str, schema: Schema, where: str) -> None:
        self.text, self.schema, self.where = text, schema, where
        self.a_class = _any_of(schema.names)
        self.a_predicate = _any_of(schema.relations)
        subject, target = f"({self.a_class}){NUMBER}", f"({self.a_class}){NUMBER}"
        self.clause = re.compile(rf"{subject}(?:\s+({self.a_predicate})\s+{target})?")
        self.classes = {_plain(name): index for index, name in enumerate(schema.names)}
        self.predicates = {_plain(name): index for index, name in enumerate(schema.relations)}
        self.places: dict[tuple[int, int], int] = {}

    def graph(self) -> SceneGraph:
        relations: list[Triple] = []
        spans: list[tuple[int, int]] = []
        for start, end in self._clauses():
            match = self.clause.fullmatch(self.text, start, end)
            if match is None:
                self._explain(start, end)
            subject, known = self._place(match, 1)
            if match[3] is None:
                if known:
                    fix = f"number them: {match[1]}#2 is another {match[1]}"
                    self._fail(f"{match[1]} is in the graph already", *match.span(), fix)
                continue
            target, _ = self._place(match, 4)
            if subject == target:
                fix = f"number them: {match[1]}#1, {match[1]}#2"
                self._fail("an object cannot be related to itself", match.start(4), end, fix)
            relations.append((subject, self.predicates[_plain(match[3])], target))
            spans.append((start, end))
        if not self.places:
            self._fail("the graph has no objects", 0, len(self.text), 'write for instance "sky; road below sky"')
        if circle := find_cycle(relations, self.schema.relations):
            told = "; ".join(_plain(self.text[slice(*spans[position])]) for position in circle[1:6])
            fix = f"take out this, or one of: {told}"
            self._fail("this puts objects inside each other in a circle", *spans[circle[0]], fix)
        return SceneGraph(np.array([category for category, _ in self.places], dtype=np.int64), tuple(relations))

    def _clauses(self) -> list[tuple[int, int]]:
        """Where the clauses begin and end, white space and empty ones left out."""
        return [(m.start(1), m.end(1)) for m in re.finditer(r"\s*([^;\s](?:[^;]*[^;\s])?)", self.text)]

    def _place(self, match: re.Match[str], group: int) -> tuple[int, bool]:
        """The position of an object that a clause names, and whether it was named before."""
        key = self.classes[_plain(match[group])], int(match[group + 1] or 1)
        known = key in self.places
        if len(self.places) == MAX_OBJECTS and not known:
            self._fail(f"the graph has more than {MAX_OBJECTS} objects", *match.span(group), "make it smaller")
        return self.places.setdefault(key, len(self.places)), known

    def _explain(self, start: int, end: int) -> NoReturn:
        """Say what is wrong with a clause that is none: the first word that cannot be read."""
        at = self._object(start, end)
        predicate = self._match(self.a_predicate, at, end)
        if predicate is None:
            self._unread(self.a_class, "predicate", self.schema.relations, at, end)
        after = predicate.end()
        if after == end:
            said = _plain(predicate[0])
            self._fail(f"an object is missing after {said!r}", end, end, "say of which")
        at = self._object(after, end)
        self._fail("the clause should have ended here", at, self._word(at, end), "put a ; after every relation")

    def _object(self, at: int, end: int) -> int:
        """Where the words after the object at `at` begin."""
        at = self._skip(at, end)
        found = self._match(self.a_class, at, end)
        if found is None:
            self._unread(self.a_predicate, "class", self.schema.names, at, end)
        at = self._skip(found.end(), end)
        if at < end and self.text[at] == "#":
            number = re.compile(r"#\s*\d{1,6}(?!\d)").match(self.text, at, end)
            if number is None:
                self._fail("# needs a number of 1 to 6 digits", at, self._word(at, end), "write for instance #2")
            at = self._skip(number.end(), end)
        return at

    def _unread(self, following: str, what: str, known: Sequence[str], at: int, end: int) -> NoReturn:
        """Point at words that should be a class or predicate: as many as stand before what would follow them."""
        later = re.compile(rf"(?<=\s){following}").search(self.text, at + 1, end)
        number = self.text.find("#", at + 1, end)
        stop = min([end, *([later.start()] if later else []), *([number] if number >= 0 else [])])
        words = _plain(self.text[at:stop])
        if stop == end and " " in words and not difflib.get_close_matches(words, known, n=1):
            words = words.partition(" ")[0]
            stop = at + len(words)
        told, fix = unknown_name(what, words, known)
        self._fail(told, at, at + len(self.text[at:stop].rstrip()), fix)

    def _match(self, pattern: str, at: int, end: int) -> re.Match[str] | None:
        return re.compile(pattern).match(self.text, at, end)

    def _word(self, at: int, end: int) -> int:
        """Where the word that begins at `at` ends."""
        while at < end and not self.text[at].isspace():
            at += 1
        return at

    def _skip(self, at: int, end: int) -> int:
        while at < end and self.text[at].isspace():
            at += 1
        return at

    def _fail(self, what: str, start: int, end: int, fix: str) -> NoReturn:
        """Raise a DataError that quotes the text and marks what stands from start to end."""
        clean = "".join(c if c.isprintable() else " " for c in self.text)
        left = max(0, min(start - SHOWN // 3, len(clean) - SHOWN))
        quoted = ("…" if left else "") + clean[left : left + SHOWN] + ("…" if left + SHOWN < len(clean) else "")
        indent = _columns(("…" if left else "") + clean[left:start])
        marks = "^" * max(1, _columns(clean[start : min(end, left + SHOWN)]))
        raise DataError(
            f"{what}\n  {quoted}\n  {' ' * indent}{marks}", where=f"{self.where}, column {start + 1}", fix=fix
        )


def _any_of(names: Sequence[str]) -> str:
    """A pattern of any of the names as whole words, the longest that fits; nothing fits where there are no names."""
    longest_first = sorted((name.split() for name in names), key=lambda words: len(" ".join(words)), reverse=True)
    patterns = [r"\s+".join(map(re.escape, words)) for words in longest_first if words]
    return rf"(?:{'|'.join(patterns)})(?![^\s#])" if patterns else r"(?!)"


def _plain(text: str) -> str:
    """White space as the schema has it."""
    return " ".join(text.split())


def _columns(text: str) -> int:
    """The width of a text on a terminal."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
