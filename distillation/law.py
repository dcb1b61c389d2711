# SPDX-License-Identifier: Apache-2.0
"""What a distillation law is: a residual of named noise predictions, and the numbers that its field uses.

A law fills four axes: how the latents are noised, the residual, w(t) with the schedule of the timesteps, and what is
done to the gradient afterwards. The residual is a function; the others are settings of GuidanceParams, whose values
for this law are its `preset`.

| symbol | name | shape |
|---|---|---|
| x | clean latents of the rendered views | [B,C,h,w] |
| n | noise | [B,C,h,w] |
| K | number of schedule indices; an index k has the timestep that the prior gives it | int |
| g | guidance scale, 1: no guidance; e^g = e_u + g (e_c - e_u) | float |

Letters of shapes: B views, C latent channels, h w latent size.
"""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

GUIDED = frozenset({"guidance_scale", "guidance_end_share", "guidance_rescale"})
"""Settings that every law reads whose residual contains e^g."""
DIRECT = GUIDED | {"noising"}
"""Those of a law that leaves the noising to its setting: it uses `Step.x_t`."""
INTERVAL = frozenset({"delta_t", "delta_t_start", "annealing_intervals"})
LAW_KEYS = (
    "guidance_scale guidance_end_share guidance_rescale noising contrast_text source_words target_words "
    "camera_guidance delta_t delta_t_start annealing_intervals inverse_text denoise_guidance_scale xs_delta_t "
    "xs_inv_steps xs_eta unet_cache_interval"
)
"""Settings of GuidanceParams that only some laws read."""
READABLE = (*LAW_KEYS.split(), "t_range")
"""What `Law.reads` may hold."""
CHOOSERS = ("distillation", "sds")
"""Settings that choose the law, which no preset can."""


class LawMistake(ValueError):
    """A law that cannot be used; the message says which part of it is what, and what was expected."""


class Step(Protocol):
    """The views of one step, as a law sees them. No prediction carries a gradient.

    Predictions by name: `cond` e_c, the prompt with its view words; `uncond` e_u; `direction` e_c - e_u, with Perp-Neg
    where it is on; `guided` e^g = e_u + g direction; `inverse`, `contrast`, `source` and `target`, of further texts.
    """

    params: Any  # GuidanceParams
    x: Tensor  # [B,C,h,w]
    noise: Tensor  # [B,C,h,w], n; with noising `inversion` the noise that x_t implies
    index: Tensor  # [B] int64 on the CPU: schedule index of each view, 0..K - 1
    count: int  # K
    progress: float  # 0 before the first step, 1 at the last
    is_planned: bool  # index comes from CoGrad or the caller, not from t_schedule
    memory: dict[str, Any]  # of this law, kept from step to step and in checkpoints: string keys; lists, no tuples;
    # tensors, numbers, strings and None

    @property
    def g(self) -> float:
        """The guidance scale at this progress."""

    @property
    def x_t(self) -> Tensor:
        """Noised latents at `index`, by the setting `noising`."""

    def abar(self, index: Tensor) -> Tensor:
        """alpha_bar [B,1,1,1] at schedule indices [B]."""

    def noised(self, index: Tensor) -> Tensor:
        """sqrt(abar) x + sqrt(1 - abar) n at schedule indices [B]."""

    def predict(self, x_t: Tensor, index: Tensor, *names: str) -> dict[str, Tensor]:
        """The named predictions for x_t [B,C,h,w] at schedule indices [B], in one call of the network."""

    def particles(self, x_t: Tensor, index: Tensor) -> Tensor:
        """The prediction of the model of the run's own renders, of a law with `needs_predictor`."""

    def move(self, x: Tensor, eps: Tensor, ind_from: Tensor, ind_to: Tensor) -> Tensor:
        """One DDIM step of x between two schedule indices [B], in either direction."""

    def clean(self, x_t: Tensor, eps: Tensor, index: Tensor) -> Tensor:
        """The clean latents that x_t and a noise prediction imply."""

    def interval(self) -> int:
        """The length delta of an interval, annealed by the settings delta_t, delta_t_start, annealing_intervals."""

    def interval_rounds(self) -> tuple[Tensor, Iterable[Any]]:
        """ISM's inversion to `index`: first indices [B], and the rounds in which views take a step together."""

    def predict_rows(self, x: Tensor, moving: Any, *names: str) -> dict[str, Tensor]:
        """`predict` for the views of x [B,C,h,w] that take a step in this round, where they come from."""

    def move_rows(self, x: Tensor, last: Tensor, eps: Tensor, moving: Any, eta: float = 0.0) -> tuple[Tensor, Tensor]:
        """x and last [B,C,h,w], those views moved, and with their eps in `last`."""

    def uniform(self) -> Tensor:
        """A uniform number in [0, 1) for each view [B], float64 on the CPU."""


Coefficient = float | Tensor


@dataclass(frozen=True)
class Law:
    """A distillation law; the gradient put on x is lambda_guidance w(t) residual(step), then the post steps.

    preset: settings of GuidanceParams with this law's values, which a file or flag that names the law brings along.
    reads: those settings that only some laws read and this one does; t_range where it is read besides the schedule.
    perpneg_factor: on Perp-Neg's weights.
    Raises LawMistake for a part of another kind; the preset's values are checked where they are taken.
    """

    residual: Callable[[Step], Tensor]  # [B,C,h,w]
    preset: Mapping[str, Any] = field(default_factory=dict)
    reads: frozenset[str] = DIRECT
    needs_predictor: bool = False
    perpneg_factor: float = 1.0

    def __post_init__(self) -> None:
        expected = {
            "residual": (callable(self.residual), "a function that takes a Step and returns a tensor [B,C,h,w]"),
            "preset": (_is_preset(self.preset), "a dictionary of settings of GuidanceParams by name"),
            "reads": (_is_names(self.reads), "a set of names of settings, such as DIRECT"),
            "needs_predictor": (isinstance(self.needs_predictor, bool), "True or False"),
            "perpneg_factor": (_is_number(self.perpneg_factor), "a finite number"),
        }
        for name, (is_fit, words) in expected.items():
            if not is_fit:
                raise LawMistake(f"Law.{name} is {_shown(getattr(self, name))}; expected {words}")
        for name in self.preset:
            if name.lstrip("_") in CHOOSERS:
                raise LawMistake(f"Law.preset has {name!r}, which chooses the law itself; leave it out")
        for name in sorted(set(self.reads) - set(READABLE)):
            near = difflib.get_close_matches(name, READABLE, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"those are {', '.join(READABLE)}"
            raise LawMistake(f"Law.reads has {name!r}, which is no setting that only some laws read; {hint}")


def _is_preset(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_names(value: object) -> bool:
    return isinstance(value, set | frozenset) and all(isinstance(name, str) for name in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    return repr(value)[:80]


def linear(coefficients: Callable[[Step], Mapping[str, Coefficient]]) -> Callable[[Step], Tensor]:
    """The residual sum of c_name e_name over predictions at `Step.x_t`; two more names: `noise` n, `particles` q."""

    def residual(step: Step) -> Tensor:
        x_t, c = step.x_t, coefficients(step)
        predictions = step.predict(x_t, step.index, *(name for name in c if name not in ("noise", "particles")))
        if "noise" in c:
            predictions["noise"] = step.noise
        if "particles" in c:
            predictions["particles"] = step.particles(x_t, step.index)
        first, *others = (factor * predictions[name] for name, factor in c.items())
        return sum(others, start=first)

    return residual
