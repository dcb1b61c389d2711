# SPDX-License-Identifier: Apache-2.0
"""How many samples a network sees at a time: fewer from then on, once memory has run out."""

import logging
import traceback
from collections.abc import Callable, Iterator
from itertools import starmap
from types import TracebackType
from typing import TypeVar

from torch import Tensor

from utils.failures import machine_failure

logger = logging.getLogger(__name__)

Output = TypeVar("Output")


class AtOnce:
    """The largest batch of one network. Remembers it; a run that continues with smaller ones differs by rounding.

    A call is made in a loop over `attempts`, which adds no frame between the step and the network, or by `run`. What
    the call draws or changes before memory runs out must not matter: it is made again.
    """

    def __init__(self, network: str, setting: str, most: int) -> None:
        """network and setting: for the warning, what runs and what would have set this at the start.  most 0: all."""
        self.network, self.setting, self.most = network, setting, most

    def attempts(self, count: int) -> Iterator["Attempt"]:
        """Attempts at a call with `count` samples, in as few parts as may be, until one ends without an exception."""
        attempt = None
        while attempt is None or not attempt.is_done:
            attempt = Attempt(self, min(self.most or count, count))
            yield attempt

    def run(self, call: Callable[..., Output], *inputs: Tensor) -> list[Output]:
        """call on the inputs [B,...], a part at a time."""
        for attempt in self.attempts(len(inputs[0])):
            with attempt:
                outputs = list(starmap(call, attempt.split(*inputs)))
        return outputs

    def halve(self, error: BaseException, size: int) -> bool:
        """Whether a call that ended so can be made again, with half as many samples from now on."""
        failure = machine_failure(error)
        if failure is None or not failure.of_memory or size == 1:
            return False
        traceback.clear_frames(error.__traceback__)  # frees what the call held
        self.most = size // 2
        logger.warning(
            "out of memory in the %s with %d samples: %d at a time from now on; next time set %s",
            *(self.network, size, self.most, self.setting),
        )
        return True


class Attempt:
    """The body of a `with` block that calls a network, `size` samples at a time; out of memory ends it quietly."""

    def __init__(self, at_once: AtOnce, size: int) -> None:
        self.at_once, self.size, self.is_done = at_once, size, False

    def split(self, *inputs: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Parts of the inputs [B,...]."""
        return zip(*(x.split(self.size) for x in inputs), strict=True)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.is_done = error is None
        return error is not None and self.at_once.halve(error, self.size)
