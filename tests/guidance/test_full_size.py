# SPDX-License-Identifier: Apache-2.0
"""Add-ons at the size of the published models, whose weights are not here: names and shapes on the meta device."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from guidance.components import Components
from guidance.controlnet import check_controlnet
from guidance.lora import _in_order, layers_of, read_lora
from guidance.sources import ModelUnavailable

UNETS = {
    "1.5": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "2.1": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
}
TEXTS = {
    "1.5": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "2.1": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
}


def components(name):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name])
        text = CLIPTextModel(CLIPTextConfig(**TEXTS[name]))
    return Components(unet, None, text, None, None)


# Layers as published kohya files name them, with [out, in] of their change in 1.5; c is the text's width.
KOHYA = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": lambda c: (320, 320),
    "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k": lambda c: (320, c),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj": lambda c: (10240, 1280),
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_ff_net_2": lambda c: (1280, 5120),
    "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn1_to_out_0": lambda c: (1280, 1280),
    "lora_unet_up_blocks_3_attentions_0_proj_in": lambda c: (320, 320, 1, 1),
    "lora_unet_up_blocks_3_resnets_0_conv1": lambda c: (320, 960, 3, 3),
    "lora_unet_down_blocks_0_downsamplers_0_conv": lambda c: (320, 320, 3, 3),
    "lora_te_text_model_encoder_layers_11_self_attn_q_proj": lambda c: (c, c),
    "lora_te_text_model_encoder_layers_11_mlp_fc1": lambda c: (4 * c, c),
}


def kohya(path, width, rank=4):
    """A file as trained on a model whose text is `width` wide; 1x1 convolutions also serve 2.1's linear layers."""
    tensors = {}
    for name, shape in KOHYA.items():
        out, into, *kernel = shape(width)
        tensors[f"{name}.lora_down.weight"] = torch.zeros(rank, into, *kernel)
        tensors[f"{name}.lora_up.weight"] = torch.zeros(out, rank, *[1] * len(kernel))
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)
    return read_lora(str(path))


@pytest.mark.parametrize("name", UNETS)
def test_a_kohya_file_fits_its_model_and_no_other(tmp_path, name):
    width, other, version = TEXTS[name]["hidden_size"], {"1.5": 1024, "2.1": 768}[name], {"1.5": "2", "2.1": "1"}[name]
    parts = components(name)
    layers_of(parts, kohya(tmp_path / "mine.safetensors", width))
    with pytest.raises(
        ModelUnavailable,
        match=rf"changes text_encoder \S*encoder.layers.11.mlp.fc1 by \[{4 * other}, {other}\], but this model's "
        rf"weight is \[{4 * width}, {width}\]; it was made for Stable Diffusion {version}.x, give",
    ):
        layers_of(parts, kohya(tmp_path / "other.safetensors", other))


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("old_order", [True, False])
def test_a_cloneofsimo_file_numbers_144_layers(tmp_path, name, old_order):
    """Sixteen transformer blocks of two attentions with four layers each, and a GEGLU."""
    parts, tensors = components(name), {}
    layers = _in_order(parts.unet, {"Attention", "GEGLU"}, old_order)
    assert len(layers) == len(set(layers)) == 16 * 9
    for number, layer in enumerate(layers):
        out, into = parts.unet.get_submodule(layer).weight.shape
        tensors[f"unet:{number}:up"], tensors[f"unet:{number}:down"] = torch.zeros(out, 1), torch.zeros(1, into)
    save_file(tensors, tmp_path / "l.safetensors", metadata={"unet": json.dumps(["CrossAttention", "GEGLU"])})
    layers_of(parts, read_lora(str(tmp_path / "l.safetensors")))
    tensors["unet:0:up"] = torch.zeros(640, 1)
    save_file(tensors, tmp_path / "l.safetensors", metadata={"unet": json.dumps(["CrossAttention", "GEGLU"])})
    with pytest.raises(ModelUnavailable, match=r"attn1.to_q by \[640, 320\], but this model's weight is \[320, 320\]"):
        layers_of(parts, read_lora(str(tmp_path / "l.safetensors")))


@pytest.mark.parametrize("name", UNETS)
def test_a_depth_controlnet_fits_its_model_and_no_other(name):
    from diffusers import ControlNetModel

    unet, other = components(name).unet, components({"1.5": "2.1", "2.1": "1.5"}[name]).unet
    with torch.device("meta"):
        config = ControlNetModel(**UNETS[name]).config
    check_controlnet(config, unet.config, "here")
    with pytest.raises(ModelUnavailable, match=r"ControlNet here has cross_attention_dim \d+ but the U-Net has \d+; give"):
        check_controlnet(config, other.config, "here")
