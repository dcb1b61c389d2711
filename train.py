# SPDX-License-Identifier: Apache-2.0
"""Text to 3D Gaussians: `python train.py --opt configs/quickstart.yaml --text "..."`.

On K GPUs of a machine: `torchrun --nproc_per_node=K train.py ...`, up to one for each of the step's views.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch loads OpenMP: threads that wait must not burn the core that another process needs. With one other busy
# process on two cores a step is nearly three times faster so.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from arguments import Config
from arguments.exit_codes import FINISHED, INTERRUPTED, KILLED, REFUSED, STOPPED
from arguments.load import load_config, to_yaml
from arguments.run_folder import RunFolder
from cograd.faults import TrainingStopped
from cograd.recovery import Recovery
from cograd.state import TrainState, read_start
from cograd.team import Team, device_of, follow, prior_of
from cograd.training_step import StepReport, apply_update
from gaussian_renderer.network_gui import NetworkGui, serve
from gaussian_renderer.outputs import RunOutputs, plain_background
from guidance.panel import guidance_panel
from utils.distributed import ALONE, PeerLost, World
from utils.memory import peak_bytes, peak_in_words
from utils.run_log import RunLog
from utils.stop_signals import StopSignals


class Trainer:
    """One run: its config, prior, state, and what it writes; the leader of its processes, where there are several."""

    def __init__(self, config: Config, folder: RunFolder, world: World) -> None:
        self.config, self.folder, self.team = config, folder, Team(world)
        device = device_of(config, world)
        # Cheap things that can be wrong come before the weights of a diffusion model.
        found = folder.begin(device) or read_start(config.start_checkpoint, device)
        self.state = TrainState.start(config, device)
        self.prior, self.prompts = prior_of(config, device)
        self.state.begin_cograd(config, self.prior.alphas_cumprod)
        self.outputs = RunOutputs(folder.path, self.state.scene, self.state.gaussians, config)
        self.log = RunLog(folder.path, config.optimization.iterations, config.quiet)
        self.recovery = Recovery(folder.path, self.state, self.log, self.outputs.process_video, config)
        if found is not None:
            self.recovery.go_on(*found)
        self.gui = NetworkGui(config.ip, config.port) if config.gui else None

    @property
    def is_finished(self) -> bool:
        """Whether the last iteration is done."""
        return self.state.iteration >= self.config.optimization.iterations

    def train(self) -> Path | None:
        """Runs up to the last iteration or a signal; returns the path of the last turntable video, None without one.

        Raises TrainingStopped when it cannot go on, and when something is missing in the end.
        """
        video = None
        with StopSignals() as self.signals, torch.autograd.set_detect_anomaly(self.config.detect_anomaly):
            try:
                if self.gui is not None:
                    self.log.note(f"remote viewer: listening on {self.config.ip}:{self.gui.listen()}")
                while not self.is_finished and not self.signals():
                    report = self.team.accumulate_gradients(self.state, self.prior, self.prompts, self.config)
                    video = self._write_outputs(report) or video
                    apply_update(self.state, report, self.config)
                    self.recovery.after_step(report)
                    self._serve_viewer()
                if self.is_finished:
                    self.recovery.writes("run.json", self.folder.finished, peak_bytes(self.state.gaussians.device))
                elif not self.recovery.save():
                    raise TrainingStopped(f"{self.signals.received} ended the run, whose checkpoint cannot be written")
            except TrainingStopped:
                self.recovery.save_last_scene()
                raise
            finally:
                self._close()
        if missing := self.recovery.writes.missing():
            raise TrainingStopped(f"step {self.state.iteration} is done, but not all could be written: {missing}")
        return video

    def _write_outputs(self, report: StepReport) -> Path | None:
        """As upstream: reports show, and saves hold, the scene before this iteration's update."""

        def panel() -> torch.Tensor:
            return guidance_panel(self.prior, report.distillation, *report.image_stacks())

        with report.timer("outputs"):
            maps = None if self.state.cograd is None else self.state.cograd.maps
            return self.outputs.write_due(report.iteration, self.recovery.writes, None if report.fault else panel, maps)

    def _serve_viewer(self) -> None:
        if self.gui is not None:
            look = self.config.pipeline, plain_background(self.config, self.state.gaussians), str(self.folder.path)
            serve(self.gui, self.state.gaussians, *look, self.is_finished, self.signals)

    def _close(self) -> None:
        self.team.end()
        if self.gui is not None:
            self.gui.close()
        self.recovery.writes("process video", self.outputs.process_video.close)
        self.recovery.writes("log.jsonl", self.log.flush)
        self.log.close()


def main(argv: list[str]) -> int:
    """Exit status: arguments/exit_codes.py says what each means."""
    try:
        world = World.start()
    except (ValueError, PeerLost) as error:
        return _told(error, REFUSED)
    with world:
        try:
            config = load_config(argv)
            world.share(config.guidance.C_batch_size)
            if not world.leads:
                return follow(config, world)
            if config.dry_run:
                print(to_yaml(config), end="")
                return FINISHED
            folder = RunFolder(config)
        except ValueError as error:
            return _told(error, REFUSED, world)
        except PeerLost as error:
            return _told(error, STOPPED, world)
        with folder:
            try:
                return _run(config, folder, world)
            except KeyboardInterrupt:
                return _told("interrupted at once", KILLED, world)


def _run(config: Config, folder: RunFolder, world: World) -> int:
    """Trains in a folder that is ours; the exit status."""
    try:
        trainer = Trainer(config, folder, world)
    except ValueError as error:
        return _told(error, REFUSED, world)
    try:
        video = trainer.train()
    except TrainingStopped as error:
        return _told(error, STOPPED, world)
    if not trainer.is_finished:
        at = f"{trainer.signals.received} came, stopped after step {trainer.state.iteration}"
        return _told(f"{at}; --resume {folder.path} goes on", INTERRUPTED)
    print(f"The scene is in {folder.path / 'point_cloud'}" + (f", its turntable is {video}" if video else ""))
    print(f"Peak memory: {peak_in_words(trainer.state.gaussians.device)}")
    return FINISHED


def _told(what: object, status: int, world: World = ALONE) -> int:
    """Says why the run ends, unless another of its processes has."""
    if world.is_first_to_tell():
        print(f"train.py: {what}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
