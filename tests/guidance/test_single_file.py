# SPDX-License-Identifier: Apache-2.0
"""A single checkpoint in the original Stable Diffusion layout loads to the same model as its diffusers folder."""

import argparse
import collections
import datetime
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import GuidanceParams
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from tests.drawn import Draws
from tests.hostile import Payload

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def renamed(name, table):
    for new, old in table.items():
        if name.startswith(new + "."):
            return old + name[len(new) :]
    return name


def unet_key(name, layers=1):
    """Name of a U-Net weight in the original layout (one layer a block, as in tiny-sd)."""
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
        side, block, kind, layer, rest = (
            found.group(1),
            int(found.group(2)),
            found.group(3),
            int(found.group(4)),
            found.group(5),
        )
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.op{rest.removeprefix('conv')}"
        if kind == "upsamplers":
            return f"output_blocks.{(layers + 1) * (block + 1) - 1}.2.{rest}"
        place = (
            f"input_blocks.{1 + block * (layers + 1) + layer}"
            if side == "down"
            else f"output_blocks.{block * (layers + 1) + layer}"
        )
        return f"{place}.0.{renamed(rest, RESNET)}" if kind == "resnets" else f"{place}.1.{rest}"
    if found := re.fullmatch(r"mid_block\.(\w+)\.(\d+)\.(.*)", name):
        kind, index, rest = found.group(1), int(found.group(2)), found.group(3)
        return f"middle_block.{2 * index}.{renamed(rest, RESNET)}" if kind == "resnets" else f"middle_block.1.{rest}"
    return renamed(name, TOP)


def vae_key(name, blocks=4):
    """Name of an autoencoder weight in the original layout."""
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{blocks - 1 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{blocks - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if found := re.fullmatch(r"(.*)mid_block\.attentions\.0\.(.*)", name):
        return f"{found.group(1)}mid.attn_1.{renamed(found.group(2), ATTENTION)}"
    return name


def original_layout(folder):
    """All weights of a diffusers folder under their original names."""
    tensors = {}
    for name, weight in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{unet_key(name)}"] = weight
    for name, weight in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        key = vae_key(name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", key)  # 1x1 convolutions in the original
        tensors[f"first_stage_model.{key}"] = weight[..., None, None] if is_projection else weight
    for name, weight in load_file(folder / "text_encoder" / "model.safetensors").items():
        name = name if name.startswith("text_model.") else f"text_model.{name}"
        tensors[f"cond_stage_model.transformer.{name}"] = weight
    return {name: weight.contiguous() for name, weight in tensors.items()}


@pytest.fixture(scope="module")
def tiny(golden_dir):
    return golden_dir / "tiny-sd"


def load(key, **changes):
    return StableDiffusion(GuidanceParams(model_key=str(key), **changes), "cpu")


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_single_file_equals_its_folder(tiny, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": original_layout(tiny)}, path)
    else:
        save_file(original_layout(tiny), path)
    whole, single = load(tiny), load(path, base_model_key=str(tiny))
    texts = whole.get_text_embeds(["a cat", ""])
    torch.testing.assert_close(single.get_text_embeds(["a cat", ""]), texts)
    x, t = Draws(0).normal(2, 4, 8, 8), torch.tensor([5, 700])
    torch.testing.assert_close(single.predict_noise(x, t, texts), whole.predict_noise(x, t, texts))
    torch.testing.assert_close(single.decode_latents(x), whole.decode_latents(x))
    torch.testing.assert_close(single.alphas_cumprod, whole.alphas_cumprod)
    assert single.steps_offset == whole.steps_offset


def test_code_in_a_checkpoint_is_not_run(tiny, tmp_path):
    path, trace = tmp_path / "hostile.ckpt", tmp_path / "was_run"
    torch.save({"state_dict": original_layout(tiny), "extra": Payload(trace)}, path)
    with pytest.raises(ModelUnavailable, match=r"hostile.ckpt holds Python objects that are not loaded \(io.open\); use the .safetensors of it"):
        load(path, base_model_key=str(tiny))
    assert not trace.exists()


def test_truncated_or_foreign_file(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(original_layout(tiny), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelUnavailable, match=r"model.safetensors cannot be loaded \(.*\); expected a whole Stable"):
        load(path, base_model_key=str(tiny))
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(
        ModelUnavailable, match=r"model.safetensors cannot be loaded .*expected a whole Stable Diffusion"
    ):
        load(path, base_model_key=str(tiny))


def test_single_file_with_a_missing_weight(tiny, tmp_path):
    path = tmp_path / "model.safetensors"
    tensors = original_layout(tiny)
    del tensors["model.diffusion_model.out.2.weight"]
    save_file(tensors, path)
    with pytest.raises(
        ModelUnavailable, match=r"model.safetensors lacks 1 weight, e.g. conv_out.weight; fetch it again"
    ):
        load(path, base_model_key=str(tiny))


def test_single_file_without_base_and_network(tiny, tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    path = tmp_path / "model.safetensors"
    save_file(original_layout(tiny), path)
    with pytest.raises(
        ModelUnavailable, match=r"connect to the network once, or give GuidanceParams.base_model_key a local folder$"
    ):
        load(path)


OTHER = {
    "XL": ("conditioner.embedders.1.model.ln_final.weight", r"is a Stable Diffusion XL checkpoint; only 1.x and 2.x work here; give"),
    "3": ("model.diffusion_model.joint_blocks.0.x", r"is a FLUX or Stable Diffusion 3 checkpoint"),
    "ControlNet": ("control_model.zero_convs.0.0.weight", r"is a ControlNet; controlnet_model_key takes one as a folder; give"),
    "diffusers ControlNet": ("controlnet_cond_embedding.conv_in.weight", r"is a ControlNet; controlnet_model_key takes"),
    "kohya": ("lora_unet_down_blocks_0.lora_down.weight", r"is a LoRA; name it in LoRA_path; give"),
    "peft": ("unet.down_blocks.0.to_q.lora_A.weight", r"is a LoRA; name it in LoRA_path"),
    "cloneofsimo": ("unet:0:up", r"is a LoRA; name it in LoRA_path"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("name", OTHER)
def test_a_file_of_something_else_is_named(tiny, tmp_path, name, suffix):
    key, sentence = OTHER[name]
    path = tmp_path / f"model{suffix}"
    if suffix == ".ckpt":
        torch.save({key: torch.zeros(3)}, path)
    else:
        save_file({key: torch.zeros(3)}, path)
    with pytest.raises(ModelUnavailable, match=sentence):
        load(path, base_model_key=str(tiny))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_the_base_folder_says_what_a_file_predicts(tiny, tmp_path, kind):
    """Stable Diffusion 2.1 at 768 px predicts v; the file alone cannot tell."""
    base = shutil.copytree(tiny, tmp_path / "base")
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": kind}))
    path = tmp_path / "model.safetensors"
    save_file(original_layout(tiny), path)
    single, folder = load(path, base_model_key=str(base)), load(base)
    x, t, text = torch.ones(1, 4, 8, 8), torch.tensor([700]), folder.get_text_embeds(["a cat"])
    assert single.prediction_type == kind
    torch.testing.assert_close(single.predict_noise(x, t, text), folder.predict_noise(x, t, text))


# --- what a file says of itself ---------------------------------------------------------------------------------------


def saved(tiny, path, metadata=None, **tensors):
    save_file(original_layout(tiny) | tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("metadata", "tensors", "kind"),
    [
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction"),
        ({"modelspec.prediction_type": "V-Prediction"}, {}, "v_prediction"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, {}, "v_prediction"),
        ({}, {"v_pred": torch.zeros(0)}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon", "modelspec.architecture": "stable-diffusion-v1"}, {}, "epsilon"),
        ({"modelspec.architecture": "stable-diffusion-v2-512"}, {}, "epsilon"),
        ({}, {}, "epsilon"),
    ],
)
def test_the_prediction_type_of_the_file_is_followed(tiny, tmp_path, caplog, metadata, tensors, kind):
    """The base model predicts epsilon; a file that says otherwise is read as what it says, with a line."""
    prior, plain = load(saved(tiny, tmp_path / "m.safetensors", metadata, **tensors), base_model_key=str(tiny)), load(tiny)
    assert prior.prediction_type == kind
    lines = [record.getMessage() for record in caplog.records]
    if kind == "epsilon":
        assert not lines
        return
    assert len(lines) == 1 and "says that it predicts v_prediction, its base model epsilon: the file is followed" in lines[0]
    x, t = torch.ones(1, 4, 8, 8), torch.tensor([700])
    text, abar = plain.get_text_embeds(["a cat"]), plain.alphas_cumprod[700]
    expected = abar.sqrt() * plain.predict_noise(x, t, text) + (1 - abar).sqrt() * x
    torch.testing.assert_close(prior.predict_noise(x, t, text), expected)


def test_an_epsilon_file_on_a_base_of_v(tiny, tmp_path, caplog):
    base = shutil.copytree(tiny, tmp_path / "base")
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    path = saved(tiny, tmp_path / "m.safetensors", {"modelspec.prediction_type": "epsilon"})
    assert load(path, base_model_key=str(base)).prediction_type == "epsilon" and len(caplog.records) == 1


def test_a_file_of_zero_terminal_snr(tiny, tmp_path):
    tensors = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    prior = load(saved(tiny, tmp_path / "m.safetensors", **tensors), base_model_key=str(tiny))
    assert prior.alphas_cumprod[-1] == 2.0**-24 and prior.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({"modelspec.prediction_type": "flow"}, r"has modelspec.prediction_type 'flow'; expected epsilon or v"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base"}, r"says that it is of architecture 'stable-diffusion-xl-v1-base'; only"),
        ({"modelspec.architecture": "stable-diffusion-v3-medium"}, r"of architecture 'stable-diffusion-v3-medium'"),
        ({"modelspec.architecture": "flux-1-dev"}, r"of architecture 'flux-1-dev'"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, r"of architecture 'stable-diffusion-v1/lora'"),
        ({"modelspec.architecture": "stable-diffusion-v1/textual-inversion"}, r"of architecture 'stable-diffusion-v1/textual-inversion'"),
    ],
)
def test_a_file_that_says_it_is_of_another_family(tiny, tmp_path, metadata, sentence):
    with pytest.raises(ModelUnavailable, match=sentence):
        load(saved(tiny, tmp_path / "m.safetensors", metadata), base_model_key=str(tiny))


@pytest.mark.parametrize("steps_offset", [0, 1, 7])
def test_the_base_models_scheduler_is_taken_as_it_is(tiny, tmp_path, steps_offset):
    """diffusers' pipeline would set steps_offset to 1 and clip_sample to false."""
    base = shutil.copytree(tiny, tmp_path / "base")
    config = base / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "steps_offset": steps_offset}))
    assert load(saved(tiny, tmp_path / "m.safetensors"), base_model_key=str(base)).steps_offset == steps_offset


class Callback:
    """Of a training framework: an object of a class of its own."""

    best = 3.0


OBJECTS = {
    "NumPy scalar": lambda: {"best_score": np.float64(3)},
    "NumPy array": lambda: {"history": np.zeros(3)},
    "callback": lambda: {"callbacks": {"ModelCheckpoint": Callback()}},
    "class": lambda: {"callbacks": {Callback: {"best_model_path": "x"}}},
    "date": lambda: {"when": datetime.datetime(2024, 1, 1)},
    "path": lambda: {"best_model_path": Path("x")},
    "settings": lambda: {"hyper_parameters": argparse.Namespace(lr=1.0)},
    "nested": lambda: {"loops": {"fit_loop": [{"state": (collections.defaultdict(list),)}]}},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", OBJECTS)
def test_a_checkpoint_with_python_objects(tiny, tmp_path, name, legacy):
    path = tmp_path / "x.ckpt"
    contents = {"state_dict": original_layout(tiny), **OBJECTS[name]()}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelUnavailable, match=r"model file .*x.ckpt holds Python objects that are not loaded \([\w.]+\); use the .safetensors of it$"):
        load(path, base_model_key=str(tiny))


def test_a_weight_that_half_precision_cannot_hold(tiny, tmp_path):
    tensors = original_layout(tiny)
    tensors["model.diffusion_model.out.2.weight"][0, 0, 0, 0] = 1e6
    save_file(tensors, tmp_path / "m.safetensors")
    load(tmp_path / "m.safetensors", base_model_key=str(tiny))
    with pytest.raises(ModelUnavailable, match=r"unet weight conv_out.weight is not finite in float16; fetch the model again, or set .*precision to float32"):
        load(tmp_path / "m.safetensors", base_model_key=str(tiny), precision="float16")


def test_a_base_folder_of_something_else(tiny, tmp_path):
    with pytest.raises(ModelUnavailable, match=r"m.safetensors needs the configs and tokenizer of its base model, but folder .*unet holds a single UNet2D"):
        load(saved(tiny, tmp_path / "m.safetensors"), base_model_key=str(tiny / "unet"))
