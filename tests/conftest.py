# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use: the folder of golden numbers; what keeps runs repeatable on a busy machine."""

import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from utils.stop_signals import SIGNALS

# `make fuzz` is for new examples. A machine that is busy draws slowly, and that is no fault of the test.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
torch.set_num_threads(1)  # tests run side by side; two threads each would wait for one another


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> None:
    """Signals as a terminal leaves them: under nohup, or in the background of a script, some are ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the numbers recorded from upstream; tests/data/README.md says where they come from."""
    folder = Path(__file__).parent / "data" / "golden"
    if not folder.is_dir():
        raise FileNotFoundError(f"golden data not found at {folder}: the clone is incomplete, run `git checkout tests/data`")
    return folder
