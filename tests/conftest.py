# SPDX-License-Identifier: Apache-2.0
"""Fixtures that every test may use: golden numbers, a served web page; what keeps runs repeatable on a busy machine."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

import tests.counted_once
import tests.rendered_once  # noqa: F401
from scene.cameras import Lens
from tests.patience import PATIENCE_S
from tests.web_page import serve
from utils.graphics_utils import focal2fov, fov2focal
from utils.model_ids import report_move
from utils.stop_signals import SIGNALS

# `make fuzz` is for new examples. A machine that is busy draws slowly, and that is no fault of the test.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
RUN_PROGRAMS = ("tests", "tools", "reliability", "simulated_cuda")
torch.set_num_threads(1)  # tests run side by side; two threads each would wait for one another


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders whose tests run programs come first: at the end no worker waits for the other."""
    items.sort(key=lambda item: item.path.parent.name not in RUN_PROGRAMS)


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> None:
    """Signals as a terminal leaves them: under nohup, or in the background of a script, some are ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_move_is_reported_yet() -> None:
    """As in a process of its own."""
    report_move.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """os.fsync, 10 ms a call and two a file, is for a power failure, which no test makes; a wrong descriptor stays an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """Folder of the numbers recorded from upstream; tests/data/README.md says where they come from."""
    folder = Path(__file__).parent / "data" / "golden"
    if not folder.is_dir():
        raise FileNotFoundError(f"golden data not found at {folder}: the clone is incomplete, run `git checkout tests/data`")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """(address of a page that is served, its output folder)."""
    folder = tmp_path_factory.mktemp("served")
    server, address = serve(folder, "--allow_host", "proxy.example")
    yield address, folder
    server.send_signal(signal.SIGINT)
    said = server.communicate(timeout=PATIENCE_S)[0]
    assert "Traceback" not in said and server.returncode == 0, said


@pytest.fixture
def upstream_fov(monkeypatch):
    """Upstream's fault: the field of view is horizontal, the vertical one follows from the sides exchanged."""

    def fovs_rad(lens: Lens) -> tuple[float, float]:
        return lens.fov_rad, focal2fov(fov2focal(lens.fov_rad, lens.height_px), lens.width_px)

    monkeypatch.setattr(Lens, "fovs_rad", fovs_rad)
