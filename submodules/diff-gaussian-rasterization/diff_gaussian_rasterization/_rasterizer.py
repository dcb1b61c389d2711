# SPDX-License-Identifier: Apache-2.0
"""Settings, module and autograd function; checks are in _checks, the C ABI in _abi."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from . import _abi, _checks, _cuda


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


def _on_cpu(inputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Copies that autograd follows, for a CUDA device that the library has no kernels for."""
    return [None if x is None else x.cpu() for x in inputs]


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _scene(settings: GaussianRasterizationSettings, arrays: dict[str, torch.Tensor | None]) -> _abi.Scene:
    means, shs = arrays["means"], arrays["shs"]
    assert means is not None
    return _abi.Scene(
        means.shape[0], 0 if shs is None else shs.shape[1], settings.sh_degree, settings.image_width,
        settings.image_height, settings.tanfovx, settings.tanfovy, settings.scale_modifier, torch.get_num_threads(),
        _abi.DEPTH_Z_GRADIENT if settings.depth_z_gradient else 0, *[_address(arrays[n]) for n in _abi.SCENE_ARRAYS],
    )  # fmt: skip


class _Rasterize(torch.autograd.Function):
    """Forward and backward of one view. `counts` receives n_dropped, n_pairs and state_bytes."""

    @staticmethod
    def forward(ctx, means, means2d, shs, colors, opacities, scales, rotations, cov3, settings, counts):
        h, w, n = settings.image_height, settings.image_width, means.shape[0]
        tensors = (means, shs, colors, opacities, scales, rotations, cov3, settings.viewmatrix, settings.projmatrix,
                   settings.campos, settings.bg)  # fmt: skip
        scene = _scene(settings, dict(zip(_abi.SCENE_ARRAYS, tensors)))
        color, depth_alpha = means.new_empty(3, h, w), means.new_empty(2, h, w)
        radii = means.new_empty(n, dtype=torch.int32)
        images = _abi.Images(color.data_ptr(), radii.data_ptr(), depth_alpha.data_ptr())
        handle = ctypes.c_void_p()
        _abi.check(_abi.LIBRARY.dgr_cpu_forward(ctypes.byref(scene), ctypes.byref(images), ctypes.byref(handle)))
        ctx.state = _abi.State(handle.value)
        counts.update(n_dropped=images.n_dropped, n_pairs=images.n_pairs, state_bytes=images.state_bytes)
        ctx.settings = settings
        ctx.means2d_shape = means2d.shape
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(radii)
        return color, radii, depth_alpha

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_color, _grad_radii, grad_depth_alpha):
        arrays = dict(zip(_abi.SCENE_ARRAYS, ctx.saved_tensors))
        incoming = [None if g is None else g.contiguous() for g in (grad_color, grad_depth_alpha)]
        outgoing = {n: None if n == "means2d" or arrays[n] is None else torch.empty_like(arrays[n])
                    for n in _abi.GRADIENT_ARRAYS}  # fmt: skip
        outgoing["means2d"] = arrays["means"].new_empty(ctx.means2d_shape)
        scene = _scene(ctx.settings, arrays)
        gradients = _abi.Gradients(*map(_address, incoming), *[_address(outgoing[n]) for n in _abi.GRADIENT_ARRAYS])
        _abi.check(_abi.LIBRARY.dgr_cpu_backward(ctypes.byref(scene), ctx.state.handle, ctypes.byref(gradients)))
        return *[outgoing[name] for name in _abi.GRADIENT_ARRAYS], None, None


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
        visible = torch.empty(positions.shape[0], dtype=torch.bool)
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
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
        _checks.one_of(shs, colors_precomp, scales, rotations, cov3D_precomp)
        if not isinstance(means3D, torch.Tensor):
            raise ValueError(f"means3D is a {type(means3D).__name__}, expected a torch.Tensor")
        device = means3D.device
        _check_device(device)

        def checked(name: str, value: torch.Tensor | None, *shapes: tuple[Any, ...]) -> torch.Tensor | None:
            return None if value is None else _checks.tensor(name, value, shapes, device)

        means = _checks.tensor("means3D", means3D, (("N", 3),), device)
        n = means.shape[0]
        shs = checked("shs", shs, (n, "M", 3))
        s = self.raster_settings
        _checks.settings(s, None if shs is None else shs.shape[1])
        s = s._replace(
            bg=checked("bg", s.bg, (3,)), viewmatrix=checked("viewmatrix", s.viewmatrix, (4, 4)),
            projmatrix=checked("projmatrix", s.projmatrix, (4, 4)), campos=checked("campos", s.campos, (3,)),
        )  # fmt: skip
        inputs = [
            means,
            checked("means2D", means2D, (n, 3)),
            shs,
            checked("colors_precomp", colors_precomp, (n, 3)),
            checked("opacities", opacities, (n, 1), (n,)),
            checked("scales", scales, (n, 3)),
            checked("rotations", rotations, (n, 4)),
            checked("cov3D_precomp", cov3D_precomp, (n, 6)),
        ]
        if _cuda.usable(device):
            return _cuda.Rasterize.apply(*inputs, (s,), (), self.counts)
        if device.type == "cpu":
            return _Rasterize.apply(*inputs, s, self.counts)
        s = s._replace(**{name: getattr(s, name).cpu() for name in ("bg", "viewmatrix", "projmatrix", "campos")})
        color, radii, depth_alpha = _Rasterize.apply(*_on_cpu(inputs), s, self.counts)
        return color.to(device), radii.to(device), depth_alpha.to(device)
