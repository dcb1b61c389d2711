# SPDX-License-Identifier: Apache-2.0
"""Runs a Python program on the simulated GPU: `python -m tests.simulated_cuda PROGRAM.py WORDS`, or `... -m MODULE WORDS`."""

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import runpy
import sys

import diffusers  # noqa: F401  (imports much, which is not done on the simulated device)
import pytest  # noqa: F401
import transformers  # noqa: F401

from tests.simulated_cuda.device import simulated_gpu


def main(argv: list[str]) -> None:
    """As `python argv...` would."""
    is_module = argv[0] == "-m"
    sys.argv = argv[1:] if is_module else argv
    with simulated_gpu():
        if is_module:
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    program.run(main)
