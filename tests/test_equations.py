# SPDX-License-Identifier: Apache-2.0
"""docs/equations.md names functions that the training step calls and tests that exist, and lists every DECISION and DEVIATION."""

import ast
import re
import sys
from pathlib import Path

import pytest

from arguments.load import load_config
from guidance.prompts import PromptEmbeddings
from toy.ideal import IdealPrior
from trainer.state import TrainState
from trainer.step import apply_update, compute_gradients

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "equations.md").read_text()
NOT_OURS = {"tests", "docs", "build", "output", ".venv"}
NAMED = re.findall(r"`([\w/]+\.py)::([\w.]+)`", DOCUMENT)
ROWS = re.findall(r"^\| (.+?) \| `([\w/]+\.py)::([\w.]+)` \| `([\w/]+\.py)::(\w+)` \|$", DOCUMENT, re.MULTILINE)
NUMBERED = [row for row in ROWS if row[0].startswith("(")]


def _docstrings(path: Path) -> dict[str, str]:
    """Qualified names of the functions and classes of a file -> docstring."""
    found = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found[prefix + child.name] = ast.get_docstring(child) or ""
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse(path.read_text()), "")
    return found


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_what_is_named_exists(path: str, name: str) -> None:
    assert name in _docstrings(ROOT / path)


def test_each_equation_has_one_function_and_its_number_in_the_docstring() -> None:
    numbers = [int(number) for row in NUMBERED for number in re.findall(r"\((\d+)\)", row[0])]
    assert sorted(numbers) == [1, 3, 4, 5, 6, 7, 8, 9, 10]  # (2) trains a diffusion model
    for label, path, name, *_ in NUMBERED:
        first = _docstrings(ROOT / path)[name].splitlines()[0]
        assert re.findall(r"\((\d+)\)", first.partition(":")[0]) == re.findall(r"\((\d+)\)", label), name


@pytest.fixture(scope="module")
def called(tmp_path_factory) -> set[tuple[str, str]]:
    """(file, qualified name) of every function of ours that six real steps of CoGrad call, a start with SDS and ISM."""
    words = "--iterations 6 --image_w 16 --image_h 16 --init_num_pts 60 --C_batch_size 2 --text robot --perpneg False "
    words += "--device cpu --CoGradParams.enabled True --azimuth_levels 2 --elevation_levels 1 --max_step_share 0.9 "
    words += f"--max_t_difference 900 --fusion_range 0 1 --model_path {tmp_path_factory.mktemp('run')}"
    config = load_config(words.split())
    prior = IdealPrior(config.guidance, "cpu", 16, images=8)
    seen = set()

    def profile(frame, event, _) -> None:
        if event == "call":
            seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(profile)
    try:
        state = TrainState.start(config, "cpu")
        state.begin_cograd(config, prior.alphas_cumprod)
        for _ in range(6):
            report = compute_gradients(state, prior, PromptEmbeddings(prior, config.guidance), config)
            apply_update(state, report, config)
            assert report.fault is None
    finally:
        sys.setprofile(None)
    return {(str(Path(file).relative_to(ROOT)), name) for file, name in seen if file.startswith(str(ROOT))}


@pytest.mark.parametrize(("label", "path", "name"), [row[:3] for row in ROWS], ids=[row[2] for row in ROWS])
def test_the_training_step_calls_it(label: str, path: str, name: str, called) -> None:
    assert (path, name) in called, f"{label}: {name} is not what training calls"


def _marked(text: str) -> list[str]:
    """Text of each marker, up to an empty line or the end of its docstring, in one line."""
    found = re.findall(r'(?:DECISION|DEVIATION from Eq\. \(\d+\)):\s+(.+?)(?=\n\s*\n|\n?\s*"""|\n(?!\s*#)\S)', text, re.DOTALL)
    return [re.sub(r"\s*\n\s*#?\s*", " ", one).strip() for one in found]


def _sources() -> list[Path]:
    paths = [path for pattern in ("*.py", "*.yaml", "*.h", "*.cpp", "*.cu") for path in sorted(ROOT.rglob(pattern))]
    return [path for path in paths if not NOT_OURS & set(path.relative_to(ROOT).parts)]


def _markers() -> list[tuple[str, str]]:
    """(file, text) of every marker in the tree."""
    return [(str(path.relative_to(ROOT)), text) for path in _sources() for text in _marked(path.read_text())]


def test_every_marker_is_listed_and_every_listed_one_is_there() -> None:
    listed = re.findall(r"^\| `([\w/]+\.py)` \| (.+?) \|$", DOCUMENT, re.MULTILINE)
    assert listed and sorted(listed) == sorted(_markers())


def test_no_marker_is_spelt_so_that_it_is_not_found() -> None:
    for path in _sources():
        words = re.findall(r"\b(?:DECISION|DEVIATION)S?\b", path.read_text())
        assert len(words) == len(_marked(path.read_text())), path


@pytest.mark.parametrize("text", [
    '    """Sum.\n\n    DECISION: one line.\n\n    More.\n    """',
    '    """DECISION: one\n    line.\n    """',
    '    """Sum.\n\n    DEVIATION from Eq. (10): one line."""',
    "# DECISION: one\n# line.\n\nx = 1",
    "x = 1  # DECISION: one line.\ny = 2",
])  # fmt: skip
def test_markers_of_any_place_are_read(text: str) -> None:
    assert _marked(text) == ["one line."]
