# SPDX-License-Identifier: Apache-2.0
"""A run folder that the page lists, of nothing but settings and a checkpoint's name."""

from pathlib import Path


def write_run(output: Path, name: str = "mug") -> Path:
    folder = output / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("OptimizationParams: {iterations: 9}\nGuidanceParams: {text: a red mug}\n")
    (folder / "chkpnt3.safetensors").write_text("x")
    return folder
