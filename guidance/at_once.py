# SPDX-License-Identifier: Apache-2.0
"""How many samples a network sees at a time: fewer from then on, once memory has run out."""

import logging
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from utils.failures import machine_failure

logger = logging.getLogger(__name__)

Output = TypeVar("Output")


class AtOnce:
    """The largest batch of one network. Remembers it; a run that continues with smaller ones differs by rounding."""

    def __init__(self, network: str, setting: str, most: int) -> None:
        """network and setting: for the warning, what runs and what would have set this at the start.  most 0: all."""
        self.network, self.setting, self.most = network, setting, most

    def run(self, call: Callable[..., Output], *inputs: Tensor) -> list[Output]:
        """call on the inputs [B,...], in as few parts as may be; out of memory halves them, down to one sample.

        What `call` draws or changes before memory runs out must not matter: it is called again.
        """
        while True:
            size = self.most or len(inputs[0])
            try:
                return [call(*part) for part in zip(*(x.split(size) for x in inputs), strict=True)]
            except Exception as error:
                failure = machine_failure(error)
                if failure is None or not failure.of_memory or size == 1:
                    raise
                traceback.clear_frames(error.__traceback__)  # frees what the call held
            self.most = size // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            logger.warning(
                "out of memory in the %s with %d samples: %d at a time from now on; next time set %s",
                *(self.network, size, self.most, self.setting),
            )
