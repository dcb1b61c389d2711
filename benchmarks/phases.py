# SPDX-License-Identifier: Apache-2.0
"""The phases of a training step one after the other, for benchmarks: the trainer itself never waits for the device."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from guidance.law_step import ViewStep
from guidance.score import Distillation
from trainer import step as training_step
from trainer.run_log import PhaseTimer

INSIDE = ("encode", "inversion", "cfg", "image_backward")  # of the trainer's phase `guidance`


@contextmanager
def phases_apart(prior: Any, wait: Callable[[], None]) -> Iterator[None]:
    """The trainer's phases, the device waited for at their ends, and with them the parts of its phase `guidance`."""
    timers: list[PhaseTimer] = []

    class Waiting(PhaseTimer):
        def __init__(self) -> None:
            super().__init__()
            timers.append(self)

        @contextmanager
        def __call__(self, phase: str) -> Iterator[None]:
            wait()
            with super().__call__(phase):
                yield
                wait()

    def timed(phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def within(*args: Any, **options: Any) -> Any:
            with timers[-1](phase):
                return call(*args, **options)

        return within

    inside = (
        ("inversion", ViewStep, "predict_rows"), ("cfg", ViewStep, "predict"),
        ("encode", prior, "encode_imgs"), ("image_backward", Distillation, "backward"),
    )  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(patch.object(training_step, "PhaseTimer", Waiting))
        for phase, owner, name in inside:
            stack.enter_context(patch.object(owner, name, timed(phase, getattr(owner, name))))
        yield
