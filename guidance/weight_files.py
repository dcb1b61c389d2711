# SPDX-License-Identifier: Apache-2.0
"""Which weight files a folder holds: the plain ones, or those of a variant such as fp16, whole or in shards."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidance.sources import ModelUnavailable, quiet
from utils.failures import first_line
from utils.wording import counted

logger = logging.getLogger(__name__)

NETWORKS = ("unet", "vae", "text_encoder")  # folders of a pipeline that hold weights
STEM = r"(?:diffusion_pytorch_model|pytorch_model|model)"
SHARD = r"-\d{5}-of-\d{5}"
# model.safetensors, model-00001-of-00002.safetensors, pytorch_model.bin; with a variant: model.fp16.safetensors,
# model.fp16-00001-of-00002.safetensors, and the older model-00001-of-00002.fp16.safetensors.
WEIGHTS = re.compile(rf"{STEM}(?:{SHARD})?(?:\.(?P<variant>[\w-]+?)(?:{SHARD})?)?\.(?:safetensors|bin)")
# Of several variants the one that half precision asks for comes first.
PREFERRED = ("fp16", "bf16", "fp32", "non_ema", "ema")


def variant_of(folder: Path) -> str | None:
    """The variant to name when loading the weights in `folder`; None for plain ones.

    Raises ModelUnavailable for a folder without weights that are read here.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found = [match for name in names if (match := WEIGHTS.fullmatch(name))]
    variants = [match["variant"] for match in found]
    if None in variants:
        return None
    if not variants:
        others = ", ".join(name for name in names if Path(name).suffix not in (".json", ".md", ".txt")) or "none"
        raise ModelUnavailable(
            f"{folder} holds no weights in .safetensors or .bin files (other files: {others[:200]}); fetch those too"
        )
    known = [variant for variant in PREFERRED if variant in variants]
    return (known or sorted(set(variants)))[0]


def lacks_weights(folder: Path) -> bool:
    """Whether no weights of any variant are in `folder`."""
    return not any(WEIGHTS.fullmatch(path.name) for path in folder.iterdir())


def load_part(path: Path, load: Callable[..., Any], info: bool = True, **options: Any) -> Any:
    """Load one folder of a pipeline; a weight that is missing is an error, not a random number.

    Where the folder holds the weights of a variant only, such as fp16, those are loaded.
    """
    if info and (variant := variant_of(path)):
        options["variant"] = variant
        logger.warning("%s holds only its %s weights, which are loaded", path, variant)
    try:
        with quiet():
            if not info:
                return load(str(path), local_files_only=True, **options)
            model, report = load(str(path), local_files_only=True, output_loading_info=True, **options)
    except ModelUnavailable:
        raise
    except Exception as error:  # safetensors, json, torch and both libraries raise their own classes
        raise ModelUnavailable(
            f"{path} cannot be loaded ({first_line(error)}); the files are damaged or incomplete, fetch them again"
        ) from error
    _check_complete(str(path), report)
    return model


def _check_complete(source: str, report: dict[str, Any]) -> None:
    """Raise ModelUnavailable if a library's loading report names weights that were not in the files."""
    missing, mismatched = sorted(report["missing_keys"]), report["mismatched_keys"]
    if missing or mismatched:
        example = missing[0] if missing else sorted(str(key) for key in mismatched)[0]
        count = len(missing) + len(mismatched)
        raise ModelUnavailable(
            f"{source} lacks {counted(count, 'weight')} that its config.json asks for, e.g. {example}; "
            "fetch the model again"
        )
