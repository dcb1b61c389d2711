# SPDX-License-Identifier: Apache-2.0
"""VSD's model of the run's own renders in closed form: the posterior over those of the last steps, no network."""

from collections import deque
from typing import Any

import torch
from torch import Tensor

from guidance.predictor import Cameras
from toy.posterior import ImageTable, NoiseLevel, posterior_mean

MOST_RENDERS = 16
AZIMUTH_WIDTH_DEG = 30.0
"""How near a render has to be for a camera's prediction; |azimuth|, for views are mirrored at random."""


class Particles:
    """guidance.predictor.Predictor: remembers the last renders, latents [3,h,w] of `scale`, with their azimuths.

    kernel_std: blur around each render, as the ideal prior has around its images; offset_std: see toy.posterior.
    """

    def __init__(self, alphas_cumprod: Tensor, scale: float, kernel_std: float, offset_std: float) -> None:
        self.alphas_cumprod, self.scale = alphas_cumprod, scale
        self.kernel_std, self.offset_std = kernel_std, offset_std
        self.load_state_dict({})

    def predict_noise(self, x_t: Tensor, t: Tensor, cameras: Cameras | None) -> Tensor | None:
        """E[noise | x_t] if the clean image is one of the renders: all alike without cameras, else those nearby."""
        if not self.renders:
            return None
        abar = self.alphas_cumprod[t].to(x_t.dtype)
        a, sigma = abar.sqrt(), (1 - abar).sqrt()
        level = NoiseLevel(a, sigma / self.scale, self.kernel_std, self.offset_std)
        table = ImageTable.build(torch.stack(list(self.renders)) / self.scale)
        log_prior = self._log_prior(cameras, len(x_t)).to(x_t)
        clean = self.scale * posterior_mean(x_t / self.scale, level, table, log_prior, mirrored=False)
        return (x_t - a.view(-1, 1, 1, 1) * clean) / sigma.view(-1, 1, 1, 1)

    def _log_prior(self, cameras: Cameras | None, views: int) -> Tensor:
        if cameras is None:
            return torch.zeros(views, len(self.renders))
        azimuth = cameras.azimuth_deg.abs()
        away = (azimuth[:, None] - torch.tensor(list(self.azimuth_deg)).abs().to(azimuth.device)) / AZIMUTH_WIDTH_DEG
        return -away.square() / 2

    def observe(self, x: Tensor, cameras: Cameras) -> None:
        """The renders of a step take the places of the oldest."""
        self.renders.extend(x.unbind())
        self.azimuth_deg.extend(cameras.azimuth_deg.tolist())

    def state_dict(self) -> dict[str, Any]:
        """Renders [n,3,h,w] and azimuths."""
        if not self.renders:
            return {}
        return {"renders": torch.stack(list(self.renders)), "azimuth_deg": list(self.azimuth_deg)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self.renders: deque[Tensor] = deque(state.get("renders", ()), MOST_RENDERS)
        self.azimuth_deg: deque[float] = deque(state.get("azimuth_deg", ()), MOST_RENDERS)
