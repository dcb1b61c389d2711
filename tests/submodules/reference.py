# SPDX-License-Identifier: Apache-2.0
"""The rasterizer written down once more, from its equations, in plain torch float64: what the kernels are held to.

Every Gaussian meets every pixel, so it is for small scenes. Gradients come from autograd; with `true_gradient=False`
they follow the convention of the original at its three clamps, with `True` they are the exact derivative.
Letters: N Gaussians, M spherical-harmonics coefficients, P = H*W pixels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TILE_PX = 16


@dataclass
class View:
    """One camera and the render settings, as in GaussianRasterizationSettings."""

    height: int
    width: int
    tanfovx: float
    tanfovy: float
    bg: Tensor  # [3]
    viewmatrix: Tensor  # [4,4] transposed
    projmatrix: Tensor  # [4,4] transposed
    campos: Tensor  # [3]
    sh_degree: int = 0
    scale_modifier: float = 1.0
    antialiasing: bool = False


@dataclass
class Rendered:
    """Outputs; `fragile` marks the pixels that rounding may push over one of the cuts."""

    color: Tensor  # [3,H,W]
    radii: Tensor  # [N]
    depth_alpha: Tensor  # [2,H,W]
    fragile: Tensor  # [H,W] bool
    radius_fragile: Tensor  # [N] bool


def rotation(q: Tensor) -> Tensor:
    """R(q) [N,3,3] of q = (w,x,y,z) [N,4], not normalised."""
    w, x, y, z = q.unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def covariance3(scales: Tensor | None, rotations: Tensor | None, cov3: Tensor | None, modifier: float) -> Tensor:
    """Sigma [N,3,3] from scales and rotations, or from the six entries xx, xy, xz, yy, yz, zz."""
    if cov3 is not None:
        return cov3[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    m = rotation(rotations) * (scales * modifier)[:, None, :]
    return m @ m.transpose(1, 2)


def covariance2(view: View, t: Tensor, sigma: Tensor, true_gradient: bool) -> Tensor:
    """J W Sigma W^T J^T + 0.3 I [N,2,2] at view-space points t [N,3], with t.x/t.z and t.y/t.z clamped inside J."""
    z, clamped = t[:, 2], []
    for c, tan in ((0, view.tanfovx), (1, view.tanfovy)):
        limit = 1.3 * tan
        u = t[:, c] / z
        inside = u.abs() <= limit
        at_limit = u.clamp(-limit, limit) * z
        clamped.append(torch.where(inside, t[:, c], at_limit if true_gradient else at_limit.detach()))
    fx, fy, o = view.width / (2 * view.tanfovx), view.height / (2 * view.tanfovy), torch.zeros_like(z)
    jac = torch.stack([fx / z, o, -fx * clamped[0] / z**2, o, fy / z, -fy * clamped[1] / z**2], -1).reshape(-1, 2, 3)
    jw = jac @ view.viewmatrix[:3, :3].T
    return jw @ sigma @ jw.transpose(1, 2) + 0.3 * torch.eye(2, dtype=z.dtype)


def real_harmonics(degree: int, d: Tensor) -> Tensor:
    """Basis values [N,(degree+1)^2] at unit vectors d [N,3], Condon-Shortley phase as in 3D Gaussian splatting."""
    x, y, z = d.unbind(-1)
    pi = math.pi
    b = [torch.full_like(x, 0.5 / math.sqrt(pi))]
    if degree > 0:
        c = math.sqrt(3 / (4 * pi))
        b += [-c * y, c * z, -c * x]
    if degree > 1:
        c = math.sqrt(15 / (4 * pi))
        b += [c * x * y, -c * y * z, math.sqrt(5 / (16 * pi)) * (2 * z * z - x * x - y * y), -c * x * z,
              c / 2 * (x * x - y * y)]  # fmt: skip
    if degree > 2:
        c3, c2, c1 = math.sqrt(35 / (32 * pi)), math.sqrt(105 / (4 * pi)), math.sqrt(21 / (32 * pi))
        b += [-c3 * y * (3 * x * x - y * y), c2 * x * y * z, -c1 * y * (4 * z * z - x * x - y * y),
              math.sqrt(7 / (16 * pi)) * z * (2 * z * z - 3 * x * x - 3 * y * y), -c1 * x * (4 * z * z - x * x - y * y),
              c2 / 2 * z * (x * x - y * y), -c3 * x * (x * x - 3 * y * y)]  # fmt: skip
    return torch.stack(b, -1)


def colors_of(view: View, means: Tensor, shs: Tensor) -> Tensor:
    """Colours [N,3]: harmonics of the direction from the camera, + 0.5, clamped below at 0."""
    basis = real_harmonics(view.sh_degree, torch.nn.functional.normalize(means - view.campos, dim=-1))
    return torch.relu(0.5 + (basis[:, :, None] * shs[:, : basis.shape[1]]).sum(1))


def tile_rectangle(center_px: Tensor, radius: Tensor, view: View) -> tuple[Tensor, Tensor]:
    """First and one-past-last tile [N,2] that the square of the radius touches, cut to the grid."""
    grid = torch.tensor([-(-view.width // TILE_PX), -(-view.height // TILE_PX)], dtype=center_px.dtype)
    zero = torch.zeros_like(grid)
    first = torch.trunc((center_px - radius[:, None]) / TILE_PX).clamp(zero, grid)
    last = torch.trunc((center_px + radius[:, None] + TILE_PX - 1) / TILE_PX).clamp(zero, grid)
    return first, last


def near_integer(x: Tensor, tolerance: float) -> Tensor:
    """Whether x is within `tolerance` of an integer."""
    return (x - x.round()).abs() < tolerance


def render(
    view: View, means: Tensor, opacities: Tensor, *, means2d: Tensor | None = None, shs: Tensor | None = None,
    colors: Tensor | None = None, scales: Tensor | None = None, rotations: Tensor | None = None,
    cov3: Tensor | None = None, depth_z_gradient: bool = False, true_gradient: bool = False,
) -> Rendered:  # fmt: skip
    """Renders float64 tensors; `means2d` [N,3] (zeros) receives the gradient with respect to the NDC position."""
    homogeneous = torch.cat([means, torch.ones_like(means[:, :1])], 1)
    t = (homogeneous @ view.viewmatrix)[:, :3]
    clip = homogeneous @ view.projmatrix
    ndc = clip[:, :2] / (clip[:, 3:] + 1e-7)
    if means2d is not None:
        ndc = ndc + means2d[:, :2]
    size = torch.tensor([view.width, view.height], dtype=ndc.dtype)
    center_px = ((ndc + 1) * size - 1) / 2
    cov2 = covariance2(view, t, covariance3(scales, rotations, cov3, view.scale_modifier), true_gradient)
    det = torch.linalg.det(cov2)
    opacities = opacities.reshape(-1)
    if view.antialiasing:
        opacities = opacities * (torch.linalg.det(cov2 - 0.3 * torch.eye(2, dtype=det.dtype)) / det).clamp(1e-6, 1).sqrt()
    mid = (cov2[:, 0, 0] + cov2[:, 1, 1]) / 2
    reach = 3 * (mid + (mid**2 - det).clamp_min(0.1).sqrt()).sqrt()
    first, last = tile_rectangle(center_px, reach.ceil(), view)
    visible = (t[:, 2] > 0.2) & (det != 0) & ((last - first) > 0).all(1)
    edges = torch.cat([center_px - reach.ceil()[:, None], center_px + reach.ceil()[:, None] - 1], 1) / TILE_PX
    radius_fragile = (near_integer(reach, 1e-3) | near_integer(edges, 1e-5).any(1)) & (t[:, 2] > 0.19)
    order = torch.argsort(t[:, 2], stable=True)
    order = order[visible[order]]
    color = colors if colors is not None else colors_of(view, means, shs)
    depth = t[:, 2] if depth_z_gradient else t[:, 2].detach()
    images, fragile = blend(
        view, center_px[order], torch.linalg.inv(cov2[order]), opacities[order],
        torch.cat([color, depth[:, None]], 1)[order], (first[order], last[order]), radius_fragile[order], true_gradient,
    )  # fmt: skip
    radii = torch.where(visible, reach.ceil(), torch.zeros_like(reach)).int().detach()
    return Rendered(images[:3], radii, images[3:], fragile, radius_fragile)


def blend(
    view: View, center_px: Tensor, conic: Tensor, opacity: Tensor, values: Tensor, tiles: tuple[Tensor, Tensor],
    radius_fragile: Tensor, true_gradient: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Images [5,H,W] (colour over background, depth, transmittance) and fragile pixels, from sorted Gaussians."""
    ys, xs = torch.meshgrid(torch.arange(view.height), torch.arange(view.width), indexing="ij")
    pixel = torch.stack([xs, ys], -1).reshape(-1, 2).to(center_px.dtype)
    d = center_px[:, None] - pixel  # [N,P,2]
    power = -0.5 * torch.einsum("npi,nij,npj->np", d, conic, d)
    raw = opacity[:, None] * torch.where(power > 0, torch.full_like(power, -1e3), power).exp()  # exp(power > 0) may overflow
    alpha = raw.clamp_max(0.99) if true_gradient else raw + (raw.clamp_max(0.99) - raw).detach()
    tile = torch.div(pixel, TILE_PX, rounding_mode="floor")
    in_tiles = ((tile >= tiles[0][:, None]) & (tile < tiles[1][:, None])).all(-1)
    alpha = torch.where((power <= 0) & (alpha >= 1 / 255) & in_tiles, alpha, torch.zeros_like(alpha))
    after = torch.cumprod(1 - alpha, 0)
    alpha = torch.where(after >= 1e-4, alpha, torch.zeros_like(alpha))  # from the first Gaussian below the limit on
    after = torch.cumprod(1 - alpha, 0)
    ones = torch.ones_like(after[:1]) if len(after) else torch.ones(1, len(pixel), dtype=pixel.dtype)
    before = torch.cat([ones, after])
    summed = values.T @ (alpha * before[:-1])  # [4,P]
    transmittance = before[-1:]
    images = torch.cat([summed[:3] + view.bg[:, None] * transmittance, summed[3:], transmittance])
    fragile = fragile_pixels(power.abs(), raw, radius_fragile, in_tiles)
    return images.reshape(5, view.height, view.width), fragile.reshape(view.height, view.width)


def fragile_pixels(power: Tensor, raw: Tensor, radius_fragile: Tensor, in_tiles: Tensor) -> Tensor:
    """Pixels [P] where a Gaussian is within rounding of the 1/255, 0.99, T, power or tile cut."""
    with torch.no_grad():
        near_cut = (power < 1e-5) | ((raw * 255 - 1).abs() < 2e-4) | ((raw / 0.99 - 1).abs() < 1e-5)
        passing = torch.where((raw >= 1 / 255) & in_tiles, raw.clamp_max(0.99), torch.zeros_like(raw))
        near_stop = (torch.cumprod(1 - passing, 0) / 1e-4 - 1).abs() < 1e-3
        tile_cut = radius_fragile[:, None] & (raw > 0.9 / 255)
        return (near_cut | near_stop | tile_cut).any(0)
