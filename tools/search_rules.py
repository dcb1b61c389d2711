# SPDX-License-Identifier: Apache-2.0
"""Candidates of tools/search_toy.py that are no settings of train.py: parts of a run that are replaced, or a part more.

| symbol | name | shape |
|---|---|---|
| x0 | clean latents that a view's guided prediction implies, as the camera sees them | [C,h,w] |
| c | the view's correction, x0 less the latents of the rendered image | [C,h,w] |
| g_v | gradient of view v | [N,...] |

Letters of shapes: B views, C latent channels, h w latent size, N Gaussians.
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

import train
from arguments import Config
from cograd.fusion import Gradient
from cograd.gradient_bank import Candidate, GradientBank
from cograd.timesteps import LossSignal
from gaussian_renderer import Augmentation, render
from guidance import sd_step
from guidance.prior import Prior
from guidance.score import flipped
from scene.cameras import RCamera
from trainer.distributed import ALONE
from trainer.startup import read_settings
from trainer.state import TrainState
from trainer.step import StepGradients, pop_gradient


class Rule(Protocol):
    """Part of one run, made once its state is complete."""

    def __init__(self, state: TrainState, prior: Prior, config: Config) -> None: ...

    def before_update(self, step: StepGradients) -> None:
        """Between the halves of a step without a fault: gradients are set, CoGrad has observed nothing of it yet."""


def _clean_latents(step: StepGradients) -> Tensor:
    """x0 [B,C,h,w] of the step's views, mirrored back."""
    found = step.distillation
    return flipped(sd_step.predict_x0(found.residual.x_t, found.residual.eps_hat, found.alpha_bar), found.flip)


def _without_noise(augmentation: Augmentation) -> Augmentation:
    return replace(augmentation, shs_noise=None, scale_noise=None)


def _regions(step: StepGradients) -> list[int]:
    assert step.draws.plan is not None, "a variant with CoGrad"
    return step.draws.plan.regions.tolist()


class Disagreement(LossSignal):
    """What Eqs. (6) and (8) read of a view is not its loss but 1 - cos(c, c_j), the mean over the neighbouring regions'
    latest corrections c_j; 1 where there is none.

    Neighbours are 12 degrees apart: corrections are compared pixel by pixel, without warping one into the other.
    """

    def __init__(self, state: TrainState, prior: Prior, config: Config) -> None:
        assert state.cograd is not None
        super().__init__(prior.alphas_cumprod, config.cograd)
        self.neighbours, self.corrections = state.cograd.grid.neighbours, dict[int, Tensor]()
        self.signals = torch.ones(0)
        state.cograd.signal = self

    def before_update(self, step: StepGradients) -> None:
        """Compares with earlier steps' views only, then takes in this step's."""
        found, regions = step.distillation, _regions(step)
        corrections = _clean_latents(step) - flipped(found.latents.detach(), found.flip)
        self.signals = torch.tensor([self._signal(region, c) for region, c in zip(regions, corrections)])
        self.corrections |= dict(zip(regions, corrections))

    def _signal(self, region: int, c: Tensor) -> float:
        others = [self.corrections[j] for j, _ in self.neighbours[region] if j != region and j in self.corrections]
        if not others:
            return 1.0
        cosines = torch.cosine_similarity(c.flatten(), torch.stack(others).flatten(1))
        return 1 - float(cosines.mean())

    def __call__(self, losses: Tensor, t: Tensor) -> Tensor:
        """Signals [B] of the step that `before_update` saw; a loss that is not finite comes back."""
        return torch.where(losses.isfinite(), self.signals.to(losses), losses)


@dataclass(frozen=True)
class Target:
    """What a view predicted: where from, x0, and the gradient that its latents get per unit of their distance to x0."""

    step: int
    t: int
    camera: RCamera
    augmentation: Augmentation  # without noise
    x0: Tensor  # [1,C,h,w]
    factor: float


class RerenderedBank(GradientBank):
    """Eq. (10) with g_hist made again: the neighbour's camera renders the Gaussians as they are now, and g_hist is the
    gradient of SDS towards the x0 that was predicted there. The bank keeps x0, and no gradients.
    """

    def __init__(self, state: TrainState, prior: Prior, config: Config) -> None:
        assert state.cograd is not None
        cograd = state.cograd
        super().__init__(cograd.grid, cograd.params, cograd.total_steps)
        self.state, self.prior, self.config = state, prior, config
        self.targets, self.latest = dict[int, Target](), dict[int, Target]()
        cograd.bank = self

    def before_update(self, step: StepGradients) -> None:
        """Makes this step's targets, which `store` keeps."""
        found = step.distillation
        w = sd_step.timestep_weight(found.alpha_bar, self.config.guidance.weighting)
        factors = self.config.guidance.lambda_guidance * w * (found.alpha_bar / (1 - found.alpha_bar)).sqrt()
        each = zip(_regions(step), step.draws.views, _clean_latents(step), step.losses.t.tolist(), factors.tolist())
        self.latest = {
            region: Target(step.iteration, t, camera, _without_noise(augmentation), x0[None], factor)
            for region, (camera, augmentation), x0, t, factor in each
        }

    def store(self, step: int, region: int, t: int, g_main: Gradient) -> None:
        """Keeps the region's target, if a later step can fuse it."""
        if self.is_useful(step):
            self.targets[region] = self.latest[region]

    def candidates(self, step: int, region: int, t: int, like: Gradient) -> list[Candidate]:
        """As GradientBank chooses them."""
        if not self.is_active(step):
            return []
        near = [(self.targets[j], j, d) for j, d in self.grid.neighbours[region] if j in self.targets]
        return [
            Candidate(j, d, target.step, target.t, self._gradient(target))
            for target, j, d in near
            if self.is_eligible(step, t, target.step, target.t)
        ]

    def _gradient(self, target: Target) -> Gradient:
        """Towards x0 from the Gaussians as they are now."""
        gaussians, background = self.state.gaussians, target.augmentation.background
        with torch.enable_grad():
            image = render(
                target.camera, gaussians, self.config.pipeline, background, augmentation=target.augmentation
            )["render"]
            latents = self.prior.encode_imgs(image[None], self.state.streams.torch)
            latents.backward(target.factor * (latents.detach() - target.x0))
        return pop_gradient(self.state)


class SignalToNoise:
    """The step's gradient of each Gaussian and parameter times |m|^2 / (|m|^2 + v): m the mean of the views' gradients,
    v the mean of |g_v - m|^2. 1 where all views agree; 1/B where one of B views sees the Gaussian.
    """

    def __init__(self, state: TrainState, prior: Prior, config: Config) -> None:
        self.state = state

    def before_update(self, step: StepGradients) -> None:
        """Weights the gradients that the optimizer is about to get."""
        for name, parameter in self.state.gaussians.parameters_in_order().items():
            if parameter.grad is not None:
                g = torch.stack([view.g_main[name] for view in step.views]).flatten(2)  # [B,N,K]
                parameter.grad = parameter.grad * _share(g).view(-1, *[1] * (parameter.dim() - 1))


def _share(g: Tensor) -> Tensor:
    """|m|^2 / (|m|^2 + v) [N] of g [B,N,K]; 0 without a gradient."""
    power = g.square().mean(0).sum(-1)  # |m|^2 + v
    return g.mean(0).square().sum(-1) / power.clamp(min=torch.finfo(g.dtype).tiny)


RULES: dict[str, type[Rule]] = {"disagreement": Disagreement, "rerendered": RerenderedBank, "snr": SignalToNoise}


class _RuleTrainer(train.Trainer):
    """A run with a rule."""

    def __init__(self, config: Config, opened: ExitStack, rule: str) -> None:
        super().__init__(config, opened, ALONE)
        self.rule = RULES[rule](self.state, self.prior, config)

    def _write_outputs(self, step: StepGradients) -> Path | None:
        if step.fault is None:
            self.rule.before_update(step)
        return super()._write_outputs(step)


def train_by(rule: str, argv: list[str]) -> int:
    """train.main with a rule, in one process."""
    with ExitStack() as opened:
        _RuleTrainer(read_settings(argv), opened, rule).train()
    return 0
