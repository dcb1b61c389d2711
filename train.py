# SPDX-License-Identifier: Apache-2.0
"""Text to 3D Gaussians: `python train.py --opt configs/quickstart.yaml --text "..."`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Before torch loads OpenMP: threads that wait must not burn the core that another process needs. With one other busy
# process on two cores a step is nearly three times faster so.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from arguments import Config
from arguments.load import ConfigError, load_config, to_yaml
from arguments.run_folder import prepare_run_folder
from cograd.state import TrainState
from cograd.training_step import StepReport, accumulate_gradients, apply_update
from gaussian_renderer.network_gui import NetworkGui, serve
from gaussian_renderer.outputs import RunOutputs, plain_background
from guidance import load_prior
from guidance.panel import guidance_panel
from guidance.prompts import PromptBook
from utils.device import resolve_device
from utils.run_log import RunLog

MAX_FAULTS_IN_A_ROW = 20


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why and what to try."""


class Trainer:
    """One run: its config, prior, state, and what it writes."""

    def __init__(self, config: Config) -> None:
        self.config, self.folder = config, config.output_dir
        device = resolve_device(config.device)
        # Cheap things that can be wrong come before the weights of a diffusion model.
        prepare_run_folder(self.folder, config, device)
        self.state = TrainState.start(config, device)
        self.prior = load_prior(config.guidance, device, config.cameras.image_h, config.cameras)
        self.prompts = PromptBook(self.prior, config.guidance)
        self.state.begin_cograd(config, self.prior.alphas_cumprod)
        if config.start_checkpoint:
            self.state.load_checkpoint(Path(config.start_checkpoint))
        self.outputs = RunOutputs(self.folder, self.state.scene, self.state.gaussians, config)
        self.log = RunLog(self.folder, config.optimization.iterations, self.state.iteration, config.quiet)
        self.faults_in_a_row = 0
        self.gui = NetworkGui(config.ip, config.port) if config.gui else None

    def train(self) -> Path | None:
        """Runs every iteration; returns the path of the last turntable video, None when videos are off."""
        video = None
        try:
            if self.gui is not None:
                self.log.note(f"remote viewer: listening on {self.config.ip}:{self.gui.listen()}")
            while self.state.iteration < self.config.optimization.iterations:
                report = accumulate_gradients(self.state, self.prior, self.prompts, self.config)
                video = self._write_outputs(report) or video
                apply_update(self.state, report, self.config)
                self.log.step(report.record(len(self.state.gaussians.get_xyz)))
                self._heed(report)
                if report.iteration in self.config.checkpoint_iterations:
                    self.state.save_checkpoint(self.folder)
                self._serve_viewer()
        finally:
            if self.gui is not None:
                self.gui.close()
            self.outputs.close()
            self.log.close()
        return video

    def _write_outputs(self, report: StepReport) -> Path | None:
        """As upstream: reports show, and saves hold, the scene before this iteration's update."""
        config, iteration, video = self.config, report.iteration, None
        with report.timer("outputs"):
            self.outputs.process_frame(iteration)
            if iteration % config.guidance.vis_interval == 0 and report.fault is None:
                self.outputs.panel(iteration, guidance_panel(self.prior, report.distillation, *report.image_stacks()))
            if iteration in config.test_iterations:
                self.outputs.test_views(iteration)
                if self.state.cograd is not None:
                    self.outputs.region_maps(iteration, self.state.cograd.maps())
                video = self.outputs.videos(iteration) if config.save_video else None
            if iteration in config.save_iterations:
                self.state.scene.save(iteration)
        return video

    def _serve_viewer(self) -> None:
        if self.gui is not None:
            gaussians, finished = self.state.gaussians, self.state.iteration == self.config.optimization.iterations
            background = plain_background(self.config, gaussians)
            serve(self.gui, gaussians, self.config.pipeline, background, str(self.folder), finished)

    def _heed(self, report: StepReport) -> None:
        """Tells of a skipped step; stops after MAX_FAULTS_IN_A_ROW of them, with the last good scene saved."""
        self.faults_in_a_row = self.faults_in_a_row + 1 if report.fault else 0
        if report.fault:
            self.log.note(f"step {report.iteration} skipped: {report.fault}")
        if self.faults_in_a_row == MAX_FAULTS_IN_A_ROW:
            self.state.scene.save(report.iteration)
            raise TrainingStopped(
                f"{MAX_FAULTS_IN_A_ROW} steps in a row were not finite, the last one because {report.fault}; the scene "
                f"before them is saved in {self.folder}. Lower the learning rates "
                "or the guidance scale, or set fp16: false"
            )


def main(argv: list[str]) -> int:
    """Exit status: 0 finished, 1 stopped for a stated reason, 2 refused bad input before any work."""
    try:
        config = load_config(argv)
        if config.dry_run:
            print(to_yaml(config), end="")
            return 0
        trainer = Trainer(config)
    except (ConfigError, ValueError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    try:
        with torch.autograd.set_detect_anomaly(config.detect_anomaly):
            video = trainer.train()
    except TrainingStopped as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    print(f"The scene is in {trainer.folder / 'point_cloud'}" + (f", its turntable is {video}" if video else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
