# SPDX-License-Identifier: Apache-2.0
"""Text to 3D Gaussians: `python train.py --opt configs/quickstart.yaml --text "..."`.

On K GPUs of a machine: `torchrun --nproc_per_node=K train.py ...`, up to one for each of the step's views.
"""

import os
import sys
import traceback
from contextlib import ExitStack, closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # which python -P and PYTHONSAFEPATH=1 leave out

from utils import program

if __name__ == "__main__":
    program.start_training()  # before the imports below, which take seconds

# Before torch loads OpenMP: threads that wait must not burn the core that another process needs. With one other busy
# process on two cores a step is nearly three times faster so.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from arguments import Config
from arguments.exit_codes import FINISHED, INTERRUPTED, KILLED, REFUSED, STOPPED
from arguments.load import to_yaml
from guidance.model_files import fetch_models
from guidance.panel import guidance_panel
from trainer.distributed import ALONE, PeerLost, World
from trainer.faults import TrainingStopped, skipped_too_many
from trainer.memory_estimate import remedy_of
from trainer.outputs import RunOutputs
from trainer.priors import load_prior_and_prompts
from trainer.recovery import Recovery
from trainer.run_folder import RunFinished, RunFolder
from trainer.run_lock import FolderLost
from trainer.run_log import RunLog
from trainer.startup import check_start, checkpoint_of, read_settings, report_notices
from trainer.state import TrainState, gaussians_of
from trainer.step import StepGradients, apply_update, compute_gradients
from trainer.workers import Workers, device_of, run_worker
from utils.failures import machine_failure
from utils.memory import peak_bytes, peak_in_words
from utils.stop_signals import StopSignals
from viewer.viewers import Viewers, Watched


class Trainer:
    """One run: its config, prior, state, and what it writes; rank 0 of its processes, where there are several."""

    def __init__(self, config: Config, opened: ExitStack, world: World) -> None:
        """What is opened here, `opened` closes, however the run ends. Raises ValueError for what cannot be run."""
        self.config, self.world, self.workers, self.signals = config, world, Workers(world), StopSignals()
        opened.callback(self.signals.release)  # last of all
        self.folder, self.viewers = opened.enter_context(RunFolder(config)), opened.enter_context(Viewers(config))
        device = device_of(config, world)
        path = self.folder.path
        # Cheap things that can be wrong come before the weights of a diffusion model, and both before what is written.
        found = checkpoint_of(self.folder, config, device)
        if found is None and config.cameras.init_shape in ("pointe", "shap_e"):
            fetch_models(config.guidance)  # before minutes of another model's work
        self.state = TrainState.start(config, device, False, self.folder.has_stale_points, gaussians_of(found))
        self.prior, self.prompts = load_prior_and_prompts(config, device)
        self.state.begin_cograd(config, self.prior.alphas_cumprod)
        self.state.begin_predictor(self.prior, self.prompts)
        self.folder.begin(device, self.state.scene.write_start)
        self.outputs = RunOutputs(path, self.state.scene, self.state.gaussians, config)
        self.log = opened.enter_context(closing(RunLog(path, config.optimization.iterations, config.quiet)))
        self.recovery = Recovery(self.folder, self.state, self.log, self.outputs.process_video, config)
        if found is not None:
            self.recovery.resume(found)
        self.folder.started()
        self.watched = Watched(
            self.state.gaussians,
            self.state.maps,
            self.recovery.save,
            self.signals,
            self.workers.keep_alive,
            self.log.note,
        )

    @property
    def is_finished(self) -> bool:
        """Whether the last iteration is done."""
        return self.state.iteration >= self.config.optimization.iterations

    def train(self) -> Path | None:
        """Runs up to the last iteration or a signal; returns the path of the last turntable video, None without one.

        Raises TrainingStopped when it cannot continue, when too many steps were skipped, and when an output is missing.
        """
        self.signals.take()
        self.log.begin()
        is_done = False
        with torch.autograd.set_detect_anomaly(self.config.detect_anomaly):
            try:
                video = self._loop()
                if not self.is_finished and not self.recovery.save():
                    raise TrainingStopped(f"received {self.signals.received}, and the checkpoint cannot be written")
                is_done = self.is_finished
            except TrainingStopped:
                self.recovery.save_last_scene()
                raise
            except Exception as error:
                if machine_failure(error):
                    traceback.clear_frames(error.__traceback__)  # frees what the step held
                self.recovery.rescue()
                raise
            finally:
                try:
                    self.workers.end()
                finally:
                    self.recovery.close(is_done)
        self._check_outcome()
        return video

    def _loop(self) -> Path | None:
        state, config, video = self.state, self.config, None
        if self.is_finished:  # resumed after its last step, of which an output may be missing
            return self.outputs.write_again(state.iteration, self.recovery.writes, state.maps)
        while not self.is_finished and not self.signals():
            self.workers.begin_step(state)
            step = compute_gradients(state, self.prior, self.prompts, config, self.world)
            self.workers.end_step(state)
            video = self._write_outputs(step) or video
            with self.recovery.updating():
                update = apply_update(state, step, config)
            self.recovery.after_step(step, update)
            self.viewers.serve(self.watched, state.iteration, step.losses.terms)
            del step, update  # their gradients and images would take memory beside those of the next step
        return video

    def _skipped_too_many(self) -> str | None:
        state = self.state
        parameters = state.gaussians.parameters_in_order()
        return skipped_too_many(state.iteration, state.skipped, state.last_fault, parameters)

    def _check_outcome(self) -> None:
        """Notes in run.json that the run is finished. Raises TrainingStopped where that would not be true."""
        if self.is_finished:
            if reason := self._skipped_too_many():
                raise TrainingStopped(reason)
            self.recovery.finish(peak_bytes(self.state.gaussians.device))
        if missing := self.recovery.writes.missing():
            raise TrainingStopped(
                f"step {self.state.iteration} is done, but not all could be written: {missing}. Free the disk or "
                f"repair the folder, then --resume {self.folder.path}: what can be of the last step is written again"
            )

    def _write_outputs(self, step: StepGradients) -> Path | None:
        """As upstream: outputs show, and saves hold, the scene before this iteration's update."""

        def panel() -> torch.Tensor:
            return guidance_panel(self.prior, step.distillation, *step.rendered)

        with step.timer("outputs"):
            due = None if step.fault else panel
            return self.outputs.write_due(step.iteration, self.recovery.writes, due, self.state.maps)


def main(argv: list[str]) -> int:
    """Exit status: arguments/exit_codes.py says what each means."""
    with ExitStack() as opened:
        try:
            world = opened.enter_context(World.start())
        except (ValueError, PeerLost) as error:
            return ALONE.exit_with(REFUSED, error)
        try:
            return _run(argv, world, opened)
        except PeerLost as error:
            return world.exit_with(STOPPED, f"{error}. Resume with --resume auto")
        except RunFinished as finished:
            print(finished)
            return FINISHED
        except (TrainingStopped, FolderLost) as error:
            return world.exit_with(STOPPED, error)
        except KeyboardInterrupt:
            return world.exit_with(KILLED, "interrupted at once")


def _run(argv: list[str], world: World, opened: ExitStack) -> int:
    """A whole run; its exit status. A ValueError before the first step is the user's, a later one a fault of ours."""
    try:
        config = read_settings(argv)
        world.shard(config.guidance.C_batch_size)
        if world.is_main:
            report_notices(config)
            check_start(config, world, _check_viewers)
        if config.dry_run:
            return _dry_run(config, world)
    except ValueError as error:
        return world.exit_with(REFUSED, error)
    try:
        return _lead(config, world, opened) if world.is_main else _work(config, world)
    except Exception as error:
        if (failure := machine_failure(error)) is None:
            raise
        path = config.output_dir
        return world.exit_with(STOPPED, f"{failure}; {remedy_of(failure, config)}. Resume with --resume {path}")


def _dry_run(config: Config, world: World) -> int:
    if not world.is_main:
        return FINISHED
    print(to_yaml(config), end="")
    return FINISHED if program.is_printed(sys.stdout) else STOPPED


def _check_viewers(config: Config) -> None:
    """ValueError for a viewer that cannot be opened; each is closed again."""
    with Viewers(config, lambda text: None):
        pass


def _work(config: Config, world: World) -> int:
    try:
        device = device_of(config, world)
        prior, prompts = load_prior_and_prompts(config, device)
    except ValueError as error:
        return world.exit_with(REFUSED, error)
    run_worker(config, world, device, prior, prompts)
    return FINISHED


def _lead(config: Config, world: World, opened: ExitStack) -> int:
    """Runs, and says how a run ended that nothing stopped but the last iteration or a signal."""
    try:
        trainer = Trainer(config, opened, world)
    except RunFinished:
        Workers(world).end()
        raise
    except ValueError as error:
        return world.exit_with(REFUSED, error)
    except OSError as error:
        if machine_failure(error):
            raise
        return world.exit_with(REFUSED, f"the run cannot start ({error}); repair that, or use another --model_path")
    video, path = trainer.train(), trainer.folder.path
    if not trainer.is_finished:
        at = f"Received {trainer.signals.received}; stopped after step {trainer.state.iteration}"
        return ALONE.exit_with(INTERRUPTED, f"{at}. Resume with --resume {path}")
    if not config.quiet:
        print(f"The scene is in {path / 'point_cloud'}" + (f", its turntable is {video}" if video else ""))
        print(f"Peak memory: {peak_in_words(trainer.state.gaussians.device)}")
    return FINISHED


if __name__ == "__main__":
    program.run(main, prints_its_result=False)
