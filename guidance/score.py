# SPDX-License-Identifier: Apache-2.0
"""Score distillation of rendered views, each with its own timestep: from images to the gradient on their latents.

| symbol | name | shape |
|---|---|---|
| eps_hat | guided noise prediction at t | [B,C,h,w] |
| residual | what the law makes of it and other predictions (distillation/) | [B,C,h,w] |
| w(t) | weight of the timestep, by default sqrt((1 - abar)/abar) | [B] |
| grad | lambda_guidance * post(w(t) * residual), put on the latents as it is | [B,C,h,w] |

Letters of shapes: B views, C latent channels, h w latent size, H W image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import guidance.sd_step as sd_step
from arguments import GuidanceParams
from guidance.losses import Loss, Residual, StepInfo
from guidance.predictor import Cameras
from guidance.prior import Conditioning, Prior
from guidance.schedules import draw_index
from utils.general_utils import finite_rows
from utils.random_streams import RandomStreams
from utils.shard import Shard
from utils.wording import counted

# Upstream adds one random offset per channel to the noise, drawn outside the seeded noise generator (kept).
OFFSET_NOISE = 0.1

Encode = Callable[[Tensor, torch.Generator, Shard], Tensor]
"""As `Prior.encode_imgs`."""


@dataclass
class NoiseMemory:
    """What the guidance remembers between steps: the first noise that it drew, of all views of a step [B,C,h,w], and
    the noise that noise_source keeps, [1,C,h,w] or [M,C,h,w], with the offset that views share, [1,C,1,1].

    One object belongs to one run; a checkpoint must keep it.
    """

    first: Tensor | None = None
    fixed: Tensor | None = None
    offset: Tensor | None = None

    def kept(self, latents: Tensor, count: int, streams: RandomStreams) -> Tensor:
        """The noise [count,C,h,w] of noise_source without `offset`, both drawn when it is first asked for.

        Raises ValueError where the latents' size has changed.
        """
        needed = (count, *latents.shape[1:])
        if self.fixed is None:
            self.fixed, self.offset = _noise_and_offset(latents, count, streams)
        if self.fixed.shape != needed:
            raise ValueError(
                f"noise_source keeps a noise of shape {tuple(self.fixed.shape)} but this step needs {needed}; "
                "keep noise_source and the image size through a run"
            )
        return self.fixed.to(latents)

    def shifted(self, noise: Tensor) -> Tensor:
        """`noise` with the offset that belongs to `kept`: one and the same, however kept noises were mixed."""
        return noise if self.offset is None else noise + self.offset.to(noise)

    def state_dict(self) -> dict[str, Tensor]:
        """The noises, empty before the first step."""
        return {name: noise for name, noise in vars(self).items() if noise is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken."""
        self.first, self.fixed, self.offset = (state.get(name) for name in ("first", "fixed", "offset"))


@dataclass(frozen=True)
class Distillation:
    """One step's guidance for a batch of views."""

    latents: Tensor  # [B,C,h,w], attached to the graph of the rendered images
    grad: Tensor  # [B,C,h,w], detached; what `backward` puts on the latents
    loss_per_view: Tensor  # [B], mean of residual^2 before w(t) and lambda_guidance
    t: Tensor  # [B]
    ind_t: Tensor  # [B]
    unet_timesteps: list[int]
    residual: Residual = field(repr=False)
    alpha_bar: Tensor = field(repr=False)  # [B]
    flip: Tensor = field(repr=False)  # [1] bool, whether the views were mirrored left to right
    pred_rgb: Tensor = field(repr=False)  # [B,3,H,W], the rendered images
    image_grad: Tensor | None = field(default=None, repr=False)  # [B,3,H,W], detached; what `backward` puts on them

    @property
    def finite_per_view(self) -> Tensor:
        """[B] bool: gradient and loss of the view hold no NaN or infinity."""
        finite = finite_rows(self.grad) & torch.isfinite(self.loss_per_view)
        return finite if self.image_grad is None else finite & finite_rows(self.image_grad)

    def backward(self) -> None:
        """Put `grad` on the latents and carry it back to the images (upstream: no division by the batch size)."""
        self.latents.backward(self.grad)
        if self.image_grad is not None:
            self.pred_rgb.backward(self.image_grad)

    @torch.no_grad()
    def x0_preview(self, prior: Prior) -> dict[str, Tensor]:
        """Images [B,3,H,W] of the clean latents implied by eps_hat (`guided`) and by the target (`target`),
        mirrored back if the views were flipped."""
        images = {}
        for name, eps in (("guided", self.residual.eps_hat), ("target", self.residual.target)):
            image = prior.decode_latents(sd_step.predict_x0(self.residual.x_t, eps, self.alpha_bar))
            images[name] = flipped(image, self.flip)
        return images


def distill_views(
    prior: Prior,
    pred_rgb: Tensor,
    pred_depth: Tensor,
    pred_alpha: Tensor,
    conditioning: Conditioning,
    loss: Loss,
    streams: RandomStreams,
    *,
    warm_up_rate: float,
    as_latent: bool,
    memory: NoiseMemory,
    ind_t: Tensor | None = None,
    use_control: bool = False,
    shard: Shard | None = None,
    progress: float = 0.0,
    cameras: Cameras | None = None,
    encode: Encode | None = None,
    mirrors: bool = True,
) -> Distillation:
    """Eqs. (5), (9): guidance for rendered views, up to the Jacobian of the renderer.

    pred_rgb [B,3,H,W], pred_depth and pred_alpha [B,1,H,W] (only checked).  as_latent: encode disparity, not colour.
    ind_t [B]: each view's own schedule index; None: one for the batch, as upstream.  memory: the run's NoiseMemory.
    progress: of the run, 0..1.  cameras: of all views, before the flip.  encode: replaces prior.encode_imgs.
    use_control: the ControlNet gets each view's disparity, without gradient.  mirrors: half of the steps, as upstream.
    shard: these are not all views of the step but this part; draws are those of all, whose first noise memory holds.
    Draws, in upstream's order: flip (torch stream), posterior sample (torch), noise (noise stream), offset (torch),
    ind_t (noise stream).  Raises ValueError for inputs that do not fit together.
    """
    params = loss.params
    batch = _checked_batch(pred_rgb, pred_depth, pred_alpha, conditioning, ind_t)
    shard = shard or Shard.whole(batch)
    flip = streams.rand(1) < (0.5 if mirrors else 0.0)
    cameras, encoded = cameras and cameras.mirrored(flip), pred_depth.expand(-1, 3, -1, -1) if as_latent else pred_rgb
    latents = (encode or prior.encode_imgs)(flipped(encoded, flip), streams.torch, shard)
    if use_control:
        conditioning = replace(conditioning, control=flipped(pred_depth.detach().expand(-1, 3, -1, -1), flip))
    noise = shard.of(draw_noise(latents, shard.total, params, streams, memory, cameras))
    info = StepInfo(warm_up_rate, progress, ind_t is not None, cameras and cameras.of(shard), streams, shard)
    if ind_t is None:
        ind_t = draw_ind_t(prior, params, streams, warm_up_rate, progress).expand(batch)
    with torch.no_grad(), loss.watched():
        step = loss.view(prior, latents.detach(), noise, ind_t, conditioning, info)
        residual = Residual.of(step, loss.law.residual(step))
    alpha_bar = prior.alphas_cumprod[residual.t]  # [B]
    weight = sd_step.per_view(sd_step.timestep_weight(alpha_bar, params.weighting), residual.difference)
    return Distillation(
        latents=latents,
        grad=weighted_gradient(residual.difference, weight, params, progress),
        loss_per_view=residual.difference.square().flatten(1).mean(dim=1),
        t=residual.t,
        ind_t=ind_t,
        unet_timesteps=residual.unet_timesteps,
        residual=residual,
        alpha_bar=alpha_bar,
        flip=flip,
        pred_rgb=pred_rgb,
        image_grad=None if as_latent else image_gradient(prior, pred_rgb, residual, alpha_bar, params, flip),
    )


@torch.no_grad()
def image_gradient(
    prior: Prior, images: Tensor, residual: Residual, alpha_bar: Tensor, params: GuidanceParams, flip: Tensor
) -> Tensor | None:
    """HiFA's image residual: lambda_guidance image_residual w(t) (a/s) (I - Dec(x0(e^g))), [B,3,H,W] without gradient.

    None where image_residual is 0. x0 is what the law's guided prediction implies. Pixels that the prior does not see,
    at the edge of an image whose size is no multiple of a latent's, get none.
    """
    if params.image_residual == 0:
        return None
    decoded = prior.decode_latents(sd_step.predict_x0(residual.x_t, residual.eps_hat, alpha_bar))
    seen, gradient, (height, width) = flipped(images, flip), torch.zeros_like(images), decoded.shape[-2:]
    factor = sd_step.timestep_weight(alpha_bar, params.weighting) * (alpha_bar / (1 - alpha_bar)).sqrt()
    factor = params.lambda_guidance * params.image_residual * sd_step.per_view(factor, images)
    gradient[..., :height, :width] = factor * (seen[..., :height, :width] - decoded)
    return flipped(gradient, flip)


def weighted_gradient(difference: Tensor, weight: Tensor, params: GuidanceParams, progress: float) -> Tensor:
    """lambda_guidance w(t) residual [B,C,h,w]; before lambda_guidance to unit norm a view, then clamped, where set.

    grad_clamp: the bound of each value moves linearly from its first to its second number over the run.
    """
    first, last = params.grad_clamp
    is_clamped = max(first, last) > 0
    if not params.grad_unit_norm and not is_clamped:
        return params.lambda_guidance * weight * difference
    grad = weight * difference
    if params.grad_unit_norm:
        grad = grad / grad.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    if is_clamped:
        bound = first + (last - first) * progress
        grad = grad.clamp(-bound, bound)
    return params.lambda_guidance * grad


def flipped(x: Tensor, flip: Tensor) -> Tensor:
    """x [...,W] mirrored left to right where flip [1] is true; flip is read on the CPU alone, where nothing waits."""
    if flip.device.type == "cpu":
        return x.flip(-1) if flip else x
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
    latents: Tensor,
    total: int,
    params: GuidanceParams,
    streams: RandomStreams,
    memory: NoiseMemory,
    cameras: Cameras | None = None,
) -> Tensor:
    """Noise [total,C,h,w] for the step's views, of which `latents` [B,C,h,w] are some or all.

    By noise_source: `fresh`; `fixed`, one for all views and steps; `camera`, a fixed function of the camera.

    Upstream's plain step draws a noise to keep before its first step, whether fix_noise then uses it or not; the
    Perp-Neg step knows no fix_noise.  Both are kept: they decide what every later draw is.
    """
    if params.noise_source == "fixed":
        return memory.shifted(memory.kept(latents, 1, streams)).expand(total, -1, -1, -1)
    if params.noise_source == "camera":
        if cameras is None:
            raise ValueError("noise_source camera needs the cameras of the views; pass cameras")
        return memory.shifted(noise_of_cameras(memory.kept(latents, ANCHORS, streams), cameras))
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
    noise, offset = _noise_and_offset(latents, total, streams)
    return noise + offset


def _noise_and_offset(latents: Tensor, total: int, streams: RandomStreams) -> tuple[Tensor, Tensor]:
    """Both apart: [total,C,h,w] and [1,C,1,1]."""
    shape = (total, *latents.shape[1:])
    noise = torch.randn(shape, generator=streams.noise, device=latents.device, dtype=latents.dtype)
    return noise, OFFSET_NOISE * streams.randn(1, latents.shape[1], 1, 1).to(noise)


ANCHORS, SHARPNESS = 64, 8.0
"""Directions that have a noise of their own, and how fast that of a camera changes with its direction."""


def noise_of_cameras(anchors: Tensor, cameras: Cameras) -> Tensor:
    """Noise [B,C,h,w] that follows from the direction of each camera: a sum of the anchors' [M,C,h,w].

    The weights are exp(sharpness <direction, anchor>) over their norm: the noise is normal with variance 1 for every
    camera, equal for equal cameras, and less correlated the farther they are apart.
    """
    k = torch.arange(len(anchors), dtype=torch.float64) + 0.5
    z, phi = 1 - 2 * k / len(anchors), math.pi * (1 + 5**0.5) * k  # a Fibonacci sphere
    across = (1 - z.square()).sqrt()
    places = torch.stack([across * phi.cos(), across * phi.sin(), z], dim=1)
    seen_from = -cameras.to_world[:, :3, 2].double()
    weights = torch.exp(SHARPNESS * (seen_from @ places.T.to(seen_from.device) - 1))
    weights = weights / weights.norm(dim=1, keepdim=True)
    return torch.einsum("bm,mchw->bchw", weights.to(anchors), anchors)


def draw_ind_t(
    prior: Prior, params: GuidanceParams, streams: RandomStreams, warm_up_rate: float, progress: float
) -> Tensor:
    """One schedule index [1] for the whole batch, by t_schedule."""
    every = torch.arange(prior.num_train_timesteps, device=prior.alphas_cumprod.device)
    abar = prior.alphas_cumprod[prior.timesteps_of(every)]
    return draw_index(params, abar, progress, warm_up_rate, streams.noise)
