# SPDX-License-Identifier: Apache-2.0
"""The estimate of trainer/memory_estimate.py against main memory: `python benchmarks/memory_estimate.py --size_px 256`.

Stable Diffusion's autoencoder with random weights in float32 encodes images and goes back, each case in a process of
its own, whose peak is compared with the estimate.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import subprocess
from datetime import UTC, datetime

import torch
from torch.utils.checkpoint import checkpoint

from trainer.memory_estimate import ENCODE_PEAK, RECOMPUTED_PEAK
from utils.machine import machine
from utils.memory import peak_bytes

CASES = (("plain", 1), ("plain", 2), ("recomputed", 2), ("sliced", 2))
CHANNELS = (128, 256, 512, 512)
STATM = Path("/proc/self/statm")
PAGE_BYTES = 4096


def autoencoder(mode: str) -> torch.nn.Module:
    """Of Stable Diffusion 1.x and 2.x."""
    from diffusers import AutoencoderKL

    down, up = ["DownEncoderBlock2D"] * 4, ["UpDecoderBlock2D"] * 4
    vae = AutoencoderKL(
        block_out_channels=CHANNELS, down_block_types=down, up_block_types=up, layers_per_block=2
    )
    if mode == "recomputed":
        vae.enable_gradient_checkpointing()
    return vae.requires_grad_(False).eval()


def measure(mode: str, views: int, size_px: int) -> str:
    """A row of the table: what this process takes beyond its weights."""
    values = (RECOMPUTED_PEAK if mode == "recomputed" else ENCODE_PEAK) * CHANNELS[0] * size_px**2  # of a view
    estimate = 4 * values * (1 if mode == "sliced" else views)
    vae, images = autoencoder(mode), torch.rand(views, 3, size_px, size_px).requires_grad_()

    def encode(part: torch.Tensor) -> torch.Tensor:
        return vae.encode(part).latent_dist.mean

    encode(images[:1, :, :64, :64]).sum().backward()  # libraries take what they take once
    before = int(STATM.read_text().split()[1]) * PAGE_BYTES
    if mode == "sliced":
        latents = torch.cat([checkpoint(encode, one, use_reentrant=False) for one in images.split(1)])
    else:
        latents = encode(images)
    latents.sum().backward()
    taken = peak_bytes(torch.device("cpu"))["main"] - before
    return f"| {mode} | {views} | {estimate / 1e9:.2f} | {taken / 1e9:.2f} |"


@program.refuses("memory_estimate", ValueError, OSError)
def main(argv: list[str]) -> None:
    parser = program.parser(__doc__)
    parser.add_argument("--size_px", type=int, default=128, help="side of the images")
    parser.add_argument("--case", type=int, help="index of one case, measured in this process")
    options = parser.parse_args(argv)
    if options.case is not None:
        print(measure(*CASES[options.case], options.size_px))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}, {options.size_px} px\n")
    print("| autoencoder | views | estimate, GB | measured, GB |\n|---|---|---|---|", flush=True)
    for k in range(len(CASES)):
        subprocess.run([sys.executable, __file__, "--case", str(k), "--size_px", str(options.size_px)], check=True)


if __name__ == "__main__":
    program.run(main)
