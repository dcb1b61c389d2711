# SPDX-License-Identifier: Apache-2.0
"""The settings of CoGrad3D, with the paper's numbers (A.3).

The metadata of each field says what it means (`help`), its `unit`, its bounds (`lo` and `hi` inclusive, `above` and
`below` exclusive; of every element of a pair), its `choices`, and whether it is an `ordered` pair, lo <= hi.
"""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

BOUNDS = {
    "lo": (">=", operator.ge),
    "above": (">", operator.gt),
    "hi": ("<=", operator.le),
    "below": ("<", operator.lt),
}
FRACTION = {"lo": 0.0, "hi": 1.0}
LARGE = 1e9  # nothing overflows in single precision
RATE, SIGNED, LENGTH = {"lo": 0.0, "hi": LARGE}, {"lo": -LARGE, "hi": LARGE}, {"lo": 1e-3, "hi": 1e4}
TIMESTEPS: dict[str, Any] = {"unit": "timesteps", "lo": 0, "hi": 100_000}


def param(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field with its meaning, unit, bounds and choices as metadata."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclasses.dataclass(frozen=True)
class CoGradParams:
    """CoGrad3D: regions, timesteps and gradient fusion, with the paper's numbers (A.3). Off: the baseline.

    Whatever the paper leaves open is a field as well; docs/equations.md lists those decisions. Timesteps are the
    diffusion model's, 0..T - 1. Raises ValueError for a value of another type or beyond its bounds.
    """

    enabled: bool = param(
        False, "use CoGrad3D; false: LucidDreamer's baseline; no effect on the class CoGrad, which does not read it"
    )

    use_regions: bool = param(True, "draw regions by Eqs. 6 and 7; false (ablation w/o A): uniformly")
    elevation_levels: int = param(3, "levels of elevation", lo=1, hi=180)
    azimuth_levels: int = param(30, "sectors of azimuth, over 360 degrees", lo=1, hi=720)
    distance_levels: int = param(2, "levels of camera distance", lo=1, hi=64)
    elevation_range: tuple[float, float] = param(
        (-30.0, 60.0), "elevation above the horizon", unit="deg", lo=-90.0, hi=90.0, ordered=True
    )
    distance_range: tuple[float, float] = param((1.5, 2.0), "camera distance", ordered=True, **LENGTH)
    neighbour_distance: int = param(
        2, "neighbours are nearer than this in level steps, the region included", lo=1, hi=9
    )
    eps_stab: float = param(1e-6, "Eq. 6: added to the denominator", above=0.0, hi=LARGE)
    tau: float = param(0.1, "Eq. 7: temperature; lower favours regions whose loss rose", lo=1e-6, hi=LARGE)
    min_visit_share: float = param(
        0.0, "share of the draws that is uniform over the regions; 0: the paper's", **FRACTION
    )

    opposite_views: bool = param(
        False, "every second view of a step looks from the region opposite the one before; false: the paper's"
    )

    loss_signal: str = param(
        "residual",
        "loss that Eqs. 6 and 8 read: as it is, times w(t), or divided by the running mean of its timestep bin",
        choices=("residual", "weighted", "t_normalised"),
    )
    loss_signal_bins: int = param(40, "timestep bins of loss_signal t_normalised", unit="bins", lo=1, hi=1000)

    timestep_mode: str = param(
        "full",
        "timesteps: the paper's; only the global schedule; or uniform (ablation w/o B)",
        choices=("full", "schedule", "random"),
    )
    prog_range: tuple[float, float] = param(
        (0.2, 0.8), "the progress that prog_reading is about", ordered=True, **FRACTION
    )
    prog_reading: str = param(
        "interval",
        "a run covers the part prog_range of the schedule, or covers all of it while its progress is in prog_range",
        choices=("interval", "clamp"),
    )
    c1: float = param(0.5, "Eq. 8: weight of the loss's first difference", **SIGNED)
    c2: float = param(0.3, "Eq. 8: weight of the loss's second difference", **SIGNED)
    c3: float = param(0.2, "Eq. 8: weight of the loss's deviation from its moving average", **SIGNED)
    u_max: float = param(0.05, "Eq. 8: largest change of a local state in one update, as a share of T", **FRACTION)
    momentum: float = param(0.9, "Eq. 8: m, what a local state keeps at an update", lo=0.0, below=1.0)
    ema_factor: float = param(
        0.9, "what the moving average of a region's losses keeps at an update", lo=0.0, below=1.0
    )
    c_local: float = param(0.2, "weight of the neighbourhood's local states", **RATE)
    t_base_range: tuple[int, int] = param(
        (100, 900), "limits of t_base", unit="timesteps", lo=0, ordered=True, hi=100_000
    )
    t_jitter: int = param(100, "largest distance of t from t_base", **TIMESTEPS)

    use_fusion: bool = param(True, "fuse gradients by Eq. 10; false: ablation w/o C")
    fusion_range: tuple[float, float] = param(
        (0.2, 0.75), "part of the run that fuses gradients", ordered=True, **FRACTION
    )
    max_step_share: float = param(0.1, "a stored gradient is younger than this share of the current step", **FRACTION)
    max_t_difference: int = param(50, "a stored gradient's timestep is nearer than this", **TIMESTEPS)
    own_region_is_candidate: bool = param(True, "a region's own last gradient is fused too")
    delta: float = param(1e-8, "Eq. 10: added to the denominator", **RATE)
    projection: str = param(
        "vector", "Eq. 10 on all parameters as one vector, or on each group alone", choices=("vector", "group")
    )
    bank_precision: str = param(
        "float16", "how gradients are packed once they are more than bank_limit_mb", choices=("float16", "float32")
    )
    bank_limit_mb: int = param(
        1400,
        "stored gradients take at most this; beyond it the oldest are packed, then dropped",
        unit="MB",
        lo=1,
        hi=10_000_000,
    )
    bank_on_cpu: bool = param(False, "store gradients in main memory")

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _fits(value, kinds[field.name], field.metadata):
                expected = _expected(kinds[field.name], field.metadata)
                raise ValueError(f"CoGradParams.{field.name} is {value!r}; expected {expected}")


def _fits(value: object, kind: Any, metadata: Mapping[str, Any]) -> bool:
    """Whether a value has the type, the bounds and the choices of its field; a whole number is a float too."""
    if items := get_args(kind):
        return (
            isinstance(value, tuple)
            and len(value) == len(items)
            and all(_fits(item, items[0], metadata) for item in value)
            and (value[0] <= value[1] or not metadata.get("ordered"))
        )
    if kind in (bool, str):
        return isinstance(value, kind) and value in metadata.get("choices", (value,))
    numbers = (int, float) if kind is float else int
    return (
        isinstance(value, numbers)
        and not isinstance(value, bool)
        and all(holds(value, metadata[name]) for name, (_, holds) in BOUNDS.items() if name in metadata)
    )


def _expected(kind: Any, metadata: Mapping[str, Any]) -> str:
    if "choices" in metadata:
        return "one of " + ", ".join(metadata["choices"])
    item = (get_args(kind) or (kind,))[0]
    noun = {bool: "True or False", int: "a whole number", float: "a number"}[item]
    if item is not kind:
        noun = f"a tuple (lo, hi) with lo <= hi, each {noun}"
    limits = " and ".join(f"{sign} {metadata[name]:g}" for name, (sign, _) in BOUNDS.items() if name in metadata)
    unit = f" ({metadata['unit']})" if "unit" in metadata else ""
    return f"{noun} {limits}".strip() + unit
