# SPDX-License-Identifier: Apache-2.0
"""One HTML file that shows the Gaussians without a network: page.html around the packed cloud.

N Gaussians, K SH coefficients a channel. page.html draws by the rasterizer's law; packing rounds as described below.
"""

import base64
import html
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from evaluation.orbits import framing
from export.limits import check, fitted
from export.options import Options, one_line
from scene.gaussian_model import GaussianModel
from utils.general_utils import write_text_atomically
from utils.sh_utils import SH2RGB

TEMPLATE = Path(__file__).with_name("page.html")
FOV_RAD = 0.6
RECORD = np.dtype([("mean", "<f4", 3), ("colour_opacity", "<f2", 4), ("scale", "<f2", 3), ("turn", "<i2", 3)])
"""32 bytes. `turn`: modified Rodrigues parameters v / (1 + w) of the unit quaternion (w, v), w >= 0, in 1 / 32767."""
REST_BYTES = 16
"""Bytes of view-dependent colour are padded to a multiple of this, one texel."""


def check_page(gaussians: GaussianModel, options: Options) -> None:
    """Raises ValueError for what a page cannot hold or show."""
    check(gaussians, "html")
    framing([fitted(gaussians, "html", is_reported=False)]).distance(FOV_RAD)


def write_page(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """Means are kept; colours, opacities and scales are half floats, rotations 16 bits, view dependence 8 bits."""
    check_page(gaussians, options)
    gaussians = fitted(gaussians, "html")
    seen = framing([gaussians])
    rest, rest_range = packed_harmonics(gaussians)
    scene = {
        "count": len(gaussians.get_xyz),
        "degree": gaussians.max_sh_degree,
        "rest_range": rest_range,
        "centre": seen.centre.tolist(),
        "radius": seen.distance(FOV_RAD),
        "fov_rad": FOV_RAD,
        "antialiased": gaussians.antialiased,
    }
    parts = {
        "title": html.escape(one_line(options.title) or one_line(out.stem)),
        "background": "#" + "".join(f"{round(255 * channel):02x}" for channel in options.background),
        "scene": json.dumps(scene, allow_nan=False),
        "cloud": base64.b64encode(packed_cloud(gaussians)).decode("ascii"),
        "harmonics": base64.b64encode(rest).decode("ascii"),
    }
    page = filled(TEMPLATE.read_text(encoding="utf-8"), parts)
    write_text_atomically(out, page)


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with each {{name}} replaced in one pass: what a part holds is never taken for a name."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


@torch.no_grad()
def packed_cloud(gaussians: GaussianModel) -> bytes:
    """N records of 32 bytes."""
    records = np.zeros(len(gaussians.get_xyz), RECORD)
    quaternions = gaussians.get_rotation * torch.where(gaussians.get_rotation[:, :1] < 0, -1.0, 1.0)
    rodrigues = quaternions[:, 1:] / (1 + quaternions[:, :1])
    colour = SH2RGB(gaussians.get_features[:, 0])
    records["mean"] = gaussians.get_xyz.cpu().numpy()
    records["colour_opacity"] = torch.cat((colour, gaussians.get_opacity), dim=1).cpu().numpy()
    records["scale"] = gaussians.get_scaling.cpu().numpy()
    records["turn"] = (rodrigues * 32767).round().cpu().numpy()
    return records.tobytes()


@torch.no_grad()
def packed_harmonics(gaussians: GaussianModel) -> tuple[bytes, float]:
    """Coefficients above degree 0, coefficient-major, as bytes around 128, and the value that 127 steps stand for."""
    rest = gaussians.get_features[:, 1:].flatten(1).cpu().numpy()
    if rest.size == 0:
        return b"", 1.0
    largest = max(float(np.abs(rest).max()), 1e-6)
    steps = np.round(rest / largest * 127).astype(np.int64) + 128
    return np.pad(steps, ((0, 0), (0, -rest.shape[1] % REST_BYTES))).astype(np.uint8).tobytes(), largest
