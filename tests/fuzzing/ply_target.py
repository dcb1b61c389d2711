# SPDX-License-Identifier: Apache-2.0
"""PLY files: as they are read, as initial points, and as a saved scene."""

import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from scene.dataset_readers import read_point_cloud
from scene.gaussian_model import GaussianModel
from scene.ply import PlyError, read_vertices
from tests.fuzzing.engine import CORPUS, LawBroken, Target
from tests.fuzzing.mutations import damaged

PATH = Path(tempfile.mkdtemp(prefix="fuzz-")) / "given.ply"
TOKENS = [
    b"ply\n", b"\n", b"\r\n", b"end_header\n", b"comment ", b"format ascii 1.0\n", b"format binary_little_endian 1.0\n",
    b"format binary_big_endian 1.0\n", b"element vertex 2\n", b"element face 99999999\n", b"element void 3\n",
    b"property list uchar int vertex_indices\n", b"property list int8 double x\n", b"property float x\n", b"property uchar red\n",
    b"property double y\n", b"property list float float q\n", b"obj_info ", b"element ", b"property ", b" ", b"\x00\x00\xc0\x7f",
    b"\xff\xff\xff\xff",
]  # fmt: skip
TYPES = st.sampled_from(
    ["float", "uchar", "double", "int", "short", "list uchar int", "list int double", "half", "list"]
)
FIELDS = st.sampled_from(["x", "y", "z", "red", "green", "blue", "nx", "opacity", "f_dc_0", "", "x y"])
COUNTS = st.integers(0, 3) | st.sampled_from([-1, 10**9, 10**14, "1_0", "٣", "0x2", ""])


@st.composite
def written(draw):
    """A file with a header of its own making."""
    form = draw(st.sampled_from(["ascii 1.0", "binary_little_endian 1.0", "binary_big_endian 1.0", "ascii 2.0"]))
    lines = ["ply", f"format {form}"]
    for name in draw(st.lists(st.sampled_from(["vertex", "vertex", "face", "ver tex"]), max_size=3)):
        lines.append(f"element {name} {draw(COUNTS)}")
        lines += [f"property {draw(TYPES)} {draw(FIELDS)}" for _ in range(draw(st.integers(0, 7)))]
    newline = draw(st.sampled_from(["\n", "\n", "\r\n", "\r"]))
    body = draw(st.binary(max_size=80) | st.lists(st.integers(-1, 300) | st.floats(), max_size=20).map(lambda row: " ".join(map(str, row)).encode()))  # fmt: skip
    return newline.join([*lines, "end_header", ""]).encode() + body


def law(content: bytes) -> bool:
    """Each of the three ways of reading gives numbers, finite where they are points, or a PlyError of one sentence."""
    PATH.write_bytes(content)
    results = [_accepted(read) for read in (_vertices, _points, _scene)]
    return any(results)


def _accepted(read) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            numbers = read()
        except PlyError as error:
            if str(PATH) not in str(error) or "\n" in str(error) or len(str(error)) > 2000:
                raise LawBroken(f"no sentence: {str(error)[:200]!r}") from error
            return False
    if not len(numbers) or not np.isfinite(numbers).all():
        raise LawBroken("nothing, or numbers that are not finite, were accepted")
    return True


def _vertices() -> np.ndarray:
    vertices = read_vertices(PATH, ("x", "y"))  # any numbers: whoever reads the table checks them
    return np.isnan(np.stack([vertices["x"], vertices["y"]], axis=1).astype(np.float64))


def _points() -> np.ndarray:
    cloud = read_point_cloud(PATH)
    return np.concatenate([cloud.points, cloud.colors], axis=1).astype(np.float64)


def _scene() -> np.ndarray:
    gaussians = GaussianModel(0, "cpu")
    gaussians.load_ply(PATH)
    raw = [
        value.detach().flatten(1)
        for value in gaussians.parameters_in_order().values()
        if len(value) == len(gaussians.get_xyz)
    ]
    return torch.cat([*raw, gaussians.get_scaling.detach(), gaussians.get_covariance().detach()], dim=1).numpy()


PLY = Target("ply", damaged([path.read_bytes() for path in sorted((CORPUS / "ply").iterdir())], TOKENS) | written(), law, Path.read_bytes)  # fmt: skip
