# SPDX-License-Identifier: Apache-2.0
"""Upstream's guidance gradients in seven settings, reproduced through the project's one code path.

golden/guidance.npz is a reduced copy: the rendered inputs are stored once (they are the same in all settings), the
transmittance is left out (it never reaches a gradient), gradients are rounded to 15 mantissa bits (1.5e-5 relative).
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

from arguments import GuidanceParams
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from utils.random_streams import RandomStreams

CASES = ("ism", "ism_delta25_xs3", "ism_invcfg", "sds", "noanneal", "perpneg", "fixnoise")
WARM_UP_RATES = (0.9, 0.3, 0.0, 0.0)
# Measured: at most 3e-5 of a step's largest gradient, half of it the rounding of the stored numbers.
RELATIVE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden(golden_dir):
    with np.load(golden_dir / "guidance.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive}


@pytest.fixture(scope="module")
def cases(golden_dir):
    return json.loads((golden_dir / "guidance_cases.json").read_text())


@pytest.fixture(scope="module")
def base_params(golden_dir, cases):
    keys = ("fp16", "text", "negative", "inverse_text", "lambda_guidance", "C_batch_size")
    common = {key: cases["common"][key] for key in keys}
    return GuidanceParams(model_key=str(golden_dir / "tiny-sd"), **common)


@pytest.fixture(scope="module")
def prior(base_params):
    return StableDiffusion(base_params, "cpu")


def test_prompt_embeddings(golden, prior, base_params):
    book = PromptEmbeddings(prior, base_params)
    names = {"inverse": "inverse_text"}
    for name, embedding in book.embeddings.items():
        torch.testing.assert_close(embedding, golden[f"embeddings/{names.get(name, name)}"][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradients_match_upstream(case, golden, cases, prior, base_params):
    params = dataclasses.replace(base_params, **cases["cases"][case])
    conditioning = PromptEmbeddings(prior, params).conditioning(cases["common"]["azimuth_deg"])
    noise_stream = torch.Generator().manual_seed(params.noise_seed)  # one guidance object runs all four steps
    memory = NoiseMemory()
    for step, warm_up_rate in enumerate(WARM_UP_RATES):
        streams = RandomStreams(200 + step)
        streams.noise = noise_stream
        images = {name: golden[f"inputs/step{step}/{name}"].clone().requires_grad_() for name in ("rgb", "depth")}
        alpha = torch.ones_like(images["depth"])
        as_latent = step == 2
        result = distill_views(
            prior, images["rgb"], images["depth"], alpha, conditioning, Loss(params), streams,
            warm_up_rate=warm_up_rate, as_latent=as_latent, memory=memory,
        )  # fmt: skip
        result.backward()
        expected = golden[f"{case}/step{step}/grad"]
        error = (images["depth" if as_latent else "rgb"].grad - expected).abs().max() / expected.abs().max()
        assert error < RELATIVE_TOLERANCE, f"{case} step {step}: {error:.2e}"
        assert images["rgb" if as_latent else "depth"].grad is None
        assert result.finite_per_view.all()
