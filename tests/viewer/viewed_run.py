# SPDX-License-Identifier: Apache-2.0
"""A run for the tests of its viewers."""

import threading
import time

from tests.patience import PATIENCE_S
from tests.red_ball import red_ball
from viewer.viewers import Watched

LOSSES = {"guidance": 0.25, "total": 0.5}
PAGE = [
    "--text",
    "a red <b>cube</b> *here*",
    "--negative",
    "ugly",
    "--viewer_port",
    "0",
    "--viewer_interval",
    "0",
    "--iterations",
    "100",
]


class Run:
    """A run whose steps are done as soon as they begin; remembers what viewers asked of it."""

    def __init__(self, viewers, config, gaussians=None, maps=None, losses=LOSSES):
        self.viewers, self.last, self.losses = viewers, config.optimization.iterations, losses
        self.iteration, self.stopped, self.held, self.saved, self.told = 0, False, 0, [], []
        self.can_save = True
        self.watched = Watched(
            gaussians or red_ball(), maps, self.save, lambda: self.stopped, self.hold, self.told.append
        )

    def save(self):
        self.saved.append(self.iteration)
        return self.can_save

    def hold(self):
        self.held += 1

    def step(self, count=1):
        for _ in range(count):
            self.iteration += 1
            self.viewers.serve(self.watched, self.iteration, self.losses)

    def in_background(self):
        """All steps but the last, one every few milliseconds, until it is stopped."""

        def go():
            while self.iteration < self.last - 1 and not self.stopped:
                self.step()
                time.sleep(0.005)

        thread = threading.Thread(target=go, daemon=True)
        thread.start()
        return thread


def ends(thread):
    thread.join(PATIENCE_S)
    return not thread.is_alive()
