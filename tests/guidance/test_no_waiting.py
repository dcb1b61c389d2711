# SPDX-License-Identifier: Apache-2.0
"""The host does not wait for the device inside a step: on the meta device, where there is nothing to read, it runs.

A tensor there has a shape and no numbers; whatever reads one (`item`, `tolist`, `bool`, a copy to the CPU, a mask as an
index) raises.
"""

import ast
import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from arguments import GuidanceParams
from arguments.load import load_config
from distillation import LAWS
from guidance import score
from guidance.losses import Loss
from guidance.predictor import Cameras
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from tests.mixture_prior import GaussianMixturePrior
from trainer import step as training_step
from trainer.exchange import ViewGradient
from trainer.state import TrainState
from trainer.step import apply_update, compute_gradients
from utils.random_streams import RandomStreams

META, ROOT = torch.device("meta"), Path(__file__).parents[2]


@pytest.fixture(scope="module")
def on_meta(golden_dir):
    """The tiny pipeline and its prompts, moved where no number can be read."""
    params = GuidanceParams(model_key=str(golden_dir / "tiny-sd"), text="a cat", perpneg=True)
    prior = StableDiffusion(params, "cpu")
    prompts = PromptEmbeddings(prior, params)
    prompts.embeddings = {name: x.to(META) for name, x in prompts.embeddings.items()}
    for module in (prior.unet, prior.vae):
        module.to(META)
    prior.alphas_cumprod, prior.device = prior.alphas_cumprod.to(META), META
    return prior, prompts, params


def streams_on_meta():
    streams = RandomStreams(0)
    streams.device = META  # what is drawn has a shape only
    return streams


def run(on_meta, **options):
    prior, prompts, params = on_meta
    rgb = torch.empty(3, 3, 64, 64, device=META).requires_grad_()
    depth, alpha = torch.empty(3, 1, 64, 64, device=META), torch.empty(3, 1, 64, 64, device=META)
    cond = prompts.conditioning([0.0, 90.0, 180.0])
    rest = {"warm_up_rate": 0.5, "as_latent": False, "memory": NoiseMemory()}
    result = distill_views(prior, rgb, depth, alpha, cond, Loss(params), streams_on_meta(), **rest, **options)
    result.backward()
    return rgb.grad, result


def test_with_timesteps_from_the_host_the_guidance_reads_nothing(on_meta):
    gradient, result = run(on_meta, ind_t=torch.tensor([900, 30, 450]))
    assert gradient.shape == (3, 3, 64, 64) and gradient.device == META
    assert result.unet_timesteps == [1, 201, 401, 601, 801, 811, 901]
    with pytest.raises(RuntimeError):
        assert bool(result.flip)  # read only where a picture is made


def test_cached_rounds_read_nothing(on_meta):
    """Of views that leave the inversion one after the other, and whose features are picked from those kept."""
    prior, prompts, params = on_meta
    cached = dataclasses.replace(params, unet_cache_interval=3)
    gradient, _ = run((prior, prompts, cached), ind_t=torch.tensor([900, 30, 450]))
    assert gradient.device == META


class Echo:
    """A model of the run's renders that predicts what it is given."""

    def predict_noise(self, x_t, t, cameras):
        return x_t


@pytest.mark.parametrize(
    ("law", "source"),
    [*((law, LAWS[law].preset.get("noise_source", "fresh")) for law in LAWS), ("sds", "fixed"), ("sds", "camera")],
)
def test_no_law_reads_a_number_of_the_device(on_meta, law, source):
    """Nor mixes tensors of the host with those of the device, whose results are."""
    prior, prompts, params = on_meta
    params = dataclasses.replace(params, distillation=law, **{**LAWS[law].preset, "noise_source": source})
    more = {f"{name} {view}": "uncond" for name in ("source", "target") for view in ("front", "side", "back")} | {"contrast": "uncond"}
    further = {**prompts.embeddings, **{name: prompts.embeddings[like] for name, like in more.items()}}
    loss, rgb = Loss(params), torch.empty(3, 3, 64, 64, device=META).requires_grad_()
    loss.predictor, blank = Echo(), torch.empty(3, 1, 64, 64, device=META)
    both = copy.copy(prompts)
    both.params, both.embeddings = params, further
    result = distill_views(
        prior, rgb, blank, blank, both.conditioning([0.0, 90.0, 180.0]), loss, streams_on_meta(), warm_up_rate=0.5, as_latent=False,
        memory=NoiseMemory(), ind_t=torch.tensor([900, 30, 450]), cameras=Cameras.at([0.0, 90.0, 180.0]), progress=0.9,
    )  # fmt: skip
    result.backward()
    assert rgb.grad.device == META and result.grad.device == META and result.t.device == META


def test_upstreams_one_timestep_is_the_only_number_read(on_meta, monkeypatch):
    """It is drawn on the device, as upstream does, and decides how many calls there are."""
    monkeypatch.setattr(score, "draw_ind_t", lambda *_: torch.tensor([450]))
    run(on_meta)


class Reads(TorchDispatchMode):
    """Counts what makes a host wait for a GPU: numbers read, and results whose size depends on numbers."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        named = func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        self.count += named or by_mask
        return func(*args, **(kwargs or {}))


def reads_of_a_step(folder, views):
    settings = {"iterations": 10, "image_w": 16, "image_h": 16, "init_num_pts": 60, "text": "x", "device": "cpu", "perpneg": "false"}
    words = [word for k, v in {**settings, "C_batch_size": views, "model_path": folder}.items() for word in (f"--{k}", str(v))]
    config = load_config(words)
    prior = GaussianMixturePrior(torch.zeros(1, 3, 16, 16), 0.3)
    state, prompts = TrainState.start(config, "cpu"), PromptEmbeddings(prior, config.guidance)
    with Reads() as reads:
        report = compute_gradients(state, prior, prompts, config)
        apply_update(state, report, config)
    assert report.fault is None
    return reads.count


def test_a_steps_reads_do_not_grow_with_its_views(tmp_path):
    """Of the device: a table of the losses, a sum of the gradient, a sum of the updated parameters. The rest is numbers
    that stay on the host: means of the table, its faults, AdamW's step counts, the plan, the flip.
    """
    assert reads_of_a_step(tmp_path, 2) == reads_of_a_step(tmp_path, 5) <= 4 + 2 + 5 + 2 + 1


def test_a_view_whose_gradient_is_not_finite_is_named():
    state = SimpleNamespace(gaussians=SimpleNamespace(parameters_in_order=lambda: {"xyz": torch.zeros(2, requires_grad=True)}))
    nan, big = torch.tensor([1.0, torch.nan]), torch.full((2,), 3e38)
    t = torch.tensor([10, 20])

    def fault(total, *views):
        views = [ViewGradient({"xyz": x}, torch.zeros(2, 2), torch.zeros(2)) for x in views]
        return training_step.set_gradient(state, {"xyz": total}, views, t)

    assert fault(nan, torch.ones(2), nan) == "the gradient of xyz is not finite (view 1, timestep 20)"
    assert fault(big, big) is None  # only the sum over its numbers overflows
    assert fault(big + big, big, big) == "the sum of all views' gradients of xyz is not finite"


def test_nothing_flushes_the_cache_or_waits_for_the_device():
    """Upstream's `empty_cache` after every U-Net call; benchmarks may."""
    rooms = ("arguments", "cograd", "distillation", "gaussian_renderer", "guidance", "scene", "utils")
    for path in [ROOT / "train.py", *(p for room in rooms for p in (ROOT / room).rglob("*.py"))]:
        called = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not called & {"empty_cache", "synchronize", "set_sync_debug_mode"}, path


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_distillation_waits_nowhere(golden_dir):
    params = GuidanceParams(model_key=str(golden_dir / "tiny-sd"), text="a cat", perpneg=True)
    prior, streams = StableDiffusion(params, "cuda"), RandomStreams(0, device="cuda")
    prompts, rgb = PromptEmbeddings(prior, params), torch.rand(3, 3, 64, 64, device="cuda", requires_grad=True)
    rest = {"warm_up_rate": 0.5, "as_latent": False, "memory": NoiseMemory(), "ind_t": torch.tensor([900, 30, 450])}
    for mode in ("default", "error"):  # the first call chooses kernels
        torch.cuda.set_sync_debug_mode(mode)
        try:
            cond = prompts.conditioning([0.0, 90.0, 180.0])
            blank = rgb[:, :1].detach()
            distill_views(prior, rgb, blank, blank, cond, Loss(params), streams, **rest).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
