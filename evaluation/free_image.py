# SPDX-License-Identifier: Apache-2.0
"""A distillation law on a free image instead of a scene: one image is optimised, no renderer and no camera moves."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from arguments import Config
from guidance.losses import Loss
from guidance.predictor import Cameras
from guidance.prior import Prior
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from utils.random_streams import RandomStreams

FRONT_DEG = 0.0
BETAS = (0.9, 0.99)  # the field's for free images; the second moment forgets in 100 steps


@dataclass(frozen=True)
class FreeImageStep:
    """The image [3, H, W] in [0, 1] after a step, the law's loss in it and its timestep."""

    iteration: int
    image: Tensor
    loss: float
    t: int


def _unchanged(latents: Tensor, *_: object) -> Tensor:
    return latents


def distill_image(
    config: Config, prior: Prior, prompts: PromptEmbeddings, steps: int, rate: float, as_latents: bool = False
) -> Iterator[FreeImageStep]:
    """The steps of Adam along the gradient that the settings' law gives for a front view, from grey with some noise.

    rate: learning rate, in units of the image or, with as_latents, of the latents that are optimised then. The image is
    not mirrored. The law's own schedule holds; the warm-up lasts the whole run. Nothing keeps the optimised values in
    [0, 1]: what a law over-saturates is clamped where it is shown only.
    """
    params = replace(config.guidance, image_residual=0.0 if as_latents else config.guidance.image_residual)
    streams = RandomStreams(config.seed, params.noise_seed, prior.alphas_cumprod.device)
    width, height = config.cameras.image_w, config.cameras.image_h
    start = 0.5 + 0.1 * streams.randn(1, 3, height, width).to(prior.alphas_cumprod.device)
    with torch.no_grad():
        value = (prior.encode_imgs(start, streams.torch) if as_latents else start).clone()
    value.requires_grad_()
    loss, memory = Loss(params), NoiseMemory()
    if loss.law.needs_predictor:
        loss.predictor = prior.new_predictor(prompts, config.seed)  # type: ignore[attr-defined]
    optimizer = torch.optim.Adam([value], rate, betas=BETAS)
    camera, conditioning = Cameras.at([FRONT_DEG]), prompts.conditioning([FRONT_DEG])
    unused = torch.zeros(1, 1, *value.shape[2:], device=value.device)
    for iteration in range(1, steps + 1):
        progress = (iteration - 1) / max(steps - 1, 1)
        done = distill_views(
            prior, value, unused, unused, conditioning, loss, streams,
            warm_up_rate=1 - progress, as_latent=False, memory=memory, progress=progress, cameras=camera, mirrors=False,
            encode=_unchanged if as_latents else None,
        )  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        done.backward()
        optimizer.step()
        loss.observe(done.latents.detach(), camera)
        image = prior.decode_latents(value.detach()) if as_latents else value.detach().clamp(0, 1)
        yield FreeImageStep(iteration, image[0], float(done.loss_per_view[0]), int(done.t[0]))
