# SPDX-License-Identifier: Apache-2.0
"""Settings of precision, memory, kernel and offload together: every pair of values occurs in some run on the tiny
pipeline, and no run changes the result by more than its precision."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from arguments import GuidanceParams
from guidance.cuda_graphs import GraphedCall
from guidance.execution import Execution, flash_attention_fails_on_cpu
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from tests.recorded_call import Recorded
from utils.random_streams import RandomStreams

VALUES = {
    "precision": ("float32", "float16"),
    "attention_kernel": ("auto", "flash", "math"),
    "channels_last": ("off", "on"),
    "fuse_qkv": ("off", "on"),
    "compile_unet": (False, True),
    "cuda_graphs": (False, True),
    "unet_batch": (0, 1),
    "vae_slicing": ("off", "on"),
    "vae_checkpointing": ("off", "on"),
    "offload_unet": (False, True),
    "vram_O": (False, True),
    "keep_text_encoder": (False, True),
}
REFUSED = {  # by Execution.of, on every device
    (("compile_unet", True), ("offload_unet", True)): "offload_unet moves the weights during a call",
    (("cuda_graphs", True), ("offload_unet", True)): "offload_unet moves the weights during a call",
}
if flash_attention_fails_on_cpu(torch.float16):
    REFUSED[("precision", "float16"), ("attention_kernel", "flash")] = "a CPU with AMX cannot run it in float16"
# Measured 2026-11: gradients differ by at most 6e-6 in float32 and 8.5e-3 in float16.
BOUND = {"float32": 1e-4, "float16": 5e-2}


def pairs_of(run):
    return set(itertools.combinations(sorted(run.items(), key=lambda item: list(VALUES).index(item[0])), 2))


def all_pairs():
    runs = (dict(zip(keys, values)) for keys in itertools.combinations(VALUES, 2)
            for values in itertools.product(*(VALUES[key] for key in keys)))  # fmt: skip
    return {pair for run in runs for pair in pairs_of(run) if pair not in REFUSED}


def covering_runs():
    """Few runs in which every pair occurs: each begins with a missing pair and takes the values that add most pairs."""
    missing, runs = all_pairs(), []
    while missing:
        run = dict(min(missing, key=str))
        for key in VALUES:
            candidates = [run | {key: value} for value in ((run[key],) if key in run else VALUES[key])]
            allowed = [c for c in candidates if not pairs_of(c) & REFUSED.keys()]
            run = max(allowed, key=lambda c: len(pairs_of(c) & missing))
        runs.append(run)
        missing -= pairs_of(run)
    return runs


def draw(numbers, *shape):
    return torch.from_numpy(numbers.random(shape, dtype=np.float32))


def step(key, **settings):
    """Latents, guidance on them and gradient on the images of one ISM step of two views."""
    params = GuidanceParams(model_key=str(key), text="a cat", perpneg=False, **settings)
    prior = StableDiffusion(params, "cpu")
    cond = PromptEmbeddings(prior, params).conditioning([10.0, 100.0])
    if not params.keep_text_encoder:
        prior.release_text_encoder()
    numbers = np.random.default_rng(0)
    images = [draw(numbers, 2, channels, 32, 32) for channels in (3, 1, 1)]
    images[0].requires_grad_()
    options = {"warm_up_rate": 0.5, "as_latent": False, "memory": NoiseMemory(), "ind_t": torch.tensor([120, 300])}
    out = distill_views(prior, *images, cond, Loss(params), RandomStreams(0), **options)
    out.backward()
    return out.latents.detach(), out.grad, images[0].grad, prior.decode_latents(out.latents.detach())


@pytest.fixture(scope="module")
def plain(golden_dir):
    return step(golden_dir / "tiny-sd")


@pytest.fixture
def on_a_cpu(monkeypatch):
    """CUDA graphs and compiled blocks by stand-ins that a CPU can run in no time."""
    monkeypatch.setattr("guidance.sd_utils.GraphedCall", functools.partial(GraphedCall, record=Recorded))
    real_compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: real_compile(self, backend="eager"))
    real = Execution.of.__func__

    def allowed(cls, params, device):
        decided = real(cls, dataclasses.replace(params, cuda_graphs=False), device)
        return dataclasses.replace(decided, cuda_graphs=params.cuda_graphs)

    monkeypatch.setattr(Execution, "of", classmethod(allowed))


@pytest.mark.parametrize("run", covering_runs(), ids=lambda run: "-".join(f"{k}={v}" for k, v in run.items()))
def test_settings_together_give_what_none_of_them_gives(golden_dir, plain, on_a_cpu, run):
    for name, new, old in zip(("latents", "guidance", "gradient", "decoded"), step(golden_dir / "tiny-sd", **run), plain):
        assert new.dtype == torch.float32 and new.isfinite().all(), name
        assert float((new - old).norm() / old.norm()) < BOUND[run["precision"]], name


def test_every_pair_that_is_not_refused_occurs():
    covered = set().union(*map(pairs_of, covering_runs()))
    assert all_pairs() <= covered
    assert (("attention_kernel", "math"), ("vram_O", True)) in covered
    for pair, sentence in REFUSED.items():
        with pytest.raises(ValueError, match=sentence):
            Execution.of(GuidanceParams(**dict(pair)), torch.device("cpu"))


def test_the_kernel_of_the_forward_pass_is_the_kernel_of_the_recomputation(golden_dir):
    """Each way to recompute alone, and both, with the kernel that differs most from torch's own choice."""
    for settings in ({"vae_slicing": "on"}, {"vae_checkpointing": "on"}, {"vram_O": True}):
        latents, *_ = step(golden_dir / "tiny-sd", attention_kernel="math", **settings)
        assert latents.isfinite().all()
