# SPDX-License-Identifier: Apache-2.0
"""Settings, the module and the function for several views.

Checks are in _checks, the backends in _host and _cuda, the C ABI in _abi.

Letters: B views, N Gaussians, M spherical-harmonics coefficients, H W image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from . import _abi, _checks, _cuda, _host

BACKENDS = ("auto", "cuda", "cpu")

Rendered = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
INPUTS = ("means3D", "means2D", "shs", "colors_precomp", "opacities", "scales", "rotations", "cov3D_precomp")


class GaussianRasterizationSettings(NamedTuple):
    """One view. Matrices are transposed (they act on row vectors); `bg` has three values; tanfov is tan(fov/2)."""

    image_height: int
    image_width: int
    tanfovx: float
    tanfovy: float
    bg: torch.Tensor  # [3]
    scale_modifier: float
    viewmatrix: torch.Tensor  # [4,4]
    projmatrix: torch.Tensor  # [4,4]
    sh_degree: int
    campos: torch.Tensor  # [3]
    prefiltered: bool = False  # accepted for upstream's sake; culling never needs the promise
    debug: bool = False  # accepted for upstream's sake
    depth_z_gradient: bool = False  # whether depth also sends gradient to the Gaussian's own z
    backend: str = "auto"  # of CUDA tensors: auto, the kernels or else the CPU; cuda, the kernels or an error; cpu
    antialiasing: bool = False  # whether the blur of 0.3 px^2 lowers opacities, so that it adds nothing (Mip-Splatting)


def backend() -> dict[str, Any]:
    """Says what this module is: package, number of returned tensors, ABI, the CPU loops in use, and CUDA.

    "cuda" lists the compute capabilities compiled for ("90-ptx": compiled further by the driver of a newer device), or
    is None; then "why_no_cuda" says why, and CUDA tensors are carried to the CPU and back.
    """
    return {
        "package": "diff_gaussian_rasterization (colour, radii, depth_alpha)",
        "outputs": 3,
        "abi": _abi.ABI,
        "cpu": _abi.LIBRARY.dgr_isa().decode(),
        "cuda": _cuda.archs(),
        "why_no_cuda": _cuda.WHY_NOT,
    }


def _check_device(device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"means3D is on {device}; expected a tensor on the CPU or on a CUDA device")


def why_no_cuda(device: torch.device) -> str | None:
    """Why CUDA tensors on this device are rendered by the CPU; None where the CUDA kernels render them."""
    return _cuda.why_not(device)


def uses_cuda(device: torch.device) -> bool:
    """Whether the CUDA kernels render tensors on this device; a warning, once, where they should and do not."""
    return _cuda.usable(device)


def _uses_kernels(device: torch.device, backend: str) -> bool:
    """Whether the CUDA kernels render. ValueError where they are asked for and do not run on the device."""
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if backend == "cuda" and not _cuda.usable(device):
        reason = _cuda.why_not(device) if device.type == "cuda" else f"the tensors are on {device}"
        raise ValueError(f"backend is 'cuda', but the CUDA kernels cannot render: {reason}. Use 'auto' or 'cpu'")
    return backend != "cpu" and _cuda.usable(device)


def _render(
    settings: Sequence[Any], views: Sequence[Sequence[torch.Tensor | None]], counts: dict[str, Any]
) -> list[Rendered]:
    """Checked views to the backend of their device; from a CUDA device without kernels to the CPU and back."""
    assert views[0][0] is not None
    device = views[0][0].device
    flat = [x for view in views for x in view]
    if _uses_kernels(device, settings[0].backend):
        outputs = _cuda.rasterize(tuple(settings), counts, *flat)
    elif device.type == "cpu":
        outputs = _host.Rasterize.apply(tuple(settings), counts, *flat)
    else:
        names = ("bg", "viewmatrix", "projmatrix", "campos")
        settings = tuple(s._replace(**{name: getattr(s, name).cpu() for name in names}) for s in settings)
        on_host = _host.Rasterize.apply(settings, counts, *[None if x is None else x.cpu() for x in flat])
        outputs = tuple(x.to(device) for x in on_host)
    return [(outputs[k], outputs[k + 1], outputs[k + 2]) for k in range(0, len(outputs), 3)]


def _checked(
    s: GaussianRasterizationSettings, means3D: Any, means2D: Any, opacities: Any, shs: Any = None,
    colors_precomp: Any = None, scales: Any = None, rotations: Any = None, cov3D_precomp: Any = None,
) -> tuple[GaussianRasterizationSettings, list[torch.Tensor | None]]:  # fmt: skip
    """One view's settings, and its inputs in the order of INPUTS; contiguous."""
    _checks.one_of(shs, colors_precomp, scales, rotations, cov3D_precomp)
    if not isinstance(means3D, torch.Tensor):
        raise ValueError(f"means3D is a {type(means3D).__name__}, expected a torch.Tensor")
    device = means3D.device
    _check_device(device)

    def required(name: str, value: Any, *shapes: tuple[Any, ...]) -> torch.Tensor:
        return _checks.tensor(name, value, shapes, device)

    def optional(name: str, value: Any, *shapes: tuple[Any, ...]) -> torch.Tensor | None:
        return None if value is None else required(name, value, *shapes)

    means = required("means3D", means3D, ("N", 3))
    n = len(means)
    shs = optional("shs", shs, (n, "M", 3))
    _checks.settings(s, None if shs is None else shs.shape[1])
    small = {"bg": (3,), "viewmatrix": (4, 4), "projmatrix": (4, 4), "campos": (3,)}
    tensors: dict[str, Any] = {k: required(k, getattr(s, k), shape) for k, shape in small.items()}
    return s._replace(**tensors), [
        means,
        required("means2D", means2D, (n, 3)),
        shs,
        optional("colors_precomp", colors_precomp, (n, 3)),
        required("opacities", opacities, (n, 1), (n,)),
        optional("scales", scales, (n, 3)),
        optional("rotations", rotations, (n, 4)),
        optional("cov3D_precomp", cov3D_precomp, (n, 6)),
    ]


def rasterize_views(
    settings: Sequence[GaussianRasterizationSettings], inputs: Sequence[Mapping[str, torch.Tensor]]
) -> list[Rendered]:
    """Renders several views together: in threads on the CPU, in one launch of each kernel on a CUDA device.

    Views may share tensors; a tensor gets the sum of the gradients of the views that it was given to. For the gradient
    of each view apart, give each its own `x.detach().requires_grad_()`, which copies nothing.

    Args:
        settings: one for each view, all of one image size, depth_z_gradient and antialiasing.
        inputs: for each view what GaussianRasterizer takes, by name; in all views the same ones, of the same shapes.
    Returns:
        (color, radii, depth_alpha) of each view, to the bit as GaussianRasterizer gives them.
    Raises:
        ValueError: as GaussianRasterizer, or for views that differ in what they must share.
    """
    if len(settings) == 0 or len(settings) != len(inputs):
        given = f"{len(settings)} settings and {len(inputs)} inputs given"
        raise ValueError(f"{given}: give one GaussianRasterizationSettings and one dict of inputs for each view")
    checked = [_checked(s, **view) for s, view in zip(settings, inputs, strict=True)]
    views, arrays = [s for s, _ in checked], [x for _, x in checked]
    _checks.same_in_all_views(views, arrays, INPUTS)
    step = _cuda.MAX_VIEWS
    parts = [_render(views[k : k + step], arrays[k : k + step], {}) for k in range(0, len(views), step)]
    return [rendered for part in parts for rendered in part]


class GaussianRasterizer(nn.Module):
    """Renders one view. After a call, `n_dropped` tells how many Gaussians were left out as not finite."""

    def __init__(self, raster_settings: GaussianRasterizationSettings) -> None:
        super().__init__()
        self.raster_settings = raster_settings
        self.counts: dict[str, Any] = {"n_dropped": 0, "n_pairs": 0, "state_bytes": 0}

    @property
    def n_dropped(self) -> int:
        """Gaussians of the last call with a NaN or infinite position, shape, opacity or colour.

        On a CUDA device asking waits for the call to end.
        """
        return int(self.counts["n_dropped"])

    @torch.no_grad()
    def markVisible(self, positions: torch.Tensor) -> torch.Tensor:
        """Bool mask [N] of the positions [N,3] in front of the near plane (view z > 0.2)."""
        device = positions.device
        _check_device(device)
        positions = _checks.tensor("positions", positions, (("N", 3),), device)
        view = _checks.tensor("viewmatrix", self.raster_settings.viewmatrix, ((4, 4),), device)
        if _cuda.usable(device):
            return _cuda.mark_visible(positions, view)
        positions, view = positions.cpu(), view.cpu()
        visible = torch.empty(positions.shape[0], dtype=torch.bool, device="cpu")
        _abi.LIBRARY.dgr_cpu_mark_visible(positions.shape[0], positions.data_ptr(), view.data_ptr(), visible.data_ptr())
        return visible.to(device)

    def forward(
        self,
        means3D: torch.Tensor,
        means2D: torch.Tensor,
        opacities: torch.Tensor,
        shs: torch.Tensor | None = None,
        colors_precomp: torch.Tensor | None = None,
        scales: torch.Tensor | None = None,
        rotations: torch.Tensor | None = None,
        cov3D_precomp: torch.Tensor | None = None,
    ) -> Rendered:
        """Renders the Gaussians.

        Args:
            means3D: [N,3] world positions. means2D: [N,3], read by nobody; its gradient is dL/d(NDC position).
            opacities: [N,1]. shs: [N,M,3] or colors_precomp: [N,3]. scales [N,3] and rotations [N,4] (w,x,y,z, not
            normalised here) or cov3D_precomp: [N,6] (xx, xy, xz, yy, yz, zz).
        Returns:
            color [3,H,W]; radii [N] int32 in pixels, 0 where nothing is drawn; depth_alpha [2,H,W]: depth summed with
            the blending weights, and the remaining transmittance (1 = empty).
        Raises:
            ValueError: for a tensor of the wrong type, dtype, device or shape, by name. Non-contiguous ones are copied.
        """
        inputs = (means3D, means2D, opacities, shs, colors_precomp, scales, rotations, cov3D_precomp)
        settings, arrays = _checked(self.raster_settings, *inputs)
        return _render([settings], [arrays], self.counts)[0]
