# SPDX-License-Identifier: Apache-2.0
"""Processes that are forked from a server which has done what takes most of a small run: tests.reliability.ready."""

import multiprocessing
from typing import Any


def forked_process(work: Any, *args: Any) -> Any:
    """work(*args) in a process of its own, started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.reliability.ready"])
    process = context.Process(target=work, args=args)
    process.start()
    return process
