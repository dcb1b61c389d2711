# SPDX-License-Identifier: Apache-2.0
"""Out of memory in a network: the call is made again with fewer samples, the result is the same, and the run says so."""

import logging

import pytest
import torch

from arguments import GuidanceParams
from guidance.at_once import AtOnce
from guidance.sd_utils import StableDiffusion
from tests.checkout import ROOT
from tests.drawn import Draws

NO_MEMORY = [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("none"), RuntimeError("not enough memory: you tried")]


def fits(most: int, calls: list[int], error: Exception):
    """A network that more than `most` samples are too many for."""

    def call(x, y):
        calls.append(len(x))
        if len(x) > most:
            raise error
        return 2 * x + y

    return call


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("most", "sizes"), [(8, [7]), (3, [7, 3, 3, 1]), (1, [7, 3, 1, 1, 1, 1, 1, 1, 1])])
def test_it_halves_until_it_fits_and_stays_there(caplog, error, most, sizes) -> None:
    x, y, calls = torch.arange(7.0), torch.ones(7), []
    at_once = AtOnce("U-Net", "GuidanceParams.unet_batch", 0)
    assert torch.equal(torch.cat(at_once.run(fits(most, calls, error), x, y)), 2 * x + y) and calls == sizes
    assert len(caplog.messages) == sum(size > most for size in set(sizes))
    assert all("out of memory in the U-Net" in told and "GuidanceParams.unet_batch" in told for told in caplog.messages)
    calls.clear()
    at_once.run(fits(most, calls, error), x, y)
    assert max(calls) <= most, "it has to stay with what fitted"


def test_a_batch_below_the_limit_is_halved_itself(caplog) -> None:
    calls = []
    AtOnce("U-Net", "unet_batch", 64).run(fits(3, calls, NO_MEMORY[0]), torch.zeros(4), torch.zeros(4))
    assert calls == [4, 2, 2] and "with 4 samples: 2 at a time" in caplog.text


@pytest.mark.parametrize(("error", "most"), [(torch.OutOfMemoryError("CUDA out of memory"), 0), (RuntimeError("shapes differ"), 3)])
def test_what_fewer_samples_cannot_help_is_raised(error, most) -> None:
    with pytest.raises(type(error), match=str(error)):
        AtOnce("U-Net", "unet_batch", 0).run(fits(most, [], error), torch.zeros(4), torch.zeros(4))


def failing_once(module, name, monkeypatch, error):
    """That method of a network raises when it first sees more than one sample."""
    sound, calls = getattr(module, name), []

    def method(x, *args, **kwargs):
        calls.append(len(x))
        if len(x) > 1 and max(calls[:-1], default=0) < 2:
            raise error
        return sound(x, *args, **kwargs)

    monkeypatch.setattr(module, name, method)
    return calls


@pytest.mark.parametrize("name", ["predict_noise", "encode_imgs", "decode_latents"])
def test_every_call_of_the_prior_goes_on_with_the_same_numbers(monkeypatch, caplog, name) -> None:
    prior = StableDiffusion(GuidanceParams(model_key=str(ROOT / "tests/data/golden/tiny-sd"), text="a cat"), "cpu")
    draws, generator = Draws(0), torch.Generator()
    images = draws.uniform(2, 3, 64, 64).requires_grad_()
    latents = draws.normal(2, 4, 8, 8)
    text = prior.get_text_embeds(["a cat", "a dog"])

    def call():
        images.grad = None
        if name == "predict_noise":
            return [prior.predict_noise(latents, torch.tensor([10, 500]), text)]
        if name == "decode_latents":
            return [prior.decode_latents(latents)]
        encoded = prior.encode_imgs(images, generator.manual_seed(0))
        encoded.square().sum().backward()
        return [encoded.detach(), images.grad.clone()]

    want = call()
    owner, method = {"predict_noise": (prior.unet, "forward"), "encode_imgs": (prior.vae, "encode")}.get(name, (prior.vae, "decode"))
    calls = failing_once(owner, method, monkeypatch, NO_MEMORY[0])
    with caplog.at_level(logging.WARNING):
        got = call()
    assert calls[:3] == [2, 1, 1] and "1 at a time from now on" in caplog.text
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
