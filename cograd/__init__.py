# SPDX-License-Identifier: Apache-2.0
"""CoGrad3D for any trainer: which regions to look at, at which timesteps, and what to make of the gradients.

A step k = 1..total_steps of a trainer, in this order:

    plan = cograd.plan(k, views, generator)                      # regions, timesteps
    poses = cograd.grid.sample_poses(plan.regions, generator)    # a pose in each region's cell
    ...                                                          # render, distil: a loss and a gradient g_main a view
    fused = [cograd.fuse(k, region, t, g_main).g_fused ...]      # what the optimizer gets, summed over the views
    cograd.observe(k, plan.regions, plan.t, losses, gradients)   # the gradients are g_main, never g_fused
    cograd.remap_rows(index_map)                                 # after densification: where each row came from

`generator` is a torch.Generator. Letters of shapes: B views, N Gaussians (rows of the parameters).
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cograd.checks import check_lengths, indices, numbers, whole
from cograd.fusion import FusionResult, Gradient, fuse
from cograd.gradient_bank import GradientBank, RowMap
from cograd.history import RegionHistory, check_loss
from cograd.params import CoGradParams
from cograd.regions import REGION, RegionGrid, draw_without_replacement, indicators, next_log_probabilities, uniform
from cograd.timesteps import LocalUpdate, LossSignal, TimestepController

PARTS = ("history", "signal", "bank")
GRID = ("elevation_levels", "azimuth_levels", "distance_levels", "elevation_range", "distance_range")
TIMESTEP = "a timestep of the diffusion model"

__all__ = ["CoGrad", "CoGradParams", "FusionResult", "Gradient", "Observation", "Plan"]


@dataclass(frozen=True)
class Plan:
    """Where B views look from and at which timesteps, with the parts of each timestep."""

    step: int
    regions: Tensor  # [B] int64, all different
    t: Tensor  # [B] int64, timesteps of the diffusion model
    t_global: float
    t_local: Tensor  # [B] timesteps added by the neighbourhood's local states
    t_base: Tensor  # [B]
    probabilities: Tensor  # [N regions], P of this draw


@dataclass(frozen=True)
class Observation:
    """What B losses became, None where one was not finite: the signal, and the updates u of the local states."""

    signal: list[float | None]
    u: list[float | None]
    u_raw: list[float | None]  # before u_max


class CoGrad:
    """Remembers the region histories with their local timestep states, the loss signal's means, and the bank."""

    def __init__(
        self,
        params: CoGradParams,
        alphas_cumprod: Tensor,
        total_steps: int,
        t_valid: tuple[int, int] | None = None,
        fixed_names: Sequence[str] = ("background",),
        w: Tensor | None = None,
    ) -> None:
        """alphas_cumprod [T] of the diffusion model; t_valid: its first and last timestep, by default 1..T - 1.

        w: the guidance's weight [T] of each timestep, by default LucidDreamer's; for loss_signal `weighted`.
        fixed_names: parameters whose rows are not Gaussians. Raises ValueError for an invalid schedule or grid.
        """
        if isinstance(fixed_names, str):
            raise ValueError(f"fixed_names is {fixed_names!r}; expected a sequence of names, ({fixed_names!r},)")
        total_steps = whole(total_steps, "total_steps", "the number of steps of the run", 1)
        self.params, self.total_steps = params, total_steps
        self.grid = RegionGrid.from_params(params)
        self.opposites = self.grid.opposites() if params.opposite_views else None
        self.history = RegionHistory(len(self.grid), params.ema_factor)
        self.controller = TimestepController(self.grid, self.history, alphas_cumprod, params, t_valid)
        self.signal = LossSignal(alphas_cumprod, params, w)
        self.bank = GradientBank(self.grid, params, total_steps, frozenset(fixed_names))

    def plan(self, step: int, views: int, generator: torch.Generator) -> Plan:
        """Regions and timesteps of so many views; draws two uniform numbers for each view.

        Raises ValueError for more views than regions, and for a step beyond 1..total_steps.
        """
        step = self._step(step)
        views = whole(views, "views", "the number of views, which are all of different regions", 1, len(self.grid))
        if not isinstance(generator, torch.Generator):
            raise ValueError(f"generator is {generator!r}; expected torch.Generator().manual_seed(seed)")
        log_p = next_log_probabilities(self.history, self.params)
        regions = draw_without_replacement(log_p, uniform(generator, views).tolist(), self.opposites)
        P = torch.from_numpy(np.exp(log_p))
        u = uniform(generator, views).tolist()
        times = self.controller.plan(regions.tolist(), step / self.total_steps, u)
        return Plan(step, regions, times.t, times.t_global, times.t_local, times.t_base, P)

    def keeps_gradients(self, step: int) -> bool:
        """Whether `fuse` or `observe` of this step can have a use for gradients: whether `flat` ones save a copy."""
        return self.bank.is_active(step) or self.bank.is_useful(step)

    def fuse(self, step: int, region: int, t: int, g_main: Gradient) -> FusionResult:
        """g_fused of one view, from the gradients that the bank holds of earlier steps.

        DECISION: the paper has one view a step. With B views each main gradient is fused for itself, the sum of the B
        results goes to the optimizer, and views of the same step are no candidates for each other: `observe` stores
        their gradients after all of them are fused. configs/prompt.yaml has LucidDreamer's four views, so that its 6000
        steps draw 24,000 regions.

        Raises ValueError, at every step, for a step, region, t or g_main that a later step could not use either.
        """
        step, region = self._step(step), whole(region, "region", REGION, 0, len(self.grid) - 1)
        t = whole(t, "t", TIMESTEP, 0, self.controller.T - 1)
        self.bank.check(g_main)
        candidates, params = self.bank.candidates(step, region, t, g_main), self.params
        if not candidates:
            return FusionResult(g_main, region=region)
        result = fuse(g_main, [(c.w, c.g_hist) for c in candidates], params.delta, params.projection)
        return replace(result, region=region, distances=tuple(c.d for c in candidates))

    def observe(
        self, step: int, regions: Tensor, t: Tensor, losses: Tensor, main_gradients: Sequence[Gradient | None]
    ) -> Observation:
        """Takes in the losses [B], moves the local states, stores the main gradients (None: there is none to keep).

        DECISION: the paper has no loss that is not finite. Such a view is counted, and enters no history and no bank.

        Raises ValueError, with nothing taken in, for what is not one region, timestep, loss and gradient for each view.
        """
        step = self._step(step)
        regions, t, losses = (x.cpu() if isinstance(x, Tensor) else x for x in (regions, t, losses))
        self._check_views(regions, t, losses, main_gradients)
        self.bank.drop_expired(step)
        signals = self.signal(losses, t).tolist()
        updates: list[LocalUpdate | None] = []
        for region, t_view, signal, g_main in zip(regions.tolist(), t.tolist(), signals, main_gradients, strict=True):
            if not math.isfinite(signal):
                self.history.refused += 1
                updates.append(None)
                continue
            differences = self.history.differences(region, signal)
            self.history.add(region, signal)
            updates.append(self.controller.update(region, differences))
            if g_main is not None:
                self.bank.store(step, region, t_view, g_main)
        return Observation(
            [signal if math.isfinite(signal) else None for signal in signals],
            [update.u if update else None for update in updates],
            [update.raw if update else None for update in updates],
        )

    def _step(self, step: int) -> int:
        return whole(step, "step", "the number of a step of the run", 1, self.total_steps)

    def _check_views(self, regions: Tensor, t: Tensor, losses: Tensor, gradients: Sequence[Gradient | None]) -> None:
        """ValueError unless there is a region, a timestep, a loss and a gradient or None for each view."""
        places = indices(regions, "regions", REGION, len(self.grid))
        indices(t, "t", TIMESTEP, self.controller.T)
        values = numbers(losses, "losses", "the loss")
        check_lengths({"regions": len(regions), "t": len(t), "losses": len(losses), "main_gradients": len(gradients)})
        for region, loss in zip(places, values):
            if math.isfinite(loss):
                check_loss(region, loss)
        self.bank.check(*(g_main for g_main in gradients if g_main is not None))

    def remap_rows(self, index_map: RowMap) -> None:
        """Moves the rows of the stored gradients with their Gaussians. ValueError, with none moved, for no such map."""
        self.bank.remap_rows(index_map)

    def record(self, plan: Plan, fusion: Sequence[dict[str, Any]], observation: Observation) -> dict[str, Any]:
        """A step, once observed, for a line of JSON; fusion: FusionResult.record() of each view."""
        return {
            "regions": plan.regions.tolist(),
            "probability": plan.probabilities[plan.regions].tolist(),
            "largest_probability": float(plan.probabilities.max()),
            "t_global": plan.t_global,
            "t_local": plan.t_local.tolist(),
            "t_base": plan.t_base.tolist(),
            "t": plan.t.tolist(),
            "fusion": list(fusion),
            **vars(observation),
            "visits": self.history.n[plan.regions.tolist()].tolist(),
            "starved_share": self.history.starved_share(),
            "refused_losses": self.history.refused,
            "bank_entries": len(self.bank),
            "bank_bytes": self.bank.nbytes(),
            "bank_limit_bytes": self.bank.limit_bytes,
            "bank_evicted": self.bank.evicted,
            "bank_refused": self.bank.refused,
        }

    def maps(self) -> dict[str, Tensor]:
        """Visits, convergence indicator, probability and local timestep offset of all regions, each [E, A, D]."""
        everywhere = {
            "visits": self.history.n,
            "indicator": indicators(self.history, self.params),
            "probability": np.exp(next_log_probabilities(self.history, self.params)),
            "t_local": self.history.t_local * self.controller.T,
        }
        return {name: torch.tensor(x).view(self.grid.levels) for name, x in everywhere.items()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides later steps, as nested dictionaries of tensors and plain values."""
        grid = {name: getattr(self.params, name) for name in GRID}
        return {**{name: getattr(self, name).state_dict() for name in PARTS}, "grid": grid}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Continues where `state_dict` was taken; with strict=False a part that is not in it stays as it is.

        ValueError, with nothing taken over, for a state of another grid or loss signal, or for something else.
        """
        try:
            parts = dict(state)
            grid = parts.pop("grid", {})
            unlike = [name for name in grid if np.any(np.not_equal(getattr(self.params, name), grid[name]))]
            loaded = {name: copy.copy(getattr(self, name)) for name in PARTS if name in parts}
            if parts.keys() - loaded.keys() or (strict and (not grid or len(loaded) < len(PARTS))):
                expected = ", ".join(("grid", *PARTS))
                raise ValueError(f"the saved state has {sorted(state)}; expected {expected}, of state_dict()")
            if unlike:
                (name, now) = unlike[0], getattr(self.params, unlike[0])
                raise ValueError(f"CoGradParams.{name} is {now}; expected {grid[name]}, as in the saved state; keep it")
            for name, part in loaded.items():
                part.load_state_dict(parts[name])
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the saved state is not what state_dict() gives: {error!r}") from error
        for name, part in loaded.items():
            vars(getattr(self, name)).update(vars(part))
