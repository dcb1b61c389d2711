# SPDX-License-Identifier: Apache-2.0
"""`ViewStep`: what a distillation law sees of a step (distillation.law.Step), on a run's prior.

Letters of shapes: B views, C latent channels, h w latent size, L tokens, D embedding width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from arguments import GuidanceParams
from guidance import sd_step
from guidance.feature_cache import inversion_calls
from guidance.inversion import inversion_away
from guidance.perpneg_utils import perp_neg_direction
from guidance.predictor import Cameras, Predictor
from guidance.prior import Conditioning, Prior
from guidance.sd_step import InversionRound
from utils.device import send
from utils.random_streams import RandomStreams
from utils.shard import Shard

PREDICTIONS = ("cond", "uncond", "direction", "guided", "inverse")
"""Names of predictions that every law can ask for."""
Moving = tuple[InversionRound, Callable[..., Tensor]]
"""The views that take a step of an inversion together, and what predicts its noise, as `predict_noise`."""


@dataclass(frozen=True)
class StepInfo:
    """What a law may depend on besides the views.

    warm_up_rate: 1 at the first step, 0 once OptimizationParams.warmup_iter is over.  progress: 0..1 over the run.
    is_planned: the indices come from CoGrad or a caller, not from t_schedule.  cameras: of these views.
    streams: where a law draws from, for all views of the step, of which these are `shard`.
    """

    warm_up_rate: float = 0.0
    progress: float = 0.0
    is_planned: bool = True
    cameras: Cameras | None = None
    streams: RandomStreams = field(default_factory=lambda: RandomStreams(0))
    shard: Shard | None = None


class ViewStep:
    """The views of one step. Remembers its network calls, and the guided prediction that previews show."""

    def __init__(
        self,
        prior: Prior,
        params: GuidanceParams,
        x: Tensor,
        noise: Tensor,
        index: Sequence[int],
        conditioning: Conditioning,
        info: StepInfo,
        memory: dict[str, Any],
        predictor: Predictor | None,
    ) -> None:
        self.prior, self.params, self.conditioning, self.info = prior, params, conditioning, info
        self.x, self.noise, self.memory, self.predictor = x, noise, memory, predictor
        self.index, self.count = torch.tensor(index), prior.num_train_timesteps
        self.progress, self.is_planned = info.progress, info.is_planned
        self.first_calls: list[Tensor] = []  # index [1] of the first view, for each network call that it is part of
        self.samples = 0  # of the network, over all views
        self.shown: tuple[Tensor, Tensor, Tensor] | None = None  # x_t, index, prediction: the first guided one, if any
        self._shows_guided = False

    @property
    def g(self) -> float:
        """The guidance scale, which moves linearly to guidance_end_share of itself."""
        scale, share = self.params.guidance_scale, self.params.guidance_end_share
        return scale if share == 1 else scale * (1 + (share - 1) * self.progress)

    @cached_property
    def x_t(self) -> Tensor:
        """Noised latents [B,C,h,w] at `index`; the inversion moves the index, and finds the noise."""
        if self.params.noising != "inversion":
            return self.noised(self.index)
        x_t, self.index = inversion_away(self)
        abar = self.abar(self.index)
        self.noise = (x_t - abar.sqrt() * self.x) / (1 - abar).sqrt()
        return x_t

    def sent(self, numbers: Sequence[int]) -> Tensor:
        """Numbers of the host on the device of the latents, without waiting for it."""
        return send(numbers, self.x.device)

    def timesteps(self, index: Tensor) -> Tensor:
        """Timesteps [B] of schedule indices [B], on the device. ValueError for an index that there is not."""
        numbers = index.tolist()
        if beyond := [k for k in numbers if not 0 <= k < self.count]:
            raise ValueError(
                f"the distillation law {self.params.law_name} uses the schedule index {beyond[0]}; "
                f"expected 0 to {self.count - 1}"
            )
        return self.prior.timesteps_of(self.sent(numbers))

    def alpha_bar(self, index: Tensor) -> Tensor:
        """alpha_bar [B] at schedule indices [B]."""
        return self.prior.alphas_cumprod[self.timesteps(index)]

    def abar(self, index: Tensor) -> Tensor:
        """alpha_bar [B,1,1,1] at schedule indices [B]."""
        return sd_step.per_view(self.alpha_bar(index), self.x)

    def noised(self, index: Tensor) -> Tensor:
        """The latents with `noise` at schedule indices [B]."""
        return sd_step.add_noise(self.x, self.noise, self.alpha_bar(index))

    def move(self, x: Tensor, eps: Tensor, ind_from: Tensor, ind_to: Tensor) -> Tensor:
        """One DDIM step between schedule indices [B]."""
        return sd_step.ddim_step(x, eps, self.alpha_bar(ind_from), self.alpha_bar(ind_to))

    def clean(self, x_t: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        """The clean latents that x_t and eps imply."""
        return sd_step.predict_x0(x_t, eps, self.alpha_bar(index))

    def interval(self) -> int:
        """delta_t, or what the warm-up has left of delta_t_start."""
        params = self.params
        if not params.annealing_intervals:
            return params.delta_t
        rate = self.info.warm_up_rate
        return sd_step.annealed_delta(params.delta_t, params.delta_t_start, rate, round_up=params.perpneg)

    def uniform(self) -> Tensor:
        """A uniform number a view; drawn by the host, for all views of the step."""
        shard = self.info.shard or Shard.whole(len(self.x))
        drawn = [self.info.streams.python.random() for _ in range(shard.total)]
        return torch.tensor(shard.of(drawn), dtype=torch.float64)

    def particles(self, x_t: Tensor, index: Tensor) -> Tensor:
        """q_0 + gamma (q_camera - q_0), gamma the setting camera_guidance; the noise before anything was observed."""
        if self.predictor is None:
            raise ValueError(
                f"the distillation law {self.params.law_name} uses the particles' prediction; expected a Law with "
                "needs_predictor=True, for which a predictor is made"
            )
        t, gamma = self.timesteps(index), self.params.camera_guidance
        with_camera = self.predictor.predict_noise(x_t, t, self.info.cameras)
        if with_camera is None:
            return self.noise
        if gamma == 1:
            return with_camera
        without = self.predictor.predict_noise(x_t, t, None)
        assert without is not None
        return without + gamma * (with_camera - without)

    def predict(self, x_t: Tensor, index: Tensor, *names: str) -> dict[str, Tensor]:
        """The named predictions for all views, see distillation.law.Step."""
        self.first_calls.append(index[:1])
        eps = self.prior.predict_noise(*self._batch(x_t, index, names))
        found = self._named(eps, x_t, index, names)
        if self.shown is None or ("guided" in found and not self._shows_guided):
            self._shows_guided = "guided" in found
            self.shown = x_t, index, found["guided" if self._shows_guided else names[0]]
        return found

    def predict_rows(self, x: Tensor, moving: Moving, *names: str) -> dict[str, Tensor]:
        """The named predictions for the views of x that take a step, where they come from."""
        of, predict_noise = moving
        rows, index = self.sent(of.rows), torch.tensor(of.ind_from)
        if of.rows[0] == 0:
            self.first_calls.append(index[:1])
        eps = predict_noise(*self._batch(x[rows], index, names, rows))
        return self._named(eps, x[rows], index, names, rows)

    def interval_rounds(self) -> tuple[Tensor, Iterator[Moving]]:
        """Where ISM's inversion begins [B], and its rounds, each with what predicts its noise."""
        params, delta = self.params, self.interval()
        paths = [sd_step.inversion_path(k, delta, params.xs_delta_t, params.xs_inv_steps) for k in self.index.tolist()]
        return torch.tensor([path[0] for path in paths]), inversion_calls(self.prior, paths, params.unet_cache_interval)

    def move_rows(
        self, x: Tensor, last: Tensor, eps: Tensor, moving: Moving, eta: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """One DDIM step of the views of a round; eps of these views."""
        of = moving[0]
        rows = self.sent(of.rows)
        abar_from, abar_to = (self.alpha_bar(torch.tensor(k)) for k in (of.ind_from, of.ind_to))
        moved = sd_step.ddim_step(x[rows], eps, abar_from, abar_to, eta)
        return x.index_copy(0, rows, moved), last.index_copy(0, rows, eps)

    def _batch(
        self, x_t: Tensor, index: Tensor, names: Sequence[str], rows: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Arguments of predict_noise: x_t once for each text, which are counted."""
        texts = self._texts(names)
        embeddings = torch.cat([text if rows is None else text[rows] for text in texts.values()])
        self.samples += len(embeddings)
        count, t = len(texts), self.timesteps(index)
        control = self.conditioning.control_for(count, rows)
        return x_t.repeat(count, 1, 1, 1), t.repeat(count), embeddings, *control

    def _named(
        self, eps: Tensor, x_t: Tensor, index: Tensor, names: Sequence[str], rows: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What predict_noise returned, by text, with what follows from it."""
        texts = self._texts(names)
        found = dict(zip(texts, eps.chunk(len(texts))))
        if {"guided", "direction"} & set(names):
            found["direction"] = self._direction(found, rows)
            found["guided"] = self._rescaled(found, x_t, index)
        return found

    def _texts(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Embeddings [B,L,D] of what the names need, in the order of the call. ValueError for an unknown name."""
        cond, wanted = self.conditioning, set(names)
        known = (*PREDICTIONS, *cond.further)
        if not names or not wanted <= set(known):
            raise ValueError(
                f"the distillation law {self.params.law_name} asks for {', '.join(map(repr, names)) or 'nothing'}; "
                f"expected of {', '.join(known)}; contrast, source and target need contrast_text, source_words and "
                "target_words in Law.reads"
            )
        is_pair = bool(wanted & {"guided", "direction"})
        texts = {}
        if is_pair or "uncond" in wanted:
            texts["uncond"] = cond.uncond
        if is_pair or "cond" in wanted:
            texts["cond"] = cond.positive
        if is_pair:
            texts |= {f"negative {k}": text for k, (text, _) in enumerate(cond.negatives)}
        if "inverse" in wanted:
            texts["inverse"] = cond.inverse
        return texts | {name: text for name, text in cond.further.items() if name in wanted}

    def _direction(self, found: dict[str, Tensor], rows: Tensor | None) -> Tensor:
        uncond, factor = found["uncond"], self.params.law.perpneg_factor
        weighted = [
            (found[f"negative {k}"] - uncond, factor * (weights if rows is None else weights[rows]))
            for k, (_, weights) in enumerate(self.conditioning.negatives)
        ]
        return perp_neg_direction(found["cond"] - uncond, weighted)

    def _rescaled(self, found: dict[str, Tensor], x_t: Tensor, index: Tensor) -> Tensor:
        """e^g, with guidance_rescale r > 0 that whose x0 is r x0(e^g) std(x0(e_c))/std(x0(e^g)) + (1 - r) x0(e^g).

        The deviations are of each view; MVDream's are of its four views together.
        """
        guided, r = found["uncond"] + self.g * found["direction"], self.params.guidance_rescale
        if r == 0:
            return guided
        x0, x0_cond = (self.clean(x_t, eps, index) for eps in (guided, found["cond"]))
        dims = tuple(range(1, x0.ndim))
        share = x0_cond.std(dims, keepdim=True) / x0.std(dims, keepdim=True)
        x0 = r * share * x0 + (1 - r) * x0
        abar = self.abar(index)
        return (x_t - abar.sqrt() * x0) / (1 - abar).sqrt()
