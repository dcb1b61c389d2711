# SPDX-License-Identifier: Apache-2.0
"""Depth ControlNet: a second network that conditions the U-Net on the shape that the image must have.

Its control image is the view's rendered disparity, normalised to [0, 1] with near = 1, as depth ControlNets expect.
Upstream's branch never ran; here all of a step's noise predictions get it, those of the inversion included, so
that the guided prediction and its target differ by text and interval alone.
Letters of shapes: B views, C latent channels, h w latent size, H W image.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from guidance.model_checks import check_finite, read_json
from guidance.sources import HUB_ID, ModelUnavailable, NotDownloaded, local_folder, quiet, reason_of
from guidance.weight_files import lacks_weights, load_part
from utils.model_ids import current_id

HOW_TO_GET = (
    "give GuidanceParams.controlnet_model_key the hub id or folder of a depth ControlNet in diffusers layout that was "
    "made for this diffusion model"
)
SAME_AS_UNET = ("in_channels", "cross_attention_dim", "block_out_channels", "down_block_types", "layers_per_block")


def find_controlnet(key: str) -> Path | str:
    """What controlnet_model_key means: a folder that holds a ControlNet, or a hub id.  Raises ModelUnavailable."""
    if (folder := local_folder(key)) is not None:
        return _checked_folder(folder)
    if Path(key).suffix in (".safetensors", ".pth", ".ckpt") or not HUB_ID.fullmatch(key):
        raise ModelUnavailable(f"controlnet_model_key {key!r} is neither an existing folder nor a hub id; {HOW_TO_GET}")
    return current_id(key)


def _checked_folder(folder: Path) -> Path:
    kind = ""
    for name in ("config.json", "model_index.json"):
        kind = kind or (read_json(folder / name).get("_class_name", "") if (folder / name).is_file() else "")
    if kind != "ControlNetModel":
        raise ModelUnavailable(f"folder {folder} holds {kind or 'no config.json'}, no ControlNetModel; {HOW_TO_GET}")
    return folder


def load_controlnet(source: Path | str, unet: Any, dtype: torch.dtype) -> Any:
    """The ControlNet of `source` (from find_controlnet), checked against the U-Net.  Raises ModelUnavailable."""
    from diffusers import ControlNetModel

    if isinstance(source, Path):
        config = ControlNetModel.load_config(str(source))
        check_controlnet(config, unet.config, str(source))
        controlnet = load_part(source, ControlNetModel.from_pretrained, torch_dtype=dtype)
        check_finite(controlnet, f"ControlNet {source}:")
        return controlnet
    return load_controlnet(download_controlnet(source), unet, dtype)


def download_controlnet(key: str, cache_only: bool = False) -> Path:
    """Folder of a hub ControlNet with its weights: plain ones if there are, else those in half precision.

    cache_only: nothing is downloaded.  Raises NotDownloaded.
    """
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            for name in ("model.safetensors", "model.fp16.safetensors", "model.bin", "model.fp16.bin"):
                patterns = ["config.json", f"diffusion_pytorch_{name}"]
                folder = Path(snapshot_download(key, allow_patterns=patterns, local_files_only=cache_only))
                if not lacks_weights(folder):
                    break
    except Exception as error:  # hub, http and file-system errors share no base class
        raise NotDownloaded(
            f"ControlNet {key!r} is not in the local cache and could not be downloaded ({reason_of(error)}); "
            f"connect to the network once, or {HOW_TO_GET}"
        ) from error
    if cache_only and lacks_weights(folder):
        raise NotDownloaded(f"ControlNet {key!r} is only in part in the local cache; connect to the network once")
    return _checked_folder(folder)


def check_controlnet(config: Any, unet: Any, source: str) -> None:
    """Raise ModelUnavailable unless a ControlNet of this config works beside a U-Net of that one."""
    ours = {name: _plain(config.get(name)) for name in SAME_AS_UNET}
    theirs = {name: _plain(unet.get(name)) for name in SAME_AS_UNET}
    for name in SAME_AS_UNET:
        if ours[name] != theirs[name]:
            raise ModelUnavailable(
                f"ControlNet {source} has {name} {ours[name]} but the U-Net has {theirs[name]}; {HOW_TO_GET}"
            )
    if (channels := config.get("conditioning_channels", 3)) != 3:
        raise ModelUnavailable(f"ControlNet {source} takes images of {channels} channels, expected 3; {HOW_TO_GET}")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def residuals(
    controlnet: Any, x_t: Tensor, t: Tensor, embeddings: Tensor, image: Tensor
) -> dict[str, tuple[Tensor, ...] | Tensor]:
    """What the ControlNet adds inside the U-Net, as its keyword arguments.

    x_t [B,C,h,w], t [B], embeddings [B,L,D], image [B,3,H,W] in [0,1] (resized to what the latents stand for).
    """
    per_latent = 2 ** (len(controlnet.config.conditioning_embedding_out_channels) - 1)
    size = x_t.shape[2] * per_latent, x_t.shape[3] * per_latent
    image = image.to(x_t.dtype)
    if image.shape[2:] != size:
        image = functional.interpolate(image, size=size, mode="bilinear", align_corners=False)
    down, mid = controlnet(x_t, t, encoder_hidden_states=embeddings, controlnet_cond=image, return_dict=False)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
