# SPDX-License-Identifier: Apache-2.0
"""CoGrad on someone else's parameters, without renderer or diffusion model: python examples/cograd_on_any_parameters.py

Points in space are fitted to where they are seen on a screen, from poses of a view space. In the place of a diffusion
model stands noise that grows with the timestep. docs/using_cograd.md explains the calls.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

from dataclasses import dataclass

import torch
from torch import Tensor

from cograd import CoGrad, CoGradParams

STEPS, VIEWS, POINTS, RATE = 300, 4, 64, 0.25


@dataclass(frozen=True)
class RowMap:
    """Row k of the new set came from old row source[k]; is_new rows carry no history."""

    source: Tensor
    is_new: Tensor


def on_screen(points: Tensor, theta_deg: Tensor, phi_deg: Tensor) -> Tensor:
    """Where points [N, 3] are seen from far away: [N, 2]."""
    theta, phi = torch.deg2rad(theta_deg.float()), torch.deg2rad(phi_deg.float())
    right = torch.stack([phi.cos(), -phi.sin(), torch.zeros(())])
    up = torch.stack([-theta.cos() * phi.sin(), -theta.cos() * phi.cos(), theta.sin()])
    return points @ torch.stack([right, up], dim=1)


def fit() -> tuple[float, int]:
    """(root mean square distance of the fitted points from the true ones, gradients that were fused)."""
    generator, fused_count = torch.Generator().manual_seed(0), 0
    truth, points = torch.randn(POINTS, 3, generator=generator), torch.zeros(POINTS, 3)
    alphas_cumprod = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2, dim=0)
    params = CoGradParams(azimuth_levels=12, max_step_share=0.3)
    cograd = CoGrad(params, alphas_cumprod, STEPS, fixed_names=())

    for step in range(1, STEPS + 1):
        plan = cograd.plan(step, VIEWS, generator)
        poses = cograd.grid.sample_poses(plan.regions, generator)
        total, losses, gradients = torch.zeros_like(points), [], []
        for v, (region, t) in enumerate(zip(plan.regions.tolist(), plan.t.tolist())):
            points.requires_grad_()
            noise = 0.2 * t / 1000 * torch.randn(len(points), 2, generator=generator)
            seen = [on_screen(x, poses.theta_deg[v], poses.phi_deg[v]) for x in (points, truth)]
            loss = (seen[0] - seen[1] - noise).square().sum(dim=1).mean()
            g_main = {"points": torch.autograd.grad(loss, points)[0]}  # one vector: all tensors that you train, by name
            result = cograd.fuse(step, region, t, g_main)  # Eq. (10)
            total, fused_count = total + result.g_fused["points"], fused_count + len(result.cosines)
            losses.append(loss.detach())
            gradients.append(g_main)  # the bank keeps g_main, never g_fused
        cograd.observe(step, plan.regions, plan.t, torch.stack(losses), gradients)
        points = points.detach() - RATE * len(points) / VIEWS * total  # your optimizer's step

        if step == STEPS // 2:  # rows may be removed, moved and added: here every eighth is removed
            kept = torch.arange(len(points))[torch.arange(len(points)) % 8 > 0]
            points, truth = points[kept], truth[kept]
            cograd.remap_rows(RowMap(kept, torch.zeros(len(kept), dtype=torch.bool)))

    error = float((points - truth).square().sum(dim=1).mean().sqrt())
    start = float(truth.square().sum(dim=1).mean().sqrt())
    print(f"distance from the truth: {error:.3f} after {STEPS} steps, {start:.3f} at the start")
    print(f"fused gradients: {fused_count}; regions below five visits: {cograd.history.starved_share():.0%}")
    return error, fused_count


def main(argv: list[str]) -> None:
    """It has no options."""
    fit()


if __name__ == "__main__":
    program.run(main)
