# SPDX-License-Identifier: Apache-2.0
"""Prints, as JSON, a digest of what the importable extensions compute for each instruction set: `python digests.py`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # behind PYTHONPATH, which says whose extensions these are

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import hashlib
import json

import torch
from raster_scenes import random_scene, run_extension, run_views, three_views

from diff_gaussian_rasterization import _abi
from simple_knn._C import distCUDA2
from tests.drawn import Draws

ISAS = ("base", "x86-64-v3", "x86-64-v4")


def of(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def rendered() -> dict[str, str]:
    """Images, radii and every gradient of scenes that take each path; three views of one call."""
    needles = random_scene(11, n=30)
    needles.inputs["scales"] = needles.inputs["scales"] * torch.tensor([8.0, 0.05, 0.05])
    indefinite = random_scene(20, n=40, precomputed=True)
    indefinite.inputs["cov3D_precomp"][::2, [0, 3, 5]] = torch.tensor([0.03, -0.01, 0.02])
    scenes = {
        "sh3": random_scene(3, n=800, height=70, width=70, sh_degree=3),
        "clamped": random_scene(4, sh_degree=1, opacity=(0.3, 1.3), spread=0.8, scale=0.15),
        "needles": needles,
        "indefinite": indefinite,
    }
    digests = {}
    for name, scene in scenes.items():
        result = run_extension(scene, depth_z_gradient=name == "sh3")
        digests[name] = of([result.images, result.radii, *result.gradients.values()])
    views = [x for r in run_views(three_views()) for x in (r.images, r.radii, *r.gradients.values())]
    return {**digests, "views": of(views)}


def main(argv: list[str]) -> None:
    digests = {"neighbours": of([distCUDA2(Draws(5).normal(3000, 3))])}
    for isa in ISAS:
        if _abi.LIBRARY.dgr_force_isa(isa.encode()) == 0:
            digests[isa] = rendered()
    print(json.dumps({"package": _abi.__file__, "digests": digests}))


if __name__ == "__main__":
    program.run(main)
