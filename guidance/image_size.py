# SPDX-License-Identifier: Apache-2.0
"""Which image sizes the prior of a run accepts: one rule, checked with the settings and used when it is loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from arguments import Config, GenerateCamParams, GuidanceParams
from arguments.checks import Problem
from guidance.model_checks import read_config
from guidance.sources import ModelUnavailable, local_folder

STABLE_DIFFUSION_PX = 8
"""Pixels a side of one latent, where the model's own config is not on this machine."""


@dataclass(frozen=True)
class SizeRule:
    """Sizes in pixels, of the images that the prior is given: image_w x SSAA by image_h x SSAA.

    least: of each side. multiple: both sides are multiples of it. square: both sides are equal.
    latent: pixels a side of one latent; what is left over at the right and lower edge is not seen.
    """

    least: int = 8
    multiple: int = 1
    square: bool = False
    latent: int = 1

    def problem(self, width: int, height: int) -> str:
        """What was expected of a size; empty when it is accepted."""
        if self.square and width != height:
            return "a square image: image_w = image_h"
        if min(width, height) < self.least:
            return f"at least {self.least} px a side"
        if width % self.multiple or height % self.multiple:
            return f"multiples of {self.multiple} px"
        return ""


IDEAL = SizeRule(least=8, square=True)

ALL_OBJECTS_IMAGES = 480
"""Further ones, of all objects, for ideal_uncond: all."""


def size_rule(params: GuidanceParams) -> SizeRule:
    """The rule of the run's prior, read from the model's config where that is on this machine."""
    if params.guidance == "ideal":
        return IDEAL
    vae = config_of_model(params.model_key, "vae/config.json")
    channels = vae.get("block_out_channels")
    latent = 2 ** (len(channels) - 1) if channels else STABLE_DIFFUSION_PX
    is_strict = vae.get("_class_name") == "LinearAutoencoder" or params.controlnet_model_key
    return SizeRule(least=latent, multiple=latent if is_strict else 1, latent=latent)


def prior_size_px(cameras: GenerateCamParams) -> tuple[int, int]:
    """(width, height) of the images that the prior is given."""
    return cameras.image_w * cameras.SSAA, cameras.image_h * cameras.SSAA


def size_problems(config: Config) -> Iterator[Problem]:
    """An image size that the prior does not accept, for arguments.load.load_config."""
    width, height = prior_size_px(config.cameras)
    if problem := size_rule(config.guidance).problem(width, height):
        name = "the ideal prior" if config.guidance.guidance == "ideal" else f"the model {config.guidance.model_key}"
        times = f" (times SSAA {config.cameras.SSAA})" if config.cameras.SSAA > 1 else ""
        shown = f"{config.cameras.image_w} x {config.cameras.image_h}{times}"
        yield "GenerateCamParams.image_w", shown, f"{problem}, for {name}; set image_w and image_h together"


def size_notices(config: Config) -> list[str]:
    """A sentence on the pixels at the edge that make no latent."""
    latent = size_rule(config.guidance).latent
    left = [side % latent for side in prior_size_px(config.cameras)]
    if not any(left):
        return []
    return [f"image_w, image_h: the prior does not see the last {left[0]} columns and {left[1]} rows of pixels; "
            f"with multiples of {latent} px it sees all"]  # fmt: skip


def config_of_model(model_key: str | None, name: str) -> dict[str, Any]:
    """A JSON file of a model in a folder; empty for another model, and for a damaged one, which loading refuses."""
    folder = local_folder(model_key)
    try:
        return read_config(folder, name) if folder is not None and (folder / name).is_file() else {}
    except ModelUnavailable:
        return {}
