# SPDX-License-Identifier: Apache-2.0
"""The diffusion schedule as pure functions: no weights, no randomness, no config.

| symbol | name | shape | unit |
|---|---|---|---|
| abar | alpha_bar, cumulative product of 1 - beta | [B] | - |
| ind_t | index into the list of inference timesteps | [B] or int | index |
| t | timestep that the U-Net is called with | [B] or int | 0..T-1 |
| delta | distance ind_t - ind_prev of the interval score | int | index |

Letters of shapes: B views, C latent channels, h w latent size.
An index and a timestep differ by `steps_offset`; upstream used one for the other in places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor


def per_view(values: Tensor, like: Tensor) -> Tensor:
    """values [B] shaped and typed to multiply `like` [B,C,h,w]."""
    return values.to(like.dtype).view(-1, 1, 1, 1)


def scaled_linear_alphas(num_train_timesteps: int = 1000) -> Tensor:
    """alphas_cumprod [T] of Stable Diffusion's schedule, in float64."""
    roots = torch.linspace(0.00085**0.5, 0.012**0.5, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1 - roots.square(), dim=0)


def timesteps_of_indices(ind_t: Tensor, num_inference: int, num_train: int, steps_offset: int) -> Tensor:
    """Timesteps of schedule indices: ind_t * (num_train // num_inference) + steps_offset, at most num_train - 1."""
    return (ind_t * (num_train // num_inference) + steps_offset).clamp(0, num_train - 1)


def indices_of_timesteps(t: Tensor, num_inference: int, num_train: int, steps_offset: int) -> Tensor:
    """The inverse of `timesteps_of_indices` (rounded down where t lies between two indices)."""
    ind_t = torch.div(t - steps_offset, num_train // num_inference, rounding_mode="floor")
    return ind_t.clamp(0, num_inference - 1)


def add_noise(x_0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Eqs. (1), (4): x_t = sqrt(abar) x_0 + sqrt(1 - abar) noise; x_0, noise [B,C,h,w], alpha_bar [B]."""
    return per_view(alpha_bar, x_0).sqrt() * x_0 + (1 - per_view(alpha_bar, x_0)).sqrt() * noise


def predict_x0(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """The clean latents that x_t [B,C,h,w] and a noise prediction eps imply."""
    abar = per_view(alpha_bar, x_t)
    return (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()


PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def eps_of(output: Tensor, prediction_type: str, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noise prediction from what a network [B,C,h,w] was trained on, by diffusers' names:

    epsilon (the noise itself), v_prediction (v = sqrt(abar) eps - sqrt(1 - abar) x_0), sample (x_0).
    """
    abar = per_view(alpha_bar, x_t)
    if prediction_type == "v_prediction":
        return abar.sqrt() * output + (1 - abar).sqrt() * x_t
    if prediction_type == "sample":
        return (x_t - abar.sqrt() * output) / (1 - abar).sqrt()
    return output


def ddim_step(x: Tensor, eps: Tensor, abar_from: Tensor, abar_to: Tensor, eta: float = 0.0) -> Tensor:
    """One DDIM step of x [B,C,h,w] between two noise levels, in either direction.

    x_to = sqrt(abar_to) x0_hat + sqrt(1 - abar_to - s^2) eps with s^2 = min((1 - abar_to)/2, eta |variance|).
    """
    x0_hat = predict_x0(x, eps, abar_from)
    spread = _step_variance(per_view(abar_from, x), per_view(abar_to, x), eta)
    abar = per_view(abar_to, x)
    return abar.sqrt() * x0_hat + (1 - abar - spread).sqrt() * eps


def _step_variance(abar_from: Tensor, abar_to: Tensor, eta: float) -> Tensor:
    """s^2 of a DDIM step: min((1 - abar_to)/2, eta |variance|); 0 where the variance is 0/0 (a noiseless start)."""
    variance = (1 - abar_to) / (1 - abar_from) * (1 - abar_from / abar_to)
    variance = torch.where(abar_from < 1, variance, torch.zeros_like(variance))
    return torch.minimum((1 - abar_to) / 2, eta * variance.abs())


def timestep_weight(alpha_bar: Tensor, weighting: str) -> Tensor:
    """w(t) of Eqs. (5), (9), the weight on the residual; alpha_bar [B] -> [B].

    interval: sqrt((1 - abar) / abar). sigma_squared: 1 - abar. uniform: 1. alpha: sqrt(abar).
    alpha_sigma_squared: sqrt(abar) (1 - abar).

    DECISION: the paper leaves w(t) of Eqs. (5), (9) open; LucidDreamer's, on whose code it builds, is the default
    (field `weighting`).
    """
    if weighting == "sigma_squared":
        return 1 - alpha_bar
    if weighting == "uniform":
        return torch.ones_like(alpha_bar)
    if weighting == "alpha":
        return alpha_bar.sqrt()
    if weighting == "alpha_sigma_squared":
        return alpha_bar.sqrt() * (1 - alpha_bar)
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def annealed_delta(delta_t: int, delta_t_start: int, warm_up_rate: float, round_up: bool) -> int:
    """Interval length during warm-up: from delta_t_start (rate 1) down to delta_t (rate 0).

    Upstream's two step functions round differently and published runs used both: the plain one truncates the sum,
    Perp-Neg rounds the added part up (round_up).
    """
    extra = warm_up_rate * (delta_t_start - delta_t)
    return delta_t + math.ceil(extra) if round_up else int(delta_t + extra)


def index_range(
    num_inference: int, t_range: tuple[float, float], max_t_range: float, warm_up_rate: float
) -> tuple[int, int]:
    """Bounds [low, high) that ind_t is drawn from; the upper one shrinks from max_t_range to t_range[1] in warm-up."""
    low, high = int(num_inference * t_range[0]), int(num_inference * t_range[1])
    warm_up = int(num_inference * (max_t_range - t_range[1]))
    return low, high + int(warm_up * warm_up_rate)


@dataclass(frozen=True)
class InversionRound:
    """One U-Net call of the DDIM inversion: views `rows` go from index ind_from[k] to ind_to[k]."""

    rows: tuple[int, ...]
    ind_from: tuple[int, ...]
    ind_to: tuple[int, ...]

    def part(self, selected: Sequence[bool]) -> InversionRound | None:
        """The same for the selected of its views; None where no view is selected."""
        columns = (tuple(compress(column, selected)) for column in (self.rows, self.ind_from, self.ind_to))
        return InversionRound(*columns) if any(selected) else None


def inversion_path(ind_t: int, delta: int, xs_delta_t: int, xs_inv_steps: int) -> list[int]:
    """Indices that one view visits: start, start + xs_delta_t, ..., ind_prev, ind_t.

    Steps of xs_delta_t from max(ind_prev - xs_delta_t * xs_inv_steps, 0) until ind_prev, then one step of the interval.
    Upstream takes a step from ind_prev to itself where there is nothing to cover; it is kept, for it is a U-Net call
    that its traces show (the latents do not move).
    """
    ind_prev = max(ind_t - delta, 0)
    path = [max(ind_prev - xs_delta_t * xs_inv_steps, 0)]
    for _ in range(xs_inv_steps):
        path.append(min(path[-1] + xs_delta_t, ind_prev))
        if path[-1] == ind_prev:
            break
    return [*path, ind_t]


def inversion_rounds(paths: list[list[int]]) -> list[InversionRound]:
    """Arrange the views' paths so that round r holds the r-th step of every view that still has one."""
    rounds = []
    for step in range(max(len(path) for path in paths) - 1):
        rows = tuple(row for row, path in enumerate(paths) if step < len(path) - 1)
        rounds.append(
            InversionRound(
                rows,
                tuple(paths[row][step] for row in rows),
                tuple(paths[row][step + 1] for row in rows),
            )
        )
    return rounds
