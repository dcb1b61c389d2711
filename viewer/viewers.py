# SPDX-License-Identifier: Apache-2.0
"""The viewers of a run, each only on request: the SIBR socket (--gui) and the page in the browser (--viewer).

Training calls `serve` after each step. Looking, waiting and checkpoints change nothing in the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from arguments import Config
from gaussian_renderer.network_gui import NetworkGui, answer
from scene.gaussian_model import GaussianModel
from trainer.outputs import plain_background, region_image
from utils.missing_module import how_to_install

if TYPE_CHECKING:
    from viewer.web_viewer import WebViewer

POLL_S = 0.1  # how soon a paused run sees a button or a signal
SIBR_POLL_S = 0.005  # it requests one image after the other


@dataclass(frozen=True)
class Watched:
    """What viewers see of a run, and what they may request."""

    gaussians: GaussianModel
    maps: Callable[[], Mapping[str, torch.Tensor]] | None  # CoGrad's maps of the regions; None: the baseline
    save: Callable[[], bool]  # writes a checkpoint now; whether it could
    should_stop: Callable[[], bool]
    keep_alive: Callable[[], None]  # called repeatedly while the run waits for a viewer
    report: Callable[[str], None]  # a line for the terminal


class Viewers:
    """Remembers the viewers that are open. A context manager: they are closed in the end."""

    def __init__(self, config: Config, report: Callable[[str], None] = print) -> None:
        """Opens them and reports their addresses. Raises ValueError when one is not available."""
        self.config = config
        self._sibr: NetworkGui | None = None
        self._page: WebViewer | None = None
        try:
            if config.gui:
                self._sibr = NetworkGui(config.ip, config.port)
                report(f"remote viewer: listening on {config.ip}:{self._sibr.listen()}")
            if config.viewer:
                self._page = _web_viewer(config)
                report(f"viewer: open {self._page.url} in a browser")
        except ValueError:
            self.close()
            raise

    def serve(self, run: Watched, iteration: int, losses: Mapping[str, float]) -> None:
        """Answers the viewers after a step. Returns once none of them pauses the run, or it should stop."""
        finished = iteration >= self.config.optimization.iterations
        if self._page is not None:
            self._page.note(iteration, losses)
        waited = False
        while True:
            answered = self._sibr is not None and self._answer_sibr(self._sibr, run)
            if self._page is not None:
                self._serve_page(self._page, run, iteration, finished)
            if run.should_stop() or not self._is_held(finished):
                break
            if not waited and not finished:
                run.report(f"a viewer has paused the run after step {iteration}")
            waited = True
            run.keep_alive()
            if not answered:
                time.sleep(SIBR_POLL_S if self._sibr is not None and self._sibr.connected else POLL_S)
        if self._page is not None:
            self._page.step_begins()

    def close(self) -> None:
        """May be called twice."""
        for viewer in (self._sibr, self._page):
            if viewer is not None:
                viewer.close()

    def __enter__(self) -> Viewers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _is_held(self, finished: bool) -> bool:
        return (self._sibr is not None and self._sibr.wants_to_hold(finished)) or (
            self._page is not None and self._page.should_wait(finished)
        )

    def _answer_sibr(self, sibr: NetworkGui, run: Watched) -> bool:
        background = plain_background(self.config, run.gaussians)
        return answer(sibr, run.gaussians, self.config.pipeline, background, str(self.config.output_dir))

    def _serve_page(self, page: WebViewer, run: Watched, iteration: int, finished: bool) -> None:
        if page.takes_checkpoint_request():
            name = f"chkpnt{iteration}.safetensors"
            page.notify("Checkpoint", f"{name} is written" if run.save() else f"{name} could not be written")
        if not page.is_due(iteration, finished):
            return
        try:
            maps = None if run.maps is None else region_image(run.maps(), iteration, self.config.cograd)
            page.show(run.gaussians, iteration, maps, finished)
        except (RuntimeError, ValueError, MemoryError) as error:  # such as no memory for the copy
            run.report(f"the viewer's page is closed, its data could not be sent ({error}); training continues")
            page.close()
            self._page = None


def _web_viewer(config: Config) -> WebViewer:
    try:
        from viewer.web_viewer import WebViewer  # imported late: viser is an extra
    except ImportError as error:
        raise ValueError(f"--viewer needs a package that is missing ({error}): {how_to_install()}") from error
    return WebViewer(config)
