# SPDX-License-Identifier: Apache-2.0
"""The training loop of the toy prior: seeded per step, resumable, with a running average of the weights.

Letters of shapes: B images of a batch, C h w latent.
"""

import copy
import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from guidance.linear_autoencoder import LinearAutoencoder
from guidance.sources import reason_of
from guidance.tensor_files import load_pickled
from toy.training.checks import build_check_set, identification_curve, text_sensitivity
from toy.training.data import Batch, RenderedSet, compose_batch, draw_batch, draw_picks
from toy.training.model import CaptionTable, Sizes, build_networks, build_scheduler, to_latents
from utils.general_utils import atomic_path

PARTS = ("step", "seconds", "begun_step", "begun_seconds", "settings", "sizes", "networks", "average", "optimizer",
         "autoencoder")  # fmt: skip
"""What a checkpoint holds."""


@dataclass(frozen=True)
class TrainSettings:
    """How the prior is trained. The schedule follows `steps` if given, otherwise the trained time up to `minutes`."""

    seed: int = 0
    batch: int = 32
    lr: float = 1.2e-3
    lr_end_share: float = 0.02
    warmup_steps: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    steps: int | None = None
    minutes: float = 90.0
    latent_channels: int = 12
    scaling_factor: float = 0.35
    whitening: float = 0.5
    offset_noise: float = 0.1
    fit_images: int = 600
    checkpoint_s: float = 120.0
    check_every: int = 500
    log_every: int = 25

    def __post_init__(self) -> None:
        """Raises ValueError for a schedule without a step, which would leave networks as they were drawn."""
        for name in ("batch", "steps", "minutes", "lr"):
            value, least = getattr(self, name), 1 if name in ("batch", "steps") else 0
            if value is not None and not (value >= least and 0 < value < math.inf):
                raise ValueError(f"{name} = {value}: expected {'1 or more' if least else 'a number above 0'}.")


def draw_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Timesteps [count]: half of them uniform, half in 200..850, where shape and colour are decided."""
    wide = torch.randint(10, 1000, (count,), generator=generator)
    middle = torch.randint(200, 850, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, middle, wide)


def loss_weight(alphas_cumprod: Tensor, t: Tensor, data_std: float) -> Tensor:
    """Weight [B] of the clean-latent error: 1 + d^2 / max(s, 0.2)^2, s the noise-to-signal ratio, d the latents' std.

    It is EDM's weight (Karras et al. 2022, table 1) up to a constant, cut off at small noise: about 1 where noise hides
    the data, about 4 where the network only has to clean up.
    """
    ratio = (1 / alphas_cumprod[t] - 1).clamp_min(0.04)
    return (ratio + data_std**2) / ratio


def fit_autoencoder(rendered: RenderedSet, settings: TrainSettings) -> LinearAutoencoder:
    """The linear autoencoder of the training images on white."""
    generator = torch.Generator().manual_seed(settings.seed)
    picks = draw_picks(rendered, settings.fit_images, generator)
    picks.background.fill_(1)
    return LinearAutoencoder.fit(
        2 * compose_batch(rendered, picks) - 1,
        settings.latent_channels,
        scaling_factor=settings.scaling_factor,
        whitening=settings.whitening,
    )


def facts_of(prior: Path) -> dict[str, Any]:
    """The measured.json of an exported prior. Raises ValueError for another folder."""
    facts = prior / "measured.json"
    if not facts.is_file():
        raise ValueError(f"{prior} has no measured.json; give a folder that the export command wrote.")
    return json.loads(facts.read_text())


def read_checkpoint(path: Path, sizes: Sizes | None = None) -> dict[str, Any]:
    """What `PriorTrainer.save` wrote. Raises ValueError for another file, a damaged one, or networks unlike `sizes`."""
    try:
        state = load_pickled(path)
    except Exception as error:  # pickle and torch raise their own classes
        remedy = "copy it again, or delete it to train from the beginning"
        raise ValueError(f"{path} cannot be read ({reason_of(error)}); {remedy}") from error
    lacking = [name for name in PARTS if not isinstance(state, dict) or name not in state]
    if lacking:
        what = f"{path} is not a checkpoint of tools/train_toy_prior.py: it has no {', '.join(lacking)}"
        raise ValueError(f"{what}; delete it, or give another --folder")
    channels = tuple(state["sizes"]["channels"])
    if sizes is not None and channels != tuple(sizes.channels):
        raise ValueError(
            f"{path} holds a U-Net with channels {channels}, but {tuple(sizes.channels)} were asked for;"
            " use the same --channels or another folder."
        )
    return state


class PriorTrainer:
    """Remembers networks, their running average, the optimizer, steps done and seconds trained; nothing else."""

    def __init__(
        self,
        settings: TrainSettings,
        sizes: Sizes,
        rendered: RenderedSet,
        folder: Path,
        device: str | torch.device = "cpu",
    ):
        self.settings, self.sizes, self.rendered, self.folder = settings, sizes, rendered, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.table = CaptionTable()
        self.autoencoder = fit_autoencoder(rendered, settings)
        self.alphas_cumprod = build_scheduler().alphas_cumprod
        self.networks = build_networks(sizes, settings.latent_channels, self.table.tokenizer)
        self.device = torch.device(device)
        self.networks.to(self.device).unet.to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.networks).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.networks.parameters(), settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
        )
        self.step, self.seconds = 0, 0.0
        self.begun_step, self.begun_seconds = 0, 0.0
        """Where the schedule begins: what an earlier training did, see `start_from`."""

    @property
    def checkpoint(self) -> Path:
        """Where the resumable state lies."""
        return self.folder / "checkpoint.pt"

    def progress(self) -> float:
        """Share of the schedule done, 0 to 1."""
        if self.settings.steps is not None:
            begun, end = self.begun_step, self.settings.steps
            return min((self.step - begun) / (end - begun), 1.0) if end > begun else 1.0
        begun_s, end_s = self.begun_seconds, 60 * self.settings.minutes
        return min((self.seconds - begun_s) / (end_s - begun_s), 1.0) if end_s > begun_s else 1.0

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine down to lr_end_share of the peak."""
        warm = min((self.step - self.begun_step + 1) / self.settings.warmup_steps, 1.0)
        cosine = 0.5 + 0.5 * math.cos(math.pi * self.progress())
        end = self.settings.lr_end_share
        return self.settings.lr * warm * (end + (1 - end) * cosine)

    def run(self) -> None:
        """Trains until the schedule ends, with checkpoints, a log and text checks on the way."""
        saved = time.monotonic()
        if self.step == self.begun_step:
            self.log_start()
        while self.progress() < 1:
            begun = time.monotonic()
            loss = self.train_step()
            self.seconds += time.monotonic() - begun
            if self.step % self.settings.log_every == 0:
                self.log(kind="train", loss=round(loss, 6), lr=round(self.learning_rate(), 7))
            if self.step % self.settings.check_every == 0:
                self.log_sensitivity()
            if time.monotonic() - saved > self.settings.checkpoint_s:
                self.save()
                saved = time.monotonic()
        self.save()
        self.log_sensitivity()

    def train_step(self) -> float:
        """One optimizer step on a batch that depends on seed and step number alone; returns the loss."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        batch = draw_batch(self.rendered, self.settings.batch, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(batch, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.networks.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.update_average()
        return loss.item()

    def loss_of(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Weighted square error of the predicted clean latents; the noise has guidance's random offset per channel."""
        clean = to_latents(self.autoencoder, batch.images)
        t = draw_timesteps(len(clean), generator)
        offset = torch.randn(len(clean), clean.shape[1], 1, 1, generator=generator) * self.settings.offset_noise
        noise = torch.randn(clean.shape, generator=generator) + offset
        a = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * clean + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        predicted = self.networks.predict_clean(noisy.to(self.device), t.to(self.device), self.conditioning(batch))
        error = (predicted - clean.to(self.device)).square().mean(dim=(1, 2, 3))
        weight = loss_weight(self.alphas_cumprod, t, self.settings.scaling_factor)
        return (error * weight.to(self.device)).mean()

    def conditioning(self, batch: Batch) -> Tensor:
        """Blended caption embeddings [B, L, D]."""
        near, far = self.networks.embed(self.table.ids(batch.near + batch.far).to(self.device)).chunk(2)
        return torch.lerp(near, far, batch.share.to(self.device).view(-1, 1, 1))

    @torch.no_grad()
    def update_average(self) -> None:
        """Exponential running average of the weights, short-sighted during the first steps."""
        keep = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.networks.parameters()), 1 - keep)

    def save(self) -> None:
        """Writes the checkpoint; a kill at any moment leaves a whole one. Raises OSError."""
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "begun_step": self.begun_step,
            "begun_seconds": self.begun_seconds,
            "settings": asdict(self.settings),
            "sizes": asdict(self.sizes),
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "autoencoder": self.autoencoder.state_dict(),
        }
        with atomic_path(self.checkpoint) as unfinished:
            torch.save(state, unfinished)

    def resume(self) -> bool:
        """Continues from the folder's checkpoint, if there is one. Raises as `read_checkpoint` does."""
        if not self.checkpoint.exists():
            return False
        state = read_checkpoint(self.checkpoint, self.sizes)
        self.step, self.seconds = state["step"], state["seconds"]
        self.begun_step, self.begun_seconds = state["begun_step"], state["begun_seconds"]
        self.networks.load_state_dict(state["networks"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.autoencoder.load_state_dict(state["autoencoder"])
        return True

    def start_from(self, prior: Path) -> None:
        """Takes an exported prior's weights, autoencoder, steps and log; the schedule is for the steps that are left.

        The optimizer's memory is not among what was exported, nor are the weights before averaging.
        Raises ValueError if it is no exported prior, has other sizes, or has trained for the whole schedule.
        """
        known = facts_of(prior)
        found, wanted = tuple(known["sizes"]["channels"]), tuple(self.sizes.channels)
        if found != wanted:
            raise ValueError(f"{prior} holds a U-Net with channels {found}, but {wanted} were asked for.")
        self.step = self.begun_step = known["step"] * known["settings"]["batch"] // self.settings.batch
        self.seconds = self.begun_seconds = known["seconds"]
        if self.progress() >= 1:
            raise ValueError(
                f"{prior} was trained for {known['step']} steps and {known['seconds'] / 60:.0f} minutes; --steps and"
                " --minutes count from the beginning, give a larger number."
            )
        if json.loads((prior / "tokenizer" / "vocab.json").read_text()) != self.table.tokenizer.get_vocab():
            raise ValueError(f"{prior} was trained with other words than toy/ has now; start without --from.")
        unet = UNet2DConditionModel.from_pretrained(prior / "unet", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(prior / "text_encoder", dtype=torch.float32)
        for networks in (self.networks, self.average):
            networks.unet.load_state_dict(unet.state_dict())
            networks.text_encoder.load_state_dict(text_encoder.state_dict())
        self.autoencoder = LinearAutoencoder.from_pretrained(prior / "vae")
        shutil.copyfile(prior / "training_log.jsonl", self.folder / "log.jsonl")

    def log(self, **fields: object) -> None:
        """Appends one line to log.jsonl; an unfinished last line of a killed run is harmless."""
        common = {"step": self.step, "images": self.step * self.settings.batch, "seconds": round(self.seconds, 1)}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps({**common, **fields}) + "\n")

    def log_start(self) -> None:
        """Logs settings, parameter counts and how well colour could be read from noisy latents."""
        count = {name: sum(p.numel() for p in part.parameters()) for name, part in self.networks.named_children()}
        curve = identification_curve(self.rendered, self.autoencoder, self.alphas_cumprod)
        self.log(
            kind="start",
            settings=asdict(self.settings),
            sizes=asdict(self.sizes),
            parameters=count,
            identification=curve,
        )

    def log_sensitivity(self) -> None:
        """Logs the averaged network's error with right and wrong words, per band of t."""
        check_set = build_check_set(self.rendered, self.autoencoder)
        average = copy.deepcopy(self.average).to("cpu")
        self.log(kind="text", bands=text_sensitivity(average, check_set, self.table, self.alphas_cumprod))
