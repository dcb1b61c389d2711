# SPDX-License-Identifier: Apache-2.0
"""A tiny autoencoder in the early part of a run: what it encodes and when, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn

import train
from arguments import GuidanceParams
from arguments.checks import contradictions
from arguments.load import load_config
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from guidance.tiny_vae import uses_tiny_vae
from tests.drawn import Draws
from tests.tiny_vae import fitted_tiny_vae, tiny_vae
from utils.random_streams import RandomStreams

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"tiny-sd": ROOT / "tests/data/golden/tiny-sd", "toy-prior": ROOT / "assets/toy-prior"}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Folders of tiny autoencoders that fit the two models."""
    root = tmp_path_factory.mktemp("tiny")
    return {
        name: fitted_tiny_vae(StableDiffusion(GuidanceParams(model_key=str(key)), "cpu"), root / name) for name, key in KEYS.items()
    }


def load(name="tiny-sd", folder=None, **changes):
    return StableDiffusion(GuidanceParams(model_key=str(KEYS[name]), tiny_vae=folder and str(folder), **changes), "cpu")


@pytest.mark.parametrize("name", KEYS)
def test_it_encodes_what_its_network_gives_and_draws_nothing(fitted, name):
    prior, network = load(name, fitted[name]), AutoencoderTiny.from_pretrained(fitted[name])
    images, generator = Draws(0).uniform(2, 3, 64, 64), torch.Generator().manual_seed(1)
    before = generator.get_state()
    latents = prior.encode_imgs_tiny(images, generator)
    torch.testing.assert_close(latents, network.encode(2 * images - 1).latents, rtol=1e-4, atol=1e-5)
    assert torch.equal(generator.get_state(), before) and latents.shape == prior.encode_imgs(images, generator).shape
    assert torch.equal(prior.encode_imgs(images, torch.Generator().manual_seed(1)), load(name).encode_imgs(images, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(("height", "width"), [(68, 64), (43, 61), (8, 15)])
def test_of_any_size_it_makes_as_many_latents_as_the_models_own(fitted, height, width):
    """The pixels that make no latent are not seen: they have no effect, and get no gradient."""
    prior, images = load("tiny-sd", fitted["tiny-sd"]), Draws(0).uniform(2, 3, height, width).requires_grad_()
    latents = prior.encode_imgs_tiny(images)
    assert latents.shape == prior.encode_imgs(images.detach()).shape
    h, w = height // 8 * 8, width // 8 * 8
    assert torch.equal(latents, prior.encode_imgs_tiny(images[..., :h, :w]))
    latents.backward(Draws(1).normal(*latents.shape))
    seen = images.grad.abs().sum(dim=(0, 1)) > 0
    assert seen[:h, :w].all() and not seen[h:].any() and not seen[:, w:].any()
    with pytest.raises(ValueError, match="at least 8 px a side"):
        prior.encode_imgs_tiny(images[..., :7])


@pytest.mark.parametrize("changes", [{"vae_slicing": "on"}, {"vae_checkpointing": "on"}, {"vram_O": True}, {"precision": "bfloat16"}], ids=str)
def test_the_gradient_flows_through_it_however_it_is_run(fitted, changes):
    """diffusers' own checkpointing of this class leaves out its scaling of the images; none of ours does."""
    results = []
    for settings in ({}, changes):
        images = Draws(0).uniform(2, 3, 64, 64).requires_grad_()
        latents = load("tiny-sd", fitted["tiny-sd"], **settings).encode_imgs_tiny(images)
        latents.backward(Draws(1).normal(*latents.shape))
        results.append((latents.detach(), images.grad))
    bound = 0.5 if "precision" in changes else 1e-5  # a bfloat16 that crosses a ReLU's zero: 0.21 was measured
    for new, old in zip(results[1], results[0], strict=True):
        assert new.dtype == torch.float32 and float((new - old).norm() / old.norm()) < bound and old.abs().max() > 0


def test_the_gradient_is_the_tiny_networks_own(fitted):
    """Against a difference quotient along one direction."""
    prior, draws = load("tiny-sd", fitted["tiny-sd"]), Draws(4)
    prior.tiny_vae.double()
    prior.dtype = torch.float64
    images, direction = draws.uniform(1, 3, 64, 64).double().requires_grad_(), draws.normal(1, 3, 64, 64).double()
    weights = draws.normal(*prior.encode_imgs_tiny(images).shape).double()
    (gradient,) = torch.autograd.grad((prior.encode_imgs_tiny(images) * weights).sum(), images)
    ends = [(prior.encode_imgs_tiny(images + step * direction) * weights).sum() for step in (-1e-6, 1e-6)]
    assert float((gradient * direction).sum().detach()) == pytest.approx(float((ends[1] - ends[0]).detach()) / 2e-6, rel=1e-3)


def test_a_distillation_encodes_by_what_it_is_given(fitted):
    prior = load("tiny-sd", fitted["tiny-sd"], text="a cat")
    params = GuidanceParams(text="a cat")
    cond = PromptEmbeddings(prior, params).conditioning([0.0, 90.0])
    images, blank = Draws(0).uniform(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    options = {"warm_up_rate": 0.0, "as_latent": False, "ind_t": torch.tensor([100, 300])}
    made = {}
    for name, encode in (("own", None), ("tiny", prior.encode_imgs_tiny)):
        out = distill_views(prior, images.clone().requires_grad_(), blank, blank, cond, Loss(params), RandomStreams(0), memory=NoiseMemory(), encode=encode, **options)
        made[name] = out.latents.detach(), out.flip
    shown = torch.where(made["tiny"][1], images.flip(-1), images)
    assert torch.equal(made["tiny"][0], prior.encode_imgs_tiny(shown)) and not torch.equal(made["own"][0], made["tiny"][0])


@pytest.mark.parametrize(
    ("until", "used"), [(0.0, []), (0.25, [1]), (0.5, [1, 2]), (0.6, [1, 2]), (0.99, [1, 2, 3]), (1.0, [1, 2, 3, 4])]
)
def test_the_share_of_the_run(until, used):
    params = GuidanceParams(tiny_vae="folder", tiny_vae_until=until)
    assert [step for step in range(1, 5) if uses_tiny_vae(params, step, 4)] == used
    assert not any(uses_tiny_vae(GuidanceParams(tiny_vae_until=until), step, 4) for step in range(1, 5))


# --- a run ------------------------------------------------------------------------------------------------------------

RUN = {
    "opt": ROOT / "configs/prompt.yaml", "model_key": KEYS["tiny-sd"], "iterations": 4, "image_w": 64, "image_h": 64, "view_px": 16,
    "init_num_pts": 60, "C_batch_size": 2, "device": "cpu", "save_video": "false", "save_process": "false", "test_ratio": 1,
    "checkpoint_every": 0, "text": "a cat", "densify_until_iter": 0, "vis_interval": 2,
}  # fmt: skip


def argv(folder, **changes):
    return [word for key, value in {**RUN, "model_path": folder, **changes}.items() for word in (f"--{key}", str(value))]


def cloud(folder):
    return (folder / "point_cloud/iteration_4/point_cloud.ply").read_bytes()


def test_a_run_switches_at_its_share_and_resumes_bit_for_bit_on_either_side(fitted, tmp_path, monkeypatch):
    used = []
    for name in ("encode_imgs", "encode_imgs_tiny"):
        real = getattr(StableDiffusion, name)
        monkeypatch.setattr(StableDiffusion, name, lambda self, images, *rest, _real=real, _name=name: (used.append((_name, len(images))), _real(self, images, *rest))[1])
    whole, tiny = tmp_path / "whole", fitted["tiny-sd"]
    assert train.main([*argv(whole, tiny_vae=tiny), "--checkpoint_iterations", "1", "2", "3"]) == 0
    assert used == [("encode_imgs_tiny", 2)] * 3 + [("encode_imgs", 2)] * 2  # the first is the check at the start
    for last in (1, 2, 3):
        part = tmp_path / f"from_{last}"
        assert train.main(argv(part, tiny_vae=tiny, start_checkpoint=whole / f"chkpnt{last}.safetensors")) == 0
        assert cloud(part) == cloud(whole)
    plain = tmp_path / "plain"
    assert train.main(argv(plain)) == 0 and cloud(plain) != cloud(whole)


@pytest.mark.parametrize("changes", [{"image_residual": 0.1}, {"noise_source": "fixed"}], ids=str)
def test_a_size_that_is_no_multiple_is_trained_on_both_sides_of_the_switch(fitted, tmp_path, changes):
    odd = {"image_w": 68, "image_h": 61, "iterations": 2}
    folder = tmp_path / "run"
    assert train.main(argv(folder, tiny_vae=fitted["tiny-sd"], **odd, **changes)) == 0
    assert json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["fault"] is None


# --- what is refused --------------------------------------------------------------------------------------------------


def changed(folder, tmp_path, **config):
    """A copy of a tiny autoencoder's folder with other lines in its config."""
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    path = copied / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return copied


def made(folder, **shape):
    tiny_vae(**shape).save_pretrained(folder)
    return folder


WRONG = {
    "no folder": (lambda f, tmp: tmp / "gone", r"tiny_vae '.*gone' is not an existing folder; give GuidanceParams.tiny_vae the folder"),
    "a file": (lambda f, tmp: f / "config.json", r"is not an existing folder"),
    "an empty folder": (lambda f, tmp: tmp, r"holds no config.json, expected an AutoencoderTiny"),
    "a whole model": (lambda f, tmp: KEYS["tiny-sd"], r"holds no config.json"),
    "the model's own autoencoder": (lambda f, tmp: KEYS["tiny-sd"] / "vae", r"holds AutoencoderKL, expected an AutoencoderTiny"),
    "not JSON": (lambda f, tmp: (tmp / "config.json").write_text("{") and tmp, r"config.json is not readable JSON"),
    "an odd shape": (lambda f, tmp: changed(f, tmp, num_encoder_blocks=[1]), r"config.json describes no network"),
    "other channels": (lambda f, tmp: made(tmp / "x", channels=16), r"has latent_channels 16, the model's autoencoder has 4"),
    "another size": (lambda f, tmp: made(tmp / "x", downsamplings=2), r"has pixels per latent 4, the model's autoencoder has 8"),
    "no weights": (lambda f, tmp: shutil.copy(f / "config.json", tmp / "config.json") and tmp, r"holds no weights"),
}
WEIGHTS = {
    "damaged weights": (lambda f, tmp: damaged(f, tmp), r"cannot be loaded"),
    "weights that are not finite": (lambda f, tmp: broken(f, tmp), r"tiny_vae .* weight .* is not finite in float32"),
    "another model's": (lambda f, tmp: made(tmp / "x", seed=7), r"their correlation -?0\.\d+; expected 0.5 to 2 and at least 0.5"),
    "latents of the other sign": (lambda f, tmp: fitted_tiny_vae(load(), tmp / "x", scale=-1.0), r"is 0\.9\d*, their correlation -0\.\d+; expected"),
    "a scaling factor twice": (lambda f, tmp: changed(f, tmp, scaling_factor=0.18215), r"tiny_vae's latents over that of the model's own is 0.1\d,"),
    "a scaling factor left out": (lambda f, tmp: changed(f, tmp, scaling_factor=5.49), r"tiny_vae's latents over that of the model's own is 5(\.\d)?,"),
}


def damaged(folder, tmp_path):
    copied = changed(folder, tmp_path)
    path = copied / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    return copied


def broken(folder, tmp_path):
    tiny = AutoencoderTiny.from_pretrained(folder)
    nn.init.constant_(tiny.encoder.layers[0].weight, torch.nan)
    tiny.save_pretrained(tmp_path / "x")
    return tmp_path / "x"


@pytest.mark.parametrize("kind", [*WRONG, *WEIGHTS])
def test_a_wrong_folder_is_refused_before_anything_is_written(fitted, tmp_path, capsys, kind):
    make, message = (WRONG | WEIGHTS)[kind]
    folder = make(fitted["tiny-sd"], tmp_path)
    with pytest.raises(ModelUnavailable, match=message):
        load("tiny-sd", folder)
    run = tmp_path / "run"
    for dry in [[], ["--dry-run"]] if kind in WRONG else [[]]:
        capsys.readouterr()
        assert train.main([*argv(run, tiny_vae=folder), *dry]) == 2
        told = capsys.readouterr().err
        assert ("tiny_vae" in told or str(folder) in told) and "Traceback" not in told and not run.exists()


def test_a_prior_without_an_autoencoder_has_no_use_for_it():
    config = load_config(["--opt", "configs/quickstart.yaml"])
    config = type(config)(**{**vars(config), "guidance": GuidanceParams(text="x", guidance="ideal", tiny_vae="x")})
    assert [problem for problem in contradictions(config) if problem[0] == "GuidanceParams.tiny_vae"] == [
        ("GuidanceParams.tiny_vae", "'x'", "none: GuidanceParams.guidance ideal does not use it")
    ]


def test_other_autoencoders_of_diffusers_are_not_taken_for_one(tmp_path):
    AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",)).save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailable, match="holds AutoencoderKL"):
        load("tiny-sd", tmp_path)
