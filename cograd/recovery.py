# SPDX-License-Identifier: Apache-2.0
"""How a run survives: it goes on from checkpoints, goes back to one after faults, tells what cannot be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arguments import Config
from cograd.faults import FaultWatch, TrainingStopped
from cograd.state import TrainState
from cograd.training_step import StepReport
from utils.careful_writes import CarefulWrites
from utils.checkpoints import CheckpointRules, Checkpoints, newest_good
from utils.general_utils import first_not_finite
from utils.run_log import RunLog
from utils.video import SegmentedVideo


class Recovery:
    """Remembers the parts of a run that a checkpoint holds, the faults met, and the writes that failed."""

    def __init__(
        self, folder: Path, state: TrainState, log: RunLog, process_video: SegmentedVideo, config: Config
    ) -> None:
        self.state, self.log, self.process_video, self.config = state, log, process_video, config
        self.writes = CarefulWrites(log.note)
        last = config.optimization.iterations
        rules = CheckpointRules(config.checkpoint_every, config.keep_checkpoints, config.checkpoint_iterations, last)
        self.checkpoints = Checkpoints(folder, {"train": state, "process_video": process_video, "log": log}, rules)
        self.faults = FaultWatch(config.max_faults_in_a_row, config.optimization.max_points)

    def go_on(self, path: Path, tree: dict[str, Any]) -> None:
        """Continues from a checkpoint that was read. ValueError when it is of another kind of run."""
        if "upstream" in tree:
            captured, iteration = tree["upstream"]
            self.state.load_upstream(captured, iteration, self.config)
        else:
            self.checkpoints.load(path, tree)
        self.log.note(f"going on after step {self.state.iteration}, from {path}")

    def after_step(self, report: StepReport) -> None:
        """Logs the step, heeds its faults, writes a checkpoint when one is due. Raises TrainingStopped."""
        self.writes("log.jsonl", self.log.step, report.record(len(self.state.gaussians.get_xyz)))
        if report.fault:
            self.log.note(f"step {report.iteration} skipped: {report.fault}")
        if self.faults.is_lost(report.fault, report.broken_parameter):
            self._go_back(report)
        else:
            self.faults.check_scene(len(self.state.gaussians.get_xyz), report.image_stacks()[2])
        if self.checkpoints.rules.is_due(self.state.iteration) and report.fault is None:
            self.save()

    def save(self) -> bool:
        """Writes a checkpoint of the last step; False, and told, when that failed."""
        return self.writes("checkpoint", self.checkpoints.save, self.state.iteration) is not None

    def save_last_scene(self) -> None:
        """The scene of a run that is about to stop, unless it is broken."""
        if first_not_finite(self.state.gaussians.parameters_in_order()) is None:
            self.writes("scene", self.state.scene.save, self.state.iteration)

    def close(self) -> None:
        """What has been waiting to be written is, where it can be."""
        self.writes("process video", self.process_video.close)
        self.writes("log.jsonl", self.log.flush)
        self.log.close()

    def _go_back(self, report: StepReport) -> None:
        """To the newest checkpoint, once in a run, with noise that was not drawn before. Raises TrainingStopped."""
        gaussians, before = self.state.gaussians, self.state.rollbacks
        folder = self.checkpoints.folder
        found = None if before else newest_good(folder, self.log.note, gaussians.device)
        if found is None:
            raise TrainingStopped(self.faults.diagnosis(report.fault, gaussians.parameters_in_order(), before > 0))
        self.go_on(*found)
        self.state.renew_noise()
        self.faults.restart()
