# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the step runs the trainer's step in both ways, and counts arithmetic rightly."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import step
from benchmarks.phases import INSIDE, phases_apart
from benchmarks.random_sd21 import networks
from tests.drawn import Draws


class Counting:
    """A prior that notes how many samples each call of its network has."""

    alphas_cumprod = torch.linspace(0.99, 0.01, 1000)

    def __init__(self):
        self.calls = []

    def predict_noise(self, x_t, t, embeddings):
        self.calls.append(len(x_t))
        return x_t * t.view(-1, 1, 1, 1) + embeddings.mean()


def test_a_small_table(capsys, monkeypatch) -> None:
    monkeypatch.setitem(step.SIZES["small"], "image_w", 16)
    monkeypatch.setitem(step.SIZES["small"], "image_h", 16)
    options = [
        "--views",
        "2",
        "--perpneg",
        "off",
        "--repeats",
        "1",
        "--warm_up",
        "2",
        "--points",
        "50",
        "--device",
        "cpu",
    ]
    step.main([*options, "--upstream-like"])
    lines = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    header, _, ours, upstream = ([cell.strip() for cell in line] for line in lines)
    assert (ours[:3], upstream[:3]) == (["ours", "2", "off"], ["upstream-like", "2", "off"])
    row, other = dict(zip(header, ours, strict=True)), dict(zip(header, upstream, strict=True))
    phases = [f"{name} ms" for name in ("encode", "inversion", "CFG", "backward", "fusion")]
    assert all(float(row[phase]) > 0 for phase in phases)
    assert row["GFLOP"] == other["GFLOP"] and float(row["GFLOP"]) > 0  # the same work
    assert float(other["gain"]) == 1 and float(row["gain"]) == pytest.approx(
        float(other["step ms"]) / float(row["step ms"]), rel=0.02
    )


def test_upstream_like_asks_text_by_text_and_gets_the_same() -> None:
    prior, x, t, text = Counting(), Draws(0).normal(6, 4, 2, 2), torch.arange(6), torch.zeros(6, 3, 5)
    slow = step.OneByOne(prior, 2)
    assert torch.equal(slow.predict_noise(x, t, text), prior.predict_noise(x, t, text))
    assert prior.calls == [2, 2, 2, 6] and slow.alphas_cumprod is prior.alphas_cumprod


def test_the_phases_are_put_back(monkeypatch) -> None:
    from guidance import score
    from guidance.law_step import ViewStep
    from trainer import step as training_step

    def patched():
        inside = ViewStep.predict_rows, ViewStep.predict
        return training_step.PhaseTimer, *inside, score.Distillation.backward

    before = patched()
    prior = Counting()
    prior.encode_imgs = lambda *args: args
    waits = []
    with phases_apart(prior, lambda: waits.append(1)):
        timer = training_step.PhaseTimer()
        assert prior.encode_imgs(1, 2) == (1, 2) and list(timer.ms) == ["encode"] and len(waits) == 2
    assert patched() == before
    assert set(INSIDE) == {"encode", "inversion", "cfg", "image_backward"}


def test_the_full_size_is_stable_diffusion_21() -> None:
    """Numbers of parameters as published, and the arithmetic that the table is compared with."""
    made = networks("meta")
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in made.items()}
    assert counts == {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840}
    with torch.device("meta"):
        with FlopCounterMode(display=False) as unet, torch.no_grad():
            made["unet"](torch.empty(1, 4, 64, 64), torch.ones(1), encoder_hidden_states=torch.empty(1, 77, 1024))
        made["vae"].requires_grad_(False)
        with FlopCounterMode(display=False) as vae:
            image = torch.empty(1, 3, 512, 512, requires_grad=True)
            made["vae"].encode(image).latent_dist.mean.sum().backward()
    per_view = 8 * unet.get_total_flops() + vae.get_total_flops()  # 6 inversion steps, CFG of two texts
    assert 4 * per_view / 1e12 == pytest.approx(step.NOTED_TFLOP[4, False], abs=0.05)
    assert 4 * (per_view + 2 * unet.get_total_flops()) / 1e12 == pytest.approx(step.NOTED_TFLOP[4, True], abs=0.05)
