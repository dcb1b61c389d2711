# SPDX-License-Identifier: Apache-2.0
"""Two runs against one another: settings, Gaussians, and both scenes from the same cameras.

V cameras, N Gaussians. Images are uint8 [H, W, 3] RGB.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from arguments import PipelineParams
from evaluation.comparison.folder import Side
from gaussian_renderer import render
from scene.cameras import RCamera
from scene.dataset_readers import circle_cameras
from scene.gaussian_model import GaussianModel
from toy.similarity import psnr, ssim
from utils.image_utils import read_png, to_uint8
from utils.sh_utils import SH2RGB

AMPLIFIED = 4  # of a difference in an image
Row = tuple[str, str, str]
"""(what, of A, of B)"""


@dataclass(frozen=True)
class ViewPair:
    """Both scenes from one camera, and how alike the images are; `own`: the run's own image against ours."""

    images: tuple[np.ndarray, np.ndarray]
    psnr: float
    ssim: float
    own: tuple[float | None, float | None]  # dB


def differing_settings(a: Side, b: Side) -> list[Row]:
    """Those that are not equal; numbers are compared as numbers."""
    keys = list(dict.fromkeys([*a.settings, *b.settings]))
    return [(k, str(a.settings.get(k)), str(b.settings.get(k))) for k in keys if a.settings.get(k) != b.settings.get(k)]


@torch.no_grad()
def statistics(gaussians: GaussianModel) -> dict[str, float]:
    """What a cloud is like, in numbers that do not depend on the order of its Gaussians."""
    scales, opacity = gaussians.get_scaling.sort(dim=1).values, gaussians.get_opacity[:, 0]
    size = scales.log().mean(dim=1).exp()  # geometric mean of the three
    xyz = gaussians.get_xyz
    colour = SH2RGB(gaussians.get_features[:, 0])  # [N, 3]
    quantiles = torch.quantile(size, torch.tensor([0.01, 0.5, 0.99]))
    weighted = (opacity[:, None] * colour).sum(0) / opacity.sum()
    return {
        "Gaussians": float(len(xyz)),
        "SH degree": float(gaussians.max_sh_degree),
        "opacity, mean": float(opacity.mean()),
        "opacity below 0.05, share": float((opacity < 0.05).float().mean()),
        "size, 1 %": float(quantiles[0]),
        "size, median": float(quantiles[1]),
        "size, 99 %": float(quantiles[2]),
        "longest / shortest axis, median": float((scales[:, 2] / scales[:, 0]).median()),
        "centre x": float(xyz[:, 0].mean()),
        "centre y": float(xyz[:, 1].mean()),
        "centre z": float(xyz[:, 2].mean()),
        "distance from the origin, 99 %": float(torch.quantile(xyz.norm(dim=1), 0.99)),
        "red, by opacity": float(weighted[0]),
        "green, by opacity": float(weighted[1]),
        "blue, by opacity": float(weighted[2]),
    }


def common_cameras(a: Side, b: Side, most: int) -> tuple[list[int], list[RCamera], str]:
    """(their numbers, at most `most` cameras evenly chosen, where they are from).

    They are those of A's cameras.json, else of B's, else a circle.
    """
    for side, name in ((a, "A"), (b, "B")):
        if side.cameras:
            count = min(most, len(side.cameras))
            picked = [k * len(side.cameras) // count for k in range(count)]
            return picked, [side.cameras[k] for k in picked], f"cameras.json of {name}"
    return list(range(most)), circle_cameras(a.config.cameras, most, "cpu"), "a circle by the settings of A"


def views(a: Side, b: Side, numbers: Sequence[int], cameras: Sequence[RCamera]) -> list[ViewPair]:
    """Both clouds from each camera, on A's background."""
    background = torch.full((3,), float(a.config.model.white_background))
    found = []
    for number, camera in zip(numbers, cameras):
        shown = [_render_image(side.gaussians, camera, background) for side in (a, b)]
        x, y = (np.moveaxis(image, -1, 0) / 255 for image in shown)
        own = tuple(_own(side, number, camera) for side in (a, b))
        found.append(ViewPair((shown[0], shown[1]), psnr(x, y), ssim(x, y), (own[0], own[1])))
    return found


@torch.no_grad()
def _render_image(gaussians: GaussianModel, camera: RCamera, background: torch.Tensor) -> np.ndarray:
    return to_uint8(render(camera, gaussians, PipelineParams(), background)["render"])


def _own(side: Side, number: int, camera: RCamera) -> float | None:
    """PSNR of the run's own image of its own camera of that number against ours; None where there is none."""
    path = side.own_image(number)
    if path is None or number >= len(side.cameras):
        return None
    drawn, own = read_png(path), side.cameras[number]
    if drawn.shape[:2] != (own.image_height, own.image_width):
        return None
    ours = _render_image(side.gaussians, own, torch.full((3,), float(side.config.model.white_background)))
    return psnr(drawn / 255, ours / 255)


def side_by_side(view: ViewPair) -> np.ndarray:
    """A, B and their difference, AMPLIFIED times, in a row."""
    x, y = (image.astype(np.int32) for image in view.images)
    return np.hstack([*view.images, np.clip(255 - AMPLIFIED * np.abs(x - y), 0, 255).astype(np.uint8)])


def rows_of(a: dict[str, Any], b: dict[str, Any]) -> list[Row]:
    """Two mappings as rows; what one lacks is a dash."""
    keys = list(dict.fromkeys([*a, *b]))
    return [(key, _text(a.get(key)), _text(b.get(key))) for key in keys]


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
