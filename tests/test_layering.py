# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: app, benchmarks -> apps, examples -> tools -> train -> viewer, evaluation, export -> trainer -> toy ->
guidance -> gaussian_renderer -> scene -> arguments -> cograd, distillation, utils."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYER = {
    "utils": 0,
    "cograd": 0,
    "distillation": 0,
    "arguments": 1,
    "scene": 2,
    "gaussian_renderer": 3,
    "guidance": 4,
    "toy": 5,
    "trainer": 6,
    "evaluation": 7,
    "export": 8,
    "viewer": 8,
    "train": 9,
    "tools": 10,
    "apps": 11,
    "examples": 11,
    "app": 12,
    "benchmarks": 12,
    "cograd3d": 13,
}


def _nodes(tree: ast.AST, types: bool) -> Iterator[ast.AST]:
    """Every node; without those of `if TYPE_CHECKING:` where `types` is false."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if types or not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _nodes(child, types)


def _imported_modules(path: Path, types: bool = True) -> set[str]:
    modules = set()
    for node in _nodes(ast.parse(path.read_text()), types):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules.update(
                {name for name in below if (ROOT / (name.replace(".", "/") + ".py")).is_file()} or {node.module}
            )
        elif isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
    return modules


def _sources() -> list[Path]:
    return [
        path for room in LAYER for path in [ROOT / f"{room}.py", *sorted((ROOT / room).rglob("*.py"))] if path.is_file()
    ]


def _upward(path: Path) -> list[str]:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    rooms = {module.split(".")[0] for module in _imported_modules(path)} & LAYER.keys() - {own}
    return sorted(room for room in rooms if LAYER[room] >= LAYER[own])


def test_imports_point_downwards() -> None:
    found = {str(path.relative_to(ROOT)): _upward(path) for path in _sources()}
    assert {name: rooms for name, rooms in found.items() if rooms} == {}


def test_cograd_imports_torch_numpy_and_the_standard_library_only() -> None:
    roots = {name.split(".")[0] for path in (ROOT / "cograd").rglob("*.py") for name in _imported_modules(path)}
    assert roots - set(sys.stdlib_module_names) == {"cograd", "numpy", "torch"}


def test_every_room_was_seen() -> None:
    seen = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in _sources()}
    assert seen == LAYER.keys()


def test_no_import_cycle() -> None:
    graph = {}
    for path in _sources():
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = _imported_modules(path, types=False)
    state: dict[str, int] = {}

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert state.get(name) != 1, " -> ".join((*trail, name))
        if state.get(name) == 2:
            return
        state[name] = 1
        for target in graph[name] & graph.keys() - {name}:
            visit(target, (*trail, name))
        state[name] = 2

    for name in graph:
        visit(name, ())
