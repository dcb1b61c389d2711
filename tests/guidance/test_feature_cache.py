# SPDX-License-Identifier: Apache-2.0
"""Deep features reused over ISM's inversion: which rounds are whole, and that what is reused is what it says."""

import functools
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

import train
from arguments import GuidanceParams
from guidance.cuda_graphs import GraphedCall
from guidance.feature_cache import DeepFeatures, check_unet, inversion_calls, outer_layers
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.sd_step import InversionRound, inversion_path
from guidance.sd_utils import StableDiffusion
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from tests.recorded_call import Recorded

ONE_LAYER, ATTENTION = ("DownBlock2D", "UpBlock2D"), ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
SHAPES = {
    "attention outside": {"kinds": (ATTENTION, ONE_LAYER)},
    "attention inside": {"kinds": (ONE_LAYER, ATTENTION)},
    "one layer a block": {"kinds": (ATTENTION, ATTENTION), "layers_per_block": 1},
    "three blocks": {"kinds": (ATTENTION, ATTENTION, ONE_LAYER), "block_out_channels": (8, 16, 16)},
    "v2's projections": {"kinds": (ATTENTION, ONE_LAYER), "use_linear_projection": True},
}


def tiny_unet(kinds=(ATTENTION, ONE_LAYER), **changes):
    """Random weights; kinds: of the blocks, outermost first."""
    settings = {
        "block_out_channels": (8, 16), "layers_per_block": 2, "norm_num_groups": 4, "cross_attention_dim": 8,
        "attention_head_dim": 4, "down_block_types": tuple(down for down, _ in kinds),
        "up_block_types": tuple(up for _, up in reversed(kinds)),
    }  # fmt: skip
    unet = UNet2DConditionModel(**{**settings, **changes}).requires_grad_(False).eval()
    draws = Draws(3)
    for name, parameter in unet.named_parameters():
        mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.copy_(mean + 0.2 * draws.normal(*parameter.shape))
    return unet


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (5, 7)], ids=str)
def test_the_outer_layers_give_the_whole_networks_output_from_its_own_features(name, size):
    unet, draws = tiny_unet(**SHAPES[name]), Draws(0)
    x, t, text = draws.normal(3, 4, *size), torch.tensor([900, 30, 450]), draws.normal(3, 5, 8)
    with torch.no_grad():
        with DeepFeatures(unet) as deep:
            expected = unet(x, t, encoder_hidden_states=text).sample
        assert torch.equal(outer_layers(unet, x, t, text, deep.value), expected)
        assert not torch.equal(outer_layers(unet, x, t, text, 0 * deep.value), expected)
        unet(0 * x, t, encoder_hidden_states=text)
    assert deep.value.abs().max() > 0 and not unet.up_blocks[-1].resnets[-1]._forward_pre_hooks


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"center_input_sample": True}, "center_input_sample True"),
        ({"time_embedding_act_fn": "silu"}, "time_embedding_act_fn silu"),
        ({"kinds": (("AttnDownBlock2D", "AttnUpBlock2D"), ONE_LAYER)}, "up_block_types AttnUpBlock2D"),
        ({"kinds": (("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"), ONE_LAYER)}, "up_block_types ResnetUpsampleBlock2D"),
    ],
)
def test_other_u_nets_are_refused(changes, named):
    with pytest.raises(ValueError, match=f"config has {named}, which caching of its features does not support; set .*unet_cache_interval to 1"):
        check_unet(tiny_unet(**changes))


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_a_run_with_such_a_u_net_is_refused_before_anything_is_written(golden_dir, tmp_path, capsys, dry):
    model, run = Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model")), tmp_path / "run"
    config = model / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"center_input_sample": True}))
    words = ["--opt", "configs/prompt.yaml", "--device", "cpu", "--image_w", "64", "--image_h", "64", "--init_num_pts", "50"]
    words += ["--model_key", str(model), "--unet_cache_interval", "3", "--model_path", str(run), *dry]
    assert train.main(words) == 2 and not run.exists()
    assert "config has center_input_sample True, which caching of its features does not support" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny(golden_dir):
    return str(golden_dir / "tiny-sd")


@pytest.fixture(scope="module")
def controlnet(tiny, tmp_path_factory):
    net = ControlNetModel.from_unet(StableDiffusion(GuidanceParams(model_key=tiny), "cpu").unet, conditioning_channels=3)
    draws = Draws(0)
    for name, parameter in net.named_parameters():
        if name.startswith("controlnet_"):
            parameter.data = 0.2 * draws.normal(*parameter.shape)
    folder = tmp_path_factory.mktemp("controlnet")
    net.save_pretrained(folder)
    return str(folder)


EXECUTIONS = {
    "plain": {},
    "unet_batch": {"unet_batch": 2},
    "fused": {"fuse_qkv": "on", "channels_last": "on"},
    "float16": {"precision": "float16", "attention_kernel": "math"},
    "offload": {"offload_unet": True},
    "graphs": {},
}


@pytest.mark.parametrize("with_control", [False, True], ids=["plain", "controlnet"])
@pytest.mark.parametrize("name", EXECUTIONS)
def test_every_way_to_run_keeps_what_the_outer_layers_take(tiny, controlnet, monkeypatch, name, with_control):
    """The same inputs again, with the features kept: nothing changes, whatever runs the networks."""
    if name == "graphs":
        real = StableDiffusion._place
        graphed = functools.partial(GraphedCall, record=Recorded)

        def placed(self):
            real(self)
            self._call_networks, self._call_keeping, self._call_outer = map(
                graphed, (self._networks, self._networks_keeping, self._outer_layers)
            )

        monkeypatch.setattr(StableDiffusion, "_place", placed)
    keys = {"controlnet_model_key": controlnet} if with_control else {}
    prior = StableDiffusion(GuidanceParams(model_key=tiny, unet_cache_interval=2, **keys, **EXECUTIONS[name]), "cpu")
    draws = Draws(1)
    x, t, text = draws.normal(3, 4, 8, 8), torch.tensor([10, 700, 300]), prior.get_text_embeds(["a", "b", "c"])
    control = (draws.uniform(3, 3, 64, 64),) if with_control else ()
    expected = prior.predict_noise(x, t, text, *control)
    first, features = prior.predict_noise_cached(x, t, text, *control)
    again, same = prior.predict_noise_cached(x, t, text, *control, features=features)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, expected, rtol=2e-2 if name == "float16" else 1e-4, atol=2e-3 if name == "float16" else 1e-4)
    assert same is features and len(features) == 1 + with_control
    moved, _ = prior.predict_noise_cached(x + 0.1, t, text, *control, features=features)
    assert moved.dtype == torch.float32 and not torch.equal(moved, again)


# --- which rounds are whole, and what each view gets ------------------------------------------------------------------


def paths_of(*indices, delta=10, length=200, steps=5):
    return [inversion_path(index, delta, length, steps) for index in indices]


class Noted:
    """A prior that notes its calls: views and whether the features were given."""

    def __init__(self):
        self.calls = []

    def predict_noise(self, x, *rest):
        self.calls.append(("whole", tuple(x[:, 0].tolist())))
        return x

    def predict_noise_cached(self, x, *rest, features=None):
        self.calls.append(("keeps" if features is None else "cached", tuple(x[:, 0].tolist())))
        if features is not None:
            assert torch.equal(features[0], x), "each sample gets its own view's and text's features"
        return x, (x,) if features is None else features


def walk(paths, interval, texts=1, prior=None):
    """The calls of an inversion whose samples are the numbers of their views, 100 more for the second text."""
    prior = prior or Noted()
    visited = [[] for _ in paths]
    for step, predict in inversion_calls(prior, paths, interval):
        rows = torch.tensor([[float(row) + 100 * text] for text in range(texts) for row in step.rows])
        assert torch.equal(predict(rows, rows, rows), rows)
        for row, start, end in zip(step.rows, step.ind_from, step.ind_to, strict=True):
            visited[row].append((start, end))
    return prior.calls, visited


@pytest.mark.parametrize("interval", [1, 2, 3, 4, 6, 100])
@pytest.mark.parametrize("texts", [1, 2])
def test_each_view_takes_its_own_steps_and_ends_by_the_whole_network(interval, texts):
    indices = (900, 30, 450, 900, 5, 300)
    paths = paths_of(*indices)
    calls, visited = walk(paths, interval, texts)
    assert visited == [list(itertools.pairwise(path)) for path in paths]
    for view, path in enumerate(paths):
        own = [kind for kind, rows in calls if view in rows]
        count = len(path) - 1
        assert len(own) == count and own[-1] != "cached"
        assert [kind != "cached" for kind in own] == [k % interval == 0 or k == count - 1 for k in range(count)]
        alone, _ = walk([path], interval, texts)
        assert [kind == "cached" for kind, _ in alone] == [kind == "cached" for kind in own]
    if interval == 1:
        assert {kind for kind, _ in calls} == {"whole"}


def test_a_prior_without_a_u_net_is_asked_as_ever():
    class Plain:
        calls = ()

        def predict_noise(self, x, *rest):
            return x

    _, visited = walk(paths_of(900, 100), 3, prior=Plain())
    assert visited == [list(itertools.pairwise(path)) for path in paths_of(900, 100)]


def test_a_part_of_a_round():
    step = InversionRound((0, 2, 5), (1, 2, 3), (11, 12, 13))
    assert step.part([True, False, True]) == InversionRound((0, 5), (1, 3), (11, 13))
    assert step.part([False] * 3) is None


def residual(prior, params, indices, rows, noise, latents, control=None):
    cond = PromptEmbeddings(prior, params).conditioning([40.0 * row for row in rows])
    if control is not None:
        cond = type(cond)(cond.uncond, cond.positive, cond.inverse, cond.negatives, control[rows])
    return Loss(params)(prior, latents[rows], noise[rows], torch.tensor(indices)[rows], cond)


@pytest.mark.parametrize("changes", [{}, {"perpneg": False}, {"denoise_guidance_scale": 2.0}, {"controlnet": True}], ids=str)
@pytest.mark.parametrize("interval", [2, 3])
def test_what_a_view_gets_does_not_depend_on_the_others(tiny, controlnet, interval, changes):
    """Views with two to six rounds, together and alone: two processes make the step of one."""
    changes = dict(changes)
    keys = {"controlnet_model_key": controlnet} if changes.pop("controlnet", False) else {}
    params = GuidanceParams(model_key=tiny, text="a cat", unet_cache_interval=interval, **{"perpneg": True, **changes, **keys})
    prior, draws, indices = StableDiffusion(params, "cpu"), Draws(2), [900, 30, 450, 640]
    latents, noise, control = draws.normal(4, 4, 8, 8), draws.normal(4, 4, 8, 8), draws.uniform(4, 3, 64, 64)
    control = control if keys else None
    together = residual(prior, params, indices, [0, 1, 2, 3], noise, latents, control)
    for row in range(4):
        alone = residual(prior, params, indices, [row], noise, latents, control)
        for one, all_of_them in ((alone.target, together.target), (alone.x_t, together.x_t), (alone.eps_hat, together.eps_hat)):
            torch.testing.assert_close(one[0], all_of_them[row], rtol=1e-3, atol=1e-4)
    plain = residual(prior, GuidanceParams(**{**vars(params), "unet_cache_interval": 1}), indices, [0, 1, 2, 3], noise, latents, control)
    assert float((plain.x_t - together.x_t)[0].norm()) > 0, "the cached rounds differ from whole ones"


def test_the_cached_rounds_spare_the_deep_blocks(tiny, monkeypatch):
    """Samples through the U-Net's middle, of one view with six rounds and two texts."""
    seen = []
    params = {"model_key": tiny, "text": "a cat", "perpneg": False}
    for interval in (1, 2, 3, 6):
        given = GuidanceParams(**params, unet_cache_interval=interval)
        prior, draws = StableDiffusion(given, "cpu"), Draws(2)
        prior.unet.mid_block.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        residual(prior, given, [900], [0], draws.normal(1, 4, 8, 8), draws.normal(1, 4, 8, 8))
        assert sum(seen) == {1: 6, 2: 4, 3: 3, 6: 2}[interval] + 2
        seen.clear()


def test_the_ideal_priors_kind_runs_with_the_setting():
    """It has no U-Net: the setting changes nothing."""
    results = []
    for interval in (1, 3):
        params = GuidanceParams(text="x", perpneg=False, unet_cache_interval=interval)
        prior, draws = GaussianMixturePrior(torch.zeros(1, 3, 8, 8), 0.3), Draws(2)
        results.append(residual(prior, params, [900], [0], draws.normal(1, 3, 8, 8), draws.normal(1, 3, 8, 8)))
    assert torch.equal(results[0].target, results[1].target)
