# SPDX-License-Identifier: Apache-2.0
"""What a run checks and reports before it starts; `--dry-run` does the same and stops."""

import logging
from collections.abc import Callable
from functools import partial

import torch

from arguments import Config
from arguments.coerce import show
from arguments.load import load_config
from arguments.no_effect import no_effect_notices
from guidance.image_size import config_of_model, size_notices, size_problems
from guidance.law_checks import law_problems
from guidance.model_files import model_file_checks
from guidance.timestep_checks import schedule_notices, timestep_problems
from scene.dataset_readers import read_initial
from scene.point_growing import neighbour_search
from scene.text_to_cloud import check_shap_e, point_e_modules
from scene.view_space import view_notices
from toy.prompt_words import prompt_notices, prompt_problems
from trainer.backends import check_rasterizer
from trainer.checkpoints import LoadedCheckpoint
from trainer.distributed import World
from trainer.memory_estimate import check_memory
from trainer.resume_rules import adapted
from trainer.run_folder import INITIAL_POINTS, RunFolder
from trainer.state import check_budget, read_start
from trainer.workers import device_of
from utils.device import reason_without_gpu

logger = logging.getLogger(__name__)
SD_CHANNELS = 320
"""Of the first block of Stable Diffusion's U-Net; the embedded prior has 112 at most."""


def read_settings(argv: list[str]) -> Config:
    """The settings of a run from the words of a command line, checked against its prior too. Raises ConfigError."""
    return load_config(argv, prompt_problems, size_problems, timestep_problems, law_problems)


def check_start(config: Config, world: World, check_viewers: Callable[[Config], None]) -> None:
    """Raises ValueError with everything that will be refused, of what can be known before weights are read.

    A run that really starts checks its folder, its checkpoint, the initial points and its viewers a moment later.
    """
    found: list[str] = []
    device: torch.device | None = None
    try:
        device = device_of(config, world)
        check_rasterizer(config.pipeline.rasterizer, device)
        check_memory(config, device)
    except ValueError as error:
        found.append(str(error))
    checks = [*model_file_checks(config)]
    if config.dry_run:
        checks += [partial(_check_folder, config, device), partial(check_viewers, config)]
    for check in checks:
        try:
            check()
        except ValueError as error:
            found.append(str(error))
    if len(found) > 1:
        raise ValueError("\n  ".join([f"{len(found)} problems at the start:", *found]))
    if found:
        raise ValueError(found[0])


def _check_folder(config: Config, device: torch.device | None) -> None:
    """ValueError for a folder, a checkpoint or initial points with which the run cannot begin. Writes nothing."""
    folder = RunFolder(config, logger.warning)
    if checkpoint_of(folder, config, device) is not None:
        return
    points = folder.path / INITIAL_POINTS
    if points.exists() and not folder.has_stale_points:
        check_budget(len(read_initial(points, config.cameras).points), config)
        return
    if config.cameras.init_grow:
        neighbour_search()
    if config.cameras.init_shape == "file":
        check_budget(len(read_initial(str(config.cameras.init_file), config.cameras).points), config)
    elif config.cameras.init_shape == "pointe" and not config.cameras.init_fallback:
        point_e_modules()
    elif config.cameras.init_shape == "shap_e" and not config.cameras.init_fallback:
        check_shap_e(config.cameras.shap_e_model_key)


def checkpoint_of(folder: RunFolder, config: Config, device: torch.device | None) -> LoadedCheckpoint | None:
    """The checkpoint that a run begins with, adapted to its settings; None without one. Writes nothing.

    device: None where it is not known, which leaves out the check that the checkpoint's random state is of its kind.
    Raises ValueError for a folder, a checkpoint or settings with which it cannot begin.
    """
    resumed = folder.find()
    found = resumed or read_start(config.start_checkpoint)
    return None if found is None else adapted(found, config, device, resumed is not None, folder.report)


def device_notices(config: Config) -> list[str]:
    """A sentence where a model as large as Stable Diffusion is to run on a CPU."""
    is_chosen = config.device == "cpu"
    on_cpu = is_chosen or (config.device == "auto" and not torch.cuda.is_available())
    if config.guidance.guidance != "SD" or not on_cpu:
        return []
    channels = config_of_model(config.guidance.model_key, "unet/config.json").get("block_out_channels")
    if isinstance(channels, list) and all(isinstance(count, int) and count < SD_CHANNELS for count in channels):
        return []
    reason = "device: cpu" if is_chosen else reason_without_gpu()
    return [f"no GPU is used ({reason}): a step of Stable Diffusion takes minutes on a CPU, a run weeks"]


def start_notices(config: Config) -> list[str]:
    """A sentence where the prompt of the run is newer than that of its initial shape: another object's, most likely."""
    text, start = config.guidance.text, config.cameras.init_prompt
    labels = "GuidanceParams.text", "GenerateCamParams.init_prompt"
    is_newer = any(labels[0] in given and labels[1] not in given for given in (config.given, config.flags))
    if config.cameras.init_shape not in ("pointe", "shap_e") or not is_newer or text == start:
        return []
    return [
        f"the run begins with a shape of GenerateCamParams.init_prompt = {show(start)}, of the settings file, and "
        f"GuidanceParams.text is {show(text)}; pass --init_prompt too, or --init_shape sphere"
    ]


def report_notices(config: Config) -> None:
    """One line for everything that is accepted and has no effect, takes very long, or is most likely not meant."""
    further = (start_notices, view_notices, schedule_notices, no_effect_notices)
    for notices in (prompt_notices, size_notices, device_notices, *further):
        for notice in notices(config):
            logger.warning("%s", notice)
