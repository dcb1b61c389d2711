# SPDX-License-Identifier: Apache-2.0
"""Exact denoisers: the noise prediction of a Gaussian mixture, in closed form.

If clean latents follow sum_m w_m N(mu_m, std^2 I), then x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps follows
sum_m w_m N(sqrt(abar) mu_m, v I) with v = abar std^2 + 1 - abar, and the best prediction of eps is
-sqrt(1 - abar) * grad log p_t(x_t).  No weights, so guidance can be checked against formulas.
"""

import torch
from torch import Tensor


def mixture_eps(x_t: Tensor, alpha_bar: Tensor, means: Tensor, log_weights: Tensor, std: float) -> Tensor:
    """Noise prediction E[eps | x_t] of a Gaussian mixture.

    x_t [B,D], alpha_bar [B], means [M,D], log_weights [M] or [B,M] (need not be normalised; -inf switches a
    component off), std of every component.  Returns eps [B,D] in x_t's dtype.
    """
    root = alpha_bar.sqrt()[:, None]  # [B,1]
    variance = (alpha_bar * std**2 + 1 - alpha_bar)[:, None]  # [B,1]
    # |x_t|^2 is the same for every component and cancels in the softmax; leaving it out keeps precision.
    centre = means.mean(dim=0)  # [D]
    offsets = means - centre  # [M,D]
    dots = (x_t - root * centre) @ offsets.T  # [B,M]
    half_norms = offsets.square().sum(dim=1) / 2  # [M]
    logits = log_weights + (root * dots - alpha_bar[:, None] * half_norms) / variance
    responsibility = torch.exp(logits - torch.logsumexp(logits, dim=1, keepdim=True))  # [B,M]
    posterior_mean = centre + responsibility @ offsets  # [B,D]
    return (x_t - root * posterior_mean) * (1 - alpha_bar).sqrt()[:, None] / variance
