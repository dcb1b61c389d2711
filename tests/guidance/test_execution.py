# SPDX-License-Identifier: Apache-2.0
"""Settings of speed and memory: what auto means on which device, what is refused, and that none changes the result."""

import dataclasses
import functools

import pytest
import torch
from torch import nn

from arguments import GuidanceParams
from arguments.load import load_config
from guidance.cuda_graphs import GraphedCall
from guidance.execution import Execution, offload
from guidance.losses import Loss
from guidance.prompts import PromptEmbeddings
from guidance.score import NoiseMemory, distill_views
from guidance.sd_utils import StableDiffusion
from tests.amx_cpu import pretend_amx
from tests.drawn import Draws
from tests.live_bytes import LiveBytes
from tests.recorded_call import Recorded
from utils.random_streams import RandomStreams

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
IND_T = torch.tensor([900, 30, 450])
CALLS = 7  # the longest inversion (1, 201, 401, 601, 801, 811, 901) and the guided prediction at its end
NAMES = ("latents", "gradient on latents", "gradient on images", "loss", "decoded")


def step(key, **changes):
    """One distillation of three views with Perp-Neg: the prior, and what it gave by NAMES."""
    params = GuidanceParams(model_key=str(key), text="a cat", perpneg=True, **changes)
    prior = StableDiffusion(params, "cpu")
    cond = PromptEmbeddings(prior, params).conditioning([10.0, -60.0, 170.0])
    draws = Draws(1)
    rgb = draws.uniform(3, 3, 64, 64).requires_grad_()
    depth, alpha = draws.uniform(3, 1, 64, 64), torch.zeros(3, 1, 64, 64)
    options = {"warm_up_rate": 0.5, "as_latent": False, "memory": NoiseMemory(), "ind_t": IND_T}
    out = distill_views(prior, rgb, depth, alpha, cond, Loss(params), RandomStreams(0), **options)
    out.backward()
    latents = out.latents.detach()
    return prior, (latents, out.grad, rgb.grad, out.loss_per_view, prior.decode_latents(latents))


@pytest.fixture(scope="module")
def keys(golden_dir):
    return golden_dir / "tiny-sd", golden_dir.parents[2] / "assets" / "toy-prior"


@pytest.fixture(scope="module")
def plain(keys):
    return {key: step(key)[1] for key in keys}


def check_alike(new, old, bound):
    for name, x, y in zip(NAMES, new, old, strict=True):
        assert x.isfinite().all() and float((x - y).norm() / y.norm()) < bound, name


# Measured 2026-11 on both pipelines, over 8 draws with the vector width default and 4 with AVX2: at most 2.5e-5 (the
# gradient is a difference of predictions, so their rounding of about 1e-6 grows), margin 4; 2.0e-2 in float16 and 1.4e-1
# in bfloat16, whose units are 5e-4 and 4e-3, margin 3.
BFLOAT16 = 0.42
EQUAL = {
    "channels_last": {"channels_last": "on"},
    "fuse_qkv": {"fuse_qkv": "on"},
    "math": {"attention_kernel": "math"},
    "flash": {"attention_kernel": "flash"},
    "unet_batch 1": {"unet_batch": 1},
    "unet_batch 5": {"unet_batch": 5},
    "vae_slicing": {"vae_slicing": "on"},
    "vae_checkpointing": {"vae_checkpointing": "on"},
    "offload_unet": {"offload_unet": True},
    "vram_O": {"vram_O": True},
    "everything": {"vram_O": True, "offload_unet": True, "fuse_qkv": "on", "channels_last": "on"},
}


@pytest.mark.parametrize("name", EQUAL)
def test_a_setting_changes_the_result_by_rounding_only(keys, plain, name):
    for key in keys:
        check_alike(step(key, **EQUAL[name])[1], plain[key], 1e-4)


@pytest.mark.parametrize(("precision", "bound"), [("float16", 6e-2), ("bfloat16", BFLOAT16)])
def test_half_precision_stays_near(keys, plain, precision, bound):
    prior, new = step(keys[0], precision=precision)
    assert {p.dtype for p in prior.unet.parameters()} == {getattr(torch, precision)}
    assert {x.dtype for x in new} == {torch.float32}
    check_alike(new, plain[keys[0]], bound)


def test_compiled_blocks_give_the_same(keys, monkeypatch):
    """Traced and run by torch's own kernels; with the default backend, minutes on a CPU, 6e-6 were measured."""
    compiled = []
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: (compiled.append(self), real(self, backend="eager")))
    params = GuidanceParams(model_key=str(keys[0]))
    fast = StableDiffusion(dataclasses.replace(params, compile_unet=True), "cpu")
    blocks = [m for m in fast.unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    assert compiled == blocks and blocks
    inputs = torch.ones(1, 4, 4, 4), torch.tensor([5]), fast.get_text_embeds(["a"])
    expected = StableDiffusion(params, "cpu").predict_noise(*inputs)
    torch.testing.assert_close(fast.predict_noise(*inputs), expected, rtol=1e-4, atol=1e-5)


def test_recorded_calls_give_the_same_for_every_batch_size(keys, plain, monkeypatch):
    """What surrounds a CUDA graph: fixed inputs that are filled, one recording a shape, results that stay."""
    monkeypatch.setattr(StableDiffusion, "_call_networks", None, raising=False)
    graphed = functools.partial(GraphedCall, record=Recorded)
    monkeypatch.setattr(Recorded, "made", 0)
    monkeypatch.setattr("guidance.sd_utils.GraphedCall", graphed)
    real = Execution.of.__func__
    monkeypatch.setattr(Execution, "of", classmethod(lambda cls, p, d: dataclasses.replace(real(cls, p, d), cuda_graphs=True)))
    check_alike(step(keys[0])[1], plain[keys[0]], 1e-4)
    assert Recorded.made == 4  # rounds of 3, 2 and 1 views, and 12 samples for three views of four texts


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("change", [{}, {"cuda_graphs": True}, {"offload_unet": True}, {"vram_O": True}, {"attention_kernel": "math"}])
def test_on_a_gpu_every_setting_gives_what_the_cpu_gives(keys, change):
    params = GuidanceParams(model_key=str(keys[0]), fp16=False, **change)
    prior, gpu = StableDiffusion(dataclasses.replace(params, cuda_graphs=False), "cpu"), StableDiffusion(params, "cuda")
    text, x, t = prior.get_text_embeds(["a", "b"]), torch.ones(2, 4, 8, 8), torch.tensor([10, 700])
    for scale in (1.0, 0.5):
        eps = gpu.predict_noise(scale * x.cuda(), t.cuda(), text.cuda()).cpu()
        torch.testing.assert_close(eps, prior.predict_noise(scale * x, t, text), rtol=1e-3, atol=1e-3)


def test_one_unet_call_a_round_for_the_whole_batch(keys, monkeypatch):
    from diffusers import UNet2DConditionModel

    sizes = []
    real = UNet2DConditionModel.forward
    monkeypatch.setattr(UNet2DConditionModel, "forward", lambda self, x, *a, **k: (sizes.append(len(x)), real(self, x, *a, **k))[1])
    step(keys[0])
    assert len(sizes) == CALLS and sizes[-1] == 3 * 4 and max(sizes[:-1]) == 3
    whole = sum(sizes)
    sizes.clear()
    step(keys[0], unet_batch=2)
    assert max(sizes) == 2 and sum(sizes) == whole


def test_a_sliced_autoencoder_holds_one_view_at_a_time(keys):
    peaks = {}
    for slicing in ("off", "on"):
        prior = StableDiffusion(GuidanceParams(model_key=str(keys[0]), vae_slicing=slicing), "cpu")
        for views in (1, 4):
            images = Draws(0).uniform(views, 3, 64, 64).requires_grad_()
            with LiveBytes([images, *prior.vae.parameters()]) as live:
                prior.encode_imgs(images, torch.Generator()).sum().backward()
            peaks[slicing, views] = live.peak
    assert peaks["off", 4] > 3.5 * peaks["off", 1]
    assert peaks["on", 4] < 1.5 * peaks["on", 1]


def test_offloaded_weights_are_there_for_their_layer_only():
    net = nn.Sequential(*[nn.Linear(100, 100) for _ in range(5)]).requires_grad_(False)
    x = torch.ones(1, 100)
    expected = net(x)
    offload(net, CPU)
    with LiveBytes([x, *net.parameters()]) as live:
        assert torch.equal(net(x), expected)
    layer = 4 * 100 * 101
    assert layer <= live.peak < 1.1 * layer


def test_fused_attention_keeps_no_weight_twice(keys):
    prior, _ = step(keys[0])
    fused = StableDiffusion(GuidanceParams(model_key=str(keys[0]), fuse_qkv="on"), "cpu")
    assert sum(p.numel() for p in fused.unet.parameters()) == sum(p.numel() for p in prior.unet.parameters())
    assert any(name.endswith("to_qkv") for name, _ in fused.unet.named_modules())


def test_the_text_encoder_goes_once_the_prompt_is_encoded(keys):
    prior, _ = step(keys[0])
    prior.release_text_encoder()
    assert prior.text_encoder is None
    with pytest.raises(RuntimeError, match=r"text encoder was released after the prompt; set GuidanceParams.keep_text_encoder"):
        prior.get_text_embeds(["a dog"])


# --- what auto means, and what a device cannot do ---------------------------------------------------------------------


def on_gpu(monkeypatch, capability, **changes):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    return Execution.of(GuidanceParams(**changes), GPU)


def test_auto_on_a_cpu_is_the_plain_way():
    assert Execution.of(GuidanceParams(), CPU) == Execution(torch.float32, False, False, "auto", False, False, 0, False, False, False)


@pytest.mark.parametrize("capability", [(7, 0), (8, 0), (9, 0)])
def test_auto_on_a_gpu(monkeypatch, capability):
    auto = on_gpu(monkeypatch, capability)
    assert (auto.dtype, auto.channels_last, auto.fuse_qkv) == (torch.float16, True, True)
    assert not (auto.compile_unet or auto.cuda_graphs or auto.vae_slicing or auto.offload_unet)
    single = on_gpu(monkeypatch, capability, fp16=False)
    assert (single.dtype, single.channels_last, single.fuse_qkv) == (torch.float32, False, True)


def test_vram_O_sets_what_was_left_open(monkeypatch):
    low = on_gpu(monkeypatch, (8, 6), vram_O=True)
    assert (low.unet_batch, low.vae_slicing, low.vae_checkpointing, low.offload_unet) == (4, True, True, False)
    mine = on_gpu(monkeypatch, (8, 6), vram_O=True, unet_batch=2, vae_checkpointing="off")
    assert (mine.unet_batch, mine.vae_slicing, mine.vae_checkpointing) == (2, True, False)


@pytest.mark.parametrize(
    ("capability", "changes", "sentence"),
    [
        ((7, 0), {"precision": "bfloat16"}, r"precision is bfloat16, but a GPU of compute capability 7.0 does not compute in bfloat16; use float16"),
        ((7, 5), {"attention_kernel": "flash"}, r"attention_kernel is flash, but a GPU of compute capability 7.5 cannot run it; use auto, efficient"),
        ((8, 0), {"attention_kernel": "cudnn", "fp16": False}, r"cudnn, but a GPU of compute capability 8.0 does not run it in float32"),
        ((7, 0), {"compile_unet": True}, r"compile_unet is True, but a GPU of compute capability 7.0 is too old for torch.compile's kernels; leave it out"),
        ((8, 0), {"offload_unet": True, "cuda_graphs": True}, r"offload_unet moves the weights during a call, which cuda_graphs cannot follow; turn one"),
        ((8, 0), {"offload_unet": True, "compile_unet": True}, r"which compile_unet cannot follow"),
    ],
)
def test_what_a_gpu_cannot_do(monkeypatch, capability, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        on_gpu(monkeypatch, capability, **changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"cuda_graphs": True}, r"GuidanceParams.cuda_graphs is True, but a CPU has none; leave it out"),
        ({"attention_kernel": "efficient"}, r"attention_kernel is efficient, but a CPU has no such kernel; use auto, flash or math"),
    ],
)
def test_what_a_cpu_cannot_do(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Execution.of(GuidanceParams(**changes), CPU)


@pytest.mark.parametrize("vector_width", ["DEFAULT", "AVX2", "AVX512"])
@pytest.mark.parametrize("memory", [{}, {"vae_checkpointing": "on"}, {"vae_slicing": "on"}])
def test_half_precision_on_a_cpu_with_amx(keys, plain, monkeypatch, vector_width, memory):
    """The text encoder, the U-Net and the autoencoder, forward, backward and recomputed, keep off what torch lacks."""
    pretend_amx(monkeypatch, vector_width)
    check_alike(step(keys[0], precision="bfloat16", **memory)[1], plain[keys[0]], BFLOAT16)
    kernels = {p: Execution.of(GuidanceParams(precision=p), CPU).attention_kernel for p in ("float32", "float16", "bfloat16")}
    half = "auto" if vector_width == "AVX512" else "math"
    assert kernels == {"float32": "auto", "float16": half, "bfloat16": half}


@pytest.mark.parametrize("vector_width", ["DEFAULT", "AVX2"])
def test_flash_attention_that_torch_lacks_is_refused(monkeypatch, vector_width):
    pretend_amx(monkeypatch, vector_width)
    sentence = r"attention_kernel is flash, but a CPU with AMX cannot run it in bfloat16 below AVX-512; unset ATEN_CPU_CAPABILITY"
    with pytest.raises(ValueError, match=sentence):
        Execution.of(GuidanceParams(attention_kernel="flash", precision="bfloat16"), CPU)
    assert Execution.of(GuidanceParams(attention_kernel="flash"), CPU).attention_kernel == "flash"


@pytest.mark.parametrize(("written", "read"), [("on", "on"), ("off", "off"), ("true", "on"), ("auto", "auto")])
def test_yaml_reads_on_and_off_as_switches(tmp_path, written, read):
    """YAML 1.1 turns the bare words into booleans."""
    (tmp_path / "a.yaml").write_text(f"GuidanceParams:\n  text: x\n  fuse_qkv: {written}\n")
    assert load_config(["--opt", str(tmp_path / "a.yaml")]).guidance.fuse_qkv == read
    assert load_config(["--text", "x", "--fuse_qkv", written]).guidance.fuse_qkv == read
