# SPDX-License-Identifier: Apache-2.0
"""A reader of GLB files from the glTF 2.0 specification, which checks what it reads, and a z-buffer to look at them."""

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = {5121: ("<u1", 1), 5123: ("<u2", 2), 5125: ("<u4", 4), 5126: ("<f4", 4)}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Shape:
    """The one primitive of a file, in the scene's world."""

    position: np.ndarray  # [V, 3]
    normal: np.ndarray  # [V, 3]
    uv: np.ndarray  # [V, 2], (0, 0) is the image's upper left corner
    faces: np.ndarray  # [F, 3]
    material: dict
    texture: np.ndarray  # uint8 [S, S, 3]
    name: str  # of the node and of the mesh


def read_glb(path: Path) -> Shape:
    tree, binary = _chunks(path.read_bytes())
    assert tree["asset"] == {"version": "2.0", "generator": "CoGrad3D"}
    (buffer,) = tree["buffers"]
    assert "uri" not in buffer and len(binary) - 3 <= buffer["byteLength"] <= len(binary)
    _check_views(tree, buffer["byteLength"])
    (shape,), (node,) = tree["meshes"], [node for node in tree["nodes"] if "mesh" in node]
    assert tree["scenes"][tree["scene"]]["nodes"]
    for moved in tree["nodes"]:
        assert np.array_equal(moved.get("matrix", np.eye(4).ravel()), np.eye(4).ravel()) and not {
            "rotation",
            "scale",
            "translation",
        } & set(moved)
    (primitive,) = shape["primitives"]
    assert primitive.get("mode", 4) == 4 and node["mesh"] == 0 and node["name"] == shape["name"]
    attributes = {name: _accessor(tree, binary, index, 34962) for name, index in primitive["attributes"].items()}
    assert set(attributes) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    assert {len(values) for values in attributes.values()} == {len(attributes["POSITION"])}
    faces = _accessor(tree, binary, primitive["indices"], 34963).reshape(-1, 3).astype(np.int64)
    assert faces.max() < len(attributes["POSITION"])
    material = tree["materials"][primitive["material"]]
    texture = _texture(tree, binary, material["pbrMetallicRoughness"]["baseColorTexture"]["index"])
    return Shape(attributes["POSITION"], attributes["NORMAL"], attributes["TEXCOORD_0"], faces, material, texture, node["name"])


def _chunks(content: bytes) -> tuple[dict, bytes]:
    magic, version, length = struct.unpack("<4sII", content[:12])
    assert (magic, version, length) == (b"glTF", 2, len(content))
    found, at = [], 12
    while at < length:
        size, kind = struct.unpack("<I4s", content[at : at + 8])
        assert size % 4 == 0
        found.append((kind, content[at + 8 : at + 8 + size]))
        at += 8 + size
    assert at == length and [kind for kind, _ in found] == [b"JSON", b"BIN\0"]
    return json.loads(found[0][1]), found[1][1]


def _check_views(tree: dict, length: int) -> None:
    """Views lie in the buffer, start at multiples of 4, and do not overlap."""
    spans = sorted((view.get("byteOffset", 0), view["byteLength"]) for view in tree["bufferViews"])
    assert all(start % 4 == 0 and size > 0 for start, size in spans)
    ends = [start + size for start, size in spans]
    assert ends[-1] <= length and all(end <= start for end, (start, _) in zip(ends, spans[1:]))


def _accessor(tree: dict, binary: bytes, index: int, target: int) -> np.ndarray:
    accessor = tree["accessors"][index]
    view = tree["bufferViews"][accessor["bufferView"]]
    assert view["target"] == target and "byteStride" not in view
    kind, size = KINDS[accessor["componentType"]]
    width, offset = WIDTHS[accessor["type"]], accessor.get("byteOffset", 0)
    assert offset % size == 0 and offset + accessor["count"] * width * size <= view["byteLength"]
    values = np.frombuffer(binary, kind, accessor["count"] * width, view.get("byteOffset", 0) + offset)
    values = values.reshape(-1, width)
    assert np.isfinite(values).all()
    for name, bound in (("min", values.min(axis=0)), ("max", values.max(axis=0))):
        if name in accessor:
            assert np.allclose(accessor[name], bound, atol=1e-6)
        else:
            assert (
                accessor["type"] != "VEC3"
                or target == 34963
                or np.allclose(np.linalg.norm(values, axis=1), 1, atol=1e-3)
            ), "POSITION must have bounds"
    return values


def _texture(tree: dict, binary: bytes, index: int) -> np.ndarray:
    image = tree["images"][tree["textures"][index]["source"]]
    view = tree["bufferViews"][image["bufferView"]]
    start = view.get("byteOffset", 0)
    content = binary[start : start + view["byteLength"]]
    assert image["mimeType"] == "image/png" and content.startswith(PNG) and "target" not in view
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def draw(shape: Shape, eye: np.ndarray, fov_rad: float, size_px: int) -> tuple[np.ndarray, np.ndarray]:
    """(image [S, S, 3] in 0..1 on white, covered [S, S]) seen from `eye` towards the origin, y up, back faces culled."""
    back = eye / np.linalg.norm(eye)
    right = np.cross([0.0, 1, 0], back)
    right /= np.linalg.norm(right)
    view = (shape.position - eye) @ np.stack([right, np.cross(back, right), back]).T
    depth = -view[:, 2]
    places = (view[:, :2] / depth[:, None] / np.tan(fov_rad / 2) * [1, -1] + 1) / 2 * size_px
    image, nearest = np.ones((size_px, size_px, 3)), np.full((size_px, size_px), np.inf)
    for face in shape.faces:
        _draw_face(shape, face, places[face], depth[face], image, nearest)
    return image, np.isfinite(nearest)


def _draw_face(shape: Shape, face, corners, depth, image, nearest) -> None:
    size = len(nearest)
    (x0, y0), (x1, y1) = (
        np.clip(f(corners), 0, size).astype(int) for f in (lambda c: np.floor(c.min(0)), lambda c: np.ceil(c.max(0)))
    )
    matrix = np.stack([corners[1] - corners[0], corners[2] - corners[0]], axis=1)
    if np.linalg.det(matrix) >= -1e-12 or x0 >= x1 or y0 >= y1:  # y is down here, so that front faces are negative
        return
    ys, xs = np.mgrid[y0:y1, x0:x1]
    b, c = np.linalg.solve(matrix, np.stack([xs + 0.5, ys + 0.5]).reshape(2, -1) - corners[0][:, None])
    share = np.stack([1 - b - c, b, c], axis=1) / depth
    inside = (share >= 0).all(axis=1)
    z = 1 / share.sum(axis=1)
    uv = (share * z[:, None]) @ shape.uv[face]
    texel = np.clip((uv * len(shape.texture)).astype(int), 0, len(shape.texture) - 1)
    for k in np.nonzero(inside & (z < nearest[ys.ravel(), xs.ravel()]))[0]:
        nearest[ys.flat[k], xs.flat[k]] = z[k]
        image[ys.flat[k], xs.flat[k]] = shape.texture[texel[k, 1], texel[k, 0]] / 255
