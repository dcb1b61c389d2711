# SPDX-License-Identifier: Apache-2.0
"""Contradictions between keys, and settings with which no run can start."""

from collections.abc import Iterator
from pathlib import PurePath

from arguments import Config
from arguments.coerce import show

Problem = tuple[str, str, str]
"""(Group.key, the value in words, what was expected)."""

MAX_NAME_BYTES = 255
MAX_REGIONS = 100_000
"""Of CoGrad's grid: with more, setting it up takes longer than any run, and no region is visited twice."""
DEVICE_KEYS = ("ModelParams.data_device", "GenerateCamParams.device", "GuidanceParams.g_device")


def contradictions(config: Config) -> Iterator[Problem]:
    """Every problem of a config whose single values are all allowed."""
    yield from _prompt(config)
    yield from _folders(config)
    yield from _add_ons(config)
    yield from _budget(config)
    if config.cograd.enabled:
        yield from _regions(config)
    guidance = config.guidance
    if guidance.t_range[0] == guidance.t_range[1]:
        yield "GuidanceParams.t_range", show(list(guidance.t_range)), "lo < hi"
    if guidance.t_schedule == "warm_up" and guidance.t_range[1] > guidance.max_t_range:
        yield (
            "GuidanceParams.max_t_range",
            str(guidance.max_t_range),
            f"at least the upper end of GuidanceParams.t_range, which is {guidance.t_range[1]:g}",
        )
    devices = named_devices(config)
    if len(set(devices.values())) > 1:
        named = ", ".join(f"{name} is {value}" for name, value in devices.items())
        yield "device", config.device, f"one device for everything, but {named}"


def named_devices(config: Config) -> dict[str, str]:
    """The device keys that name a device (not auto), with their values."""
    values = (config.device, config.model.data_device, config.cameras.device, config.guidance.g_device)
    return {name: value for name, value in zip(("device", *DEVICE_KEYS), values) if value != "auto"}


def _prompt(config: Config) -> Iterator[Problem]:
    if not config.guidance.text.strip():
        hint = (
            'a prompt: pass --text "a red mug" or set GuidanceParams.text in the YAML file; '
            "for a first try use --opt configs/quickstart.yaml"
        )
        yield "GuidanceParams.text", show(config.guidance.text), hint
    shape = config.cameras.init_shape
    if shape in ("pointe", "shap_e") and not config.cameras.init_prompt.strip():
        model = {"pointe": "Point-E", "shap_e": "Shap-E"}[shape]
        hint = f"a prompt for {model}, since GenerateCamParams.init_shape is {shape}; or another init_shape"
        yield "GenerateCamParams.init_prompt", show(config.cameras.init_prompt), hint
    if shape == "file" and not config.cameras.init_file:
        hint = "a PLY file of points, since GenerateCamParams.init_shape is file; or another init_shape"
        yield "GenerateCamParams.init_file", show(config.cameras.init_file), hint


def _budget(config: Config) -> Iterator[Problem]:
    """More Gaussians to begin with than there may be; those of a file or a checkpoint are counted once it is read."""
    most, cameras = config.optimization.max_points, config.cameras
    is_read = cameras.init_shape == "file" or config.resume or config.start_checkpoint
    if not is_read and most < cameras.init_num_pts:
        expected = f"at least GenerateCamParams.init_num_pts, {cameras.init_num_pts}, with which the run begins"
        yield "OptimizationParams.max_points", str(most), expected


def _regions(config: Config) -> Iterator[Problem]:
    """Grids in which no camera can be put, and more views a step than there are regions."""
    p, views = config.cograd, config.guidance.C_batch_size
    for name, levels in (("elevation", p.elevation_levels), ("distance", p.distance_levels)):
        low, high = limits = getattr(p, f"{name}_range")
        if low == high and levels > 1:
            expected = f"lo < hi, or 1 in CoGradParams.{name}_levels, which is {levels}"
            yield f"CoGradParams.{name}_range", show(list(limits)), expected
    if p.elevation_range in ((90.0, 90.0), (-90.0, -90.0)):
        expected = "a range that holds more than the pole, where a camera has no azimuth"
        yield "CoGradParams.elevation_range", show(list(p.elevation_range)), expected
    regions = p.elevation_levels * p.azimuth_levels * p.distance_levels
    if regions > MAX_REGIONS:
        given = f"{p.elevation_levels} x {p.azimuth_levels} x {p.distance_levels} = {regions:,}"
        expected = f"at most {MAX_REGIONS:,} regions (elevation_levels x azimuth_levels x distance_levels)"
        yield "CoGradParams.azimuth_levels", given, expected
    if p.opposite_views and p.azimuth_levels % 2:
        yield "CoGradParams.azimuth_levels", str(p.azimuth_levels), "an even number with CoGradParams.opposite_views"
    if views > regions:
        yield "GuidanceParams.C_batch_size", str(views), f"at most the number of regions, {regions}, all views differ"


def _add_ons(config: Config) -> Iterator[Problem]:
    """What only a diffusion model can use, and a ControlNet that is never used."""
    guidance, start = config.guidance, config.optimization.use_control_net_iter
    for name in ("LoRA_path", "textual_inversion_path", "controlnet_model_key", "tiny_vae"):
        value = getattr(guidance, name)
        if value and guidance.guidance != "SD":
            expected = f"none: GuidanceParams.guidance {guidance.guidance} does not use it"
            yield f"GuidanceParams.{name}", show(value), expected
    if guidance.controlnet_model_key and start >= config.optimization.iterations:
        hint = f"less than OptimizationParams.iterations, {config.optimization.iterations}, or no controlnet_model_key"
        yield "OptimizationParams.use_control_net_iter", str(start), hint


def _folders(config: Config) -> Iterator[Problem]:
    workspace, path = config.model.workspace, config.model.model_path
    if not path and (reason := _unfit_name(workspace)):
        hint = f"the name of a folder below output/ {reason}; use ModelParams.model_path to write elsewhere"
        yield "ModelParams.workspace", show(workspace), hint
    if path and (unfit := [char for char in path if not char.isprintable()]):
        yield "ModelParams.model_path", show(path), f"a path of a folder without {show(unfit[0])}"
    if config.resume and config.overwrite:
        yield "overwrite", "true", "false with --resume, which continues what is in the run folder"


def _unfit_name(name: str) -> str:
    """What the name of a run would have to be that it is not; empty when it may be one."""
    parts = PurePath(name).parts
    if not name.strip() or PurePath(name).is_absolute() or ".." in parts or not parts:
        return "that is not empty and stays below it"
    if unfit := [char for char in name if not char.isprintable()]:
        return f"without {show(unfit[0])}"
    for part in parts:
        if part != part.strip() or part.endswith(".") or part.startswith(("-", "~")):
            return "without a dash or tilde at its start, a dot at its end, or a blank at either"
        if len(part.encode("utf-8")) > MAX_NAME_BYTES:
            return f"of at most {MAX_NAME_BYTES} bytes"
    return ""
