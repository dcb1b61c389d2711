# SPDX-License-Identifier: Apache-2.0
"""Why the run's settings or packages cannot serve its distillation law: checked while the settings are read."""

from collections.abc import Iterator
from importlib.util import find_spec

from arguments import Config
from arguments.checks import Problem

UNTRAINABLE = {"offload_unet": True, "compile_unet": True, "fuse_qkv": "on"}
"""Settings with which no LoRA can be trained in the U-Net: its weights away, compiled, or put together."""


def law_problems(config: Config) -> Iterator[Problem]:
    """A law that trains a LoRA beside the U-Net, without peft or with a setting that forbids it."""
    params = config.guidance
    if not params.law.needs_predictor or params.guidance != "SD":
        return
    if find_spec("peft") is None:
        expected = "another law, or the package peft, by which this one trains a LoRA: pip install peft accelerate"
        yield "GuidanceParams.distillation", params.law_name, expected
    for name, value in UNTRAINABLE.items():
        if getattr(params, name) == value:
            expected = f"another value: distillation {params.law_name} trains a LoRA in the U-Net, which this prevents"
            yield f"GuidanceParams.{name}", str(value).lower(), expected
