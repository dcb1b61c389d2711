# SPDX-License-Identifier: Apache-2.0
"""Text to 3D Gaussians: `python train.py --opt configs/quickstart.yaml --text "..."`.

On K GPUs of a machine: `torchrun --nproc_per_node=K train.py ...`, up to one for each of the step's views.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

# Before torch loads OpenMP: threads that wait must not burn the core that another process needs. With one other busy
# process on two cores a step is nearly three times faster so.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from arguments import Config
from arguments.exit_codes import FINISHED, INTERRUPTED, KILLED, REFUSED, STOPPED
from arguments.load import to_yaml
from arguments.run_folder import RunFolder
from cograd.faults import TrainingStopped
from cograd.recovery import Recovery
from cograd.startup import check_start, checkpoint_of, read_settings, report_notices
from cograd.state import TrainState
from cograd.team import Team, device_of, follow, prior_of
from cograd.training_step import StepReport, apply_update
from gaussian_renderer.outputs import RunOutputs
from gaussian_renderer.viewers import Viewers, Watched
from guidance.panel import guidance_panel
from utils.distributed import ALONE, PeerLost, World
from utils.memory import peak_bytes, peak_in_words
from utils.run_lock import FolderLost
from utils.run_log import RunLog
from utils.stop_signals import StopSignals


class Trainer:
    """One run: its config, prior, state, and what it writes; the leader of its processes, where there are several."""

    def __init__(self, config: Config, folder: RunFolder, viewers: Viewers, world: World) -> None:
        self.config, self.folder, self.viewers, self.team = config, folder, viewers, Team(world)
        device = device_of(config, world)
        # Cheap things that can be wrong come before the weights of a diffusion model, and both before what is written.
        found = checkpoint_of(folder, config, device)
        self.state = TrainState.start(config, device, False, folder.has_stale_points)
        self.prior, self.prompts = prior_of(config, device)
        self.state.begin_cograd(config, self.prior.alphas_cumprod)
        folder.begin(device, self.state.scene.write_start)
        self.outputs = RunOutputs(folder.path, self.state.scene, self.state.gaussians, config)
        self.log = RunLog(folder.path, config.optimization.iterations, config.quiet)
        self.recovery = Recovery(folder, self.state, self.log, self.outputs.process_video, config)
        if found is not None:
            self.recovery.go_on(found)
        folder.started()
        self.signals = StopSignals()
        self.watched = Watched(
            self.state.gaussians, self.state.maps, self.recovery.save, self.signals, self.team.hold, self.log.note
        )

    @property
    def is_finished(self) -> bool:
        """Whether the last iteration is done."""
        return self.state.iteration >= self.config.optimization.iterations

    def train(self) -> Path | None:
        """Runs up to the last iteration or a signal; returns the path of the last turntable video, None without one.

        Raises TrainingStopped when it cannot go on, and when something is missing in the end.
        """
        video = None
        with self.signals, torch.autograd.set_detect_anomaly(self.config.detect_anomaly):
            try:
                while not self.is_finished and not self.signals():
                    report = self.team.accumulate_gradients(self.state, self.prior, self.prompts, self.config)
                    video = self._write_outputs(report) or video
                    apply_update(self.state, report, self.config)
                    self.recovery.after_step(report)
                    self.viewers.serve(self.watched, self.state.iteration, report.losses)
                if self.is_finished:
                    self.recovery.writes("run.json", self.folder.finished, peak_bytes(self.state.gaussians.device))
                elif not self.recovery.save():
                    raise TrainingStopped(f"{self.signals.received} ended the run, whose checkpoint cannot be written")
            except TrainingStopped:
                self.recovery.save_last_scene()
                raise
            finally:
                self.team.end()
                self.recovery.close()
        if missing := self.recovery.writes.missing():
            raise TrainingStopped(f"step {self.state.iteration} is done, but not all could be written: {missing}")
        return video

    def _write_outputs(self, report: StepReport) -> Path | None:
        """As upstream: reports show, and saves hold, the scene before this iteration's update."""

        def panel() -> torch.Tensor:
            return guidance_panel(self.prior, report.distillation, *report.image_stacks())

        with report.timer("outputs"):
            due = None if report.fault else panel
            return self.outputs.write_due(report.iteration, self.recovery.writes, due, self.state.maps)


def main(argv: list[str]) -> int:
    """Exit status: arguments/exit_codes.py says what each means."""
    try:
        world = World.start()
    except (ValueError, PeerLost) as error:
        return ALONE.ends(REFUSED, error)
    with world:
        try:
            return _run(argv, world)
        except (PeerLost, TrainingStopped, FolderLost) as error:
            return world.ends(STOPPED, error)
        except KeyboardInterrupt:
            return world.ends(KILLED, "interrupted at once")


def _run(argv: list[str], world: World) -> int:
    """A whole run; its exit status. A ValueError before the first step is the user's, a later one a fault of ours."""
    with ExitStack() as opened:
        try:
            config = read_settings(argv)
            world.share(config.guidance.C_batch_size)
            if not world.leads:
                return follow(config, world)
            report_notices(config)
            check_start(config, world)
            if config.dry_run:
                print(to_yaml(config), end="")
                return FINISHED
            folder, viewers = opened.enter_context(RunFolder(config)), opened.enter_context(Viewers(config))
            trainer = Trainer(config, folder, viewers, world)
        except ValueError as error:
            return world.ends(REFUSED, error)
        return _ended(trainer, trainer.train())


def _ended(trainer: Trainer, video: Path | None) -> int:
    """Says how a run ended that nothing stopped but the last iteration or a signal; the exit status."""
    path = trainer.folder.path
    if not trainer.is_finished:
        at = f"{trainer.signals.received} came, stopped after step {trainer.state.iteration}"
        return ALONE.ends(INTERRUPTED, f"{at}; --resume {path} goes on")
    print(f"The scene is in {path / 'point_cloud'}" + (f", its turntable is {video}" if video else ""))
    print(f"Peak memory: {peak_in_words(trainer.state.gaussians.device)}")
    return FINISHED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
