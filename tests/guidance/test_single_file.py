# SPDX-License-Identifier: Apache-2.0
"""A single checkpoint in the original Stable Diffusion layout loads to the same model as its diffusers folder."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import GuidanceParams
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from tests.drawn import Draws

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


class Payload:
    """What a hostile pickle would do on loading: here it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


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
        ModelUnavailable, match=r"model.safetensors lacks 1 weights, e.g. conv_out.weight; fetch it again"
    ):
        load(path, base_model_key=str(tiny))


def test_single_file_without_base_and_network(tiny, tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    path = tmp_path / "model.safetensors"
    save_file(original_layout(tiny), path)
    with pytest.raises(
        ModelUnavailable, match=r"base_model_key must name a local folder with its configs and tokenizer"
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
