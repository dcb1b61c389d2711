# SPDX-License-Identifier: Apache-2.0
"""Runs in the folder layout of GPTEval3D (Wu et al. 2024), for those who run that evaluator with a key of their own.

OUT/prompts.json, a list, and OUT/methods/METHOD/PROMPT/SEED/rgb_K.png and normal_K.png: PROMPT is the prompt's index in
the list, K = 0..119 goes once around at the run's default pose. A normal image shows (n + 1) / 2 in world axes on
black, where n is the direction of a Gaussian's shortest axis that faces the camera. N Gaussians.
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from arguments import Config
from evaluation.run_folder import config_of_run, gaussians_of_run, last_point_cloud
from scene.cameras import RCamera
from scene.dataset_readers import circle_cameras
from scene.gaussian_model import GaussianModel
from trainer.outputs import turntable
from utils.general_utils import build_rotation, write_text_atomically
from utils.image_utils import read_png, write_png
from utils.sh_utils import RGB2SH

VIEWS, SIDE_PX = 120, 512


@dataclass(frozen=True)
class Asset:
    """A run and its folder in the layout, relative to OUT."""

    run: Path
    config: Config
    folder: Path


def assets_of(runs: Sequence[Path], prompts: Sequence[str] | None) -> tuple[list[str], list[Asset]]:
    """The list of prompts (None: those of the runs) and the assets. A method is a run's name up to its first "-".

    Raises ValueError for a folder that is no run, a prompt that the list lacks, and two runs that would be one asset.
    """
    configs = {run: config_of_run(run) for run in runs}
    for run in runs:
        last_point_cloud(run)
    listed = list(prompts if prompts is not None else dict.fromkeys(c.guidance.text for c in configs.values()))
    assets = []
    for run, config in configs.items():
        if config.guidance.text not in listed:
            text = config.guidance.text
            raise ValueError(f"{run} is of {text!r}, which the list of prompts lacks; expected runs of its prompts")
        index = str(listed.index(config.guidance.text))
        assets.append(Asset(run, config, Path("methods", run.name.split("-")[0], index, str(config.seed))))
    twice = [folder for folder, count in Counter(asset.folder for asset in assets).items() if count > 1]
    if twice:
        raise ValueError(f"several runs would be {twice[0]}; expected one for each variant, prompt and seed")
    return listed, assets


def write_prompts(out: Path, prompts: Sequence[str]) -> None:
    """OUT/prompts.json."""
    out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(out / "prompts.json", json.dumps(list(prompts), indent=1) + "\n")


def check_same(out: Path, asset: Asset, views: int, size_px: int) -> None:
    """ValueError where an asset's folder is there and does not hold so many images of that size."""
    folder = out / asset.folder
    names = {f"{kind}_{k}.png" for kind in ("rgb", "normal") for k in range(views)}
    if folder.exists() and (
        {path.name for path in folder.iterdir()} != names or len(read_png(folder / "rgb_0.png")) != size_px
    ):
        raise ValueError(f"{folder} does not hold {views} views of {size_px} px; delete it or give another --out")


def write_asset(out: Path, asset: Asset, device: torch.device, views: int, size_px: int) -> None:
    """The images of one asset. Its folder is there once it holds them all; until then it has .part behind its name."""
    gaussians = gaussians_of_run(asset.run, asset.config, device)
    cameras = circle_cameras(replace(asset.config.cameras, view_px=size_px), views, gaussians.get_xyz.device)
    whole, black = out / asset.folder, torch.zeros(3, device=device)
    folder = whole.with_name(f"{whole.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was stopped
    folder.mkdir(parents=True)
    for k, (camera, (rgb, _)) in enumerate(zip(cameras, turntable(gaussians, cameras, asset.config))):
        write_png(folder / f"rgb_{k}.png", rgb)
        [(normals, _)] = turntable(coloured_by_normals(gaussians, camera), [camera], asset.config, black)
        write_png(folder / f"normal_{k}.png", normals)
    folder.rename(whole)


@torch.no_grad()
def coloured_by_normals(gaussians: GaussianModel, camera: RCamera) -> GaussianModel:
    """The same Gaussians, each in the colour of its normal as `camera` sees it."""
    values = {name: value.detach().cpu() for name, value in gaussians.parameters_in_order().items()}
    shortest = values["scaling"].argmin(dim=1)
    axes = build_rotation(values["rotation"])  # columns
    normals = axes[torch.arange(len(axes)), :, shortest]  # [N, 3]
    away = ((camera.camera_center.cpu() - values["xyz"]) * normals).sum(dim=1, keepdim=True) < 0
    colours = (torch.where(away, -normals, normals) + 1) / 2
    values["f_dc"], values["f_rest"] = RGB2SH(colours)[:, None], torch.zeros(len(colours), 0, 3)
    return gaussians.with_parameters(values)
