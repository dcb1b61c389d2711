# SPDX-License-Identifier: Apache-2.0
"""What model_key means: a folder in diffusers layout, one file, or a hub id, downloaded or from the offline cache."""

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from arguments import GuidanceParams
from utils.failures import first_line
from utils.model_ids import current_id, places_of

# Every upstream config names it; GuidanceParams.model_key_mirror stands for it.
REMOVED_MODEL_KEY = "stabilityai/stable-diffusion-2-1-base"
SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
MODEL_KEY = "GuidanceParams.model_key"
HOW_TO_GET = f"give {MODEL_KEY} a folder in diffusers layout, a hub id that exists, or a .safetensors file"


class ModelUnavailable(ValueError):
    """The diffusion model's weights are not available; the message says why and what to do."""


class NotDownloaded(ModelUnavailable):
    """What a hub id names is not available from the hub, or from its cache alone."""


def find_source(params: GuidanceParams) -> Path | str:
    """What model_key means: an existing folder or file, or a hub id (where it moved, the new one)."""
    return find_local(params) or hub_id(params.model_key or "", params)


def find_local(params: GuidanceParams) -> Path | None:
    """The folder or file that model_key names; None for a hub id.  Raises ModelUnavailable for anything else."""
    key = params.model_key
    if not key:
        raise ModelUnavailable(f"GuidanceParams.model_key is not set; {HOW_TO_GET}")
    for path in places_of(key):
        if path.is_dir() or path.is_file():
            return _checked_path(path, params.is_safe_tensor)
    if Path(key).suffix in SINGLE_FILE_SUFFIXES:
        raise ModelUnavailable(f"model file {key!r} does not exist; {HOW_TO_GET}")
    if not HUB_ID.fullmatch(key):
        raise ModelUnavailable(f"model_key {key!r} is neither an existing folder nor a hub id; {HOW_TO_GET}")
    return None


def hub_id(key: str, params: GuidanceParams) -> str:
    """Where the model of a hub id is now, by the table and model_key_mirror."""
    return current_id(key, {REMOVED_MODEL_KEY: params.model_key_mirror})


def local_folder(key: str | None) -> Path | None:
    """The folder that a key names, from here or from the repository; None where there is none."""
    return next((path for path in places_of(key) if path.is_dir()), None)


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


def download(key: str, revision: str | None, variant: str | None = None) -> Path:
    """Folder of a hub model: from the local cache, or downloaded now.  Raises NotDownloaded.

    variant: which weights are downloaded where a part has them, e.g. fp16; None: the plain ones.
    """
    try:
        with quiet():
            from diffusers import StableDiffusionPipeline  # at import transformers reports that torchvision is missing

            folder = StableDiffusionPipeline.download(key, revision=revision, safety_checker=None, variant=variant)
    except Exception as error:  # hub, http and file-system errors share no base class
        raise NotDownloaded(_hub_sentence(key, revision, error)) from error
    return Path(folder)


def cached(key: str, revision: str | None, *parts: str) -> Path:
    """Folder of a hub model in the local cache, with the config of these parts at least.  Raises NotDownloaded."""
    from huggingface_hub import snapshot_download

    names = ["model_index.json", *(f"{part}/config.json" for part in parts)]
    try:
        return Path(snapshot_download(key, revision=revision, allow_patterns=names, local_files_only=True))
    except Exception as error:  # hub, http and file-system errors share no base class
        raise NotDownloaded(_hub_sentence(key, revision, error)) from error


def download_configs(key: str, setting: str, cache_only: bool = False) -> Path:
    """Folder with the configs and the tokenizer of a hub model, which `setting` names, without its weights.

    cache_only: nothing is downloaded.  Raises NotDownloaded.
    """
    from huggingface_hub import snapshot_download

    try:
        with quiet():
            patterns = ["*.json", "*.txt", "*.model"]
            return Path(snapshot_download(key, allow_patterns=patterns, local_files_only=cache_only))
    except Exception as error:  # hub, http and file-system errors share no base class
        raise NotDownloaded(_hub_sentence(key, None, error, setting)) from error


def _hub_sentence(key: str, revision: str | None, error: BaseException, setting: str = MODEL_KEY) -> str:
    """One sentence for a failed download: what happened, what to do."""
    names = {type(cause).__name__ for cause in causes(error)}
    advice = HOW_TO_GET.replace(MODEL_KEY, setting)
    if "RevisionNotFoundError" in names:
        return f"hub model {key!r} has no revision {revision!r}; correct GuidanceParams.model_revision"
    if "GatedRepoError" in names:
        return f"hub model {key!r} is gated; accept its licence on its page and run `hf auth login`, or use another one"
    if "RepositoryNotFoundError" in names:
        return f"hub model {key!r} does not exist (or is private); {advice}"
    if "EntryNotFoundError" in names or "RemoteEntryNotFoundError" in names:
        return f"hub model {key!r} is not in diffusers layout (no model_index.json); {advice}"
    detail = reason_of(error)
    named = f"{key!r}, revision {revision!r}," if revision else f"{key!r}"
    return (
        f"hub model {named} is not in the local cache and could not be downloaded ({detail}); "
        f"connect to the network once, or give {setting} a local folder"
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those behind it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def reason_of(error: BaseException) -> str:
    """The first line of the error that caused the others."""
    return first_line(list(causes(error))[-1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence both model libraries for the length of a with block: errors are reported in one sentence here."""
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
