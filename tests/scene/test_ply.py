# SPDX-License-Identifier: Apache-2.0
"""PLY files: what is written is read back; each kind of broken file gives one sentence."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scene.ply import PlyError, read_vertices, write_vertices

DTYPE = [("x", "f4"), ("y", "f4"), ("red", "u1")]


@pytest.fixture
def good(tmp_path) -> Path:
    vertices = np.array([(0, 1, 2), (3, 4, 5), (6, 7, 8)], dtype=DTYPE)
    write_vertices(tmp_path / "good.ply", vertices)
    return tmp_path / "good.ply"


def _damaged(good: Path, change) -> Path:
    path = good.with_name("damaged.ply")
    path.write_bytes(change(good.read_bytes()))
    return path


def _message(path: Path, required=("x", "y", "red")) -> str:
    with pytest.raises(PlyError) as caught:
        read_vertices(path, required)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 2, st.integers(0, 255)), min_size=1))
def test_round_trip(tmp_path_factory, rows) -> None:
    path = tmp_path_factory.mktemp("ply") / "a" / "cloud.ply"
    vertices = np.array(rows, dtype=DTYPE)
    write_vertices(path, vertices)
    assert np.array_equal(read_vertices(path, ("x", "y", "red")), vertices)
    assert [entry.name for entry in path.parent.iterdir()] == ["cloud.ply"]  # no temporary file is left


def test_a_failed_write_keeps_the_old_file(good) -> None:
    before = good.read_bytes()
    with pytest.raises(ValueError):
        write_vertices(good, np.zeros((2, 2), dtype=DTYPE))  # not one row a vertex
    assert good.read_bytes() == before
    assert [entry.name for entry in good.parent.iterdir()] == ["good.ply"]


def test_a_missing_file(tmp_path) -> None:
    assert "is not a file; expected a PLY point cloud" in _message(tmp_path / "none.ply")


def test_no_ply(good) -> None:
    assert "is not a PLY file" in _message(_damaged(good, lambda data: b"PK\x03\x04" + data))
    assert "is not a PLY file" in _message(_damaged(good, lambda data: b""))


def test_a_truncated_file_names_what_is_missing(good) -> None:
    message = _message(_damaged(good, lambda data: data[:-1]))
    assert "is truncated: its header declares 3 vertices of at least 9 bytes, 26 bytes follow" in message


def test_a_huge_promise_costs_nothing(good) -> None:
    assert "is truncated" in _message(_damaged(good, lambda data: data.replace(b"vertex 3", b"vertex 999999999999")))
    assert "expected a count: damaged" in _message(_damaged(good, lambda data: data.replace(b"vertex 3", b"vertex " + b"9" * 5000)))


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (b"element face 999999999999\nproperty list int int v", "999999999999 rows of 'face'"),
        (b"element void 999999999999", "999999999999 rows of 'void' without a field"),
        (b"comment end_header\nelement face 999999999999\nproperty list int int v", "999999999999 rows of 'face'"),
    ],
)
def test_a_huge_promise_beside_the_vertices_costs_nothing(good, lines, told) -> None:
    assert told in _message(_damaged(good, lambda data: data.replace(b"end_header", lines + b"\nend_header")))


def test_what_is_read_is_a_copy_in_memory(good) -> None:
    vertices = read_vertices(good, ("x",))
    good.write_bytes(b"")
    assert vertices["x"].tolist() == [0, 3, 6] and vertices.flags.owndata and not isinstance(vertices, np.memmap)


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
def test_other_line_ends(good, newline) -> None:
    head, end, body = good.read_bytes().partition(b"end_header\n")
    other = (head + end).replace(b"\n", newline) + body
    assert np.array_equal(read_vertices(_damaged(good, lambda data: other), ("x",)), read_vertices(good))


def test_missing_fields_are_named(good) -> None:
    assert "lacks the vertex fields z, blue; it has x, y, red" in _message(good, ("x", "z", "blue"))


def test_zero_vertices(good) -> None:
    assert "holds 0 vertices" in _message(_damaged(good, lambda data: data.replace(b"vertex 3", b"vertex 0")))


def test_no_vertex_element(good) -> None:
    assert "has no 'vertex' element" in _message(_damaged(good, lambda data: data.replace(b"element vertex", b"element points")))


def test_a_list_where_a_number_belongs(good) -> None:
    damaged = _damaged(good, lambda data: data.replace(b"property uchar red", b"property list uchar int red"))
    assert "declares the vertex field red as 'list'" in _message(damaged)


def test_plyfile_is_imported_in_one_module_only() -> None:
    """It is GPL-3.0-or-later: README says that it can be replaced at one place."""
    root = Path(__file__).resolve().parents[2]
    rooms = ("arguments", "cograd", "distillation", "gaussian_renderer", "guidance", "scene", "tools", "utils", "train.py")
    paths = [path for room in rooms for path in ([root / room] if room.endswith(".py") else (root / room).rglob("*.py"))]
    users = [path.relative_to(root).as_posix() for path in paths if path.is_file() and _imports_plyfile(path)]
    assert users == ["scene/ply.py"]


def _imports_plyfile(path: Path) -> bool:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return "plyfile" in modules
