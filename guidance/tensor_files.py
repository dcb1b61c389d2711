# SPDX-License-Identifier: Apache-2.0
"""Files of tensors that other programs wrote, read without executing anything in them; and checks of their values."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guidance.sources import ModelUnavailable, causes, reason_of

PICKLED = (".bin", ".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *PICKLED)
PYTHON_OBJECT = re.compile(r"unsupported global:?\s+(?:GLOBAL\s+)?([\w.]+)", re.IGNORECASE)


def read_file(path: Path, source: str, advice: str) -> tuple[Any, dict[str, str]]:
    """Contents and metadata of a file; `source` names it in ModelUnavailable's sentence, which ends with `advice`."""
    from safetensors import safe_open

    if path.suffix not in SUFFIXES:
        raise ModelUnavailable(f"{source} has suffix {path.suffix!r}; expected .safetensors; {advice}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        return load_pickled(path), {}
    except Exception as error:  # safetensors, pickle and torch raise their own classes
        raise ModelUnavailable(f"{source} {problem_of(error)}; {advice}") from error


def load_pickled(path: Path, map_location: str = "cpu") -> Any:
    """What a pickled file holds: tensors and plain Python values."""
    # The first textual inversions kept their vectors in a ParameterDict, which runs no code of the file's.
    with torch.serialization.safe_globals([torch.nn.ParameterDict]):
        return torch.load(path, map_location=map_location, weights_only=True)


def python_object_of(error: BaseException) -> str | None:
    """The class that torch refused to unpickle, where that is why a file could not be read."""
    return next((found[1] for cause in causes(error) if (found := PYTHON_OBJECT.search(str(cause)))), None)


def problem_of(error: BaseException) -> str:
    """What is wrong with a file that could not be read, and what to do, without a subject."""
    if name := python_object_of(error):
        return f"holds Python objects that are not loaded ({name}); use the .safetensors of it"
    return f"cannot be read ({reason_of(error)}); fetch it again"


def check_values(tensor: Tensor, name: str, source: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """`tensor` in float32, once every value is a finite number that `dtype` can hold.  Raises ModelUnavailable.

    source names the file.  The range is checked before anything is converted.
    """
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout).removeprefix("torch.")
        raise ModelUnavailable(f"{source}: tensor {name!r} is of type {kind}; expected floating-point values")
    values = tensor if tensor.itemsize >= 4 else tensor.float()  # eight-bit types have no tests of their own
    if not bool(values.isfinite().all()):
        count = int((~values.isfinite()).sum())
        raise ModelUnavailable(
            f"{source}: tensor {name!r} is not finite in {count} of its {values.numel()} values; "
            "fetch or train it again"
        )
    largest = float(values.abs().max()) if values.numel() else 0.0
    for target in dict.fromkeys((torch.float32, dtype)):
        if largest > torch.finfo(target).max:
            kind = str(target).removeprefix("torch.")
            remedy = "set GuidanceParams.precision to float32" if target != torch.float32 else "fetch or train it again"
            raise ModelUnavailable(
                f"{source}: tensor {name!r} has a value of {largest:.3g}, beyond the range of {kind}; {remedy}"
            )
    return values.float()
