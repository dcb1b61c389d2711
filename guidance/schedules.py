# SPDX-License-Identifier: Apache-2.0
"""From which window of the schedule the timesteps of a step are drawn, by the progress of the run.

A window (low, high) holds schedule indices, both ends included; a deterministic schedule's has one index. `t_range` and
`t_range_start` are shares of the K indices.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from arguments import GuidanceParams
from cograd.timesteps import log_snr
from guidance.sd_step import index_range

Window = tuple[int, int]
Schedule = Callable[[GuidanceParams, Tensor, float, float], Window]
"""(settings, alpha_bar [K] of the schedule indices, progress 0..1, warm-up rate 1..0) -> the window."""


def _indices(shares: tuple[float, float], count: int) -> Window:
    low, high = (min(round(share * count), count - 1) for share in shares)
    return low, high


def _at(share: float, count: int) -> Window:
    index = min(max(round(share * count), 0), count - 1)
    return index, index


def _warm_up(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    """LucidDreamer's: t_range, whose upper end the warm-up widens to max_t_range."""
    low, beyond = index_range(len(abar), params.t_range, params.max_t_range, rate)
    return low, beyond - 1


def _uniform(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    return _indices(params.t_range, len(abar))


def _step(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    """t_range_start until the share t_switch of the run, then t_range."""
    return _indices(params.t_range_start if progress < params.t_switch else params.t_range, len(abar))


def _moving(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    """From t_range_start to t_range, linearly over the run."""
    first, last = params.t_range_start, params.t_range
    low, high = (a + (b - a) * progress for a, b in zip(first, last))
    return _indices((low, high), len(abar))


def _linear(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    low, high = params.t_range
    return _at(high - (high - low) * progress, len(abar))


def _square_root(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    """HiFA's: t_max - (t_max - t_min) sqrt(progress)."""
    low, high = params.t_range
    return _at(high - (high - low) * math.sqrt(progress), len(abar))


def _log_snr(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    """CoGrad's global part: log(abar / (1 - abar)) rises linearly from that of t_range's upper end to its lower."""
    low, high = _indices(params.t_range, len(abar))
    table = log_snr(abar).numpy()
    wanted = (1 - progress) * table[high] + progress * table[low]
    index = round(float(np.interp(wanted, table[low : high + 1][::-1], np.arange(low, high + 1)[::-1])))
    return index, index


DREAMTIME = (0.8, 0.5, 0.3, 0.1)
"""m1, m2, s1, s2 as shares of the schedule, as PlacidDreamer has them."""


def dreamtime_weights(abar: Tensor) -> np.ndarray:
    """W [K] = W_d W_p, W_d = sqrt((1 - abar)/abar): W_p is 1 between m2 and m1, and falls as a Gaussian beyond.

    W_d is the w(t) of weighting interval, which beside this schedule counts twice (schedule_notices).
    """
    a = abar.detach().cpu().double().numpy()
    m1, m2, s1, s2 = (share * len(a) for share in DREAMTIME)
    t = np.arange(len(a), dtype=np.float64)
    beyond = np.where(t > m1, (t - m1) / s1, np.where(t < m2, (t - m2) / s2, 0.0))
    bump = np.exp(-(beyond**2) / 2)
    return bump * np.sqrt((1 - a) / a)


def dreamtime_index(weights: np.ndarray, progress: float) -> int:
    """argmin over k of |sum of the normalised weights from k on - progress|."""
    tail = np.cumsum((weights / weights.sum())[::-1])[::-1]
    return int(np.abs(tail - progress).argmin())


def _dreamtime(params: GuidanceParams, abar: Tensor, progress: float, rate: float) -> Window:
    """DreamTime's, over the indices of t_range."""
    low, high = _indices(params.t_range, len(abar))
    index = low + dreamtime_index(dreamtime_weights(abar)[low : high + 1], progress)
    return index, index


SCHEDULES: dict[str, Schedule] = {
    "warm_up": _warm_up,
    "uniform": _uniform,
    "step": _step,
    "moving": _moving,
    "linear": _linear,
    "sqrt": _square_root,
    "dreamtime": _dreamtime,
    "log_snr": _log_snr,
}
"""By the names that `GuidanceParams.t_schedule` takes."""


def window(params: GuidanceParams, abar: Tensor, progress: float, warm_up_rate: float) -> Window:
    """The window of a step; abar [K] is alpha_bar at the schedule indices."""
    return SCHEDULES[params.t_schedule](params, abar, progress, warm_up_rate)


def draw_index(
    params: GuidanceParams, abar: Tensor, progress: float, warm_up_rate: float, generator: torch.Generator
) -> Tensor:
    """One schedule index [1] for the whole batch, uniform over the window."""
    low, high = window(params, abar, progress, warm_up_rate)
    return torch.randint(low, high + 1, (1,), generator=generator, device=generator.device)
