# SPDX-License-Identifier: Apache-2.0
"""Every model file that cannot be used is refused with the settings: status 2, one sentence, and nothing is written."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import train
from tests.guidance.test_single_file import Callback, original_layout


@pytest.fixture
def folder(golden_dir, tmp_path):
    return Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model"))


def of_lora(folder, tmp_path):
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{key}.lora_up.weight": torch.full((64, 2), float("nan")), f"{key}.lora_down.weight": torch.ones(2, 32)}
    save_file(tensors, tmp_path / "lora.safetensors")
    return ["--LoRA_path", str(tmp_path / "lora.safetensors")], "is not finite in 128 of its 128 values"


def lora_of(tmp_path, layer, up, down):
    save_file({f"{layer}.lora_up.weight": torch.ones(*up), f"{layer}.lora_down.weight": torch.ones(*down)}, tmp_path / "lora.safetensors")
    return ["--LoRA_path", str(tmp_path / "lora.safetensors")]


def of_lora_shape(folder, tmp_path):
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    return lora_of(tmp_path, key, (64, 2), (2, 768)), "but this model's weight is [64, 32]; it was made for Stable Diffusion 1.x"


def of_lora_text_shape(folder, tmp_path):
    key = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    return lora_of(tmp_path, key, (33, 2), (2, 32)), "by [33, 32], but this model's weight is [32, 32]"


def of_lora_layer(folder, tmp_path):
    key = "lora_unet_down_blocks_7_attentions_0_transformer_blocks_0_attn2_to_k"
    return lora_of(tmp_path, key, (64, 2), (2, 32)), "which this model does not have"


def of_lora_on_a_file(folder, tmp_path):
    save_file(original_layout(folder), tmp_path / "x.safetensors")
    words, sentence = of_lora_shape(folder, tmp_path)
    return [*words, "--model_key", str(tmp_path / "x.safetensors"), "--base_model_key", str(folder)], sentence


def of_words(folder, tmp_path):
    save_file({"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)}, tmp_path / "word.safetensors")
    return ["--textual_inversion_path", str(tmp_path / "word.safetensors")], "is for Stable Diffusion XL"


def of_word_width(folder, tmp_path):
    save_file({"<zork>": torch.ones(1, 33)}, tmp_path / "word.safetensors")
    return ["--textual_inversion_path", str(tmp_path / "word.safetensors")], "'<zork>' has width 33, the text encoder has 32"


def of_lora_word_width(folder, tmp_path):
    save_file({"<zork>": torch.ones(33)}, tmp_path / "lora.safetensors", metadata={"<zork>": "<embed>"})
    return ["--LoRA_path", str(tmp_path / "lora.safetensors")], "'<zork>' has width 33, the text encoder has 32"


def of_initial_points(folder, tmp_path):
    return ["--init_shape", "pointe", "--init_prompt", "a mug"], "the package point_e is not installed"


def of_controlnet(folder, tmp_path):
    return ["--controlnet_model_key", str(folder / "unet"), "--use_control_net_iter", "0"], "holds UNet2DConditionModel, no ControlNetModel"


def config_with(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def of_controlnet_shape(folder, tmp_path):
    shutil.copytree(folder / "unet", tmp_path / "control")
    config_with(tmp_path / "control", _class_name="ControlNetModel", cross_attention_dim=768)
    words = ["--controlnet_model_key", str(tmp_path / "control"), "--use_control_net_iter", "0"]
    return words, "has cross_attention_dim 768 but the U-Net has 32"


def of_unet_channels(folder, tmp_path):
    config_with(folder / "unet", in_channels=9)
    return [], "the U-Net takes 9 channels but the autoencoder makes 4"


def of_parts_of_two_models(folder, tmp_path):
    config_with(folder / "unet", cross_attention_dim=768)
    return [], "the text encoder is 32 wide but the U-Net expects 768"


def of_unet_config(folder, tmp_path):
    config_with(folder / "unet", down_block_types=["NoSuchBlock"])
    return [], "describes no network"


def of_prediction(folder, tmp_path):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "flow_prediction"}))
    return [], "scheduler prediction_type is 'flow_prediction'"


def of_layout(folder, tmp_path):
    shutil.rmtree(folder / "vae")
    return [], "lacks vae; fetch the whole pipeline again"


def of_weights(folder, tmp_path):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "flax_model.msgpack")
    return [], "unet holds no weights in .safetensors or .bin files"


def of_scheduler(folder, tmp_path):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "FlowMatchEulerDiscreteScheduler"}))
    return [], "is not one of noise prediction"


def of_checkpoint(folder, tmp_path):
    torch.save({"state_dict": original_layout(folder), "callback": Callback()}, tmp_path / "x.ckpt")
    return ["--model_key", str(tmp_path / "x.ckpt"), "--base_model_key", str(folder)], "holds Python objects that are not loaded"


def of_base(folder, tmp_path):
    save_file(original_layout(folder), tmp_path / "x.safetensors")
    return ["--model_key", str(tmp_path / "x.safetensors"), "--base_model_key", str(folder / "vae")], "holds a single AutoencoderKL"


def of_key(folder, tmp_path):
    return ["--model_key", "./nothing here"], "is neither an existing folder nor a hub id"


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    "fault",
    [case for name, case in list(globals().items()) if name.startswith("of_")],
)
def test_a_file_that_cannot_be_used(folder, tmp_path, monkeypatch, capsys, fault, dry_run):
    monkeypatch.setitem(sys.modules, "point_e", None)
    words, sentence = fault(folder, tmp_path)
    run = tmp_path / "run"
    defaults = ["--text", "a mug", "--device", "cpu", "--iterations", "1", "--model_path", str(run), "--model_key", str(folder)]
    assert train.main([*defaults, *words, *(["--dry-run"] if dry_run else [])]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err and "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) == 1 and not run.exists()
