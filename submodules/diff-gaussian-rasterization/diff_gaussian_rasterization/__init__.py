# SPDX-License-Identifier: Apache-2.0
"""Differentiable rasterization of 3D Gaussians: colour, depth and transmittance.

    color, radii, depth_alpha = GaussianRasterizer(settings)(means3D, means2D, opacities, shs=..., scales=..., ...)

A family of packages shares this module's name and returns two, three or four values; `backend()` says that this is the
one with three. The names and numbers are those that LucidDreamer uses; `depth_z_gradient`, `backend`,
`antialiasing` and `rasterize_views` (several views at once) are additions.
Letters: N Gaussians, M spherical-harmonics coefficients, H W image.
"""

from ._rasterizer import (
    GaussianRasterizationSettings,
    GaussianRasterizer,
    backend,
    rasterize_views,
    uses_cuda,
    why_no_cuda,
)

__version__ = "1.0.0"
__all__ = [
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "__version__",
    "backend",
    "rasterize_views",
    "uses_cuda",
    "why_no_cuda",
]
