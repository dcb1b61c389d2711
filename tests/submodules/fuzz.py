# SPDX-License-Identifier: Apache-2.0
"""Randomized differential test: the rasterizer's backends against reference.py, distCUDA2 against all pairs.

    python tests/submodules/fuzz.py --seconds 600        # make fuzz
    python tests/submodules/fuzz.py --seed 1234 --cases 1   # one case again

Every case follows from its seed alone. Cases draw odd image sizes, no or one Gaussian, scales from 0 to far larger than
the image, points behind and beside the camera, duplicates, opacities from 0 to above 1, SH degrees 0-3, precomputed
colours and covariances, Gaussians that are not finite, strided inputs, and one input of a wrong dtype.

A difference counts when it exceeds the usual tolerance by more than float32 can explain: by more than SLACK times what
the reference itself changes when its inputs are rounded differently or when it computes in float32.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cuda_shim"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import shim_build
import torch
from raster_scenes import Result, Scene, camera, run_extension, run_reference
from torch import Tensor

from diff_gaussian_rasterization import _abi, _cuda
from simple_knn._C import distCUDA2
from tests.drawn import Draws

IMAGE_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 1e-4  # of the largest value, as in test_raster_reference.py
ROUNDING, ROUNDINGS, SLACK = 2.0**-22, 24, 8.0
ISAS = ("x86-64-v4", "x86-64-v3", "base")


class Mismatch(AssertionError):
    """A case where a backend and the reference disagree."""


@dataclass
class Case:
    """A scene, which of its Gaussians are not finite [N], in what, and whether depth sends gradient to z."""

    scene: Scene
    bad: Tensor
    bad_input: str
    depth_z: bool

    @property
    def n_dropped(self) -> int:
        """How many are to be counted as dropped; a colour is only looked at in front of the camera."""
        view_z = (self.scene.inputs["means3D"] @ self.scene.view.viewmatrix[:3] + self.scene.view.viewmatrix[3])[:, 2]
        in_front = view_z > 0.2
        return int((self.bad & in_front if self.bad_input in ("shs", "colors_precomp") else self.bad).sum())


# ------------------------------------------------------------------------------------------------ drawing


class Dice(Draws):
    """Random numbers and choices of one seed."""

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def one_of(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


def draw_means(dice: Dice, n: int, campos: Tensor) -> Tensor:
    """In a ball; some far aside, behind the camera, close before it, or twice at the same place."""
    means = dice.normal(n, 3) * dice.one_of(0.05, 0.5, 2.0)
    where = dice.uniform(n, 1) if dice.chance(0.5) else torch.ones(n, 1)
    means = torch.where(where < 0.1, campos * (0.8 + 0.4 * dice.uniform(n, 1)) + 0.05 * means, means)
    means = torch.where((where > 0.1) & (where < 0.2), 20 * means, means)
    if n > 1 and dice.chance(0.2):
        means[n // 2 :] = means[: n - n // 2].clone()
    return means


def draw_scales(dice: Dice, n: int) -> Tensor:
    size = dice.one_of(0.05, 0.05, 0.3, 1e-6, 5.0, 100.0)
    scales = dice.tensor(size * np.exp(dice.rng.standard_normal((n, 3)) * dice.one_of(0.0, 0.7, 1.5)))
    return torch.where(dice.uniform(n, 1) < 0.05, torch.zeros_like(scales), scales)


def draw_opacities(dice: Dice, n: int) -> Tensor:
    kind = dice.one_of("any", "any", "faint", "solid", "extreme")
    u = dice.uniform(n, 1)
    if kind == "faint":
        return u * 0.02
    if kind == "solid":
        return 0.9 + 0.3 * u
    return (u > 0.5).float() if kind == "extreme" else u


def draw_inputs(dice: Dice, n: int, sh_degree: int, campos: Tensor) -> dict[str, Tensor]:
    inputs = {"means3D": draw_means(dice, n, campos), "opacities": draw_opacities(dice, n)}
    scales, rotations = draw_scales(dice, n), dice.directions(n, 4)
    if dice.chance(0.3):
        spread = (dice.normal(n, 3, 3) * scales[:, None, :]).double()
        sigma = spread @ spread.transpose(1, 2)
        inputs["cov3D_precomp"] = sigma.reshape(n, 9)[:, [0, 1, 2, 4, 5, 8]].float()
    else:
        lengths = 1.0 if dice.chance(0.7) else 0.5 + dice.uniform(n, 1)
        inputs |= {"scales": scales, "rotations": rotations * lengths}
    if dice.chance(0.3):
        inputs["colors_precomp"] = 1.5 * dice.uniform(n, 3) - 0.2
    else:
        coefficients = max((sh_degree + 1) ** 2, dice.one_of(1, 4, 9, 16))
        inputs["shs"] = dice.one_of(0.3, 2.0) * dice.normal(n, coefficients, 3)
    return inputs


def strided(x: Tensor) -> Tensor:
    """The same numbers, not contiguous."""
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def draw_case(seed: int) -> Case:
    """Everything about a case from its seed."""
    dice = Dice(seed)
    side = (1, 2, 7, 15, 16, 17, 31, 33, 47)
    height, width, sh_degree = dice.one_of(*side), dice.one_of(*side), dice.integer(0, 3)
    n = dice.one_of(0, 1, 2, dice.integer(3, 20), dice.integer(20, 70))
    view = camera(dice, height, width, sh_degree, dice.one_of(1.0, 3.0, 3.0, 8.0))
    view = replace(view, scale_modifier=dice.one_of(1.0, 1.0, 0.5, 2.0))
    inputs = draw_inputs(dice, n, sh_degree, view.campos)
    bad, name = torch.zeros(n, dtype=torch.bool), ""
    if n and dice.chance(0.2):
        bad = dice.uniform(n) < 0.2
        name = dice.one_of(*sorted(inputs))
        inputs[name] = inputs[name].clone()
        inputs[name].view(n, -1)[bad, 0] = dice.one_of(torch.nan, torch.inf, -torch.inf)
    if dice.chance(0.2):
        inputs = {name: strided(x) for name, x in inputs.items()}
    weights = dice.normal(5, height, width)
    weights[dice.one_of(slice(0, 0), slice(0, 0), slice(0, 3), slice(3, 5))] = 0
    depth_z = dice.chance(0.3)
    return Case(Scene(inputs, replace(view, antialiasing=dice.chance(0.4)), weights), bad, name, depth_z)


# ------------------------------------------------------------------------------------------------ comparing


def rounded_otherwise(scene: Scene, draws: Draws) -> Scene:
    """The scene with every number off by up to ROUNDING of itself, in float64."""

    def off(x: Tensor) -> Tensor:
        return x.double() * (1 + ROUNDING * (2 * draws.uniform(*x.shape) - 1))

    view = replace(scene.view, **{k: off(getattr(scene.view, k)) for k in ("viewmatrix", "projmatrix", "campos")})
    return replace(scene, inputs={k: off(x) for k, x in scene.inputs.items()}, view=view)


def slack(scene: Scene, depth_z: bool, expected: Result) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """What rounding alone does: largest change of images [5,H,W], of each gradient, and of radii [N]."""
    draws = Draws(0, torch.float64)
    others = []
    for k in range(ROUNDINGS):
        with suppress(torch.linalg.LinAlgError):  # a needle's matrix may be singular in float32
            dtype = torch.float32 if k % 2 else torch.float64
            others.append(run_reference(rounded_otherwise(scene, draws), depth_z, dtype=dtype))
    images = torch.stack([(r.images - expected.images).abs() for r in others]).amax(0)
    radii = torch.stack([(r.radii - expected.radii).abs() for r in others]).amax(0)
    gradients = {}
    for name, want in expected.gradients.items():
        changes = [(r.gradients[name] - want).abs() for r in others]
        gradients[name] = max((c.max() for c in changes), default=0.0) if want.numel() else torch.zeros(())
    return images, gradients, radii


def differences(given: Result, want: Result, allowed) -> list[str]:
    """What differs by more than the tolerances and SLACK * allowed (None: no slack)."""
    images, gradients, radii = allowed or (0.0, {}, 0)
    found = []
    limit = IMAGE_TOLERANCE * (1 + float(want.images.abs().max())) + SLACK * images
    excess = ((given.images - want.images).abs() - limit)[:, ~want.fragile]
    if not bool((excess <= 0).all()):
        found.append(f"images by {float(excess.max()):.2g} too much")
    off = (given.radii - want.radii).abs() > (radii if allowed else 0)
    if bool((off & ~want.radius_fragile).any()):
        found.append(f"{int((off & ~want.radius_fragile).sum())} radii")
    for name, wanted in want.gradients.items():
        if not wanted.numel():
            continue
        limit = GRADIENT_TOLERANCE * float(wanted.abs().max()) + SLACK * gradients.get(name, 0.0) + 1e-12
        error = (given.gradients[name] - wanted).abs().max()
        if not bool(error <= limit):
            found.append(f"gradient of {name} by {float(error):.2g} (largest {float(wanted.abs().max()):.2g})")
    return found


def check_against_reference(case: Case) -> None:
    """The finite Gaussians as the reference has them; the others left out, counted, and without gradient."""
    good = ~case.bad
    finite = replace(case.scene, inputs={k: x[good] for k, x in case.scene.inputs.items()})
    solid = ~run_reference(finite).fragile
    scene, finite = (replace(s, weights=s.weights * solid) for s in (case.scene, finite))
    want, given = run_reference(finite, case.depth_z), run_extension(scene, case.depth_z)
    if int(given.n_dropped) != case.n_dropped:
        raise Mismatch(f"{given.n_dropped} Gaussians dropped, {case.n_dropped} are not finite")
    if given.radii[case.bad].any() or any(g[case.bad].any() for g in given.gradients.values()):
        raise Mismatch("a Gaussian that is not finite has a radius or a gradient")
    kept = replace(given, radii=given.radii[good], gradients={k: g[good] for k, g in given.gradients.items()})
    if differences(kept, want, None):
        found = differences(kept, want, slack(finite, case.depth_z, want))
        if found:
            raise Mismatch("; ".join(found))


def check_instruction_sets(case: Case) -> None:
    """Every instruction set of the machine gives the same bits."""
    best, results = _abi.LIBRARY.dgr_isa(), []
    for isa in ISAS:
        if _abi.LIBRARY.dgr_force_isa(isa.encode()) == 0:
            results.append(run_extension(case.scene, case.depth_z))
    _abi.LIBRARY.dgr_force_isa(best)
    for other in results[1:]:
        same = torch.equal(other.images, results[0].images) and torch.equal(other.radii, results[0].radii)
        if not same or any(not torch.equal(g, results[0].gradients[k]) for k, g in other.gradients.items()):
            raise Mismatch("instruction sets differ")


def check_wrong_dtype(case: Case, seed: int) -> None:
    """An input in float64 or float16 is refused by name."""
    dice = Dice(seed)
    name, dtype = dice.one_of(*sorted(case.scene.inputs)), dice.one_of(torch.float64, torch.float16)
    wrong = {**case.scene.inputs, name: case.scene.inputs[name].to(dtype)}
    try:
        run_extension(replace(case.scene, inputs=wrong))
    except ValueError as error:
        if str(error).startswith(f"{name} has dtype {dtype}, expected torch.float32"):
            return
        raise Mismatch(f"{name} as {dtype}: {error}") from None
    raise Mismatch(f"{name} as {dtype} was accepted")


def check_neighbours(seed: int) -> None:
    """distCUDA2 against all pairs, for clusters, grids, lines and duplicates."""
    dice = Dice(seed)
    n = dice.one_of(0, 1, 2, 3, 4, 5, dice.integer(6, 80), dice.integer(80, 400))
    points = dice.normal(n, 3) * dice.one_of(1e-3, 1.0, 1e3) + dice.one_of(0.0, 5.0)
    kind = dice.one_of("ball", "line", "grid", "duplicates")
    if kind == "line":
        points[:, 1:] = 0
    if kind == "grid":
        points = points.round()
    if kind == "duplicates":
        points[n // 2 :] = points[: n - n // 2].clone()
    p = points.double()
    squared = (p[:, None] - p).square().sum(-1)
    squared.fill_diagonal_(torch.inf)
    nearest = squared.sort(1).values[:, : min(3, max(n - 1, 0))]
    want = nearest.mean(1) if n > 1 else torch.zeros(n, dtype=torch.float64)
    given = distCUDA2(points).double()
    if not torch.allclose(given, want, rtol=1e-5, atol=1e-12 * float(p.abs().max()) if n else 0.0):
        raise Mismatch(f"distCUDA2 of {n} points ({kind}) by {float((given - want).abs().max()):.2g}")


# ------------------------------------------------------------------------------------------------ running


def check(seed: int) -> None:
    """One case of the backend in use. Raises Mismatch."""
    if seed % 8 == 0:
        check_neighbours(seed)
        return
    case = draw_case(seed)
    check_against_reference(case)
    if seed % 4 == 1:
        check_instruction_sets(case)
    if seed % 16 == 2:
        check_wrong_dtype(case, seed)


@contextmanager
def cuda_kernels():
    """CPU tensors go through the CUDA kernels, executed by the shim."""
    before = _cuda.LIBRARY, _cuda.DEVICE_TYPE, _cuda._usable
    _cuda.LIBRARY = shim_build.steer(_cuda.load(shim_build.compiled(shim_build.RASTERIZER)))
    _cuda.DEVICE_TYPE, _cuda._usable = "cpu", {}
    try:
        yield
    finally:
        _cuda.LIBRARY, _cuda.DEVICE_TYPE, _cuda._usable = before


def run(first_seed: int, seconds: float, limit: int | None = None, tell: Callable[[str], None] = print) -> list[int]:
    """Cases first_seed, first_seed + 1, ... until the time or the number is over. Returns the seeds that failed."""
    end, failed, seed = time.monotonic() + seconds, [], first_seed
    while time.monotonic() < end and (limit is None or seed < first_seed + limit):
        try:
            check(seed)
        except Exception as error:  # whatever goes wrong belongs to this seed
            failed.append(seed)
            tell(f"seed {seed}: {type(error).__name__}: {error}")
        seed += 1
    tell(f"{seed - first_seed} cases from seed {first_seed}, {len(failed)} failed {failed or ''}")
    return failed


def main(argv: list[str]) -> int:
    """Half of the time for the CPU backend, half for the CUDA kernels where the shim works."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1_000_000)
    parser.add_argument("--cases", type=int)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    seconds = options.seconds / 2 if shim_build.SUPPORTED else options.seconds
    print("CPU backend", flush=True)
    failed = run(options.seed, seconds, options.cases)
    if shim_build.SUPPORTED:
        print("CUDA kernels, executed on the CPU", flush=True)
        with cuda_kernels():
            failed += run(options.seed, seconds, options.cases)
    return 1 if failed else 0


if __name__ == "__main__":
    program.run(main)
