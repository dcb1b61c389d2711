# SPDX-License-Identifier: Apache-2.0
"""A small autoencoder that encodes the rendered images in the early part of a run: diffusers' AutoencoderTiny.

Its latents must be those of the model's own autoencoder, which still encodes the later part and decodes everything.
Letters of shapes: B views, C latent channels, h w latent size, H W image.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arguments import GuidanceParams
from guidance.model_checks import check_finite, read_json
from guidance.model_values import TINY_VAE, check_values
from guidance.sources import ModelUnavailable, local_folder, quiet
from guidance.weight_files import load_part
from utils.failures import first_line

HOW_TO_GET = (
    "give GuidanceParams.tiny_vae the folder of an AutoencoderTiny in diffusers layout that was made for this "
    "diffusion model (madebyollin/taesd is made for Stable Diffusion 1.x and 2.x)"
)
LARGEST_RATIO, LEAST_CORRELATION = 2.0, 0.5
"""Of the latents with those of the model's autoencoder: size, either way, and correlation about each channel's mean. A
forgotten scaling factor is 5.5, latents of another model have a correlation near 0."""
CHECKED_LATENTS = 16  # a side, of the images that the check encodes


def find_tiny_vae(key: str) -> Path:
    """The folder that `GuidanceParams.tiny_vae` names.  Raises ModelUnavailable unless it holds an AutoencoderTiny."""
    folder = local_folder(key)
    if folder is None:
        raise ModelUnavailable(f"tiny_vae {key!r} is not an existing folder; {HOW_TO_GET}")
    config = folder / "config.json"
    contents = read_json(config) if config.is_file() else {"_class_name": "no config.json"}
    kind = contents.get("_class_name")
    if kind != "AutoencoderTiny":
        raise ModelUnavailable(f"tiny_vae folder {folder} holds {kind}, expected an AutoencoderTiny; {HOW_TO_GET}")
    check_values(contents, TINY_VAE, config)
    return folder


def tiny_vae_shape(folder: Path) -> Any:
    """The network on torch's meta device.  Raises ModelUnavailable for a config that describes none."""
    from diffusers import AutoencoderTiny

    try:
        with quiet(), torch.device("meta"):
            return AutoencoderTiny.from_config(AutoencoderTiny.load_config(str(folder)))
    except Exception as error:  # a config can be wrong in every way that the constructor notices
        raise ModelUnavailable(
            f"{folder / 'config.json'} describes no network ({first_line(error)}); {HOW_TO_GET}"
        ) from error


def check_tiny_vae_shape(tiny: Any, vae: Any, source: str) -> None:
    """Raise ModelUnavailable unless a tiny autoencoder makes latents of the same shape as the model's."""
    ours = {"latent_channels": tiny.config.latent_channels, "pixels per latent": _pixels(tiny)}
    theirs = {"latent_channels": vae.config.latent_channels, "pixels per latent": _pixels(vae)}
    for name in ours:
        if ours[name] != theirs[name]:
            raise ModelUnavailable(
                f"tiny_vae {source} has {name} {ours[name]}, the model's autoencoder has {theirs[name]}; {HOW_TO_GET}"
            )


def _pixels(vae: Any) -> int:
    blocks = getattr(vae.config, "encoder_block_out_channels", None) or vae.config.block_out_channels
    return 2 ** (len(blocks) - 1)


def load_tiny_vae(key: str, vae: Any, dtype: torch.dtype) -> Any:
    """The network with its weights, of the shape that the model's autoencoder `vae` has.  Raises ModelUnavailable."""
    from diffusers import AutoencoderTiny

    folder = find_tiny_vae(key)
    check_tiny_vae_shape(tiny_vae_shape(folder), vae, str(folder))
    tiny = load_part(folder, AutoencoderTiny.from_pretrained, torch_dtype=dtype)
    check_finite(tiny, f"tiny_vae {folder}:")
    return tiny


@torch.no_grad()
def check_latents(tiny: Callable[[Tensor], Tensor], full: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Raise ModelUnavailable unless both encode images [B,3,H,W] to nearly the same scaled latents [B,C,h,w]."""
    ours, theirs = tiny(images).double(), full(images).double()
    ratio = float(ours.norm() / theirs.norm())
    ours, theirs = (x - x.mean(dim=(0, 2, 3), keepdim=True) for x in (ours, theirs))
    correlation = float((ours * theirs).sum() / (ours.norm() * theirs.norm()))
    if not 1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO or not correlation >= LEAST_CORRELATION:
        raise ModelUnavailable(
            f"the norm of tiny_vae's latents over that of the model's own is {ratio:.2g}, their correlation "
            f"{correlation:.2g}; expected {1 / LARGEST_RATIO:g} to {LARGEST_RATIO:g} and at least "
            f"{LEAST_CORRELATION:g}. {HOW_TO_GET[0].upper()}{HOW_TO_GET[1:]}"
        )


def check_images(pixels_per_latent: int) -> Tensor:
    """Two images [2,3,H,H] in [0,1] on which latents are compared: smooth colours, and a disc on white."""
    size = CHECKED_LATENTS * pixels_per_latent
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    waves = torch.stack([torch.sin(3 * x + y), torch.cos(4 * y - x), torch.sin(5 * x * y)]) / 2 + 0.5
    inside = ((x - 0.1) ** 2 + (y + 0.2) ** 2).sqrt() < 0.6
    colour = torch.tensor([0.9, 0.3, 0.1]).view(3, 1, 1) * (0.75 + 0.25 * waves)
    return torch.stack([waves, torch.where(inside, colour, torch.ones_like(colour))])


def uses_tiny_vae(params: GuidanceParams, iteration: int, iterations: int) -> bool:
    """Whether this iteration, of 1..iterations, is within the run's first share tiny_vae_until."""
    return bool(params.tiny_vae) and iteration <= params.tiny_vae_until * iterations
