"""The line form of graphs: what it means, where its errors point, and files of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.data.graph import SceneGraph, graph_to_json
from pipelines.data.graph_text import parse_graph, read_graphs
from pipelines.data.relations import GEOMETRIC
from pipelines.data.scene import Category, Schema
from pipelines.errors import DataError


def schema_of(names: list[str], relations: tuple[str, ...] = GEOMETRIC) -> Schema:
    return Schema(tuple(Category(i, name, (0, 0, 0), True) for i, name in enumerate(names)), (), (), relations)


NAMES = ["sky", "road", "car", "traffic light", "tree", "left"]
SCHEMA = schema_of(NAMES)


def test_the_example_of_the_documentation() -> None:
    graph = parse_graph("sky; road below sky; car#1 inside road; car#2 left of car#1", SCHEMA)
    assert graph_to_json(graph, SCHEMA) == {
        "objects": ["sky", "road", "car", "car"],
        "relationships": [[1, "below", 0], [2, "inside", 1], [3, "left of", 2]],
    }
    assert graph.categories.dtype == np.int64
    assert graph.boxes is None and graph.ordinals is None


@pytest.mark.parametrize(
    ("text", "objects", "relationships"),
    [
        ("sky", ["sky"], []),
        (" sky ;; ; ", ["sky"], []),
        ("car left of sky", ["car", "sky"], [[0, "left of", 1]]),
        ("car  left\tof \n sky", ["car", "sky"], [[0, "left of", 1]]),
        ("car;car#1 above sky;car above sky", ["car", "sky"], [[0, "above", 1], [0, "above", 1]]),
        ("car #2 above car # 1", ["car", "car"], [[0, "above", 1]]),
        ("car#007 above car#7", None, []),
        ("traffic light", ["traffic light"], []),
        ("tree left of left", ["tree", "left"], [[0, "left of", 1]]),
        ("left left of left#2", ["left", "left"], [[0, "left of", 1]]),
    ],
)
def test_what_a_line_means(text: str, objects: list[str] | None, relationships: list[list[object]]) -> None:
    if objects is None:
        with pytest.raises(DataError, match="related to itself"):
            parse_graph(text, SCHEMA)
        return
    assert graph_to_json(parse_graph(text, SCHEMA), SCHEMA) == {"objects": objects, "relationships": relationships}


@pytest.mark.parametrize(
    ("text", "said", "fix"),
    [
        ("«skky»", "there is no class 'skky'", "did you mean 'sky'?"),
        ("sky; «rod» below sky", "there is no class 'rod'", "did you mean 'road'?"),
        ("«traffic lihgt» above car", "there is no class 'traffic lihgt'", "did you mean 'traffic light'?"),
        ("«traffic lihgt»", "there is no class 'traffic lihgt'", "did you mean 'traffic light'?"),
        ("«trae»#2 above car", "there is no class 'trae'", "did you mean 'tree'?"),
        ("road below «skky»", "there is no class 'skky'", "did you mean 'sky'?"),
        ("«Sky»", "there is no class 'Sky'", "did you mean 'sky'?"),
        ("«zebra»", "there is no class 'zebra'", "known: sky, road, car"),
        ("road «belw» sky", "there is no predicate 'belw'", "did you mean 'below'?"),
        ("road «left» sky", "there is no predicate 'left'", "did you mean 'left of'?"),
        ("road «right  off» traffic light", "there is no predicate 'right off'", "did you mean 'right of'?"),
        ("car #2 «on» road", "there is no predicate 'on'", "known: left of"),
        ("road below«»; sky", "an object is missing after 'below'", "say of which"),
        ("road left of«»", "an object is missing after 'left of'", "say of which"),
        ("«below» sky", "there is no class 'below'", "known"),
        ("car inside road «below» sky", "the clause should have ended here", ";"),
        ("car inside road «tree»; sky", "the clause should have ended here", ";"),
        ("car«#x» above sky", "# needs a number", "#2"),
        ("car«#» above sky", "# needs a number", "#2"),
        ("car above sky«#1234567»", "# needs a number", "#2"),
        ("car above «#2»", "there is no class '#2'", "known"),
        ("sky; «sky»", "sky is in the graph already", "sky#2 is another sky"),
        ("road below sky; «sky»", "sky is in the graph already", "sky#2 is another sky"),
        ("sky; car left of «car»", "an object cannot be related to itself", "number them: car#1, car#2"),
        ("«; ;»", "the graph has no objects", "sky; road below sky"),
        ("car inside road; tree inside car; «road inside tree»; sky", "in a circle", "or one of: "),
        ("road surrounding car; «road inside car»", "in a circle", "one of: road surrounding car"),
    ],
)
def test_an_error_points_at_the_word(text: str, said: str, fix: str) -> None:
    """« » stand around what must be marked."""
    start = text.index("«")
    end = text.index("»") - 1
    text = text.replace("«", "").replace("»", "")
    with pytest.raises(DataError) as caught:
        parse_graph(text, SCHEMA, "clip")
    what, quoted, marks = caught.value.what.split("\n")
    assert said in what
    assert quoted == "  " + text
    assert marks == "  " + " " * start + "^" * max(1, end - start)
    assert caught.value.where == f"clip, column {start + 1}"
    assert fix in (caught.value.fix or "")


def test_an_empty_text_has_no_objects() -> None:
    for text in ("", "   ", "\n"):
        with pytest.raises(DataError, match="no objects"):
            parse_graph(text, SCHEMA)


def test_of_a_long_line_the_error_quotes_what_is_around_the_word() -> None:
    text = "sky; " + "tree below sky; " * 50 + "tee above car; " + "car below sky; " * 50
    with pytest.raises(DataError) as caught:
        parse_graph(text, SCHEMA)
    _, quoted, marks = caught.value.what.split("\n")
    assert len(quoted) <= 110
    assert quoted.startswith("  …") and quoted.endswith("…")
    assert quoted[marks.index("^") : marks.rindex("^") + 1] == "tee"
    assert caught.value.where == f"the graph, column {text.index('tee') + 1}"


def test_marks_stand_under_wide_and_unprintable_characters() -> None:
    schema = schema_of(["空", "road", "cafe\u0301"])
    with pytest.raises(DataError) as caught:
        parse_graph("空; cafe\u0301 below\t空; rod", schema)
    _, quoted, marks = caught.value.what.split("\n")
    assert quoted == "  空; cafe\u0301 below 空; rod"
    assert marks == "  " + " " * 19 + "^^^"  # two columns for each 空, none for the accent


def test_a_schema_without_relations_has_objects_alone() -> None:
    bare = schema_of(["sky", "road"], ())
    assert len(parse_graph("sky; road", bare)) == 2
    with pytest.raises(DataError, match="no predicate 'below'"):
        parse_graph("road below sky", bare)


def test_a_name_that_begins_another_is_told_from_it() -> None:
    schema = schema_of(["traffic", "traffic light", "light", "traffic above"])
    assert parse_graph("traffic above traffic  light", schema).categories.tolist() == [0, 1]
    assert parse_graph("traffic above above light", schema).categories.tolist() == [3, 2]
    assert parse_graph("traffic light; traffic", schema).categories.tolist() == [1, 0]


def test_names_with_signs_that_patterns_know() -> None:
    odd = schema_of(["a.b", "(x)", "c*", "two  spaces", "C#"], ("is (at)", "+"))
    graph = parse_graph("a.b + (x); c* is (at) two spaces#3; C# + c*", odd)
    assert graph.categories.tolist() == [0, 1, 2, 3, 4]
    assert graph.relations == ((0, 1, 1), (2, 0, 3), (4, 1, 2))
    with pytest.raises(DataError):
        parse_graph("axb", odd)


def test_five_hundred_objects_and_too_many() -> None:
    text = "; ".join(f"car#{i + 1} left of car#{i}" for i in range(1, 500))
    graph = parse_graph(text, SCHEMA)
    assert len(graph) == 500 and len(graph.relations) == 499
    with pytest.raises(DataError, match="more than 10000 objects"):
        parse_graph(";".join(f"car#{i}" for i in range(10_001)), SCHEMA)


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, list[tuple[str, int]], list[tuple[int, int, int]]]:
    """A line of text, the objects that it names in order, and its relations; nothing inside anything."""
    space = st.sampled_from([" ", "  ", "\t", "\n "])
    named: list[tuple[str, int]] = []
    relations: list[tuple[int, int, int]] = []
    clauses = []

    def mention(key: tuple[str, int]) -> tuple[int, str]:
        if key not in named:
            named.append(key)
        number = "" if key[1] == 1 and draw(st.booleans()) else f"#{key[1]}"
        return named.index(key), draw(space).join(key[0].split()) + number

    key = st.tuples(st.sampled_from(NAMES), st.integers(1, 3))
    for _ in range(draw(st.integers(1, 8))):
        first, second = draw(key), draw(key)
        if first == second or draw(st.booleans()):
            if first not in named:
                clauses.append(mention(first)[1])
            continue
        predicate = draw(st.integers(0, 3))
        (s, subject), (o, target) = mention(first), mention(second)
        relations.append((s, predicate, o))
        clauses.append(draw(space).join([subject, *GEOMETRIC[predicate].split(), target]))
    return "; ".join(clauses), named, relations


@settings(deadline=None, max_examples=200)
@given(lines())
def test_a_line_is_read_as_it_was_written(line: tuple[str, list[tuple[str, int]], list[tuple[int, int, int]]]) -> None:
    text, named, relations = line
    if not named:
        return
    graph = parse_graph(text, SCHEMA)
    assert [NAMES[c] for c in graph.categories] == [name for name, _ in named]
    assert list(graph.relations) == relations


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(st.sampled_from([*NAMES, *GEOMETRIC, ";", "#1", "#2", "#", " ", "x", "é"]), max_size=14).map(" ".join),
        st.lists(st.sampled_from([*NAMES, *GEOMETRIC, ";", "#1", " "]), max_size=14).map("".join),
    )
)
def test_any_text_is_a_graph_or_an_error_that_points_into_it(text: str) -> None:
    try:
        graph = parse_graph(text, SCHEMA)
    except DataError as error:
        _, _, marks = error.what.split("\n")
        assert set(marks) <= {" ", "^"} and "^" in marks
        column = int((error.where or "").rpartition(" ")[2])
        assert 1 <= column <= len(text) + 1
        assert error.fix
    else:
        assert isinstance(graph, SceneGraph) and len(graph) > 0
        assert all(0 <= s < len(graph) and 0 <= o < len(graph) and s != o for s, _, o in graph.relations)


# --- files


def test_files_and_texts_and_their_names(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"objects": ["sky"], "name": "own"}))
    (tmp_path / "two.json").write_text(json.dumps([{"objects": ["sky"]}, {"objects": ["car"], "name": "c"}]))
    (tmp_path / "lines.txt").write_text("sky; road below sky\n\n  \ncar\ncar\n")
    (tmp_path / "single.txt").write_text("tree")
    given_ = [str(tmp_path / name) for name in ("one.json", "two.json", "lines.txt", "single.txt")]
    graphs = read_graphs([*given_, "car above road"], SCHEMA)
    names = ["own", "two-0000", "c", "lines-0000", "lines-0001", "lines-0002", "single", "graph-0004"]
    assert [name for name, _ in graphs] == names
    assert graphs[3][1].relations == ((1, 3, 0),)
    assert graphs[-1][1].categories.tolist() == [2, 1]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"objects": ["sky"]}')
    (tmp_path / "broken.json").write_text('{"objects": [')
    (tmp_path / "digits.json").write_text('{"objects": [' + "9" * 5000 + "]}")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "wrong.txt").write_text("sky\nskky\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "no.json").mkdir()
    for name, said in (
        ("broken.json", "no valid JSON"),
        ("digits.json", "no valid JSON"),
        ("deep.json", "no valid JSON"),
        ("missing.json", "cannot be read"),
        ("missing.txt", "cannot be read"),
        ("no.json", "cannot be read"),
        ("bytes.txt", "cannot be read"),
        ("empty.txt", "there are no graphs"),
        ("wrong.txt", "no class 'skky'"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            read_graphs([str(tmp_path / name)], SCHEMA)
        assert name in (caught.value.where or "") or name == "empty.txt"
    with pytest.raises(DataError, match="another graph is named 'a'"):
        read_graphs([str(tmp_path / "a.json"), str(tmp_path / "a.json")], SCHEMA)
    with pytest.raises(DataError, match="there are no graphs"):
        read_graphs([], SCHEMA)
