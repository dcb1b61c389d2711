# SPDX-License-Identifier: Apache-2.0
"""The example runs, fits, fuses and is short; the step that docs/using_cograd.md shows runs too."""

import ast
import re
import runpy
from pathlib import Path

import torch

from arguments import CoGradParams
from cograd import CoGrad
from tests.drawn import Draws
from utils.random_streams import RandomStreams

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "cograd_on_any_parameters.py"
GUIDE = (ROOT / "docs" / "using_cograd.md").read_text(encoding="utf-8")


def test_the_example_fits_its_points_and_fuses_gradients(capsys) -> None:
    """Measured: 0.011 from 1.69, 1072 gradients."""
    error, fused = runpy.run_path(str(EXAMPLE))["fit"]()
    assert error < 0.03 and fused > 500
    assert "distance from the truth: 0.0" in capsys.readouterr().out


def test_the_example_imports_neither_renderer_nor_diffusion_model() -> None:
    tree = ast.parse(EXAMPLE.read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if (ROOT / name.split(".")[0]).exists()} == {"arguments", "cograd", "utils", "utils.random_streams"}


def test_the_step_in_the_guide_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    asked, stepped, draws = [], [], Draws(0)

    def loss_and_gradient(poses, v, t):
        asked.append((float(poses.theta_deg[v]), int(t)))
        return draws.uniform(), {"x": draws.normal(5, 3)}

    total_steps, views = 6, 2
    alphas_cumprod = torch.linspace(0.999, 0.005, 1000)
    names = {
        "CoGradParams": CoGradParams, "CoGrad": CoGrad, "torch": torch, "streams": RandomStreams(0), "views": views, "total_steps": total_steps,
        "alphas_cumprod": alphas_cumprod, "loss_and_gradient": loss_and_gradient, "optimizer_step": stepped.append,
    }  # fmt: skip
    exec(compile(code, "docs/using_cograd.md", "exec"), names)  # noqa: S102 - a page of this repository
    assert len(asked) == total_steps * views and [len(fused) for fused in stepped] == [views] * total_steps
    assert all(30 <= theta <= 120 and 1 <= t <= 999 for theta, t in asked)
    assert int(names["cograd"].maps()["visits"].sum()) == total_steps * views


def test_the_guide_names_what_exists() -> None:
    for call in re.findall(r"^\| `(\w+)\(", GUIDE, re.MULTILINE):
        assert call == "CoGrad" or callable(getattr(CoGrad, call)), call
    for name in re.findall(r"`(\w+): ", GUIDE):
        assert name in vars(CoGradParams()) or name in ("streams", "g_main"), name
