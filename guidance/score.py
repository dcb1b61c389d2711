# SPDX-License-Identifier: Apache-2.0
"""Score distillation: SDS and ISM (interval score matching) for views that each have their own timestep.

| symbol | name | shape |
|---|---|---|
| eps_hat | guided noise prediction at t | [B,C,h,w] |
| target | what it is compared with: the noise (SDS) or the inversion's prediction at ind_prev (ISM) | [B,C,h,w] |
| w(t) | weight of the timestep, by default sqrt((1 - abar)/abar) | [B] |
| grad | lambda_guidance * w(t) * (eps_hat - target), put on the latents as it is | [B,C,h,w] |

Letters of shapes: B views, C latent channels, h w latent size, H W image, L tokens, D embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

import guidance.sd_step as sd_step
from arguments import GuidanceParams
from guidance.perpneg_utils import perp_neg_direction
from utils.device import send
from utils.random_streams import RandomStreams
from utils.shard import Shard
from utils.wording import counted

# Upstream adds one random offset per channel to the noise, drawn outside the seeded noise generator (kept).
OFFSET_NOISE = 0.1


class Prior(Protocol):
    """What distillation needs of a 2D diffusion model."""

    alphas_cumprod: Tensor  # [T] on the prior's device
    num_train_timesteps: int  # number of schedule indices that ind_t runs over
    steps_offset: int

    def timesteps_of(self, ind_t: Tensor) -> Tensor:
        """Timesteps that the network is called with, for schedule indices [B]."""

    def get_text_embeds(self, texts: Sequence[str]) -> Tensor:
        """[K,L,D]; a prior whose texts have a greatest length has `shorten` beside it, as StableDiffusion."""

    def encode_imgs(
        self, images: Tensor, generator: torch.Generator | None = None, shard: Shard | None = None
    ) -> Tensor:
        """Images [B,3,H,W] in [0,1] -> scaled latents [B,C,h,w]; differentiable.

        shard: the images are this part of a step's; what is drawn, is drawn for all of it.
        """

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents [B,C,h,w] -> images [B,3,H,W] in [0,1]."""

    def predict_noise(self, x_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """Noise prediction for x_t [B,C,h,w] at t [B] given embeddings [B,L,D]; no gradient.

        A prior with a ControlNet takes a fourth argument: the pictures [B,3,H,W] in [0,1] that it is shown.
        """


@dataclass(frozen=True)
class Conditioning:
    """What a batch of views is conditioned on.

    `negatives` holds (embeddings [B,L,D], weights [B]) and is empty without Perp-Neg; `control` is the ControlNet's
    picture [B,3,H,W] in [0,1], turned as the latents are, None without one.
    """

    uncond: Tensor  # [B,L,D]
    positive: Tensor  # [B,L,D]
    inverse: Tensor  # [B,L,D], used alone by the DDIM inversion
    negatives: tuple[tuple[Tensor, Tensor], ...] = ()
    control: Tensor | None = None


@dataclass
class NoiseMemory:
    """What the guidance remembers between steps: the first noise that it drew, of all views of a step [B,C,h,w].

    One object belongs to one run; a checkpoint must keep it.
    """

    first: Tensor | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The first noise, empty before the first step."""
        return {} if self.first is None else {"first": self.first}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        self.first = state.get("first")


@dataclass(frozen=True)
class Residual:
    """Outcome of the diffusion model's calls, all without gradient."""

    x_t: Tensor  # [B,C,h,w]
    eps_hat: Tensor  # [B,C,h,w]
    target: Tensor  # [B,C,h,w]
    t: Tensor  # [B]
    unet_timesteps: list[int]  # calls in order, as the first view saw them


@dataclass
class Distillation:
    """One step's guidance for a batch of views."""

    latents: Tensor  # [B,C,h,w], attached to the graph of the rendered images
    grad: Tensor  # [B,C,h,w], detached; what `backward` puts on the latents
    loss_per_view: Tensor  # [B], mean of (eps_hat - target)^2 before w(t) and lambda_guidance
    t: Tensor  # [B]
    ind_t: Tensor  # [B]
    unet_timesteps: list[int]
    residual: Residual = field(repr=False)
    alpha_bar: Tensor = field(repr=False)  # [B]
    flip: Tensor = field(repr=False)  # [1] bool, whether the views were turned left to right

    @property
    def flipped(self) -> bool:
        """`flip`, read from the device."""
        return bool(self.flip)

    @property
    def finite_per_view(self) -> Tensor:
        """[B] bool: gradient and loss of the view hold no NaN or infinity."""
        return torch.isfinite(self.grad).flatten(1).all(dim=1) & torch.isfinite(self.loss_per_view)

    @property
    def is_finite(self) -> bool:
        """False if any view's gradient or loss is NaN or infinite: the caller skips the step and counts it."""
        return bool(self.finite_per_view.all())

    def backward(self) -> None:
        """Put `grad` on the latents and carry it back to the images (upstream: no division by the batch size)."""
        self.latents.backward(self.grad)

    @torch.no_grad()
    def x0_preview(self, prior: Prior) -> dict[str, Tensor]:
        """Images [B,3,H,W] of the clean latents implied by eps_hat (`guided`) and by the target (`target`),
        turned back if the views were flipped."""
        images = {}
        for name, eps in (("guided", self.residual.eps_hat), ("target", self.residual.target)):
            image = prior.decode_latents(sd_step.predict_x0(self.residual.x_t, eps, self.alpha_bar))
            images[name] = turned(image, self.flip)
        return images


def distill(
    prior: Prior,
    pred_rgb: Tensor,
    pred_depth: Tensor,
    pred_alpha: Tensor,
    conditioning: Conditioning,
    params: GuidanceParams,
    streams: RandomStreams,
    *,
    warm_up_rate: float,
    as_latent: bool,
    memory: NoiseMemory,
    ind_t: Tensor | None = None,
    use_control: bool = False,
    shard: Shard | None = None,
) -> Distillation:
    """Eqs. (5), (9): guidance for rendered views, up to the Jacobian of the renderer.

    pred_rgb [B,3,H,W], pred_depth and pred_alpha [B,1,H,W] (alpha is only checked).
    as_latent: encode the disparity instead of the colour (upstream's name).  ind_t [B] gives each view its own schedule
    index; without it one is drawn for the whole batch, as upstream does.  memory is the run's one NoiseMemory.
    use_control: the prior's ControlNet is shown each view's disparity, without gradient.
    shard: these are not all views of the step but this part; draws are those of all, whose first noise memory holds.
    Draws, in upstream's order: flip (torch stream), posterior sample (torch), noise (noise stream), offset (torch),
    ind_t (noise stream).  Raises ValueError for inputs that do not fit together.
    """
    batch = _checked_batch(pred_rgb, pred_depth, pred_alpha, conditioning, ind_t)
    shard = shard or Shard.whole(batch)
    flip = streams.rand(1) < 0.5
    shown = pred_depth.expand(-1, 3, -1, -1) if as_latent else pred_rgb
    latents = prior.encode_imgs(turned(shown, flip), streams.torch, shard)
    if use_control:
        disparity = pred_depth.detach().expand(-1, 3, -1, -1)
        conditioning = replace(conditioning, control=turned(disparity, flip))
    noise = shard.of(draw_noise(latents, shard.total, params, streams, memory))
    delta = params.delta_t
    if params.annealing_intervals:
        delta = sd_step.annealed_delta(params.delta_t, params.delta_t_start, warm_up_rate, round_up=params.perpneg)
    if ind_t is None:
        ind_t = draw_ind_t(prior, params, streams, warm_up_rate).expand(batch)
    residual = residual_of(prior, latents.detach(), noise, ind_t, delta, conditioning, params)
    alpha_bar = prior.alphas_cumprod[residual.t]  # [B]
    difference = residual.eps_hat - residual.target
    weight = sd_step.per_view(sd_step.timestep_weight(alpha_bar, params.weighting), difference)
    return Distillation(
        latents=latents,
        grad=params.lambda_guidance * weight * difference,
        loss_per_view=difference.square().flatten(1).mean(dim=1),
        t=residual.t,
        ind_t=ind_t,
        unet_timesteps=residual.unet_timesteps,
        residual=residual,
        alpha_bar=alpha_bar,
        flip=flip,
    )


def turned(x: Tensor, flip: Tensor) -> Tensor:
    """x [...,W] left to right where flip [1] is true; the host need not know."""
    return torch.where(flip, x.flip(-1), x)


def _checked_batch(rgb: Tensor, depth: Tensor, alpha: Tensor, conditioning: Conditioning, ind_t: Tensor | None) -> int:
    """The number of views, once all inputs agree on it."""
    batch, size = rgb.shape[0], tuple(rgb.shape[2:])
    for name, image, channels in (("pred_rgb", rgb, 3), ("pred_depth", depth, 1), ("pred_alpha", alpha, 1)):
        if tuple(image.shape) != (batch, channels, *size):
            raise ValueError(f"{name} has shape {tuple(image.shape)}; expected {(batch, channels, *size)}, as pred_rgb")
    if conditioning.positive.shape[0] != batch:
        count = conditioning.positive.shape[0]
        raise ValueError(
            f"conditioning is for {counted(count, 'view')} but {batch} were rendered; pass one azimuth a view"
        )
    if ind_t is not None and tuple(ind_t.shape) != (batch,):
        raise ValueError(f"ind_t has shape {tuple(ind_t.shape)}; expected ({batch},), one schedule index a view")
    return batch


def draw_noise(
    latents: Tensor, total: int, params: GuidanceParams, streams: RandomStreams, memory: NoiseMemory
) -> Tensor:
    """Noise [total,C,h,w] for the step's views, of which `latents` [B,C,h,w] are some or all.

    Upstream's plain step draws a noise to keep before its first step, whether fix_noise then uses it or not; the
    Perp-Neg step knows no fix_noise.  Both are kept: they decide what every later draw is.
    """
    if params.perpneg:
        return _fresh_noise(latents, total, streams)
    if memory.first is None:
        memory.first = _fresh_noise(latents, total, streams)
    if not params.fix_noise:
        return _fresh_noise(latents, total, streams)
    if memory.first.shape != (needed := (total, *latents.shape[1:])):
        raise ValueError(
            f"fix_noise keeps a noise of shape {tuple(memory.first.shape)} but the latents are {needed}; "
            "keep C_batch_size and the image size through a run, or turn fix_noise off"
        )
    return memory.first.to(latents)


def _fresh_noise(latents: Tensor, total: int, streams: RandomStreams) -> Tensor:
    """Noise from the noise stream, plus one offset a channel from the torch stream."""
    shape = (total, *latents.shape[1:])
    noise = torch.randn(shape, generator=streams.noise, device=latents.device, dtype=latents.dtype)
    return noise + OFFSET_NOISE * streams.randn(1, latents.shape[1], 1, 1).to(noise)


def draw_ind_t(prior: Prior, params: GuidanceParams, streams: RandomStreams, warm_up_rate: float) -> Tensor:
    """One schedule index [1] for the whole batch."""
    low, high = sd_step.index_range(prior.num_train_timesteps, params.t_range, params.max_t_range, warm_up_rate)
    return torch.randint(low, high, (1,), generator=streams.noise, device=streams.noise.device)


@torch.no_grad()
def residual_of(
    prior: Prior,
    latents: Tensor,
    noise: Tensor,
    ind_t: Tensor,
    delta: int,
    conditioning: Conditioning,
    params: GuidanceParams,
) -> Residual:
    """Guided prediction and target for latents, noise [B,C,h,w] at schedule indices ind_t [B], interval `delta`.

    The host reads ind_t, which decides the calls, and nothing else; indices that are on the CPU cost no waiting.
    """
    indices = ind_t.tolist()
    t = prior.timesteps_of(send(indices, latents.device))
    if params.sds:
        x_t, target = sd_step.add_noise(latents, noise, prior.alphas_cumprod[t]), noise
        calls: list[int] = []
    else:
        x_t, target, calls = invert(prior, latents, noise, indices, delta, conditioning, params)
    eps_hat = guided_noise(prior, x_t, t, conditioning, params.guidance_scale)
    return Residual(x_t, eps_hat, target, t, [*calls, *_timesteps(prior, indices[:1])])


def invert(
    prior: Prior,
    latents: Tensor,
    noise: Tensor,
    indices: Sequence[int],
    delta: int,
    conditioning: Conditioning,
    params: GuidanceParams,
) -> tuple[Tensor, Tensor, list[int]]:
    """DDIM inversion of every view to its own index: x_t, the last step's noise prediction, first view's timesteps.

    One network call a round for all views that still have a step to take.
    """
    paths = [sd_step.inversion_path(k, delta, params.xs_delta_t, params.xs_inv_steps) for k in indices]
    device = latents.device
    start = prior.timesteps_of(send([path[0] for path in paths], device))
    x = sd_step.add_noise(latents, noise, prior.alphas_cumprod[start])
    target = torch.zeros_like(x)
    for step in sd_step.inversion_rounds(paths):
        rows = send(step.rows, device)
        t_from = prior.timesteps_of(send(step.ind_from, device))
        t_to = prior.timesteps_of(send(step.ind_to, device))
        eps = inversion_noise(prior, x[rows], t_from, conditioning, rows, params.denoise_guidance_scale)
        moved = sd_step.ddim_step(x[rows], eps, prior.alphas_cumprod[t_from], prior.alphas_cumprod[t_to], params.xs_eta)
        x = x.index_copy(0, rows, moved)
        target = target.index_copy(0, rows, eps)  # rounds end with each view's last step, so the last copy stays
    return x, target, _timesteps(prior, paths[0][:-1])


def _timesteps(prior: Prior, indices: Sequence[int]) -> list[int]:
    return prior.timesteps_of(torch.tensor(indices)).tolist()


def inversion_noise(
    prior: Prior, x: Tensor, t: Tensor, conditioning: Conditioning, rows: Tensor, denoise_guidance_scale: float
) -> Tensor:
    """Noise prediction for the inversion of views `rows`: the inverse text alone, or guided when the scale exceeds 1.

    Guided form, kept from upstream: cond + s (uncond - cond), cond being the inverse text.
    """
    inverse, control = conditioning.inverse[rows], conditioning.control
    pictures = None if control is None else control[rows]
    if denoise_guidance_scale <= 1:
        return _predicted(prior, x, t, inverse, pictures)
    pair = torch.cat([conditioning.uncond[rows], inverse])
    uncond, cond = _predicted(prior, torch.cat([x, x]), torch.cat([t, t]), pair, pictures).chunk(2)
    return cond + denoise_guidance_scale * (uncond - cond)


def _predicted(prior: Prior, x_t: Tensor, t: Tensor, embeddings: Tensor, pictures: Tensor | None) -> Tensor:
    """One network call [K*B,C,h,w]; pictures [B,3,H,W] are shown to all K texts of their view."""
    if pictures is None:
        return prior.predict_noise(x_t, t, embeddings)
    count = len(x_t) // len(pictures)
    return prior.predict_noise(x_t, t, embeddings, pictures.repeat(count, 1, 1, 1))  # type: ignore[call-arg]


def guided_noise(prior: Prior, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
    """Classifier-free guidance, with Perp-Neg where there are negatives: one network call for all texts.

    eps = uncond + guidance_scale * direction; direction = text - uncond, or Perp-Neg's sum.
    """
    texts = [conditioning.uncond, conditioning.positive, *(negative for negative, _ in conditioning.negatives)]
    count = len(texts)
    eps = _predicted(prior, x_t.repeat(count, 1, 1, 1), t.repeat(count), torch.cat(texts), conditioning.control)
    uncond, positive, *others = eps.chunk(count)
    weighted = [(other - uncond, weights) for other, (_, weights) in zip(others, conditioning.negatives, strict=True)]
    return uncond + guidance_scale * perp_neg_direction(positive - uncond, weighted)
