# SPDX-License-Identifier: Apache-2.0
"""How much memory a run needs, estimated before it starts: a report, and the settings that would save most.

No constant below was measured on a GPU. Those of the networks were counted on torch's meta device for Stable Diffusion
2.1 at 256 and 512 px; the others are assumptions unless they say otherwise.
"""

import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.distributed as dist

from arguments import Config, GenerateCamParams
from guidance.execution import Execution
from guidance.image_size import ALL_OBJECTS_IMAGES, prior_size_px
from guidance.model_files import model_on_this_machine
from guidance.tiny_vae import find_tiny_vae, tiny_vae_shape
from scene.ply import vertex_count
from scene.ply_file import PlyError
from utils.device import resolve_device
from utils.failures import MachineFailure
from utils.memory import free_bytes, in_gb

logger = logging.getLogger(__name__)

GROWTH = 5  # how far densification multiplies the points
RASTER_BYTES = 400  # kept for the backward pass, a Gaussian and view
IMAGE_BYTES = 4 * 5 * 4  # a pixel: colour, disparity, transmittance in float32, four copies
SAMPLED_BYTES = 9 * 8 * 2  # a point while it is sampled and written: position, normal, colour in float64, and a copy
IDEAL_COPIES = 3.1  # peak of making the ideal prior, over its images in float32; 1.8 to 2.5, of all objects 3.1
WASTE = 1.1  # what the allocator takes beyond that
WORKSPACE_BYTES = 400 * 10**6  # of the CUDA libraries
CONTROLNET_SHARE = 0.42  # weights of a ControlNet, over those of its U-Net

# Values for each image pixel and channel of the first block: of the autoencoder while it encodes one view with gradient
# (most at once, kept for the backward pass; the same with blocks recomputed) or decodes it; of the U-Net, for a sample.
ENCODE_PEAK, ENCODE_KEPT, RECOMPUTED_PEAK, RECOMPUTED_KEPT, DECODE = 23.7, 23.6, 15.3, 1.7, 6.0
UNET_SAMPLE = 33.2 / 64
UNET_KEPT = 5.3  # of the U-Net while it trains a LoRA, for a sample; attention keeps no matrix
TINY_ENCODE = 7.4  # of an AutoencoderTiny while it encodes a view, kept too

LORA_SHARE, TRAINED_BYTES = 0.0029, 16  # of the U-Net's weights, camera included; weight, gradient and two moments

LEAST_SAVING_BYTES, MOST_SAVINGS = 10**6, 4


@dataclass(frozen=True)
class ModelSize:
    """Weights of a diffusion model's networks, and channels of the first block; Stable Diffusion 2.1's by default."""

    unet: int = 866_000_000
    vae: int = 84_000_000
    text_encoder: int = 340_000_000
    unet_channels: int = 320
    vae_channels: int = 128
    tiny_vae: int = 0
    tiny_vae_channels: int = 0

    @classmethod
    def of(cls, config: Config) -> Self | None:
        """Of the run's diffusion model; None without one, the default if its configs are not on this machine."""
        if config.guidance.guidance != "SD":
            return None
        params, tiny = config.guidance, {}
        if params.tiny_vae:
            network = tiny_vae_shape(find_tiny_vae(params.tiny_vae))
            tiny["tiny_vae"] = network.num_parameters()
            tiny["tiny_vae_channels"] = network.config.encoder_block_out_channels[0]
        if (model := model_on_this_machine(params)) is None:
            return cls(**tiny)
        return cls(
            unet=model.unet.num_parameters(),
            vae=model.vae.num_parameters(),
            text_encoder=model.text_encoder.num_parameters(),
            unet_channels=model.unet.config.block_out_channels[0],
            vae_channels=model.vae.config.block_out_channels[0],
            **tiny,
        )


def estimate(config: Config, device: torch.device, model: ModelSize | None) -> dict[str, int]:
    """Bytes that a run needs of its device, by purpose."""
    views = -(-config.guidance.C_batch_size // (dist.get_world_size() if dist.is_initialized() else 1))
    gaussians, gradient_bytes = _gaussians(config)
    cameras, cograd = config.cameras, config.cograd
    width, height = prior_size_px(cameras)
    view_px = cameras.view_px**2 or cameras.image_w * cameras.image_h
    stores = cograd.enabled and cograd.use_fusion and not cograd.bank_on_cpu
    regions = cograd.elevation_levels * cograd.azimuth_levels * cograd.distance_levels if stores else 0
    parts: dict[str, float] = {
        # Gaussians with gradient, two moments and each view's gradient; what rendering keeps of them.
        "Gaussians": (4 + config.guidance.C_batch_size) * gradient_bytes + gaussians * views * RASTER_BYTES,
        "initial points": (_initial_points(cameras) + cameras.init_grow) * SAMPLED_BYTES if device.type == "cpu" else 0,
        "rendered images": views * width * height * IMAGE_BYTES,
        "test views": view_px * IMAGE_BYTES,
        "CoGrad's bank": min(regions * gradient_bytes, cograd.bank_limit_mb * 10**6),
    }
    if model is not None:
        parts |= _of_model(model, config, device, views)
    elif config.guidance.guidance == "ideal":
        images = config.guidance.ideal_images + (ALL_OBJECTS_IMAGES if config.guidance.ideal_uncond == "all" else 0)
        parts["images of the ideal prior"] = IDEAL_COPIES * images * 12 * width**2
    overhead = {"workspace": WORKSPACE_BYTES} if device.type == "cuda" else {}
    return {name: int(WASTE * count) for name, count in parts.items() if count} | overhead


def _initial_points(cameras: GenerateCamParams) -> int:
    """How many the run begins with, before others are grown around them; 0 for a file that its reading will refuse."""
    if cameras.init_shape != "file":
        return cameras.init_num_pts
    try:
        return vertex_count(str(cameras.init_file))
    except PlyError:
        return 0


def _gaussians(config: Config) -> tuple[int, int]:
    """(number once densified, bytes of one gradient of them all in float32)."""
    opt, initial = config.optimization, _initial_points(config.cameras)
    densifies = opt.densify_until_iter > opt.densify_from_iter
    count = max(min(initial * GROWTH, opt.max_points), initial) if densifies else initial
    return count, count * 4 * (3 + 3 * (config.model.sh_degree + 1) ** 2 + 1 + 3 + 4)


def _of_model(model: ModelSize, config: Config, device: torch.device, views: int) -> dict[str, float]:
    """A diffusion model's weights, and the most it takes beside them: while loading or for activations."""
    params = config.guidance
    execution = Execution.of(params, device)
    samples = views * (4 if params.perpneg else 2)
    samples = min(samples, execution.unet_batch or samples)
    width, height = prior_size_px(config.cameras)
    peak, kept = (RECOMPUTED_PEAK, RECOMPUTED_KEPT) if execution.vae_checkpointing else (ENCODE_PEAK, ENCODE_KEPT)
    at_once, waiting = (1, 0) if execution.vae_slicing else (views, views)
    of_unet = samples * UNET_SAMPLE * model.unet_channels + waiting * kept * model.vae_channels
    of_vae = at_once * max(peak, DECODE) * model.vae_channels
    if model.tiny_vae and params.tiny_vae_until == 1:  # the model's own autoencoder only decodes
        of_unet -= waiting * (kept * model.vae_channels - TINY_ENCODE * model.tiny_vae_channels)
        of_vae = at_once * max(TINY_ENCODE * model.tiny_vae_channels, DECODE * model.vae_channels)
    trains = params.law.needs_predictor  # on all views, on each process
    trained = min(params.C_batch_size, execution.unet_batch or params.C_batch_size) if trains else 0
    activations = width * height * max(of_unet, of_vae, trained * UNET_KEPT * model.unet_channels)
    unet = 0 if execution.offload_unet else model.unet
    control = CONTROLNET_SHARE * model.unet if params.controlnet_model_key else 0
    text_later = model.text_encoder if params.keep_text_encoder else 0
    parts = {
        "weights": unet + model.vae + model.tiny_vae + control + text_later,
        "activations": max(activations, model.text_encoder - text_later),
    }
    in_bytes = {name: execution.dtype.itemsize * count for name, count in parts.items()}
    return in_bytes | ({"LoRA of VSD": LORA_SHARE * model.unet * TRAINED_BYTES} if trains else {})


def check_memory(config: Config, device: torch.device, free: int | None = None) -> None:
    """Report a run that is estimated not to fit, by GuidanceParams.memory_check: a warning, or ValueError.

    By default it is refused on a CPU, where beyond main memory the kernel ends the process without a message. On a GPU,
    where running out is reported, and for a diffusion model, whose part was not measured, there is a warning.
    free: bytes, by default what is free on the device.
    """
    free = free_bytes(device) if free is None else free
    if config.guidance.memory_check == "off" or free is None:
        return
    model = ModelSize.of(config)
    parts = estimate(config, device, model)
    total = sum(parts.values())
    if total <= free:
        return
    largest = ", ".join(f"{name} {in_gb(count)}" for name, count in parts.items() if count * 100 > total)
    message = (
        f"this run is estimated to need {in_gb(total)} of {device}, which has {in_gb(free)} free ({largest}); "
        f"set {', '.join(savings(config, device))}"
    )
    refuses = {"refuse": True, "auto": device.type == "cpu" and model is None}
    if refuses.get(config.guidance.memory_check):
        raise ValueError(f"{message}, or GuidanceParams.memory_check: warn to try it as it is")
    logger.warning("%s", message)


def savings(config: Config, device: torch.device) -> list[str]:
    """Settings that each alone save memory, those that save most first, with the estimated saving."""
    model = ModelSize.of(config)
    total = sum(estimate(config, device, model).values())
    found = []
    for group, changes in _ways_to_save(config, device):
        smaller = dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **changes)})
        saved = total - sum(estimate(smaller, device, model).values())
        setting = ", ".join(f"{key}: {str(value).lower()}" for key, value in changes.items())
        found.append((saved, f"{setting} (saves about {in_gb(saved)})"))
    found.sort(key=lambda saving: -saving[0])
    return [setting for saved, setting in found if saved >= LEAST_SAVING_BYTES][:MOST_SAVINGS]


def _ways_to_save(config: Config, device: torch.device) -> Iterator[tuple[str, dict[str, Any]]]:
    """(group of settings, changes of its keys)."""
    params, cameras = config.guidance, config.cameras
    yield "guidance", {"C_batch_size": 1}
    yield "cograd", {"bank_on_cpu": True}
    yield "cameras", {"init_num_pts": max(cameras.init_num_pts // 2, 1)}
    yield "cameras", {"image_w": max(cameras.image_w // 2, 8), "image_h": max(cameras.image_h // 2, 8)}
    if cameras.init_grow:
        yield "cameras", {"init_grow": cameras.init_grow // 2}
    if cameras.view_px:
        yield "cameras", {"view_px": max(cameras.view_px // 2, 1)}
    if params.guidance == "SD":
        yield "guidance", {"vram_O": True}
        yield "guidance", {"unet_batch": 1}
        whole = params.compile_unet or params.cuda_graphs or params.law.needs_predictor
        if device.type == "cuda" and not whole:
            yield "guidance", {"offload_unet": True}


def remedy_of(failure: MachineFailure, config: Config) -> str:
    """What to do about a failure of the machine."""
    if not failure.of_memory:
        return "set CUDA_LAUNCH_BLOCKING=1 to see which operation fails, should it fail again"
    try:
        return f"set {', '.join(savings(config, resolve_device(config.device)))}"
    except Exception:  # the savings cannot be estimated, for lack of memory or of the model's configs
        return "set smaller image_w and image_h, or fewer init_num_pts"
