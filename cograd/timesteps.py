# SPDX-License-Identifier: Apache-2.0
"""Which timestep a view is distilled at: a global schedule, Eq. (8)'s local states, their neighbourhoods, jitter.

| symbol | name | shape | unit |
|---|---|---|---|
| T | length of the diffusion schedule | int | timesteps |
| prog, s | progress of the run, and of the logSNR schedule | float | 0..1 |
| logSNR | log(abar / (1 - abar)) | [T] | - |
| t_global | timestep of the schedule | float | timesteps |
| grad_L, grad2_L | first and second difference of a region's losses | float | loss |
| dev_L | deviation of a region's loss from its moving average L_ema | float | loss |
| u | update of a local state | float | share of T |
| t_local | local state of a region | [N] | share of T |
| t_base | clipped sum of global and local part | [B] | timesteps |
| t | what is used: t_base with jitter, an integer of the valid range | [B] | timesteps |

Letters of shapes: N regions, B views. Everything is on the CPU in float64.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cograd.history import RegionHistory
from cograd.params import CoGradParams
from cograd.regions import RegionGrid


@dataclass(frozen=True)
class TimestepPlan:
    """Timesteps of B views, with their parts for the log. In mode `random` there is no t_base but t itself."""

    t: Tensor  # [B] int64
    t_global: float
    t_local: Tensor  # [B] timesteps: the neighbourhood's part
    t_base: Tensor  # [B]


@dataclass(frozen=True)
class LocalUpdate:
    """What Eq. (8) did to one region."""

    u: float  # share of T, clipped
    raw: float  # before clipping


def log_snr(alphas_cumprod: Tensor) -> Tensor:
    """log(abar / (1 - abar)) [T], float64. Raises ValueError unless it is finite and falls all the way."""
    abar = alphas_cumprod.detach().cpu().double()
    table = abar.log() - (1 - abar).log()
    if len(table) < 2 or not bool(table.isfinite().all()) or not bool((table.diff() < 0).all()):
        raise ValueError("alphas_cumprod does not fall strictly within 0..1; pass the table of a diffusion schedule")
    return table


def schedule_progress(prog: float, reading: str, prog_range: tuple[float, float]) -> float:
    """s of the progress prog = step / steps.

    DECISION: "as prog increases from 0.2 to 0.8" is read as s = 0.2 + 0.6 prog (`interval`): a run covers the middle
    of the schedule. The other reading, s = clamp((prog - 0.2) / 0.6) (`clamp`), begins and ends with extreme timesteps.
    """
    low, high = prog_range
    if reading == "interval":
        return low + (high - low) * prog
    if high == low:
        return float(prog >= low)
    return min(max((prog - low) / (high - low), 0.0), 1.0)


def global_timestep(s: float, table: Tensor | Sequence[float]) -> float:
    """t_global: the timestep whose logSNR is (1 - s) logSNR(1000) + s logSNR(1), by interpolation on the table [T].

    DECISION: the paper's t runs over 1..1000, a table of T = 1000 entries over 0..999. A timestep indexes the table, as
    in LucidDreamer, whose timesteps begin at 1; t = 1000 is its last entry.
    """
    last = len(table) - 1
    wanted = (1 - s) * float(table[last]) + s * float(table[1])
    t = bisect_left(range(last), True, lo=1, key=lambda t: bool(table[t] <= wanted))  # the first that is not above
    below = float(table[t])
    return t - max(wanted - below, 0.0) / (float(table[t - 1]) - below) if t > 1 else 1.0


def local_update(
    grad_L: float, grad2_L: float, dev_L: float, c: tuple[float, float, float], u_max: float
) -> LocalUpdate:
    """Eq. (8): u = clip(c1 grad_L + c2 grad2_L + c3 dev_L, -u_max, u_max); the paper's u_max is called Delta t there.

    DECISION: the paper names no unit; a loss is taken as it is and u is a share of the T timesteps. A rising loss
    raises t, back towards coarse structure.

    DECISION: A.3's prose combines the current loss, its first derivative and the deviation; its formula, and Eq. (8),
    combine the first derivative, the second and the deviation. The formula is taken.
    """
    raw = c[0] * grad_L + c[1] * grad2_L + c[2] * dev_L
    return LocalUpdate(min(max(raw, -u_max), u_max), raw)


def neighbourhood_part(t_local: np.ndarray, neighbours: Sequence[tuple[int, int]], c_local: float) -> float:
    """sum over (j, d) in N(i) of c_local 2^-d t_local^j: share of T.

    DECISION: 3.3 speaks of a weighted average, A.3 gives the weights C_local = 0.2 x 2^-d; they are summed as given,
    without dividing by their sum.

    DECISION: 3.3 says that the neighbourhood's part "reflects the deviation of region i's state from the consensus of
    its neighboring regions"; no formula subtracts a consensus, and none is subtracted here: the region's own state is
    one of the terms.
    """
    return float(sum(c_local * 2.0**-d * t_local[j] for j, d in neighbours))


def jittered(t_base: float, u: float, t_jitter: float, t_valid: tuple[int, int]) -> int:
    """t ~ U(t_base - t_jitter, t_base + t_jitter) from u in [0, 1): integer, at last within t_valid.

    DECISION: the paper clips t_base, and not t, whose interval reaches 0 and 1000; t is rounded and limited to the
    timesteps that the scheduler has.
    """
    return min(max(round(t_base + t_jitter * (2 * u - 1)), t_valid[0]), t_valid[1])


class TimestepController:
    """Plans timesteps and moves the local states t_local, which the history holds.

    t_valid: first and last timestep that the scheduler knows; by default 1..T - 1.
    """

    def __init__(
        self,
        grid: RegionGrid,
        history: RegionHistory,
        alphas_cumprod: Tensor,
        params: CoGradParams,
        t_valid: tuple[int, int] | None = None,
    ) -> None:
        """alphas_cumprod [T]. Raises ValueError for a table or a t_valid that is no schedule's."""
        self.grid, self.history, self.params = grid, history, params
        self.log_snr: list[float] = log_snr(alphas_cumprod).tolist()
        self.T = len(self.log_snr)
        self.t_valid = t_valid or (1, self.T - 1)
        if not 0 <= self.t_valid[0] <= self.t_valid[1] < self.T:
            raise ValueError(f"t_valid is {self.t_valid}; expected first and last timestep within 0..{self.T - 1}")

    def plan(self, regions: Sequence[int], progress: float, u: Sequence[float]) -> TimestepPlan:
        """Timesteps for views in `regions` [B] at `progress` 0..1, from a uniform number u [B] in [0, 1) for each."""
        p = self.params
        t_global = global_timestep(schedule_progress(progress, p.prog_reading, p.prog_range), self.log_snr)
        t_local = [self.neighbourhood_timesteps(region) for region in regions]
        t_base: Sequence[float]
        if p.timestep_mode == "random":
            t_base = t = [self._random(number) for number in u]
        else:
            low, high = p.t_base_range
            t_base = [min(max(t_global + part, low), high) for part in t_local]
            t = [jittered(base, number, p.t_jitter, self.t_valid) for base, number in zip(t_base, u)]
        parts = (torch.tensor(x, dtype=torch.float64) for x in (t_local, t_base))
        return TimestepPlan(torch.tensor(t), t_global, *parts)

    def neighbourhood_timesteps(self, region: int) -> float:
        """T times the neighbourhood's part: 0 unless timestep_mode is full."""
        if self.params.timestep_mode != "full":
            return 0.0
        return self.T * neighbourhood_part(self.history.t_local, self.grid.neighbours[region], self.params.c_local)

    def update(self, region: int, differences: tuple[float, float, float]) -> LocalUpdate | None:
        """t_local <- m t_local + u of Eq. (8), from (grad_L, grad2_L, dev_L); None unless timestep_mode is full."""
        p = self.params
        if p.timestep_mode != "full":
            return None
        update = local_update(*differences, (p.c1, p.c2, p.c3), p.u_max)
        self.history.t_local[region] = p.momentum * self.history.t_local[region] + update.u
        return update

    def _random(self, u: float) -> int:
        """DECISION: the paper's ablation "w/o B" uses "random timesteps" of no named law; they are uniform over the
        limits of t_base, 100..900.
        """
        low, high = self.params.t_base_range
        return min(max(low + math.floor(u * (high - low + 1)), self.t_valid[0]), self.t_valid[1])


class LossSignal:
    """The number that Eqs. (6) and (8) read as a view's loss; its state is count and mean of each timestep bin.

    DECISION: a distillation gradient has no natural scalar. `residual` is the mean square of eps_hat - target before
    w(t); it falls by orders of magnitude with t, so that Eq. (8) mostly answers its own jitter. `weighted` is that
    times the w(t) that the guidance has; `t_normalised` is that divided by its running mean at such timesteps.
    """

    def __init__(self, alphas_cumprod: Tensor, params: CoGradParams, w: Tensor | None = None) -> None:
        """alphas_cumprod [T]; w(t) [T], by default LucidDreamer's sqrt((1 - abar) / abar). ValueError for another w."""
        abar = alphas_cumprod.detach().cpu().double()
        self.mode, self.T = params.loss_signal, len(abar)
        weights = ((1 - abar) / abar).sqrt() if w is None else w.detach().cpu().double()
        if weights.shape != abar.shape or not bool((weights >= 0).all()):
            given = f"{tuple(weights.shape)}" + (f", {float(weights.min()):g} or more" if weights.numel() else "")
            raise ValueError(f"w is {given}; expected ({self.T},), a weight of 0 or more for each timestep")
        self.w: list[float] = weights.tolist()
        self.count = np.zeros(params.loss_signal_bins, dtype=np.int64)
        self.mean = np.zeros(params.loss_signal_bins)

    def __call__(self, losses: Tensor, t: Tensor) -> Tensor:
        """Signals [B] of the views' residual losses [B] at timesteps t [B]; a loss that is not finite comes back."""
        views = list(zip(losses.tolist(), t.tolist(), strict=True))
        if self.mode == "t_normalised":
            bins = [t_view * len(self.count) // self.T for _, t_view in views]
            for (loss, _), b in zip(views, bins):
                if math.isfinite(loss):
                    self.count[b] += 1
                    self.mean[b] += (loss - self.mean[b]) / self.count[b]
            signals = [_quotient(loss, float(self.mean[b])) for (loss, _), b in zip(views, bins)]
        elif self.mode == "weighted":
            signals = [loss * self.w[t_view] for loss, t_view in views]
        else:
            signals = [loss for loss, _ in views]
        return torch.tensor(signals, dtype=torch.float64)

    def state_dict(self) -> dict[str, Any]:
        """Count and mean of each bin, and which signal it is."""
        return {"loss_signal": self.mode, "count": torch.tensor(self.count), "mean": torch.tensor(self.mean)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; ValueError for another signal or number of bins."""
        if (of := state["loss_signal"]) != self.mode:
            raise ValueError(f"loss_signal is {self.mode}; expected {of}, as in the saved loss signal")
        if (saved := len(state["count"])) != len(self.count):
            raise ValueError(f"loss_signal_bins is {len(self.count)}; expected {saved}, as in the saved loss signal")
        self.count, self.mean = (state[name].cpu().numpy().copy() for name in ("count", "mean"))


def _quotient(loss: float, mean: float) -> float:
    """loss / mean, 1 where both are 0; a loss that is not finite comes back."""
    if not math.isfinite(loss):
        return loss
    return loss / mean if mean else 1.0
