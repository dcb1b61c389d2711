# SPDX-License-Identifier: Apache-2.0
"""Whether files are those of a plain text-to-image model; where they are not, one sentence says what they are."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from guidance.model_values import TOKENIZER, VALUES, check_values
from guidance.sd_step import PREDICTION_TYPES
from guidance.sources import HOW_TO_GET, ModelUnavailable
from utils.bounded_file import read_text
from utils.failures import first_line
from utils.wording import counted

MAX_CONFIG_BYTES = 1 << 24  # of a JSON file or a list of words beside the weights
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Names of weights that tell a file of something else: what it is and where it belongs.
OTHER_FILES = {
    r"conditioner\.": "a Stable Diffusion XL checkpoint; only 1.x and 2.x work here",
    r"(model\.diffusion_model\.)?(double|joint)_blocks\.": "a FLUX or Stable Diffusion 3 checkpoint, no 1.x or 2.x one",
    r"control_model\.|controlnet_|input_hint_block\.": "a ControlNet; controlnet_model_key takes one as a folder",
    r".*(\.lora_|_lora\.|\.lora\.|:up$)": "a LoRA; name it in LoRA_path",
}
# What a U-Net's config asks for beside latents, time and text; of a plain one each is unset.
OTHER_INPUTS = {
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "addition_embed_type": "sizes or images",
    "encoder_hid_dim_type": "the features of another encoder",
    "time_cond_proj_dim": "the guidance scale, as a latent consistency model does",
}


def read_json(path: Path) -> dict[str, Any]:
    """A config of a model.  Raises ModelUnavailable when it is damaged."""
    contents = _read(path, json.loads, "readable JSON")
    if not isinstance(contents, dict):
        raise ModelUnavailable(f"{path} is not a JSON object; the model is damaged, fetch it again")
    return contents


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """A config by its name in a pipeline's folder, with checked values.  Raises ModelUnavailable."""
    contents = read_json(folder / name)
    check_values(contents, VALUES.get(name, {}), folder / name)
    return contents


def read_words(path: Path) -> frozenset[str]:
    """The words of a list, white space between them.  Raises ModelUnavailable when it is damaged."""
    return frozenset(_read(path, str.split, "a list of words"))


def _read(path: Path, parse: Callable[[str], Any], kind: str) -> Any:
    try:
        return parse(read_text(path, MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(
            f"{path} is not {kind} ({first_line(error)}); the model is damaged, fetch it again"
        ) from error


def check_layout(folder: Path, advice: str = HOW_TO_GET) -> None:
    """Raise ModelUnavailable unless `folder` looks like a Stable Diffusion pipeline in diffusers layout.

    Its sentence ends with `advice`.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        config = folder / "config.json"
        kind = read_json(config).get("_class_name", "") if config.is_file() else ""
        found = f"a single {kind}" if kind else "no model_index.json"
        raise ModelUnavailable(f"folder {folder} holds {found}; expected a Stable Diffusion pipeline; {advice}")
    contents = read_config(folder, index.name)
    kind = contents.get("_class_name", "unknown")
    if "text_encoder_2" in contents or "XL" in kind or "transformer" in contents:
        raise ModelUnavailable(f"folder {folder} is a {kind}; only Stable Diffusion 1.x and 2.x work here; {advice}")
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelUnavailable(f"folder {folder} lacks {', '.join(missing)}; fetch the whole pipeline again; {advice}")
    for problem in (*_networks_of_others(folder), *_schedulers_of_others(folder)):
        raise ModelUnavailable(f"folder {folder}: {problem}; only Stable Diffusion 1.x and 2.x work here; {advice}")
    for name in VALUES:
        if (folder / name).is_file():
            read_config(folder, name)


def _networks_of_others(folder: Path) -> Iterator[str]:
    for part, key, expected in (
        ("unet", "_class_name", ("UNet2DConditionModel",)),
        ("text_encoder", "model_type", ("clip_text_model", "clip")),
    ):
        path = folder / part / "config.json"
        kind = read_json(path).get(key, expected[0]) if path.is_file() else expected[0]
        if kind not in expected:
            yield f"its {part} is {kind!r}, not {expected[0]}"


def _schedulers_of_others(folder: Path) -> Iterator[str]:
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path) if path.is_file() else {}
    name = str(config.get("_class_name", ""))
    if "Flow" in name or "EDM" in name or config.get("use_flow_sigmas"):
        yield f"its scheduler is {name}, which is not one of noise prediction"
    schedule = config.get("beta_schedule", BETA_SCHEDULES[0])
    if schedule not in BETA_SCHEDULES and config.get("trained_betas") is None:
        yield f"its scheduler has beta_schedule {schedule!r}, expected one of {', '.join(BETA_SCHEDULES)}"


def refuse_other_names(path: Path, names: Iterable[str], metadata: Mapping[str, str]) -> None:
    """Raise ModelUnavailable if the names or the metadata in a file tell that it is another kind."""
    for pattern, kind in OTHER_FILES.items():
        if any(re.match(pattern, name) for name in names):
            raise ModelUnavailable(f"model file {path} is {kind}; {HOW_TO_GET}")
    architecture, _, add_on = metadata.get("modelspec.architecture", "").partition("/")
    if add_on or (architecture and not re.match(r"stable-diffusion-v[12]\b", architecture)):
        stated = f"{architecture}/{add_on}"[:60].rstrip("/")
        raise ModelUnavailable(
            f"model file {path} says that it is of architecture {stated!r}; "
            f"only Stable Diffusion 1.x and 2.x work here; {HOW_TO_GET}"
        )


def check_fit(components: Any, source: str) -> None:
    """Raise ModelUnavailable unless the `Components` form one plain text-to-image model, with finite weights."""
    check_configs(components, source)
    for part in ("unet", "vae", "text_encoder"):
        check_finite(getattr(components, part), f"{source}: {part}")


def check_configs(components: Any, source: str) -> None:
    """`check_fit` without the weights."""
    check_values({key: getattr(components.tokenizer, key) for key in TOKENIZER}, TOKENIZER, f"{source}: tokenizer")
    for problem in (*_misfits(components), *_schedule_problems(components.scheduler)):
        raise ModelUnavailable(f"{source}: {problem}")


def check_finite(module: Any, source: str) -> None:
    """Raise ModelUnavailable for the first weight that is not finite in the dtype that it was loaded in."""
    for name, weight in module.named_parameters():
        if not bool(torch.stack(torch.aminmax(weight.detach())).isfinite().all()):
            kind = str(weight.dtype).removeprefix("torch.")
            remedy = "" if weight.dtype == torch.float32 else ", or set GuidanceParams.precision to float32"
            raise ModelUnavailable(f"{source} weight {name} is not finite in {kind}; fetch the model again{remedy}")


def _misfits(components: Any) -> Iterator[str]:
    unet, vae, tokenizer = components.unet.config, components.vae.config, components.tokenizer
    plain = "use a plain text-to-image model"
    if unet.in_channels != vae.latent_channels:
        yield (
            f"the U-Net takes {unet.in_channels} channels but the autoencoder makes {vae.latent_channels}; "
            f"inpainting, upscaling and depth models are no priors for this, {plain}"
        )
    if unet.out_channels != vae.latent_channels:
        yield (
            f"the U-Net makes {unet.out_channels} channels but the autoencoder takes {vae.latent_channels}; "
            f"models that also predict a variance are not supported, {plain}"
        )
    for key, kind in OTHER_INPUTS.items():
        if unet.get(key) is not None:
            yield f"the U-Net's config has {key} {unet.get(key)!r}: it needs {kind}; {plain}"
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if vae.get(key):
            yield f"the autoencoder's config has {key}, which Stable Diffusion 1.x and 2.x do not have; {plain}"
    width = components.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        yield (
            f"the text encoder is {width} wide but the U-Net expects {unet.cross_attention_dim}; "
            "the parts belong to different models, take all from one"
        )
    known = components.text_encoder.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        yield (
            f"the tokenizer has {counted(len(tokenizer), 'word')} but the text encoder {known}; "
            "the parts belong to different models, take all from one"
        )


def _schedule_problems(scheduler: Any) -> Iterator[str]:
    config = scheduler.config
    if config.prediction_type not in PREDICTION_TYPES:
        yield (
            f"scheduler prediction_type is {config.prediction_type!r}; expected one of {', '.join(PREDICTION_TYPES)}, "
            "use such a model"
        )
    total, betas = config.num_train_timesteps, scheduler.betas
    if len(betas) != total:
        yield f"the scheduler has {len(betas)} trained_betas for {counted(total, 'timestep')}; correct its config"
    if not bool(((betas > 0) & (betas <= 1)).all()):
        yield "the scheduler's betas are not all above 0 and at most 1; correct its config"
    if not isinstance(config.steps_offset, int) or not 0 <= config.steps_offset < total:
        steps = counted(total, "timestep")
        yield f"scheduler steps_offset is {config.steps_offset}; expected at least 0 and less than {steps}"
