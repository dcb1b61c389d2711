# SPDX-License-Identifier: Apache-2.0
"""For each piece of a checkpoint's state: the settings that it depends on.

A setting that no rule names is read afresh at each step, whatever it was before. One that a rule names and that has
changed makes the checkpoint be refused, or its piece start again, or is reported as one without effect.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from arguments import Config
from arguments.load import to_tree
from trainer.checkpoints import LoadedCheckpoint, Report
from utils.wording import counted

Changes = Mapping[str, tuple[Any, Any]]
"""Group.key -> (value in the checkpoint, value now); without those that are as they were."""


class Outcome(enum.Enum):
    """What a changed setting does to a piece of state."""

    REFUSED = "the checkpoint is refused"
    RENEWED = "the piece, or `keys` of it, starts again"
    KEPT = "the piece stays as it is, and a message says what that means"


@dataclass(frozen=True)
class Rule:
    """The outcome for a piece of state when one of `settings` has changed; `message` follows "Group.key changed:".

    Nothing becomes of a piece that is empty.
    """

    outcome: Outcome
    settings: tuple[str, ...]
    message: str
    keys: tuple[str, ...] = ()


def _refused(settings: tuple[str, ...], message: str) -> Rule:
    return Rule(Outcome.REFUSED, settings, message)


def _renewed(settings: tuple[str, ...], message: str, *keys: str) -> Rule:
    return Rule(Outcome.RENEWED, settings, message, keys)


def _kept(settings: tuple[str, ...], message: str) -> Rule:
    return Rule(Outcome.KEPT, settings, message)


class Piece:
    """`check` gets the piece and the ResumeContext and returns why they do not fit, in a sentence, or None."""

    def __init__(self, *rules: Rule, check: Callable[[Any, ResumeContext], str | None] = lambda *_: None) -> None:
        self.rules, self.check = rules, check


@dataclass(frozen=True)
class ResumeContext:
    """A checkpoint's settings and those of the run that continues from it."""

    config: Config
    device: torch.device | None  # None: not known
    changes: Changes
    is_resumed: bool  # in its own folder; False: --start_checkpoint


def _steps_left(iteration: int, context: ResumeContext) -> str | None:
    last = context.config.optimization.iterations
    is_done = iteration == last and (not context.is_resumed or "OptimizationParams.iterations" in context.changes)
    if iteration < last or (iteration == last and not is_done):
        return None
    return f"it is of step {iteration}, but OptimizationParams.iterations is {last}; give more than {iteration}"


def _gaussians_fit(captured: Mapping[str, Any], context: ResumeContext) -> str | None:
    parameters, config = captured["parameters"], context.config
    count, stored = len(parameters["xyz"]), parameters["f_rest"].shape[1]
    degree, most = config.model.sh_degree, config.optimization.max_points
    if stored != (degree + 1) ** 2 - 1:
        held = int((stored + 1) ** 0.5) - 1
        return f"it holds Gaussians of SH degree {held}, not of {degree}; keep ModelParams.sh_degree as it was"
    if count == 0:
        return "it holds no Gaussians; use an earlier one"
    if count > most:
        return f"it holds {counted(count, 'Gaussian')}, but OptimizationParams.max_points is {most}; raise max_points"
    return None


def _streams_fit(state: Mapping[str, Any], context: ResumeContext) -> str | None:
    stored = state["device_type"]
    if context.device is None or stored == context.device.type:
        return None
    return f"its random state is of device {stored}, which {context.device.type} cannot continue; set device: {stored}"


def _cograd_fits(state: Mapping[str, Any] | None, context: ResumeContext) -> str | None:
    params = context.config.cograd
    if (state is not None) != params.enabled:
        return "it is of a run with another CoGradParams.enabled; keep it as it was"
    if state is None:
        return None
    regions = params.elevation_levels * params.azimuth_levels * params.distance_levels
    if (stored := len(state["history"]["n"])) != regions:
        return (
            f"it holds histories of {counted(stored, 'region')}, but the settings make {regions}; "
            "keep CoGradParams' levels"
        )
    bins = len(state["signal"]["count"])
    if bins != params.loss_signal_bins and "CoGradParams.loss_signal_bins" not in context.changes:
        return (
            f"it holds {counted(bins, 'timestep bin')}, "
            f"but CoGradParams.loss_signal_bins is {params.loss_signal_bins}; keep it"
        )
    return None


def _named(group: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" for name in names)


IMAGE_SIZE = _named("GenerateCamParams", "image_w", "image_h", "SSAA")
MODEL = _named(
    "GuidanceParams", "guidance", "model_key", "model_key_mirror", "model_revision", "is_safe_tensor", "base_model_key"
)
DRAWN_CAMERAS = (
    *IMAGE_SIZE,
    *_named(
        "GenerateCamParams", "radius_range", "theta_range", "phi_range", "fovy_range", "rand_cam_gamma",
        "uniform_sphere_rate", "default_radius", "default_polar", "default_azimuth", "jitter_pose", "jitter_center",
        "jitter_target", "jitter_up", "max_radius_range", "max_theta_range", "max_phi_range", "max_fovy_range",
    ),
    *_named(
        "OptimizationParams", "use_progressive", "progressive_view_iter", "scale_up_cameras_iter", "scale_up_factor",
        "fovy_scale_up_factor", "phi_scale_up_factor",
    ),
    "ModelParams.batch",
)  # fmt: skip
INITIAL = _named(
    "GenerateCamParams", "init_shape", "init_prompt", "use_pointe_rgb", "shap_e_model_key", "init_fallback",
    "init_num_pts", "init_file", "init_grow", "init_grow_distance",
)  # fmt: skip
REGIONS = _named(
    "CoGradParams", "elevation_levels", "azimuth_levels", "distance_levels", "elevation_range", "distance_range"
)
DISTILLATION_LOSS = (*MODEL, *_named("GuidanceParams", "distillation", "sds"))
FIRST_NOISE = (
    *_named("GuidanceParams", "C_batch_size", "noise_seed", "noise_source"),
    *IMAGE_SIZE,
    *MODEL,
)
LOSS = (
    *DISTILLATION_LOSS,
    *_named("GuidanceParams", "num_train_timesteps", "weighting", "noising"),
    *_named("CoGradParams", "loss_signal", "loss_signal_bins"),
)
SEEDED = ("python_words", "numpy_words", "torch")
VIDEO_SIZE = _named("GenerateCamParams", "image_w", "image_h", "view_px")

WHERE = _named("ModelParams", "model_path", "workspace")
"""Where the run folder is, which may be moved."""

PIECES: dict[str, Piece] = {
    "run": Piece(_kept(("start_checkpoint",), "it has no effect on a run that is resumed")),
    "log": Piece(),
    "writes": Piece(),
    "process_video": Piece(_kept(VIDEO_SIZE, "the process video keeps its size, later frames are scaled to it")),
    "train/iteration": Piece(check=_steps_left),
    "train/skipped": Piece(),
    "train/last_fault": Piece(),
    "train/rollbacks": Piece(),
    "train/gaussians": Piece(
        _kept(INITIAL, "it has no effect on Gaussians that come from a checkpoint"),
        _kept(
            ("OptimizationParams.densifier",),
            "the first densification reads what was gathered under the earlier one as well",
        ),
        check=_gaussians_fit,
    ),
    "train/camera_stack": Piece(_renewed(DRAWN_CAMERAS, "cameras that were drawn ahead are drawn again")),
    "train/streams": Piece(
        _renewed(("seed",), "the random streams start again, from the new seed", *SEEDED),
        _renewed(("GuidanceParams.noise_seed",), "the noise stream starts again, from the new seed", "noise"),
        check=_streams_fit,
    ),
    "train/loss": Piece(_renewed(DISTILLATION_LOSS, "what the distillation loss has learned starts again")),
    "train/memory": Piece(_renewed(FIRST_NOISE, "the noise that fix_noise or noise_source keeps is drawn again")),
    "train/cograd": Piece(
        _refused(REGIONS, "CoGrad's histories are of the regions as they were; keep it"),
        _renewed(LOSS, "CoGrad's histories of losses start again", "history", "signal"),
        check=_cograd_fits,
    ),
}
"""Path of a piece in a checkpoint -> what it depends on. Every piece is here (tests/reliability/test_changes.py)."""


def flat_settings(config: Config) -> dict[str, Any]:
    """Group.key -> value, as a config.yaml has it; what a checkpoint remembers of its run."""
    flat: dict[str, Any] = {}
    for key, value in to_tree(config).items():
        flat |= {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def adapted(
    checkpoint: LoadedCheckpoint, config: Config, device: torch.device | None, is_resumed: bool, report: Report
) -> LoadedCheckpoint:
    """The checkpoint without the state that must start again under these settings; reports what differs.

    Raises ValueError, one sentence, when it cannot be continued with them. Nothing is written.
    """
    path, tree = checkpoint
    changes = _changed_settings(tree, config)
    if not is_resumed:
        changes = {name: values for name, values in changes.items() if name != "start_checkpoint"}
    context = ResumeContext(config, device, changes, is_resumed)
    pieces = _pieces(path, tree)
    try:
        reasons = _refusals(pieces, context)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a checkpoint of a training run: it holds something else") from error
    if reasons:
        raise ValueError(f"{path} cannot be continued with these settings: {'; '.join(reasons)}")
    if is_resumed and changes:
        listed = ", ".join(f"{name} {before} -> {now}" for name, (before, now) in changes.items())
        report(f"settings differ from those of {path.name}: {listed}")
    for name, state in pieces.items():
        for rule in PIECES[name].rules:
            changed = [key for key in rule.settings if key in changes]
            if changed and state:
                report(f"{', '.join(changed)} changed: {rule.message}")
                if rule.outcome is Outcome.RENEWED:
                    tree = _without(tree, name, rule.keys)
    return path, tree if is_resumed else _without(tree, "writes", ())


def _changed_settings(tree: Mapping[str, Any], config: Config) -> Changes:
    """Settings that differ from those in the checkpoint; none where it holds none, as upstream's do."""
    run = tree.get("run")
    before = run.get("settings") if isinstance(run, dict) else None
    before, now = before if isinstance(before, dict) else {}, flat_settings(config)
    known = [name for name in now if name in before and name not in WHERE]
    return {name: (before[name], now[name]) for name in known if before[name] != now[name]}


def _pieces(path: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The pieces that a checkpoint holds. ValueError for something else than a run's checkpoint."""
    if "upstream" in tree:
        captured, iteration = tree["upstream"]
        return {"train/iteration": iteration, "train/gaussians": captured}
    found: dict[str, Any] = {}
    for name in PIECES:
        node: Any = tree
        for key in name.split("/"):
            if not isinstance(node, dict) or key not in node:
                raise ValueError(f"{path} is not a checkpoint of a training run: it has no {key!r}")
            node = node[key]
        found[name] = node
    return found


def _refusals(pieces: Mapping[str, Any], context: ResumeContext) -> list[str]:
    reasons = []
    for name, state in pieces.items():
        for rule in PIECES[name].rules:
            changed = [key for key in rule.settings if key in context.changes]
            if rule.outcome is Outcome.REFUSED and changed and state:
                (before, now), key = context.changes[changed[0]], changed[0]
                reasons.append(f"{key} was {before} and is {now}: {rule.message}")
                break
        else:
            if reason := PIECES[name].check(state, context):
                reasons.append(reason)
    return reasons


def _without(tree: dict[str, Any], name: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """The tree without a piece, or without `keys` of it."""
    first, *rest = name.split("/")
    if rest:
        return {**tree, first: _without(tree[first], "/".join(rest), keys)}
    if not keys:
        return {key: value for key, value in tree.items() if key != first}
    return {**tree, first: {key: value for key, value in tree[first].items() if key not in keys}}
