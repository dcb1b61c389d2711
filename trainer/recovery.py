# SPDX-License-Identifier: Apache-2.0
"""How a run survives: it continues from checkpoints, goes back to one after faults, reports what cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from arguments import Config
from trainer.careful_writes import CarefulWrites
from trainer.checkpoints import CheckpointRules, Checkpoints, LoadedCheckpoint, Part, newest_good
from trainer.faults import FaultWatch, TrainingStopped
from trainer.memory_estimate import remedy_of
from trainer.resume_rules import adapted, flat_settings
from trainer.run_folder import RunFolder
from trainer.run_log import RunLog
from trainer.state import TrainState
from trainer.step import StepGradients, Update
from utils.general_utils import first_not_finite
from utils.video import SegmentedVideo


class Recovery:
    """Remembers the parts of a run that a checkpoint holds, the faults met, and the writes that failed."""

    def __init__(
        self, folder: RunFolder, state: TrainState, log: RunLog, process_video: SegmentedVideo, config: Config
    ) -> None:
        self.folder, self.state, self.log, self.process_video = folder, state, log, process_video
        self.config = config
        self.writes = CarefulWrites(log.note, folder.keep, partial(remedy_of, config=config))
        last = config.optimization.iterations
        rules = CheckpointRules(config.checkpoint_every, config.keep_checkpoints, config.checkpoint_iterations, last)
        parts: dict[str, Part] = {"train": state, "process_video": process_video, "log": log, "writes": self.writes}
        run = {"id": folder.run_id, "settings": flat_settings(config)}
        self.checkpoints = Checkpoints(folder.path, parts, rules, run, folder.keep)
        self._last_scene: dict[str, torch.Tensor] | None = None
        self.faults = FaultWatch(config.max_faults_in_a_row, config.optimization.max_points)
        self._whole = self._saved = 0  # the last step that is done, the last one whose checkpoint is in the folder
        self._whole_sh_degree = 0  # the active one then, which the next step may raise
        self._is_updating = False

    def resume(self, checkpoint: LoadedCheckpoint) -> None:
        """Continues from a checkpoint that was read and adapted. ValueError when it is of another kind of run."""
        path, tree = checkpoint
        if "upstream" in tree:
            captured, iteration = tree["upstream"]
            self.state.load_upstream(captured, iteration, self.config)
        else:
            self.checkpoints.load(path, {"writes": {}, **tree})  # another folder lacks nothing yet
        self._note_whole()
        self._saved = self._whole
        if self.faults.met or not self.config.quiet:
            self.log.note(f"continuing after step {self.state.iteration}, from {path}")

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Around what changes the state: an exception inside leaves it half changed."""
        self._is_updating = True
        yield
        self._is_updating = False
        self._note_whole()

    def _note_whole(self) -> None:
        self._whole, self._whole_sh_degree = self.state.iteration, self.state.gaussians.active_sh_degree

    def after_step(self, step: StepGradients, update: Update) -> None:
        """Logs the step, counts its faults, writes a checkpoint when one is due. Raises TrainingStopped.

        A step that was skipped leaves a finite state, so its checkpoint is written too.
        """
        points = len(self.state.gaussians.get_xyz)
        self.writes("log.jsonl", self.log.step, step.record(update, points))
        if update.fault:
            self.log.note(f"step {step.iteration} skipped: {update.fault}")
        if self.faults.is_lost(update.fault, update.broken_parameter):
            self._roll_back(step.iteration, str(update.fault))
            return
        self._last_scene = update.last_scene
        self.faults.check_scene(points, step.rendered[2])
        if self.checkpoints.rules.is_due(self.state.iteration) or self.folder.remade:
            self.folder.remade = False
            self.save()

    def save(self) -> bool:
        """Writes a checkpoint of the last step; False, and reported, when that failed."""
        if self.writes("checkpoint", self.checkpoints.save, self.state.iteration) is None:
            return False
        self._saved = self.state.iteration
        return True

    def finish(self, peak_bytes: dict[str, int]) -> None:
        """Notes in run.json that the run is finished and removes the checkpoints, unless they are to stay.

        Neither where an output is missing: a resumed run can then write it.
        """
        if self.writes.missing():
            return
        self.writes("run.json", self.folder.finished, peak_bytes, self.state.iteration)
        if self.config.keep_last_checkpoint or self.writes.missing():
            return
        try:
            self.checkpoints.remove()
        except OSError as error:
            self.log.note(f"the checkpoints could not be removed ({error}); remove them, or keep them to train further")

    def save_last_scene(self) -> None:
        """The scene of a run that is about to stop, unless it is broken; of an empty one, the last that was not."""
        self.writes("scene", self._save_last_scene)

    def rescue(self) -> None:
        """After an exception in a step: saves the scene and, unless it came amid an update, the last whole step.

        The random streams may have moved on: a run that continues from there draws other cameras and noise.
        """
        if self._whole == self._saved:
            return
        if not self._is_updating:
            self.state.iteration, self.state.gaussians.active_sh_degree = self._whole, self._whole_sh_degree
            self.state.optimizer.zero_grad(set_to_none=True)
            self.save()
        self.save_last_scene()

    def _save_last_scene(self) -> None:
        gaussians, iteration = self.state.gaussians, self.state.iteration
        if self._last_scene is not None:
            gaussians = gaussians.with_parameters(self._last_scene)
        if len(gaussians.get_xyz) and first_not_finite(gaussians.parameters_in_order()) is None:
            path = self.state.scene.save(iteration, gaussians)
            if self._last_scene is not None:
                self.log.note(f"no Gaussians are left after step {iteration}; those before it are saved in {path}")

    def close(self, is_done: bool = False) -> None:
        """What has been waiting to be written is, where it can be.

        is_done: the last step has been made. Where an output is missing its checkpoint is written, if none was due.
        """
        try:
            self.writes("process video", self.process_video.close)
            self.writes("log.jsonl", self.log.flush)
            if is_done and self.writes.missing() and not self.checkpoints.rules.is_due(self.state.iteration):
                self.save()
        finally:
            self.log.close()

    def _roll_back(self, from_step: int, reason: str) -> None:
        """To the newest checkpoint, once in a run, with noise that was not drawn before. Raises TrainingStopped.

        log.jsonl, which is cut off there, and run.json record it.
        """
        gaussians, before = self.state.gaussians, self.state.rollbacks
        found = None if before else newest_good(self.folder.path, self.log.note, self.folder.run_id)
        if found is None:
            raise TrainingStopped(self.faults.diagnosis(reason, gaussians.parameters_in_order(), before > 0))
        self.resume(adapted(found, self.config, gaussians.device, True, lambda text: None))
        self.state.renew_noise()
        self.faults.restart()
        to_step = self.state.iteration
        facts = {"iteration": to_step, "from_step": from_step, "to_step": to_step, "reason": reason}
        self.writes("log.jsonl", self.log.event, "rollback", **facts)
        self.writes("run.json", self.folder.rolled_back, from_step, to_step, reason)
