# SPDX-License-Identifier: Apache-2.0
"""A tiny AutoencoderTiny whose latents are nearly those of a model's own autoencoder: its last layer is fitted."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny

from guidance.tiny_vae import check_images
from tests.drawn import Draws


def tiny_vae(channels: int = 4, downsamplings: int = 3, width: int = 8, seed: int = 0) -> AutoencoderTiny:
    """Random weights, of 2^downsamplings pixels a latent."""
    blocks = (1,) * (downsamplings + 1)
    tiny = AutoencoderTiny(
        latent_channels=channels, encoder_block_out_channels=(width,) * len(blocks), num_encoder_blocks=blocks,
        decoder_block_out_channels=(width,) * len(blocks), num_decoder_blocks=blocks,
    )  # fmt: skip
    draws = Draws(seed)
    for parameter in tiny.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.data = draws.normal(*parameter.shape) * (2 / fan_in) ** 0.5
    return tiny.requires_grad_(False).eval()


@torch.no_grad()
def fitted_tiny_vae(prior: Any, folder: Path, scale: float = 1.0) -> Path:
    """Writes one whose latents are near `scale` times those of the prior's autoencoder, by least squares."""
    images = torch.cat([check_images(prior.pixels_per_latent), Draws(5).uniform(1, 3, *(16 * prior.pixels_per_latent,) * 2)])
    target = scale * prior._mean_latents(images)
    downsamplings = prior.pixels_per_latent.bit_length() - 1
    tiny = tiny_vae(target.shape[1], downsamplings, width=24)
    *first, last = tiny.encoder.layers
    features = torch.nn.Sequential(*first)(images)
    columns = torch.nn.functional.unfold(features, 3, padding=1).transpose(1, 2).flatten(0, 1)
    columns = torch.cat([columns, torch.ones(len(columns), 1)], dim=1).double()
    wanted = target.permute(0, 2, 3, 1).flatten(0, 2).double()
    ridge = 1e-3 * columns.square().mean() * torch.eye(columns.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(columns.T @ columns / len(columns) + ridge, columns.T @ wanted / len(columns)).float()
    last.weight.copy_(solution[:-1].T.view_as(last.weight))
    last.bias.copy_(solution[-1])
    tiny.save_pretrained(folder)
    return folder
