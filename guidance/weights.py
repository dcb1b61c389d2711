# SPDX-License-Identifier: Apache-2.0
"""Where the weights of a Stable Diffusion model come from, and one clear sentence when they cannot be had.

Sources: a folder in diffusers layout, a hub id (downloaded or from the offline cache), one .safetensors or .ckpt file.
Pickled files are read with torch's weights-only loader; nothing in a checkpoint is executed.
"""

import contextlib
import json
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import nn

from arguments import GuidanceParams
from guidance.sd_step import PREDICTION_TYPES

logger = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parent.parent
# Taken off the hub in November 2025; every upstream config still names it.
REMOVED_MODEL_KEY = "stabilityai/stable-diffusion-2-1-base"
SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt")
# Names of weights that tell a file of something else: what it is and where it belongs.
OTHER_FILES = {
    r"conditioner\.": "a Stable Diffusion XL checkpoint; only 1.x and 2.x work here",
    r"(model\.diffusion_model\.)?(double|joint)_blocks\.": "a FLUX or Stable Diffusion 3 checkpoint, no 1.x or 2.x one",
    r"control_model\.|controlnet_|input_hint_block\.": "a ControlNet; controlnet_model_key takes one as a folder",
    r".*(\.lora_|_lora\.|\.lora\.|:up$)": "a LoRA; name it in LoRA_path",
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
HOW_TO_GET = "give GuidanceParams.model_key a folder in diffusers layout, a hub id that exists, or a .safetensors file"


class ModelUnavailable(ValueError):
    """The diffusion model's weights cannot be had; the message says why and what to do."""


@dataclass
class Components:
    """The parts of a text-to-image pipeline that distillation uses; typed Any, for their libraries give no types.

    `known_words`: all words that a model of a small world was trained on (tokenizer/words.txt, one a line), else None.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    known_words: frozenset[str] | None = None


def load_components(params: GuidanceParams, dtype: torch.dtype) -> Components:
    """Load what `params.model_key` names, checked for shape.  Raises ModelUnavailable."""
    if params.vram_O:
        raise ValueError("GuidanceParams.vram_O is not supported yet; leave it out")
    # transformers tells at import that torchvision is missing, which nothing here needs.
    transformers.logging.set_verbosity_error()
    source = find_source(params)
    if isinstance(source, Path) and source.is_file():
        components = _from_single_file(source, params.base_model_key, dtype)
    else:
        folder = source if isinstance(source, Path) else download(source, params.model_revision)
        components = _from_folder(folder, dtype)
    check_fit(components, str(source))
    if path := params.textual_inversion_path:
        if not Path(path).exists():
            raise ModelUnavailable(
                f"textual_inversion_path {path!r} does not exist; give the embedding's .safetensors or .bin file"
            )
        add_words(components, path, f"textual inversion {path!r}")
    return components


def find_source(params: GuidanceParams) -> Path | str:
    """What model_key means: an existing folder or file, or a hub id (with the removed one replaced by its mirror)."""
    key = params.model_key
    if not key:
        raise ModelUnavailable(f"GuidanceParams.model_key is not set; {HOW_TO_GET}")
    for path in (Path(key).expanduser(), REPOSITORY / key):
        if path.is_dir() or path.is_file():
            return _checked_path(path, params.is_safe_tensor)
    if Path(key).suffix in SINGLE_FILE_SUFFIXES:
        raise ModelUnavailable(f"model file {key!r} does not exist; {HOW_TO_GET}")
    if not HUB_ID.fullmatch(key):
        raise ModelUnavailable(f"model_key {key!r} is neither an existing folder nor a hub id; {HOW_TO_GET}")
    if key == REMOVED_MODEL_KEY and params.model_key_mirror and not _is_cached(key):
        mirror = params.model_key_mirror
        logger.warning("%s was removed from the hub; using %s (GuidanceParams.model_key_mirror)", key, mirror)
        return mirror
    return key


def _checked_path(path: Path, is_safe_tensor: bool) -> Path:
    if path.is_dir():
        if is_safe_tensor:
            raise ModelUnavailable(
                f"is_safe_tensor is on but model_key {path} is a folder; name a file, or turn it off"
            )
        return path
    if path.suffix not in SINGLE_FILE_SUFFIXES:
        expected = " or ".join(SINGLE_FILE_SUFFIXES)
        raise ModelUnavailable(f"model file {path} has suffix {path.suffix!r}; expected {expected}, or a folder")
    return path


def _is_cached(key: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(key, "model_index.json"), str)


def download(key: str, revision: str | None) -> Path:
    """Folder of a hub model: from the local cache, or downloaded now.  Raises ModelUnavailable."""
    from diffusers import StableDiffusionPipeline

    try:
        with quiet():
            folder = StableDiffusionPipeline.download(key, revision=revision, safety_checker=None)
    except Exception as error:  # hub, http and file-system errors share no base class
        raise ModelUnavailable(_hub_sentence(key, revision, error)) from error
    return Path(folder)


def _hub_sentence(key: str, revision: str | None, error: BaseException) -> str:
    """One sentence for a failed download: what happened, what to do."""
    names = {type(cause).__name__ for cause in _causes(error)}
    if "RevisionNotFoundError" in names:
        return f"hub model {key!r} has no revision {revision!r}; correct GuidanceParams.model_revision"
    if "GatedRepoError" in names:
        return f"hub model {key!r} is gated; accept its licence on its page and run `hf auth login`, or use another one"
    if "RepositoryNotFoundError" in names:
        return f"hub model {key!r} does not exist (or is private); {HOW_TO_GET}"
    if "EntryNotFoundError" in names or "RemoteEntryNotFoundError" in names:
        return f"hub model {key!r} is not in diffusers layout (no model_index.json); {HOW_TO_GET}"
    detail = reason_of(error)
    asked = f"{key!r}, revision {revision!r}," if revision else f"{key!r}"
    return (
        f"hub model {asked} is not in the local cache and could not be downloaded ({detail}); "
        f"connect to the network once, or give GuidanceParams.model_key a local folder"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason_of(error: BaseException) -> str:
    """The first line of the error that caused the others."""
    return _first_line(list(_causes(error))[-1])


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence both model libraries for the length of a with block: errors are told in one sentence here."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = [(library, library.get_verbosity()) for library in (of_diffusers, of_transformers)]
    bars = [library for library, _ in before if library.is_progress_bar_enabled()]
    for library, _ in before:
        library.set_verbosity(logging.CRITICAL)
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in before:
            library.set_verbosity(level)
        for library in bars:
            library.enable_progress_bar()


def read_json(path: Path) -> dict[str, Any]:
    """A config of a model.  Raises ModelUnavailable when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = _first_line(error)
        raise ModelUnavailable(
            f"{path} is not readable JSON ({reason}); the model is damaged, fetch it again"
        ) from error


def check_layout(folder: Path) -> None:
    """Raise ModelUnavailable unless `folder` looks like a Stable Diffusion pipeline in diffusers layout."""
    index = folder / "model_index.json"
    if not index.is_file():
        config = folder / "config.json"
        kind = read_json(config).get("_class_name", "") if config.is_file() else ""
        found = f"a single {kind}" if kind else "no model_index.json"
        raise ModelUnavailable(f"folder {folder} holds {found}; expected a Stable Diffusion pipeline; {HOW_TO_GET}")
    contents = read_json(index)
    kind = contents.get("_class_name", "unknown")
    if "text_encoder_2" in contents or "XL" in kind or "transformer" in contents:
        raise ModelUnavailable(
            f"folder {folder} is a {kind}; only Stable Diffusion 1.x and 2.x work here; {HOW_TO_GET}"
        )
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise ModelUnavailable(
            f"folder {folder} lacks {', '.join(missing)}; fetch the whole pipeline again; {HOW_TO_GET}"
        )


def _from_folder(folder: Path, dtype: torch.dtype) -> Components:
    from diffusers import DDIMScheduler, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextModel

    check_layout(folder)
    fast: dict[str, Any] = {"torch_dtype": dtype, "low_cpu_mem_usage": _has_accelerate()}
    return Components(
        unet=load_part(folder / "unet", UNet2DConditionModel.from_pretrained, **fast),
        vae=load_part(folder / "vae", _vae_class(folder).from_pretrained, **fast),
        text_encoder=load_part(folder / "text_encoder", CLIPTextModel.from_pretrained, dtype=dtype),
        tokenizer=load_part(folder / "tokenizer", AutoTokenizer.from_pretrained, info=False),
        known_words=_known_words(folder / "tokenizer" / "words.txt"),
        scheduler=load_part(folder / "scheduler", DDIMScheduler.from_pretrained, info=False),
    )


def _has_accelerate() -> bool:
    from diffusers.utils import is_accelerate_available

    return is_accelerate_available()


def _vae_class(folder: Path) -> Any:
    """The autoencoder class that vae/config.json names."""
    config = folder / "vae" / "config.json"
    name = read_json(config).get("_class_name")
    if name == "AutoencoderKL":
        from diffusers import AutoencoderKL

        return AutoencoderKL
    if name == "LinearAutoencoder":
        from guidance.linear_autoencoder import LinearAutoencoder

        return LinearAutoencoder
    raise ModelUnavailable(f"{config} names class {name!r}; expected AutoencoderKL or LinearAutoencoder; {HOW_TO_GET}")


def load_part(path: Path, load: Callable[..., Any], info: bool = True, **options: Any) -> Any:
    """Load one folder of a pipeline; a weight that is missing is an error, not a random number."""
    try:
        with quiet():
            if not info:
                return load(str(path), local_files_only=True, **options)
            model, report = load(str(path), local_files_only=True, output_loading_info=True, **options)
    except ModelUnavailable:
        raise
    except Exception as error:  # safetensors, json, torch and both libraries raise their own classes
        raise ModelUnavailable(
            f"{path} cannot be loaded ({_first_line(error)}); the files are damaged or incomplete, fetch them again"
        ) from error
    check_complete(str(path), report)
    return model


def check_complete(source: str, report: dict[str, Any]) -> None:
    """Raise ModelUnavailable if a library's loading report tells of weights that were not in the files."""
    missing, mismatched = sorted(report["missing_keys"]), report["mismatched_keys"]
    if missing or mismatched:
        example = missing[0] if missing else sorted(str(key) for key in mismatched)[0]
        count = len(missing) + len(mismatched)
        raise ModelUnavailable(
            f"{source} lacks {count} weights that its config.json asks for, e.g. {example}; fetch the model again"
        )


def _from_single_file(path: Path, base_model_key: str | None, dtype: torch.dtype) -> Components:
    """A single checkpoint; `base_model_key` (folder or hub id) completes it with configs and tokenizer."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    base = _local_base(base_model_key)
    if path.suffix == ".safetensors":
        _refuse_other_files(path)
    try:
        with quiet(), _missing_weights() as missing:
            pipe = StableDiffusionPipeline.from_single_file(str(path), config=base, dtype=dtype, safety_checker=None)
    except Exception as error:  # safetensors, pickle, hub and key errors share no base class
        _refuse_other_files(path)
        reason = reason_of(error)
        raise ModelUnavailable(
            f"model file {path} cannot be loaded ({reason}); expected a whole Stable Diffusion 1.x or 2.x checkpoint; "
            "without network, GuidanceParams.base_model_key must name a local folder with its configs and tokenizer"
        ) from error
    if missing:
        raise ModelUnavailable(
            f"model file {path} lacks {len(missing)} weights, e.g. {missing[0]}; fetch it again, "
            "or correct GuidanceParams.base_model_key if that is another kind of model"
        )
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return Components(pipe.unet, pipe.vae, pipe.text_encoder, pipe.tokenizer, scheduler)


def _refuse_other_files(path: Path) -> None:
    """Raise ModelUnavailable if the names in a file tell that it is another kind; unreadable files are left alone."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
        else:
            contents = torch.load(path, map_location="meta", weights_only=True, mmap=True)
            names = list(contents.get("state_dict", contents))
    except Exception:  # whoever loads it in earnest says what is wrong
        return
    for pattern, kind in OTHER_FILES.items():
        if any(re.match(pattern, name) for name in names):
            raise ModelUnavailable(f"model file {path} is {kind}; {HOW_TO_GET}")


@contextlib.contextmanager
def _missing_weights() -> Iterator[list[str]]:
    """Collect the weights that modules do not find in what they load.

    The single-file loader leaves them random and says nothing, so its calls of load_state_dict are watched.
    """
    missing: list[str] = []
    original = nn.Module.load_state_dict

    def watched(module: nn.Module, *args: Any, **options: Any) -> Any:
        result = original(module, *args, **options)
        missing.extend(key for key in result.missing_keys if not key.endswith("position_ids"))
        return result

    nn.Module.load_state_dict = watched  # type: ignore[method-assign, assignment]
    try:
        yield missing
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _local_base(base_model_key: str | None) -> str | None:
    """base_model_key, read from the repository's folder where it is relative to that."""
    if not base_model_key:
        return None
    for path in (Path(base_model_key).expanduser(), REPOSITORY / base_model_key):
        if path.is_dir():
            return str(path)
    return base_model_key


def check_fit(components: Components, source: str) -> None:
    """Raise ModelUnavailable unless the parts belong together and form a plain text-to-image model."""
    unet, vae = components.unet.config, components.vae.config
    if unet.in_channels != vae.latent_channels:
        raise ModelUnavailable(
            f"{source}: the U-Net takes {unet.in_channels} channels but the autoencoder makes {vae.latent_channels}; "
            "inpainting, upscaling and depth models are no priors for this, use a plain text-to-image model"
        )
    width = components.text_encoder.config.hidden_size
    if unet.cross_attention_dim != width:
        raise ModelUnavailable(
            f"{source}: the text encoder is {width} wide but the U-Net expects {unet.cross_attention_dim}; "
            "the parts belong to different models, take all from one"
        )
    kind = components.scheduler.config.prediction_type
    if kind not in PREDICTION_TYPES:
        raise ModelUnavailable(
            f"{source}: scheduler prediction_type is {kind!r}; expected one of {', '.join(PREDICTION_TYPES)}, "
            "use such a model"
        )


def _known_words(path: Path) -> frozenset[str] | None:
    return frozenset(path.read_text(encoding="utf-8").split()) if path.is_file() else None


def add_words(components: Components, source: str | dict[str, torch.Tensor], told: str) -> None:
    """Add the learned words of a textual-inversion file, or one word with its embedding, to tokenizer and text encoder.

    `told` names the source in the message of ModelUnavailable.
    """
    from diffusers import StableDiffusionPipeline

    parts = {part: getattr(components, part) for part in PARTS}
    pipe: Any = StableDiffusionPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    try:
        pipe.load_textual_inversion(source)
    except Exception as error:  # wrong keys, wrong width, unreadable file: each its own class
        raise ModelUnavailable(
            f"{told} does not fit ({_first_line(error)}); use one made for this text encoder"
        ) from error
