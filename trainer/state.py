# SPDX-License-Identifier: Apache-2.0
"""TrainState: all that a training run changes, and so all that a checkpoint holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch

from arguments import Config
from cograd import CoGrad
from guidance.losses import Loss
from guidance.prior import Prior
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory
from guidance.sd_step import timestep_weight
from scene import Scene
from scene.dataset_readers import CameraRanges
from scene.gaussian_model import GaussianModel
from scene.upstream_checkpoint import is_upstream, read_upstream
from trainer.checkpoints import LoadedCheckpoint
from trainer.faults import cause_of
from utils.random_streams import RandomStreams
from utils.tree_file import load_tree, moved


@dataclass
class TrainState:
    """What one training step reads and changes.

    The Gaussians with their optimizer and densification statistics; the stack of cameras drawn but not yet used (in
    `scene`, with the camera ranges, which follow from settings and step); every random stream; what the distillation
    loss remembers; the guidance's first noise; CoGrad's histories and bank (None: the baseline); the number of the last
    step and of rollbacks; how many steps were skipped for each cause; the fault of the last step.
    """

    gaussians: GaussianModel
    scene: Scene
    streams: RandomStreams
    loss: Loss
    memory: NoiseMemory = field(default_factory=NoiseMemory)
    cograd: CoGrad | None = None
    iteration: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    last_fault: str | None = None
    rollbacks: int = 0

    @classmethod
    def start(
        cls,
        config: Config,
        device: Any,
        writes: bool = True,
        has_stale_points: bool = False,
        captured: Mapping[str, Any] | None = None,
    ) -> Self:
        """Seeded streams, the initial points, their optimizer: a run before its first step.

        writes: whether the run folder gets its init_points3d.ply and cameras.json; False: `scene.write_start` does it.
        has_stale_points: init_points3d.ply in the folder is not read. captured: the Gaussians of a checkpoint that will
        be loaded; the run needs no initial points then. Raises ValueError for initial points that are not available.
        """
        streams = RandomStreams(config.seed, config.guidance.noise_seed, device)
        gaussians = GaussianModel(config.model.sh_degree, device)
        parameters = None if captured is None else captured["parameters"]
        scene = Scene(config, gaussians, streams, device, writes, has_stale_points, parameters)
        if captured is None:
            check_budget(len(gaussians.get_xyz), config)
        gaussians.training_setup(config.optimization)
        return cls(gaussians, scene, streams, Loss(config.guidance))

    def begin_cograd(self, config: Config, alphas_cumprod: torch.Tensor) -> None:
        """Adds CoGrad where the config asks for it; alphas_cumprod [T] is the diffusion model's schedule."""
        if config.cograd.enabled:
            w = timestep_weight(alphas_cumprod, config.guidance.weighting)
            self.cograd = CoGrad(config.cograd, alphas_cumprod, config.optimization.iterations, w=w)

    def begin_predictor(self, prior: Prior, prompts: PromptEmbeddings) -> None:
        """Adds the model of the run's own renders, where the distillation law needs one."""
        if self.loss.law.needs_predictor:
            self.loss.predictor = prior.new_predictor(prompts, self.streams.seed)  # type: ignore[attr-defined]

    @property
    def maps(self) -> Callable[[], Mapping[str, torch.Tensor]] | None:
        """Makes CoGrad's maps of the regions; None: the baseline."""
        return None if self.cograd is None else self.cograd.maps

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The Gaussians' optimizer, which `start` has made."""
        assert self.gaussians.optimizer is not None
        return self.gaussians.optimizer

    def state_dict(self) -> dict[str, Any]:
        """Everything above as nested dictionaries of tensors and plain values."""
        return {
            "iteration": self.iteration,
            "skipped": self.skipped,
            "last_fault": self.last_fault,
            "rollbacks": self.rollbacks,
            "gaussians": self.gaussians.capture(),
            "camera_stack": self.scene.camera_stack.state_dict(),
            "streams": self.streams.state_dict(),
            "loss": self.loss.state_dict(),
            "memory": self.memory.state_dict(),
            "cograd": None if self.cograd is None else self.cograd.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; what trainer.resume_rules took away starts again.

        Tensors may be on any device. Raises ValueError when the state belongs to another kind of run.
        """
        config, device = self.scene.config, self.gaussians.device
        self.gaussians.restore(state["gaussians"])
        self.scene.ranges = CameraRanges.after_steps(state["iteration"], config.optimization, config.cameras)
        self.scene.camera_stack.load_state_dict(state.get("camera_stack", {}))
        self.streams.load_state_dict(state["streams"])
        self.loss.load_state_dict(moved(state.get("loss", {}), device))
        self.memory.load_state_dict(moved(state.get("memory", {}), device))
        if (self.cograd is None) != (state["cograd"] is None):
            raise ValueError("the checkpoint is of a run with another CoGradParams.enabled; keep it as it was")
        if self.cograd is not None:
            bank = moved(state["cograd"]["bank"], "cpu" if config.cograd.bank_on_cpu else device)
            self.cograd.load_state_dict({**state["cograd"], "bank": bank}, strict=False)
        self.iteration, self.rollbacks = state["iteration"], state["rollbacks"]
        self.skipped, self.last_fault = dict(state["skipped"]), state["last_fault"]

    def load_upstream(self, captured: dict[str, Any], iteration: int, config: Config) -> None:
        """Continues from scene.upstream_checkpoint: Gaussians, optimizer, statistics, and ranges as wide as by then.

        Random streams and CoGrad's histories start again, since upstream's files do not hold them.
        """
        self.gaussians.restore(captured)
        self.scene.ranges = CameraRanges.after_steps(iteration, config.optimization, config.cameras)
        self.iteration = iteration

    def note_fault(self, fault: str | None) -> None:
        """Notes whether the step was skipped, and why."""
        self.last_fault = fault
        if fault is not None:
            cause = cause_of(fault)
            self.skipped[cause] = self.skipped.get(cause, 0) + 1

    def renew_noise(self) -> None:
        """After going back to a checkpoint: other noise than the one that led astray."""
        self.rollbacks += 1
        self.streams.renew_noise(self.rollbacks)
        self.memory.load_state_dict({})


def read_start(path: str | None) -> LoadedCheckpoint | None:
    """A checkpoint to begin with: ours, or {"upstream": (captured, iteration)} of upstream's; None without a path.

    Its tensors are on the CPU. Raises ValueError when it cannot be used.
    """
    if path is None:
        return None
    return Path(path), {"upstream": read_upstream(Path(path))} if is_upstream(path) else load_tree(Path(path))


def gaussians_of(checkpoint: LoadedCheckpoint | None) -> Mapping[str, Any] | None:
    """What GaussianModel.capture gave, of a checkpoint that a run begins with; None without one."""
    if checkpoint is None:
        return None
    tree = checkpoint[1]
    captured: Mapping[str, Any] = tree["upstream"][0] if "upstream" in tree else tree["train"]["gaussians"]
    return captured


def check_budget(count: int, config: Config) -> None:
    """ValueError for more Gaussians at the start than there may be."""
    most = config.optimization.max_points
    if count > most:
        raise ValueError(
            f"the initial points are {count:,}, but OptimizationParams.max_points is {most:,}; raise max_points, or "
            "begin with fewer points"
        )
