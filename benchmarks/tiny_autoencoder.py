# SPDX-License-Identifier: Apache-2.0
"""A tiny autoencoder for the toy prior: trained, then measured: `python benchmarks/tiny_autoencoder.py --out FOLDER`.

FOLDER/tiny gets a small AutoencoderTiny of diffusers whose encoder gives the latents of assets/toy-prior, by mean
square error on renders of the toy world with some noise; if it is there, it is only measured. A run decodes by the
prior's own autoencoder, so the decoder is not trained. Measured, each against the prior's own autoencoder:
- latents: relative error and correlation, on renders of views that were not trained on and on images of a run;
- gradient: cosine at each timestep with respect to the images and to the Gaussians, of a run's steps; text, noise and
  timestep are equal. Size: the gradients' norms, median ratio. The last column is the own autoencoder's gradient by
  another noise: how far two draws of the same setting are apart;
- runs: --seeds of each object with tiny_vae in the first half against without, scored on the known truth.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import functools
import statistics
import tempfile
import time
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

import train
from arguments import Config
from arguments.load import load_config
from cograd.fusion import flat
from evaluation.ablation.scores import measure, run_grid
from evaluation.experiments.grid import OBJECTS, ablation_run, runs_of, with_flags
from evaluation.experiments.runs import Run, Sweep, read_results
from evaluation.experiments.tables import mean_and_error
from gaussian_renderer.views import render_views
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import Encode, NoiseMemory, distill_views
from toy.training.data import RenderedSet, compose_batch, draw_picks, render_set
from trainer.draws import Draws
from trainer.priors import load_prior
from trainer.state import TrainState
from trainer.step import pipeline_of, training_step, view_gradients
from utils.machine import machine
from utils.random_streams import RandomStreams
from utils.wording import markdown

VIEWS, HELD_OUT_VIEWS, HELD_OUT_SEED = 60, 12, 1000  # of each class
BATCH, RATE = 32, 2e-3
WIDTH = 16
TIMESTEPS = (100, 300, 500, 700, 900)
STEPS_OF_RUN = (10, 60, 150)
PROMPTS = OBJECTS[:2]


def tiny_encoder(width: int = WIDTH) -> Any:
    """An AutoencoderTiny of four pixels and twelve channels a latent, as the toy prior has; random weights."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        latent_channels=12, scaling_factor=1.0,
        encoder_block_out_channels=(width,) * 3, num_encoder_blocks=(0, 1, 2),
        decoder_block_out_channels=(4,) * 3, num_decoder_blocks=(0, 0, 0),
    )  # fmt: skip


def drawn_images(rendered: RenderedSet, count: int, generator: torch.Generator) -> Tensor:
    """Renders [count,3,64,64] in [0,1] of any class, view and colours, one in seven not on white."""
    return compose_batch(rendered, draw_picks(rendered, count, generator))


def train_tiny(folder: Path, prior: Any, steps: int, noise: float, seed: int = 0) -> None:
    """Trains the encoder and writes it to `folder`."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # for the initial weights
    tiny, rendered = tiny_encoder(), render_set(VIEWS, seed)
    optimizer = torch.optim.Adam(tiny.encoder.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    began = time.perf_counter()
    for _ in range(steps):
        images = drawn_images(rendered, BATCH, generator)
        images = images + noise * torch.randn(images.shape, generator=generator)
        loss = mse_loss(tiny.encode(2 * images - 1).latents, prior._mean_latents(images))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    count = sum(p.numel() for p in tiny.encoder.parameters())
    seconds = time.perf_counter() - began
    print(f"Trained {count} weights in {steps} steps of {BATCH} images, {seconds:.0f} s.\n", flush=True)
    tiny.save_pretrained(folder)


@torch.no_grad()
def latent_error(prior: Any, images: Tensor) -> str:
    """Cells of the table: |tiny - own| / |own|, and the correlation about each channel's mean."""
    ours, own = prior.encode_imgs_tiny(images).double(), prior._mean_latents(images).double()
    error = float((ours - own).norm() / own.norm())
    ours, own = (x - x.mean(dim=(0, 2, 3), keepdim=True) for x in (ours, own))
    return f"{error:.3f} | {float((ours * own).sum() / (ours.norm() * own.norm())):.4f}"


def view_cosine(a: list[Tensor], b: list[Tensor]) -> list[float]:
    """Cosine of each view's gradient with the other's."""
    return [float(torch.cosine_similarity(x.flatten(), y.flatten(), dim=0)) for x, y in zip(a, b, strict=True)]


class Probe:
    """The gradients that one training step's views would get, by any encoder, timestep and noise."""

    def __init__(self, state: TrainState, prior: Any, prompts: PromptEmbeddings, config: Config, draws: Draws) -> None:
        self.state, self.prior, self.config, self.draws = state, prior, config, draws
        self.conditioning = prompts.conditioning(draws.azimuth_deg)

    def gradients(self, encode: Encode | None, ind_t: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
        """Of each view: the gradient on its image [3,H,W], and on all parameters of the Gaussians, end to end."""
        views = render_views(self.draws.views, self.state.gaussians, pipeline_of(self.state, self.config))
        images = torch.stack([view.image.detach() for view in views]).requires_grad_()
        unused = torch.zeros_like(images[:, :1])
        made = distill_views(
            self.prior, images, unused, unused, self.conditioning,
            Loss(self.config.guidance), RandomStreams(seed, seed), warm_up_rate=0.0, as_latent=False,
            memory=NoiseMemory(), mirrors=False, ind_t=torch.full((len(images),), ind_t), encode=encode,
        )  # fmt: skip
        made.backward()
        assert images.grad is not None, "the gradient has just been put there"
        maps = {"image": images.grad}
        of_gaussians = view_gradients(self.state, views, maps, self.config.optimization, len(images))
        return list(images.grad), [flat(view.g_main).vector for view in of_gaussians]


def compare_gradients(prior: Any, config: Config) -> None:
    """Prints the tables of latents' errors and of cosines."""
    prompts, state = PromptEmbeddings(prior, config.guidance), TrainState.start(config, torch.device("cpu"))
    rendered = render_set(HELD_OUT_VIEWS, HELD_OUT_SEED)
    print("| images | relative error of the latents | correlation |\n|---|---|---|")
    print(f"| renders | {latent_error(prior, drawn_images(rendered, 256, torch.Generator().manual_seed(1)))} |")
    found: dict[int, list[list[float]]] = {t: [[], [], [], []] for t in TIMESTEPS}
    for step in range(1, max(STEPS_OF_RUN) + 1):
        made, _ = training_step(state, prior, prompts, config)
        if step not in STEPS_OF_RUN:
            continue
        print(f"| step {step} of a run | {latent_error(prior, made.rendered[0])} |", flush=True)
        probe = Probe(state, prior, prompts, config, made.draws)
        for t, columns in found.items():
            own, tiny, other = (
                probe.gradients(encode, t, seed)
                for encode, seed in ((None, 0), (prior.encode_imgs_tiny, 0), (None, 1))
            )
            columns[0] += view_cosine(tiny[0], own[0])
            columns[1] += view_cosine(tiny[1], own[1])
            columns[2] += [float(a.norm() / b.norm()) for a, b in zip(tiny[1], own[1], strict=True)]
            columns[3] += view_cosine(other[1], own[1])
    rows = []
    for t, (image, gaussians, ratio, noise) in found.items():
        cells = [statistics.mean(image), statistics.mean(gaussians), min(gaussians), statistics.median(ratio)]
        rows.append([str(t), *(f"{cell:.3f}" for cell in [*cells, statistics.mean(noise)])])
    header = ["t", "cosine on the image", "on the Gaussians: mean", "lowest", "size", "another noise"]
    print("", markdown(header, rows), sep="\n")


def compare_runs(out: Path, iterations: int, seeds: int, until: float) -> None:
    """Makes the runs that are not there yet, and prints their scores with the paired differences."""
    extra = [*length_of(iterations), "--image_w", "64", "--image_h", "64", "--init_num_pts", "3000"]

    def cell(prompt: str, tiny: bool, seed: int) -> Run:
        run = ablation_run("trained", 0.0, prompt, "luciddreamer", seed, extra)
        return with_flags(run, {"tiny_vae": str(out / "tiny"), "tiny_vae_until": f"{until:g}"}, "tiny") if tiny else run

    pairs = {tiny: runs_of(functools.partial(cell, tiny=tiny), seeds, prompt=PROMPTS) for tiny in (False, True)}
    runs = [run for both in zip(pairs[False], pairs[True]) for run in both]
    sweep = Sweep(out, train.main, functools.partial(measure, score_px=64))
    failed = run_grid(runs, sweep, lambda line: print(line, file=sys.stderr))
    if failed:
        raise ValueError("; ".join(failed))
    scores = {tiny: [r["scores"] for r in read_results(out, [run.name for run in own])] for tiny, own in pairs.items()}
    rows = []
    for run, own, tiny in zip(pairs[False], scores[False], scores[True], strict=True):
        psnr, detail = ([s[name] for s in (own, tiny)] for name in ("psnr", "detail"))
        cells = [*psnr, psnr[1] - psnr[0], *detail]
        rows.append([run.facts["prompt"], str(run.facts["seed"]), *(f"{cell:.2f}" for cell in cells)])
    header = ["object", "seed", "PSNR without, dB", "with", "difference", "detail without", "with"]
    print("", markdown(header, rows), sep="\n")
    mean, error = mean_and_error([b["psnr"] - a["psnr"] for a, b in zip(scores[False], scores[True])])
    print(f"\nMean difference {mean:+.2f} +- {error:.2f} dB.")


def length_of(iterations: int) -> list[str]:
    """Flags of a run of so many steps."""
    return ["--iterations", str(iterations), "--warmup_iter", str(iterations)]


@program.refuses("tiny_autoencoder", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Prints the tables. Exit status: 0 printed, 2 bad input or a run that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--noise", type=float, default=0.1, help="on the images of the training, standard deviation")
    parser.add_argument("--iterations", type=int, default=250, help="of each run")
    parser.add_argument("--seeds", type=int, default=2, help="of each object; 0: no runs")
    parser.add_argument("--until", type=float, default=0.5, help="share of a run that the tiny autoencoder encodes")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, torch {torch.__version__}\n")
    flags = ["--opt", "configs/toy_trained.yaml", "--model_path", tempfile.gettempdir(), *length_of(args.iterations)]
    own = load_config([*flags, "--text", PROMPTS[0], "--device", "cpu"])
    tiny = args.out.resolve() / "tiny"
    if not (tiny / "config.json").is_file():
        train_tiny(tiny, load_prior(own, torch.device("cpu")), args.steps, args.noise)
    config = load_config([*flags, "--text", PROMPTS[0], "--device", "cpu", "--tiny_vae", str(tiny)])
    compare_gradients(load_prior(config, torch.device("cpu")), own)
    if args.seeds:
        compare_runs(args.out.resolve(), args.iterations, args.seeds, args.until)
    return 0


if __name__ == "__main__":
    program.run(main)
