# SPDX-License-Identifier: Apache-2.0
"""The depth ControlNet on a tiny pipeline: what it sees, when, what it changes, and what is refused."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import Config, GuidanceParams, OptimizationParams
from arguments.load import load_config
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from trainer.draws import draw_use_control
from trainer.state import TrainState
from trainer.step import Update, compute_gradients
from utils.random_streams import RandomStreams


@pytest.fixture(scope="module")
def tiny(golden_dir):
    return str(golden_dir / "tiny-sd")


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """A ControlNet as it starts (its outputs are zero) and one with random outputs."""
    from diffusers import ControlNetModel

    draws = Draws(0)
    unet = StableDiffusion(GuidanceParams(model_key=tiny), "cpu").unet
    controlnet = ControlNetModel.from_unet(unet, conditioning_channels=3)
    for name, parameter in controlnet.named_parameters():
        if name.startswith("controlnet_") and parameter.any():
            parameter.data = 0.1 * draws.normal(*parameter.shape)
    root = tmp_path_factory.mktemp("controlnet")
    controlnet.save_pretrained(root / "fresh")
    for name, parameter in controlnet.named_parameters():
        if name.startswith("controlnet_"):
            parameter.data = 0.2 * draws.normal(*parameter.shape)
    controlnet.save_pretrained(root / "random")
    return root


def load(tiny, folder, **changes):
    key = folder if folder is None else str(folder)
    return StableDiffusion(GuidanceParams(model_key=tiny, controlnet_model_key=key, **changes), "cpu")


def rand(*shape, seed=0):
    return Draws(seed).uniform(*shape)


def test_a_fresh_controlnet_changes_nothing_and_a_trained_one_follows_its_picture(tiny, folders):
    plain, fresh, trained = load(tiny, None), load(tiny, folders / "fresh"), load(tiny, folders / "random")
    x, t, text = rand(2, 4, 8, 8), torch.tensor([400, 20]), plain.get_text_embeds(["a", "b"])
    expected, picture = plain.predict_noise(x, t, text), rand(2, 3, 64, 64)
    torch.testing.assert_close(fresh.predict_noise(x, t, text, picture), expected)
    assert torch.equal(trained.predict_noise(x, t, text), expected)  # without a picture it is left out
    first, second = trained.predict_noise(x, t, text, picture), trained.predict_noise(x, t, text, 1 - picture)
    assert (first - expected).abs().max() > 1e-2 and (first - second).abs().max() > 1e-3
    alone = trained.predict_noise(x[1:], t[1:], text[1:], picture[1:])
    torch.testing.assert_close(first[1:], alone, rtol=1e-3, atol=1e-4)  # each view has its own picture
    assert not any(parameter.requires_grad for parameter in trained.controlnet.parameters())
    with pytest.raises(ValueError, match=r"image was given but GuidanceParams.controlnet_model_key is not set"):
        plain.predict_noise(x, t, text, picture)


def test_a_picture_of_another_size_is_resized(tiny, folders):
    prior = load(tiny, folders / "random")
    x, t, text = rand(1, 4, 5, 6), torch.tensor([400]), prior.get_text_embeds(["a"])
    flat = [prior.predict_noise(x, t, text, torch.full((1, 3, *size), 0.3)) for size in ((40, 48), (44, 53))]
    torch.testing.assert_close(*flat)


class Watched(GaussianMixturePrior):
    """Remembers the pictures of every call."""

    def predict_noise(self, x_t, t, embeddings, control=None):
        self.seen.append((len(x_t), control))
        return super().predict_noise(x_t, t, embeddings)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("change", [{}, {"sds": True}, {"perpneg": True}, {"denoise_guidance_scale": 2.0}])
def test_every_call_of_a_step_sees_each_views_disparity(change, seed):
    """Turned as the views are, once for each text; SDS, ISM and Perp-Neg alike; no gradient into the disparity."""
    prior = Watched(rand(3, 3, 8, 8).double(), 0.3)
    params = GuidanceParams(text="x", **{"perpneg": False, **change})
    cond = PromptEmbeddings(prior, params).conditioning([0.0, 100.0])
    rgb, depth, alpha = rand(2, 3, 8, 8).requires_grad_(), rand(2, 1, 8, 8, seed=9).requires_grad_(), rand(2, 1, 8, 8)
    results = []
    for use_control in (False, True):
        prior.seen = []
        result = distill_views(
            prior, rgb, depth, alpha, cond, Loss(params), RandomStreams(seed), warm_up_rate=0.5, as_latent=False,
            memory=NoiseMemory(), use_control=use_control,
        )  # fmt: skip
        results.append((result, prior.seen))
    (off, seen_off), (on, seen_on) = results
    assert all(picture is None for _, picture in seen_off)
    disparity = depth.detach().expand(-1, 3, -1, -1)
    shown = disparity.flip(-1) if bool(on.flip) else disparity
    assert len(seen_on) == len(seen_off) > 0
    for rows, picture in seen_on:
        assert torch.equal(picture, shown.repeat(rows // 2, 1, 1, 1))
    assert torch.equal(on.grad, off.grad)  # this prior only looks: nothing else of the step moves
    on.backward()
    assert depth.grad is None and rgb.grad is not None


def test_both_sides_of_the_flip_were_seen():
    assert {bool(RandomStreams(seed).rand(1) < 0.5) for seed in range(4)} == {True, False}


def test_when_it_is_used():
    """Never before its iteration, then with its probability: one draw of the Python stream a step."""
    config = Config(
        optimization=OptimizationParams(use_control_net_iter=10),
        guidance=GuidanceParams(controlnet_model_key="a/b", controlnet_ratio=0.3),
    )
    state = SimpleNamespace(iteration=10, streams=RandomStreams(0))
    before = state.streams.python.getstate()
    assert draw_use_control(state, config) is False and state.streams.python.getstate() == before
    assert draw_use_control(SimpleNamespace(iteration=11, streams=state.streams), Config()) is None
    assert state.streams.python.getstate() == before
    state.iteration = 11
    used = [draw_use_control(state, config) for _ in range(2000)]
    assert abs(sum(used) / 2000 - 0.3) < 0.04  # four standard deviations
    wanted = RandomStreams(0).python
    assert used == [wanted.random() < 0.3 for _ in range(2000)]


def step(tiny, tmp_path, folder, name, **changes):
    words = {
        "model_key": tiny, "text": "a thing", "image_w": 32, "image_h": 32, "init_num_pts": 40, "C_batch_size": 2, "device": "cpu",
        "model_path": tmp_path / name, "iterations": 5, "as_latent_ratio": 0, **changes,
    }  # fmt: skip
    if folder is not None:
        words |= {"controlnet_model_key": folder}
    config = load_config([piece for key, value in words.items() for piece in (f"--{key}", str(value))])
    prior, state = StableDiffusion(config.guidance, "cpu"), TrainState.start(config, "cpu")
    report = compute_gradients(state, prior, PromptEmbeddings(prior, config.guidance), config)
    assert report.fault is None
    return report


@pytest.mark.parametrize("sds", ["true", "false"])
def test_a_training_step(tiny, folders, tmp_path, sds):
    """Used: the guidance changes and nothing else does. Not used: the step without a ControlNet, number for number."""
    options = {"sds": sds, "use_control_net_iter": 0}
    off = step(tiny, tmp_path, None, "off", **options)
    later = step(tiny, tmp_path, folders / "random", "later", sds=sds, use_control_net_iter=1)
    on = step(tiny, tmp_path, folders / "random", "on", **options, controlnet_ratio=1)
    assert torch.equal(later.distillation.grad, off.distillation.grad)
    assert "use_control" not in off.record(Update(None), 1) and later.record(Update(None), 1)["use_control"] is False
    assert on.record(Update(None), 1)["use_control"] is True and json.dumps(on.record(Update(None), 1))
    assert on.distillation.t.tolist() == off.distillation.t.tolist()
    assert torch.equal(on.rendered[0], off.rendered[0])
    difference = (on.distillation.residual.eps_hat - off.distillation.residual.eps_hat).abs().max()
    assert difference > 1e-3


def test_the_hubs_cache_and_no_network(tiny, folders, tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"ControlNet 'some/depth' is not in the local cache .*connect to the network"):
        load(tiny, "some/depth")


REFUSED = {
    "pipeline": ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, r"holds StableDiffusionPipeline, no ControlNetModel; give GuidanceParams.controlnet_model_key"),
    "unet": ("config.json", {"_class_name": "UNet2DConditionModel"}, r"holds UNet2DConditionModel, no ControlNetModel"),
    "nothing": ("other.json", {}, r"holds no config.json, no ControlNetModel"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_folders_of_something_else(tiny, tmp_path, name):
    file, contents, sentence = REFUSED[name]
    (tmp_path / file).write_text(json.dumps(contents))
    with pytest.raises(ModelUnavailable, match=sentence):
        load(tiny, tmp_path)


@pytest.mark.parametrize("key", ["./gone", "control_v11f1p_sd15_depth.pth"])
def test_neither_folder_nor_hub_id_is_told_before_the_model_is_looked_for(key):
    with pytest.raises(ModelUnavailable, match=r"controlnet_model_key '.*' is neither an existing folder nor a hub id"):
        StableDiffusion(GuidanceParams(model_key="no/such-model", controlnet_model_key=key), "cpu")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cross_attention_dim": 768}, r"has cross_attention_dim 768 but the U-Net has 32; give"),
        ({"block_out_channels": [32, 64, 64]}, r"has block_out_channels \[32, 64, 64\] but the U-Net has \[32, 64\]"),
        ({"conditioning_channels": 1}, r"takes images of 1 channels, expected 3"),
    ],
)
def test_a_controlnet_for_another_model(tiny, folders, tmp_path, change, sentence):
    folder = shutil.copytree(folders / "fresh", tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelUnavailable, match=sentence):
        load(tiny, folder)


def test_a_weight_that_is_not_finite(tiny, folders, tmp_path):
    folder = shutil.copytree(folders / "fresh", tmp_path / "nan")
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"ControlNet .*nan: weight conv_in.weight is not finite in float32; fetch the model again$"):
        load(tiny, folder)


def test_a_weight_that_is_missing(tiny, folders, tmp_path):
    folder = shutil.copytree(folders / "fresh", tmp_path / "holes")
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"lacks 1 weight that its config.json asks for, e.g. conv_in.weight"):
        load(tiny, folder)
