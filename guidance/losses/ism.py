# SPDX-License-Identifier: Apache-2.0
"""ISM, interval score matching: the guided prediction is compared with that of the DDIM inversion at ind_prev."""

from collections.abc import Sequence

import torch
from torch import Tensor

from guidance import sd_step
from guidance.feature_cache import inversion_calls
from guidance.losses.base import Loss, Residual, timesteps_of
from guidance.prior import Conditioning, Prior, guided_noise
from utils.device import send


class ISM(Loss):
    """LucidDreamer's loss. The interval delta is annealed over the warm-up."""

    def __call__(
        self,
        prior: Prior,
        latents: Tensor,
        noise: Tensor,
        ind_t: Tensor,
        conditioning: Conditioning,
        warm_up_rate: float = 0.0,
    ) -> Residual:
        """Inversion, then one guided call. The host reads ind_t, which decides the calls, and nothing else."""
        params, delta = self.params, self.params.delta_t
        if params.annealing_intervals:
            delta = sd_step.annealed_delta(delta, params.delta_t_start, warm_up_rate, round_up=params.perpneg)
        indices = ind_t.tolist()
        t = prior.timesteps_of(send(indices, latents.device))
        x_t, target, calls = self.invert(prior, latents, noise, indices, delta, conditioning)
        eps_hat = guided_noise(prior, x_t, t, conditioning, params.guidance_scale)
        return Residual(x_t, eps_hat, target, t, [*calls, *timesteps_of(prior, indices[:1])])

    def invert(
        self,
        prior: Prior,
        latents: Tensor,
        noise: Tensor,
        indices: Sequence[int],
        delta: int,
        conditioning: Conditioning,
    ) -> tuple[Tensor, Tensor, list[int]]:
        """DDIM inversion of every view to its own index: x_t, the last step's noise prediction, first view's timesteps.

        One network call a round for all views that still have a step to take. The prediction is that of the inverse
        text alone, or guided when denoise_guidance_scale s exceeds 1: cond + s (uncond - cond), kept from upstream.
        """
        params, device = self.params, latents.device
        paths = [sd_step.inversion_path(k, delta, params.xs_delta_t, params.xs_inv_steps) for k in indices]
        start = prior.timesteps_of(send([path[0] for path in paths], device))
        x = sd_step.add_noise(latents, noise, prior.alphas_cumprod[start])
        target = torch.zeros_like(x)
        is_guided = params.denoise_guidance_scale > 1
        for step, predict_noise in inversion_calls(prior, paths, params.unet_cache_interval):
            rows = send(step.rows, device)
            t_from = prior.timesteps_of(send(step.ind_from, device))
            t_to = prior.timesteps_of(send(step.ind_to, device))
            texts = [*([conditioning.uncond[rows]] if is_guided else []), conditioning.inverse[rows]]
            count = len(texts)
            batch = x[rows].repeat(count, 1, 1, 1), t_from.repeat(count), torch.cat(texts)
            eps = predict_noise(*batch, *conditioning.control_for(count, rows))
            if is_guided:
                uncond, cond = eps.chunk(2)
                eps = cond + params.denoise_guidance_scale * (uncond - cond)
            abar_from, abar_to = prior.alphas_cumprod[t_from], prior.alphas_cumprod[t_to]
            x = x.index_copy(0, rows, sd_step.ddim_step(x[rows], eps, abar_from, abar_to, params.xs_eta))
            target = target.index_copy(0, rows, eps)  # rounds end with each view's last step, so the last copy stays
        return x, target, timesteps_of(prior, paths[0][:-1])
