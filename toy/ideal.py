# SPDX-License-Identifier: Apache-2.0
"""The ideal prior: a diffusion model without weights, exact for a finite set of images: perfect training's limit.

`predict_noise` is Bayes' rule (toy/posterior.py) on images of the prompt's object that are rendered when the
prior is made. An embedding is a row of weights over named sets of images, [1, S]: "any", "front", "side", "back" and
"uncond"; a blend of embeddings is exactly the mixture of the sets' distributions. The latents are the images
themselves, (2x - 1) * 32/resolution: white noise averages out over pixels, so with this scale the noise hides an image
of any resolution as much as it hides one of 32 x 32.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guidance import sd_step
from guidance.image_size import ALL_OBJECTS_IMAGES, IDEAL
from toy.captions import (
    COLOURS,
    DEFAULT_COLOURS,
    VIEW_WORDS,
    Spec,
    view_word_of,
)
from toy.objects import CLASSES
from toy.particles import Particles
from toy.posterior import ImageTable, NoiseLevel, posterior_mean
from toy.reading import UnknownPrompt, read_prompt
from toy.rendered_set import PoseRanges, RenderedSet, render_set
from utils.shard import Shard

REFERENCE_PX = 32
KERNEL_STD = 0.15
"""Blur around each image, [-1, 1] units a pixel: large enough to join neighbouring views at low noise."""

OFFSET_STD = 0.1
"""The offset noise that guidance adds to every draw (score.py); the prior is exact for noise that contains it."""

SET_NAMES: tuple[str, ...] = ("any", *VIEW_WORDS, "uncond")
"""What an embedding weighs. "uncond" is all views of the prompt's object (`ideal_uncond: object`): guidance_scale then
sharpens the view word, the only thing that the caption can still add. With `ideal_uncond: all` it is images of all
objects in many colours, so that cond - uncond also points from any object to the prompt's, as a classifier's score."""

COLOUR_PAIRS = 4
"""Pairs of colours of each class among the images of all objects."""


FAULTS = re.compile(r"\b(oversaturated|pixelated|blurry|noisy|malformed|ugly|low quality)\b", re.IGNORECASE)
"""Words behind the view word with which a text is not one of the set's images."""


class IdealPrior:
    """The Prior protocol of guidance/score.py in closed form. Remembers the rendered images, nothing else."""

    steps_offset = 1

    def __init__(
        self,
        guidance_params: Any,
        device: torch.device | str,
        resolution_px: int,
        cam_params: Any = None,
        *,
        images: int | None = None,
        kernel_std: float = KERNEL_STD,
    ):
        """Renders the images of `guidance_params.text` (a few seconds).

        cam_params (GenerateCamParams): the run's camera ranges; without it PoseRanges' defaults are taken.
        images: how many are rendered, by default `ideal_images`; kernel_std: blur around each in [-1, 1] pixel units.
        """
        if problem := IDEAL.problem(resolution_px, resolution_px):
            raise ValueError(f"the ideal prior was given {resolution_px} px; expected {problem}")
        self.device = torch.device(device)
        self.resolution_px = resolution_px
        self.scale = REFERENCE_PX / resolution_px
        self.kernel_std = kernel_std
        self.alphas_cumprod = sd_step.scaled_linear_alphas().float().to(self.device)
        self.num_train_timesteps = guidance_params.num_train_timesteps or len(self.alphas_cumprod)
        self.text = guidance_params.text
        self.specs = specs_of_prompt(self.text, guidance_params.allow_unknown_words)
        per_spec = max((images or guidance_params.ideal_images) // len(self.specs), 8)
        rendered = self._render(self.specs, cam_params, per_spec)
        known, others = rendered.images, rendered.images[:0]
        if guidance_params.ideal_uncond == "all":
            samples = colour_samples()
            others = self._render(samples, cam_params, ALL_OBJECTS_IMAGES // len(samples)).images
            known = np.concatenate([known, others])
        self._table = ImageTable.build(torch.from_numpy(known).to(self.device))
        self.azimuth_deg = rendered.azimuth_deg  # [n] |azimuth| of each image of the prompt's object
        self._members = _membership(rendered, len(others)).to(self.device)  # [S, n + m], m images of all objects

    def _render(self, specs: Sequence[Spec], cam_params: Any, views_per_spec: int) -> RenderedSet:
        workers = min(4, os.cpu_count() or 1)
        return render_set(specs, pose_ranges(cam_params), self.resolution_px, views_per_spec, workers)

    def timesteps_of(self, ind_t: Tensor) -> Tensor:
        """Timesteps [B] of schedule indices [B]."""
        return sd_step.timesteps_of_indices(
            ind_t, self.num_train_timesteps, len(self.alphas_cumprod), self.steps_offset
        )

    def get_text_embeds(self, texts: Sequence[str]) -> Tensor:
        """[K, 1, S] rows over SET_NAMES: the prompt with or without view word; any other text is "uncond".

        So is the prompt with words for a bad image (FAULTS): the set has none.
        """
        return torch.stack([self._embed(text) for text in texts]).unsqueeze(1)

    def _embed(self, text: str) -> Tensor:
        body = re.sub(r",\s*(front|side|back)\s+view\b.*$", "", text.strip(), flags=re.IGNORECASE)
        is_prompt = body.strip() == self.text.strip() and not FAULTS.search(text[len(body.strip()) :])
        name = (view_word_of(text) or "any") if is_prompt else "uncond"
        row = torch.zeros(len(SET_NAMES), device=self.device)
        row[SET_NAMES.index(name)] = 1
        return row

    def new_predictor(self, prompts: Any, seed: int) -> Particles:
        """A model of the run's own renders, for VSD and ESD; neither text nor chance plays a part."""
        return Particles(self.alphas_cumprod, self.scale, self.kernel_std, OFFSET_STD)

    def encode_imgs(
        self, images: Tensor, generator: torch.Generator | None = None, shard: Shard | None = None
    ) -> Tensor:
        """[B,3,H,W] in [0,1] -> latents of the same shape; differentiable, nothing is drawn."""
        if tuple(images.shape[-2:]) != (self.resolution_px,) * 2:
            size, (height, width) = self.resolution_px, images.shape[-2:]
            raise ValueError(
                f"this ideal prior was made for images of {size} x {size} px but got {width} x {height}; "
                "set image_w and image_h (times SSAA) to that"
            )
        return (2 * images - 1) * self.scale

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Latents [B,3,h,w] -> images [B,3,H,W] in [0,1]."""
        return ((latents / self.scale + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def predict_noise(self, x_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """Eq. (3): E[noise | x_t] = -sqrt(1 - abar) grad log p_t(x_t), exactly.

        x_t [B,3,h,w], timesteps t [B], embeddings [B,1,S].
        """
        once = len(x_t) // _texts(x_t, t)  # rows that differ
        abar = self.alphas_cumprod[t.to(self.device)]
        a, sigma = abar.sqrt(), (1 - abar).sqrt()
        level = NoiseLevel(a[:once], sigma[:once] / self.scale, self.kernel_std, OFFSET_STD)
        probability = embeddings[:, 0].clamp(min=0) @ self._members  # [B, n + m]
        z = posterior_mean(x_t[:once] / self.scale, level, self._table, probability.log())  # [K once, 3, h, w]
        a, sigma = a.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
        by_text = z.mul_(-self.scale * a / sigma).view(-1, once, *z.shape[1:])
        return by_text.add_(x_t[:once] / sigma[:once]).flatten(0, 1)


MOST_TEXTS = 6
"""Of a call that are looked for: guidance, Perp-Neg's, those of a law."""


def _texts(x_t: Tensor, t: Tensor) -> int:
    """How many texts a call has for the same rows: how often x_t and t repeat their first rows, 1 if they do not."""
    for count in range(min(MOST_TEXTS, len(x_t)), 1, -1):
        parts = [x.chunk(count) for x in (x_t, t)] if len(x_t) % count == 0 else []
        if parts and all(torch.equal(part, own[0]) for own in parts for part in own[1:]):
            return count
    return 1


def specs_of_prompt(text: str, allow_unknown_words: bool) -> list[Spec]:
    """What is rendered for a prompt: its object, or one of every class where an unknown prompt is allowed.

    Raises UnknownPrompt (a ValueError).
    """
    reading = read_prompt(text)
    if reading.problem and not allow_unknown_words:
        raise UnknownPrompt(reading.refusal)
    return [reading.spec] if reading.spec else [Spec(name, *DEFAULT_COLOURS[name]) for name in CLASSES]


def pose_ranges(cam_params: Any) -> PoseRanges:
    """Every pose that training can draw: the union of the initial ranges and those that widening may reach."""
    if cam_params is None:
        return PoseRanges()

    def union(name: str) -> tuple[float, float]:
        first, last = getattr(cam_params, name), getattr(cam_params, f"max_{name}")
        return min(*first, *last), max(*first, *last)

    low, high = union("theta_range")
    return PoseRanges(union("radius_range"), (max(low, 1.0), min(high, 179.0)), union("fovy_range"))


def colour_samples() -> list[Spec]:
    """Every class in COLOUR_PAIRS pairs of colours, which differ from class to class and use all colours."""
    names = list(COLOURS)
    pairs = [(names[k % len(names)], names[(5 * k + 3) % len(names)]) for k in range(COLOUR_PAIRS * len(CLASSES))]
    return [Spec(name, *pairs[k * len(CLASSES) + n]) for n, name in enumerate(CLASSES) for k in range(COLOUR_PAIRS)]


def _membership(rendered: RenderedSet, others: int) -> Tensor:
    """[S, n + others] probabilities of the images under each of SET_NAMES; with `others`, one object in as many as
    there are classes is the prompt's."""
    own = np.stack([rendered.members(None if name in ("any", "uncond") else name) for name in SET_NAMES])
    share = np.zeros((len(SET_NAMES), others))
    if others:
        own[-1] /= len(CLASSES)
        share[-1] = (1 - 1 / len(CLASSES)) / others
    return torch.tensor(np.concatenate([own, share], axis=1), dtype=torch.float32)
