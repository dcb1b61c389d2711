# SPDX-License-Identifier: Apache-2.0
"""How far rasterizers are apart on a training scene: `python benchmarks/agreement.py --gaussians 100000`.

The scene of benchmarks/rasterizer.py. Colour and gradients of each rasterizer on --device (this one, gsplat, and
--original where it can be imported) against this one's CPU backend: the largest difference of a pixel, and of a
gradient relative to the largest of its kind. Exit status 1 when this one differs by more than its bounds; peers blend
with other cut-offs and are only shown.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
from typing import Any

import torch
from torch import Tensor

from benchmarks.rasterizer import Case, inputs_of, of_family, of_gsplat, peers
from utils.device import resolve_device

MAX_PIXEL, MAX_GRADIENT = 1e-4, 1e-3  # exp2 of a GPU is within two units in the last place
CPU = torch.device("cpu")


Made = tuple[Tensor, dict[str, Tensor]]


def made_by(name: str, module: Any, case: Case, device: torch.device, weights: Tensor) -> Made:
    """(colour [3, H, W], gradients of its weighted sum by name), on the CPU."""
    inputs = {key: x.detach().to(device).requires_grad_() for key, x in inputs_of(case, CPU).items()}
    render = of_gsplat(module, case, device) if name == "gsplat" else of_family(module, case, device)[0]
    image, *others = render(inputs)
    if name == "gsplat":  # image [1, H, W, 4] and alpha [1, H, W, 1]; the white background is added here
        image = (image[0, ..., :3] + (1 - others[0][0])).permute(2, 0, 1)
    grads = torch.autograd.grad(image, list(inputs.values()), weights.to(device))
    return image.detach().cpu(), {key: g.cpu() for key, g in zip(inputs, grads)}


def line(
    name: str, module: Any, case: Case, device: torch.device, expected: Made, weights: Tensor
) -> tuple[str, bool]:
    """A line of the table, and whether the differences are within the bounds."""
    try:
        image, gradients = made_by(name, module, case, device, weights)
    except Exception as error:  # a peer without a backend for this device
        return f"| {name} | {type(error).__name__} | | |", name != "ours"
    pixel = float((image - expected[0]).abs().max())
    apart = {key: _relative(g, expected[1][key]) for key, g in gradients.items()}
    worst = max(apart, key=lambda key: apart[key])
    is_close = pixel <= MAX_PIXEL and apart[worst] <= MAX_GRADIENT
    return f"| {name} | {pixel:.1e} | {apart[worst]:.1e} | {worst} |", is_close or name != "ours"


def _relative(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@program.refuses("agreement", ValueError, OSError)
def main(argv: list[str]) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--sh", type=int, default=0)
    parser.add_argument("--original", help="module name of a rasterizer with the original's interface")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)
    device = resolve_device(options.device)
    case = Case(options.gaussians, options.px, options.sh, 0.1)
    modules = peers(options.original)
    weights = torch.linspace(-1, 1, 3 * case.size_px**2).view(3, case.size_px, case.size_px)
    expected = made_by("ours", modules["ours"], case, CPU, weights)
    print("| rasterizer | largest difference of a pixel | of a gradient, relative | which |\n|---|---|---|---|")
    are_close = []
    for name, module in modules.items():
        text, is_close = line(name, module, case, device, expected, weights)
        are_close.append(is_close)
        print(text, flush=True)
    return 0 if all(are_close) else 1


if __name__ == "__main__":
    program.run(main)
