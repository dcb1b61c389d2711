# SPDX-License-Identifier: Apache-2.0
"""Gaussians as glTF points with KHR_gaussian_splatting (ratified): y up, the front towards +z.

Scales are deviations and opacities lie in 0..1: both without the activations of a PLY file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.cloud import Y_UP, rotated
from export.limits import check, fitted
from export.options import GENERATOR, Options, name_inside
from scene.gaussian_model import GaussianModel
from utils.general_utils import atomic_path
from utils.sh_utils import SH2RGB

EXTENSION = "KHR_gaussian_splatting"
FLOAT, UNSIGNED_BYTE, ARRAY_BUFFER, POINTS = 5126, 5121, 34962, 0
KINDS = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def write_gltf_splats(gaussians: GaussianModel, out: Path, options: Options) -> None:
    """One node, one mesh, one primitive of points, in a binary glTF file."""
    check(gaussians, "gsglb")
    content = gltf_splats(rotated(fitted(gaussians, "gsglb"), Y_UP), name_inside(out))
    with atomic_path(out) as temporary:
        temporary.write_bytes(content)


def gltf_splats(gaussians: GaussianModel, name: str) -> bytes:
    """The file's content, node and mesh called `name`. COLOR_0 is what viewers without the extension show."""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    primitive: dict[str, Any] = {
        "mode": POINTS,
        "attributes": {},
        "extensions": {EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    values = attributes(gaussians)
    for attribute, array in values.items():
        offset = views[-1]["byteOffset"] + views[-1]["byteLength"] if views else 0
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": ARRAY_BUFFER})
        is_byte = array.dtype == np.uint8
        accessor: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": UNSIGNED_BYTE if is_byte else FLOAT,
            "count": len(array),
            "type": KINDS[array.shape[1]],
        }
        if is_byte:
            accessor["normalized"] = True
        if attribute == "POSITION":
            accessor |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        primitive["attributes"][attribute] = len(accessors)
        accessors.append(accessor)
    binary = b"".join(array.tobytes() for array in values.values())
    tree = {
        "asset": {"version": "2.0", "generator": GENERATOR},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "buffers": [{"byteLength": len(binary)}],
        "bufferViews": views,
        "accessors": accessors,
    }
    return glb(tree, binary)


@torch.no_grad()
def attributes(gaussians: GaussianModel) -> dict[str, np.ndarray]:
    """glTF attribute -> array [N, 1], [N, 3] or [N, 4] of float32, COLOR_0 of bytes."""
    features, opacity = gaussians.get_features, gaussians.get_opacity
    display = SH2RGB(features[:, 0]).clamp(0, 1)
    linear = torch.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    found = {
        "POSITION": gaussians.get_xyz,
        "COLOR_0": (torch.cat((linear, opacity), dim=1) * 255).round().to(torch.uint8),
        f"{EXTENSION}:ROTATION": gaussians.get_rotation.roll(-1, dims=1),  # x, y, z, w
        f"{EXTENSION}:SCALE": gaussians.get_scaling,
        f"{EXTENSION}:OPACITY": opacity,
    }
    for degree in range(gaussians.max_sh_degree + 1):
        for k in range(2 * degree + 1):
            found[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{k}"] = features[:, degree**2 + k]
    return {name: np.ascontiguousarray(value.cpu().numpy()) for name, value in found.items()}


def glb(tree: dict[str, Any], binary: bytes) -> bytes:
    """The two chunks of a GLB file, each padded to a multiple of four bytes."""
    text = json.dumps(tree, allow_nan=False, separators=(",", ":")).encode()
    chunks = [(b"JSON", text + b" " * (-len(text) % 4)), (b"BIN\0", binary + b"\0" * (-len(binary) % 4))]
    body = b"".join(len(content).to_bytes(4, "little") + kind + content for kind, content in chunks)
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(body)).to_bytes(4, "little") + body
