# SPDX-License-Identifier: Apache-2.0
"""A point cloud from a text, for the initial points: Shap-E through diffusers, Point-E where its package is installed.

Both are optional and need weights; whatever is missing is CloudUnavailable, one sentence.
Letters of shapes: V vertices, F faces, P points.
"""

import collections
import importlib
import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from utils.bounded_file import read_text
from utils.failures import first_line
from utils.hub_cache import in_cache
from utils.model_ids import current_id, expanded
from utils.random_streams import RandomStreams

POINTS = 4096  # what Point-E's upsampler gives; as many are drawn from Shap-E's mesh
HALF_SIDE = 0.5  # of the cube that Point-E's objects fill; Shap-E's are scaled to it
MAX_INDEX_BYTES = 1 << 20
SHAP_E_STEPS, SHAP_E_GUIDANCE = 64, 15.0  # the pipeline's documentation uses these
INSTEAD = (
    "set init_shape: sphere, or init_fallback: true to start from a sphere (or put your own cloud at "
    "<output folder>/init_points3d.ply, which is read instead of sampling)"
)


class CloudUnavailable(ValueError):
    """Point-E or Shap-E is not available; the message says why and what to do."""


class TextCloud(NamedTuple):
    """Points as the model gives them (z up, front at -y) and their colours in [0, 1]."""

    points: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3]


def shap_e_cloud(prompt: str, model_key: str, streams: RandomStreams) -> TextCloud:
    """POINTS points on the surface of Shap-E's mesh of `prompt`; random numbers from the NumPy stream.

    model_key is a hub id (in the local cache, or downloaded now) or a folder.  Raises CloudUnavailable.
    """
    pipe = load_shap_e(model_key).to(streams.device)
    generator = torch.Generator(streams.device).manual_seed(int(streams.numpy.randint(2**31)))
    options = {"guidance_scale": SHAP_E_GUIDANCE, "num_inference_steps": SHAP_E_STEPS}
    try:
        [mesh] = pipe(prompt, output_type="mesh", generator=generator, return_dict=False, **options)[0]
    except (RuntimeError, ValueError) as error:  # a mesh without vertices ends inside the pipeline
        raise CloudUnavailable(
            f"Shap-E made no mesh of {prompt!r} ({first_line(error)}); change init_prompt or the seed, or {INSTEAD}"
        ) from error
    verts, faces = (x.detach().cpu().numpy() for x in (mesh.verts, mesh.faces))
    rgb = np.stack([mesh.vertex_channels[name].detach().cpu().numpy() for name in "RGB"], axis=1)
    _check_finite(f"Shap-E's mesh of {prompt!r}", verts, rgb)
    cloud = points_on_mesh(verts.astype(np.float64), faces, np.clip(rgb, 0, 1), POINTS, streams.numpy)
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    scale = 2 * HALF_SIDE / max(float((high - low).max()), 1e-9)
    return TextCloud((cloud.points - (low + high) / 2) * scale, cloud.rgb)


def load_shap_e(model_key: str) -> Any:
    """diffusers' ShapEPipeline of a folder or hub id.  Raises CloudUnavailable."""
    from diffusers import ShapEPipeline

    return _loaded(ShapEPipeline.from_pretrained, _shap_e_source(model_key), low_cpu_mem_usage=False)


def check_shap_e(model_key: str) -> None:
    """Raises CloudUnavailable for a folder of something else; in the hub client's offline mode for a missing model."""
    from huggingface_hub import snapshot_download

    source = _shap_e_source(model_key)
    if not expanded(source).is_dir():
        find = partial(_loaded, snapshot_download, source, allow_patterns="model_index.json")
        in_cache(f"Shap-E {source!r}", lambda alone: find(local_files_only=alone), CloudUnavailable)


def _shap_e_source(model_key: str) -> str:
    """A folder that holds a ShapEPipeline, or the hub id where the model is now.  Raises CloudUnavailable."""
    folder = expanded(model_key)
    if folder.is_dir():
        index = folder / "model_index.json"
        try:
            kind = json.loads(read_text(index, MAX_INDEX_BYTES)).get("_class_name") if index.is_file() else None
        except (ValueError, AttributeError, RecursionError):  # no text, no JSON, no object
            kind = None
        if kind != "ShapEPipeline":
            found = f"a {kind}" if kind else "no readable model_index.json"
            raise CloudUnavailable(
                f"GenerateCamParams.shap_e_model_key: folder {folder} holds {found}; expected a ShapEPipeline"
            )
        return str(folder)
    return current_id(model_key)


def _loaded(load: Callable[..., Any], model_key: str, **options: Any) -> Any:
    try:
        return load(model_key, **options)
    except Exception as error:  # hub, http, file-system and weight errors share no base class
        raise CloudUnavailable(
            f"GenerateCamParams.init_shape is 'shap_e' and Shap-E {model_key!r} cannot be loaded "
            f"({first_line(error)}); connect to the network once or give shap_e_model_key a folder, or {INSTEAD}"
        ) from error


def points_on_mesh(
    verts: np.ndarray, faces: np.ndarray, rgb: np.ndarray, count: int, rng: np.random.RandomState
) -> TextCloud:
    """`count` points, uniform on the surface of verts [V,3], faces [F,3]; colours between those of rgb [V,3]."""
    corners = verts[faces]  # [F,3,3]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    weights = area / area.sum() if area.sum() > 0 else np.full(len(faces), 1 / len(faces))
    chosen = rng.choice(len(faces), size=count, p=weights)
    u, v = rng.rand(count), rng.rand(count)
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)  # fold the square onto the triangle
    bary = np.stack([1 - u - v, u, v], axis=1)[:, :, None]  # [P,3,1]
    return TextCloud((bary * corners[chosen]).sum(axis=1), (bary * rgb[faces[chosen]]).sum(axis=1))


def point_e_cloud(prompt: str, streams: RandomStreams) -> TextCloud:
    """Point-E's cloud of `prompt`: its text model's 1024 points and its upsampler's.  Raises CloudUnavailable.

    Point-E draws from torch's global stream: that is seeded from the NumPy stream, and put back afterwards.
    """
    parts = point_e_modules()
    try:
        sampler = _point_e_sampler(parts, streams.device)
    except Exception as error:  # it fetches its weights itself: http, file-system and key errors
        raise CloudUnavailable(f"Point-E's weights are not available ({first_line(error)}); {INSTEAD}") from error
    devices = [streams.device] if streams.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(streams.numpy.randint(2**31)))
        states = sampler.sample_batch_progressive(batch_size=1, model_kwargs={"texts": [prompt]})
        [last] = collections.deque(states, maxlen=1)
    cloud = sampler.output_to_point_clouds(last)[0]
    rgb = np.stack([np.asarray(cloud.channels[name]) for name in "RGB"], axis=1)
    _check_finite(f"Point-E's cloud of {prompt!r}", cloud.coords, rgb)
    return TextCloud(np.asarray(cloud.coords, dtype=np.float64), rgb.astype(np.float64))


def _check_finite(name: str, *arrays: np.ndarray) -> None:
    """Raises CloudUnavailable where a network has failed."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise CloudUnavailable(f"{name} is not finite; change init_prompt or the seed, or {INSTEAD}")


def point_e_modules() -> dict[str, Any]:
    """The modules of Point-E's package by name. Raises CloudUnavailable where it is not installed."""
    try:
        return {name: importlib.import_module(f"point_e.{name}") for name in POINT_E_MODULES}
    except ImportError as error:
        raise CloudUnavailable(
            f"GenerateCamParams.init_shape is 'pointe' and the package point_e is not installed "
            f"({first_line(error)}); install it from its authors' repository, or set init_shape: shap_e, or {INSTEAD}"
        ) from error


POINT_E_MODULES = ("diffusion.configs", "diffusion.sampler", "models.configs", "models.download")
POINT_E_MODELS = ("base40M-textvec", "upsample")


def _point_e_sampler(parts: dict[str, Any], device: torch.device) -> Any:
    """Point-E's own sampler, with the settings of its text example."""
    diffusion, networks, download = parts["diffusion.configs"], parts["models.configs"], parts["models.download"]
    models, schedules = [], []
    for name in POINT_E_MODELS:
        model = networks.model_from_config(networks.MODEL_CONFIGS[name], device)
        model.eval()
        model.load_state_dict(download.load_checkpoint(name, device))
        models.append(model)
        schedules.append(diffusion.diffusion_from_config(diffusion.DIFFUSION_CONFIGS[name]))
    return parts["diffusion.sampler"].PointCloudSampler(
        device=device,
        models=models,
        diffusions=schedules,
        num_points=[1024, POINTS - 1024],
        aux_channels=["R", "G", "B"],
        guidance_scale=[3.0, 0.0],
        model_kwargs_key_filter=("texts", ""),
    )

