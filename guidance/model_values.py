# SPDX-License-Identifier: Apache-2.0
"""The values of a model's config files that are computed with here: one table of their types and bounds.

What is absent has the libraries' default. Values that are only compared, or that a library's constructor refuses, need
no row.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from guidance.sources import ModelUnavailable


@dataclass(frozen=True)
class Kind:
    """What a value must be, in words and as a test."""

    expected: str
    takes: Callable[[Any], bool]


def _whole(least: int, most: float = math.inf) -> Kind:
    bound = f" and at most {most:,.0f}" if most < math.inf else ""
    return Kind(f"a whole number, at least {least}{bound}", lambda x: type(x) is int and least <= x <= most)


TEXT = Kind("text", lambda x: isinstance(x, str))
COUNT = _whole(1)
LENGTH = _whole(3)  # tokens of a text: its begin, one word, its end
SCALE = Kind("a number above 0 and at most 1,000", lambda x: type(x) in (int, float) and 0 < x <= 1000)
WIDTHS = Kind(
    "a list of 1 to 8 whole numbers, each at least 1",
    lambda x: isinstance(x, list) and 0 < len(x) < 9 and all(map(COUNT.takes, x)),
)

VALUES: dict[str, dict[str, Kind]] = {
    "model_index.json": {"_class_name": TEXT},
    "scheduler/scheduler_config.json": {"num_train_timesteps": _whole(1, 10**6)},
    "vae/config.json": {"scaling_factor": SCALE, "latent_channels": COUNT, "block_out_channels": WIDTHS},
    "unet/config.json": {"in_channels": COUNT, "out_channels": COUNT, "block_out_channels": WIDTHS},
    "text_encoder/config.json": {"hidden_size": COUNT, "max_position_embeddings": LENGTH},
}
"""File of a pipeline's folder -> key -> what it must be."""
TOKENIZER = {"pad_token_id": _whole(0), "model_max_length": LENGTH}
"""Of the loaded tokenizer, whose values come from several files."""
TINY_VAE = {"scaling_factor": SCALE, "latent_channels": COUNT, "encoder_block_out_channels": WIDTHS}


def check_values(values: Mapping[str, Any], kinds: Mapping[str, Kind], source: object) -> None:
    """Raise ModelUnavailable for the first of `kinds` that is among the values and of another kind."""
    for key, kind in kinds.items():
        if key in values and not kind.takes(values[key]):
            shown = json.dumps(values[key], default=str)[:60]
            raise ModelUnavailable(
                f"{source} has {key} {shown}, expected {kind.expected}; the model is damaged, fetch it again"
            )
