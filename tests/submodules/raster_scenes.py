# SPDX-License-Identifier: Apache-2.0
"""Scenes for the rasterizer's tests: recorded ones, random ones, and how to render them by extension and reference.

A scene is a dict of the rasterizer's arguments (means3D, opacities, ...) and a `View`; letters as in reference.py.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from reference import View, render
from torch import Tensor

from diff_gaussian_rasterization import GaussianRasterizationSettings, GaussianRasterizer, rasterize_views
from tests.drawn import Draws

REFERENCE_NAMES = {"means3D": "means", "cov3D_precomp": "cov3", "colors_precomp": "colors"}


@dataclass
class Scene:
    """Inputs, view, and the weights of a linear loss on the five image channels [5,H,W] (rgb, depth, transmittance)."""

    inputs: dict[str, Tensor]
    view: View
    weights: Tensor
    expected: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Result:
    """Images [5,H,W], radii [N] and the gradient of the loss with respect to every input, means2D included."""

    images: Tensor
    radii: Tensor
    gradients: dict[str, Tensor]
    n_dropped: int = 0
    fragile: Tensor | None = None
    radius_fragile: Tensor | None = None


def load_golden(path: Path) -> Scene:
    """One recorded case; `expected` holds its out_* and nodepthz_* arrays."""
    data = np.load(path)

    def tensor(key: str) -> Tensor:
        return torch.from_numpy(np.array(data[key])).float()

    view = View(
        int(data["cam_H"]), int(data["cam_W"]), float(data["cam_tanfovx"]), float(data["cam_tanfovy"]),
        tensor("cam_bg"), tensor("cam_viewmatrix"), tensor("cam_projmatrix"), tensor("cam_campos"),
        int(data["cam_sh_degree"]), float(data["cam_scale_modifier"]),
    )  # fmt: skip
    inputs = {key.removeprefix("in_"): tensor(key) for key in data.files if key.startswith("in_")}
    weights = torch.cat([tensor("w_rgb"), tensor("w_depth"), -tensor("w_alpha")])
    return Scene(inputs, view, weights, {k: data[k] for k in data.files if k.startswith(("out_", "nodepthz_"))})


def camera(draws: Draws, height: int, width: int, sh_degree: int, distance: float = 3.0) -> View:
    """A camera at a random place on a sphere around the origin, looking at it."""
    towards = draws.rng.standard_normal(3)
    position = towards / np.linalg.norm(towards) * distance
    forward = -position / distance
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    world_to_view = np.eye(4)
    world_to_view[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    world_to_view[:3, 3] = -world_to_view[:3, :3] @ position
    tanfovy = 0.3
    tanfovx = tanfovy * width / height
    near, far = 0.01, 100.0
    proj = np.zeros((4, 4))
    proj[0, 0], proj[1, 1], proj[3, 2] = 1 / tanfovx, 1 / tanfovy, 1.0
    proj[2, 2], proj[2, 3] = far / (far - near), -far * near / (far - near)
    matrices = [draws.tensor(matrix.T) for matrix in (world_to_view, proj @ world_to_view)]
    return View(height, width, tanfovx, tanfovy, draws.uniform(3), *matrices, draws.tensor(position), sh_degree)


def random_scene(
    seed: int, n: int = 60, height: int = 37, width: int = 45, sh_degree: int = 0, *, spread: float = 0.5,
    scale: float = 0.05, opacity: tuple[float, float] = (0.05, 1.0), precomputed: bool = False,
    scale_modifier: float = 1.0, antialiasing: bool = False,
) -> Scene:  # fmt: skip
    """Gaussians in a ball around the origin with log-uniform anisotropy, seen from a random side."""
    draws = Draws(seed)
    view = camera(draws, height, width, sh_degree)
    view = replace(view, scale_modifier=scale_modifier, antialiasing=antialiasing)
    inputs = {
        "means3D": draws.normal(n, 3) * spread,
        "opacities": opacity[0] + (opacity[1] - opacity[0]) * draws.uniform(n, 1),
    }
    if precomputed:
        m = draws.rng.standard_normal((n, 3, 3)) * scale
        sigma = m @ m.transpose(0, 2, 1)
        inputs["cov3D_precomp"] = draws.tensor(sigma.reshape(n, 9)[:, [0, 1, 2, 4, 5, 8]]).contiguous()
        inputs["colors_precomp"] = draws.uniform(n, 3)
    else:
        inputs["scales"] = draws.tensor(scale * 2 ** draws.rng.standard_normal((n, 3)))
        inputs["rotations"] = draws.directions(n, 4)
        inputs["shs"] = 0.5 * draws.normal(n, (sh_degree + 1) ** 2, 3)
    return Scene(inputs, view, draws.normal(5, height, width))


def settings_of(view: View, depth_z_gradient: bool = False) -> GaussianRasterizationSettings:
    """The extension's settings for a view."""
    return GaussianRasterizationSettings(
        view.height, view.width, view.tanfovx, view.tanfovy, view.bg, view.scale_modifier, view.viewmatrix,
        view.projmatrix, view.sh_degree, view.campos, False, False, depth_z_gradient, antialiasing=view.antialiasing,
    )  # fmt: skip


def settings_on(view: View, device: str, depth_z_gradient: bool = False) -> GaussianRasterizationSettings:
    """The extension's settings with their tensors on a device."""
    s = settings_of(view, depth_z_gradient)
    return s._replace(**{n: getattr(s, n).to(device) for n in ("bg", "viewmatrix", "projmatrix", "campos")})


def run_extension(scene: Scene, depth_z_gradient: bool = False, device: str = "cpu") -> Result:
    """Forward and backward of the installed extension on tensors of a device; the result is on the CPU."""
    leaves = {k: v.detach().clone().to(device).requires_grad_() for k, v in scene.inputs.items()}
    leaves["means2D"] = torch.zeros_like(leaves["means3D"], requires_grad=True)
    rasterizer = GaussianRasterizer(settings_on(scene.view, device, depth_z_gradient))
    color, radii, depth_alpha = rasterizer(**leaves)
    images = torch.cat([color, depth_alpha])
    (images * scene.weights.to(device)).sum().backward()
    gradients = {k: v.grad.cpu() for k, v in leaves.items()}
    return Result(images.detach().cpu(), radii.cpu(), gradients, rasterizer.n_dropped)


def three_views(precomputed: bool = False) -> list[Scene]:
    """Three cameras, backgrounds, scale modifiers and losses; SH degrees 0, 1, 2 of nine coefficients."""
    scenes = [random_scene(60 + k, n=90, height=33, width=49, sh_degree=2, precomputed=precomputed) for k in range(3)]
    for k, scene in enumerate(scenes):
        scene.view.sh_degree = k
        scene.view.scale_modifier = 1.0 - 0.1 * k
    return scenes


def run_views(scenes: list[Scene], depth_z: bool = False) -> list[Result]:
    """All scenes rendered by one call, with every view's own gradients."""
    leaves = [{k: v.detach().requires_grad_() for k, v in s.inputs.items()} for s in scenes]
    for inputs in leaves:
        inputs["means2D"] = torch.zeros_like(inputs["means3D"], requires_grad=True)
    rendered = rasterize_views([settings_of(s.view, depth_z) for s in scenes], leaves)
    images = [torch.cat([color, depth_alpha]) for color, _, depth_alpha in rendered]
    torch.stack([(image * s.weights).sum() for image, s in zip(images, scenes)]).sum().backward()
    gradients = [{k: v.grad for k, v in inputs.items()} for inputs in leaves]
    return [Result(i.detach(), r[1], g) for i, r, g in zip(images, rendered, gradients, strict=True)]


def run_reference(
    scene: Scene, depth_z_gradient: bool = False, true_gradient: bool = False, dtype: torch.dtype = torch.float64
) -> Result:
    """Forward and backward of the reference, on one thread: its tensors are small."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run_reference(scene, depth_z_gradient, true_gradient, dtype)
    finally:
        torch.set_num_threads(n_threads)


def _run_reference(scene: Scene, depth_z_gradient: bool, true_gradient: bool, dtype: torch.dtype) -> Result:
    leaves = {k: v.detach().to(dtype).requires_grad_() for k, v in scene.inputs.items()}
    means2d = torch.zeros_like(leaves["means3D"], requires_grad=True)
    v = scene.view
    view = replace(v, **{k: getattr(v, k).to(dtype) for k in ("bg", "viewmatrix", "projmatrix", "campos")})
    arguments = {REFERENCE_NAMES.get(k, k): x for k, x in leaves.items()}
    out = render(view, means2d=means2d, depth_z_gradient=depth_z_gradient, true_gradient=true_gradient, **arguments)
    images = torch.cat([out.color, out.depth_alpha])
    (images * scene.weights).sum().backward()
    leaves["means2D"] = means2d
    gradients = {k: torch.zeros_like(x) if x.grad is None else x.grad for k, x in leaves.items()}
    return Result(images.detach(), out.radii, gradients, 0, out.fragile, out.radius_fragile)


def without_fragile(scene: Scene) -> Scene:
    """The scene with no weight on the pixels where rounding may decide a cut."""
    fragile = run_reference(scene).fragile
    return replace(scene, weights=scene.weights * ~fragile)
