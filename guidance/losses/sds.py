# SPDX-License-Identifier: Apache-2.0
"""SDS, score distillation sampling: the guided prediction is compared with the noise."""

from torch import Tensor

from guidance import sd_step
from guidance.losses.base import Loss, Residual, timesteps_of
from guidance.prior import Conditioning, Prior, guided_noise
from utils.device import send


class SDS(Loss):
    """Eq. (5): eps_hat(x_t) - noise."""

    def __call__(
        self,
        prior: Prior,
        latents: Tensor,
        noise: Tensor,
        ind_t: Tensor,
        conditioning: Conditioning,
        warm_up_rate: float = 0.0,
    ) -> Residual:
        """One network call. The host reads ind_t, as every loss does."""
        indices = ind_t.tolist()
        t = prior.timesteps_of(send(indices, latents.device))
        x_t = sd_step.add_noise(latents, noise, prior.alphas_cumprod[t])
        eps_hat = guided_noise(prior, x_t, t, conditioning, self.params.guidance_scale)
        return Residual(x_t, eps_hat, noise, t, timesteps_of(prior, indices[:1]))
