# SPDX-License-Identifier: Apache-2.0
"""The example runs, fits and fuses; docs/using_cograd.md runs as printed."""

import ast
import operator
import re
import runpy
from pathlib import Path

import torch

from cograd import CoGrad, CoGradParams

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cograd_on_any_parameters.py"
GUIDE = (ROOT / "docs" / "using_cograd.md").read_text(encoding="utf-8")


def test_the_example_fits_its_points_and_fuses_gradients(capsys) -> None:
    """Measured: 0.011 from 1.69, 1072 gradients."""
    error, fused = runpy.run_path(str(EXAMPLE))["fit"]()
    assert error < 0.03 and fused > 500
    assert "distance from the truth: 0.0" in capsys.readouterr().out


def test_the_example_imports_cograd_alone() -> None:
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if (ROOT / name.split(".")[0]).exists()} == {"cograd", "utils"}  # utils.program: how it ends


def test_the_guide_runs_as_printed(capsys) -> None:
    """Its blocks in their order, in one namespace, with nothing added."""
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        exec(compile(code, "docs/using_cograd.md", "exec"), names)  # noqa: S102 - a page of this repository
    cograd = names["cograd"]
    assert int(cograd.maps()["visits"].sum()) == names["total_steps"] * names["views"]
    assert float(torch.stack(names["losses"]).mean()) < 0.05  # measured: 0.010, after 0.9 in the first step
    assert "torch.Size([3, 12, 2])" in capsys.readouterr().out


def test_the_guide_names_what_exists() -> None:
    cograd = CoGrad(CoGradParams(), torch.linspace(0.99, 0.01, 1000), 10)
    for call in re.findall(r"^\| `([\w.]+)\(", GUIDE, re.MULTILINE):
        assert call == "CoGrad" or callable(operator.attrgetter(call)(cograd)), call
    for name in re.findall(r"`(\w+): ", GUIDE):
        assert name in vars(CoGradParams()) or name in ("generator", "g_main", "t_valid", "fixed_names", "w"), name
