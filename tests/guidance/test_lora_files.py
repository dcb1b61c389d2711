# SPDX-License-Identifier: Apache-2.0
"""LoRA files of other programs: their prefixes and names, learned words alone, values that are refused or change nothing."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from arguments import GuidanceParams
from arguments.load import load_config
from guidance.lora import _place, merge_lora, read_lora
from guidance.prompts import PromptEmbeddings
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from guidance.weights import load_components
from tests.guidance.test_single_file import unet_key

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
UNET_LAYERS = (f"{BLOCK}.attn2.to_k", "down_blocks.0.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv", "mid_block.attentions.0.proj_in")
TEXT_LAYER = "encoder.layers.0.self_attn.q_proj"


@pytest.fixture
def parts(golden_dir):
    return load_components(GuidanceParams(model_key=str(golden_dir / "tiny-sd")), torch.float32)


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


def layer_of(parts, part, name):
    layers = {key.removeprefix("text_model."): value for key, value in getattr(parts, part).named_modules()}
    return layers[name]


def factors(weight, rank=2, seed=0):
    return draw(weight.shape[0], rank, *[1] * (weight.ndim - 2), seed=seed), draw(rank, *weight.shape[1:], seed=seed + 1)


def write(path, tensors, metadata=None):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=metadata)
    return str(path)


def original(name):
    return unet_key(f"{name}.weight").removesuffix(".weight")


def underscored(name):
    return name.replace(".", "_")


# How programs name the U-Net's and the text encoder's layers, and the two factors.
STYLES = {
    "ComfyUI": (lambda n: f"diffusion_model.{original(n)}", lambda n: f"text_encoders.clip_l.transformer.text_model.{n}", "lora_A.weight", "lora_B.weight"),
    "ComfyUI, down and up": (lambda n: f"diffusion_model.{original(n)}", lambda n: f"text_encoders.clip_h.transformer.text_model.{n}", "lora_down.weight", "lora_up.weight"),
    "OneTrainer": (lambda n: f"diffusion_model.{n}", lambda n: f"lora_te.text_model.{n}", "lora_A.weight", "lora_B.weight"),
    "OneTrainer, kohya": (lambda n: f"lora_unet.{n}", lambda n: f"lora_te1.text_model.{n}", "lora_down.weight", "lora_up.weight"),
    "checkpoint": (lambda n: f"model.diffusion_model.{original(n)}", lambda n: f"cond_stage_model.transformer.text_model.{n}", "lora_A.weight", "lora_B.weight"),
    "LyCORIS": (lambda n: f"lycoris_{underscored(n)}", lambda n: f"lycoris_text_model_{underscored(n)}", "lora_down.weight", "lora_up.weight"),
    "LyCORIS, original": (lambda n: f"lycoris_{underscored(original(n))}", lambda n: f"lycoris_{underscored(n)}", "lora_down.weight", "lora_up.weight"),
    "kohya": (lambda n: f"lora_unet_{underscored(n)}", lambda n: f"lora_te_text_model_{underscored(n)}", "lora_down.weight", "lora_up.weight"),
    "kohya, original": (lambda n: f"lora_unet_{underscored(original(n))}", lambda n: f"lora_te1_text_model_{underscored(n)}", "lora_down.weight", "lora_up.weight"),
    "diffusers": (lambda n: f"unet.{n}", lambda n: f"text_encoder.text_model.{n}", "lora_A.weight", "lora_B.weight"),
    "adapter named": (lambda n: f"unet.{n}", lambda n: f"text_encoder.text_model.{n}", "lora_A.default.weight", "lora_B.default.weight"),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_the_same_model_under_another_prefix(parts, tmp_path, style):
    of_unet, of_text, down_name, up_name = STYLES[style]
    tensors, expected = {}, {}
    places = [("unet", name, of_unet(name)) for name in UNET_LAYERS] + [("text_encoder", TEXT_LAYER, of_text(TEXT_LAYER))]
    for seed, (part, name, key) in enumerate(places):
        weight = layer_of(parts, part, name).weight.detach()
        up, down = factors(weight, seed=2 * seed)
        tensors[f"{key}.{up_name}"], tensors[f"{key}.{down_name}"], tensors[f"{key}.alpha"] = up, down, torch.tensor(2.0)
        expected[part, name] = weight + (up.flatten(1) @ down.flatten(1)).view_as(weight)
    merge_lora(parts, read_lora(write(tmp_path / "lora.safetensors", tensors)))
    for (part, name), weight in expected.items():
        torch.testing.assert_close(layer_of(parts, part, name).weight.detach(), weight)


def test_original_names_are_those_of_the_checkpoints(parts):
    """Every layer of the tiny U-Net, against the table that writes single files in their tests."""
    for name, module in parts.unet.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            assert _place(f"lora_unet_{underscored(original(name))}", "", parts.unet.config) == ("unet", name)


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_v", "input_blocks.2.1.transformer_blocks.0.attn2.to_v"),
        ("down_blocks.0.resnets.0.conv1", "input_blocks.1.0.in_layers.2"),
        ("down_blocks.2.attentions.1.proj_out", "input_blocks.8.1.proj_out"),
        ("down_blocks.2.downsamplers.0.conv", "input_blocks.9.0.op"),
        ("down_blocks.3.resnets.1.conv2", "input_blocks.11.0.out_layers.3"),
        ("mid_block.resnets.1.time_emb_proj", "middle_block.2.emb_layers.1"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv"),
        ("up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2", "output_blocks.11.1.transformer_blocks.0.ff.net.2"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_out", "out.2"),
    ],
)
def test_original_names_at_full_size(name, old):
    """Stable Diffusion 1.x and 2.x: names as published files have them, blocks without attention included."""
    config = SimpleNamespace(layers_per_block=2)
    assert _place(f"diffusion_model.{old}", "", config) == _place(f"unet.{name}", f"unet.{name}.lora_A.weight", config) == ("unet", name)


PLACE = f"lora_unet_{underscored(BLOCK)}_attn2_to_k"


def one_layer(up=1.0, down=1.0, alpha=2.0, dtype=torch.float32):
    return {
        f"{PLACE}.lora_up.weight": torch.full((64, 2), up, dtype=dtype),
        f"{PLACE}.lora_down.weight": torch.full((2, 32), down, dtype=dtype),
        f"{PLACE}.alpha": torch.tensor(alpha),
    }


def changed(tensors, key, value):
    tensors[key] = tensors[key].clone()
    tensors[key].view(-1)[5] = value
    return tensors


@pytest.mark.parametrize("side", ["lora_up", "lora_down"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_value_that_is_not_finite_is_refused_with_its_tensor(tmp_path, side, value, dtype):
    path = write(tmp_path / "lora.safetensors", changed(one_layer(dtype=dtype), f"{PLACE}.{side}.weight", value))
    with pytest.raises(ModelUnavailable, match=rf"LoRA .*: tensor '{PLACE}.{side}.weight' is not finite in 1 of its \d+ values; fetch or train it again$"):
        read_lora(path)


def test_other_values_that_are_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", changed(one_layer(dtype=torch.float64), f"{PLACE}.lora_up.weight", 1e300))
    with pytest.raises(ModelUnavailable, match=r"has a value of 1e\+300, beyond the range of float32; fetch"):
        read_lora(path)
    path = write(tmp_path / "b.safetensors", one_layer() | {f"{PLACE}.lora_up.weight": torch.ones(64, 2, dtype=torch.int8)})
    with pytest.raises(ModelUnavailable, match=r"is of type int8; expected floating-point values"):
        read_lora(path)
    tensors = {"unet:0:up": torch.full((64, 1), float("nan")), "unet:0:down": torch.ones(1, 64)}
    with pytest.raises(ModelUnavailable, match=r"tensor 'unet:0:up' is not finite"):
        read_lora(write(tmp_path / "c.safetensors", tensors, {"unet": '["GEGLU"]'}))
    with pytest.raises(ModelUnavailable, match=r"tensor '<zork>' is not finite"):
        read_lora(write(tmp_path / "d.safetensors", {"<zork>": torch.full((32,), float("nan"))}, {"<zork>": "<embed>"}))


@pytest.mark.parametrize(("up", "precision", "fits"), [(1e3, "float32", True), (1e3, "float16", False), (1e25, "float32", False), (1.0, "float16", True)])
def test_a_result_beyond_the_weights_dtype_is_refused(golden_dir, tmp_path, up, precision, fits):
    """float16 ends at 65504: 1e3 * 1e2 * 2 would be infinity in it."""
    path = write(tmp_path / "lora.safetensors", one_layer(up=up, down=1e2 if up < 1e20 else 1e20))
    params = GuidanceParams(model_key=str(golden_dir / "tiny-sd"), LoRA_path=path, precision=precision)
    if fits:
        assert StableDiffusion(params, "cpu").unet is not None
        return
    with pytest.raises(ModelUnavailable, match=rf"LoRA .* brings a weight of unet .*attn2.to_k beyond the range of {precision}; lower GuidanceParams.LoRA_scale"):
        StableDiffusion(params, "cpu")


@pytest.mark.parametrize(
    ("tensors", "scale", "is_reported"),
    [
        (one_layer(alpha=0.0), 1.0, True),
        (one_layer(up=0.0), 1.0, True),
        (one_layer(down=0.0), 1.0, True),
        (one_layer(), 0.0, True),
        (one_layer(up=1e-12), 1.0, True),
        (one_layer(), 1e-14, True),
        (one_layer(), 1.0, False),
        (one_layer(up=0.0) | {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight": torch.ones(32, 1),
                              "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": torch.ones(1, 32)}, 1.0, False),
    ],
)  # fmt: skip
def test_a_lora_that_changes_nothing_is_reported_in_a_line(parts, tmp_path, caplog, tensors, scale, is_reported):
    with caplog.at_level(logging.WARNING):
        merge_lora(parts, read_lora(write(tmp_path / "lora.safetensors", tensors)), scale)
    reasons = "its weights, its alpha or GuidanceParams.LoRA_scale are 0, or its changes are smaller than the weights' precision"
    lines = [record.getMessage().partition(".safetensors ")[2] for record in caplog.records]
    assert lines == [f"changes nothing: {reasons}"] * is_reported


def test_a_lora_of_the_text_encoder_alone(parts, tmp_path, caplog):
    before = {name: weight.clone() for name, weight in parts.unet.state_dict().items()}
    key = f"text_encoder.text_model.{TEXT_LAYER}"
    merge_lora(parts, read_lora(write(tmp_path / "l.safetensors", {f"{key}.lora_A.weight": draw(2, 32), f"{key}.lora_B.weight": draw(32, 2)})))
    assert all(torch.equal(weight, before[name]) for name, weight in parts.unet.state_dict().items()) and not caplog.records


# --- learned words ----------------------------------------------------------------------------------------------------


def load(golden_dir, path, **changes):
    return StableDiffusion(GuidanceParams(model_key=str(golden_dir / "tiny-sd"), LoRA_path=path, **changes), "cpu")


@pytest.mark.parametrize("shape", [(32,), (1, 32), (3, 32)])
def test_a_file_with_a_learned_word_alone(golden_dir, tmp_path, shape, caplog):
    """LucidDreamer ships its LoRA so: cloneofsimo's format after the first stage, one tensor named by its token."""
    path = write(tmp_path / "step_inv_1000.safetensors", {"<Taylor_Swift>": 0.1 * draw(*shape)}, {"<Taylor_Swift>": "<embed>"})
    plain, prior = load(golden_dir, None), load(golden_dir, path)
    texts = ["A <Taylor_Swift> wearing sunglasses."]
    untaught = plain.get_text_embeds(texts)
    caplog.clear()
    assert (prior.get_text_embeds(texts) - untaught).abs().max() > 1e-3
    row = prior.text_encoder.get_input_embeddings().weight[prior.tokenizer.convert_tokens_to_ids("<Taylor_Swift>")]
    torch.testing.assert_close(row.detach(), 0.1 * draw(*shape).reshape(-1, 32)[0])
    count = 1 if len(shape) == 1 else shape[0]
    assert len(prior._texts.tokens(texts[0])) == len(prior._texts.tokens("A cat wearing sunglasses.")) - len(prior.tokenizer.tokenize("cat")) + count
    assert not caplog.records


def test_the_shipped_config_runs_with_such_a_file(golden_dir, tmp_path, caplog):
    """configs/ts_lora.yaml: the word of its text is learned, and every side has it."""
    path = write(tmp_path / "step_inv_1000.safetensors", {"<Taylor_Swift>": 0.1 * draw(32)}, {"<Taylor_Swift>": "<embed>"})
    words = ["--opt", "configs/ts_lora.yaml", "--LoRA_path", path, "--model_key", str(golden_dir / "tiny-sd"), "--device", "cpu"]
    params = load_config(words).guidance
    prior = StableDiffusion(params, "cpu")
    book = PromptEmbeddings(prior, params)
    token = prior.tokenizer.convert_tokens_to_ids("<Taylor_Swift>")
    assert all(token in prior._texts.tokens(getattr(book.texts, name)) for name in ("default", "front", "side", "back"))
    assert not [record for record in caplog.records if "learned word" in record.getMessage()]


def test_several_words_beside_layers(parts, tmp_path):
    layers = [m for m in parts.unet.modules() if type(m).__name__ == "GEGLU"]
    tensors = {"<s1>": 0.1 * draw(32), "<s2>": 0.1 * draw(2, 32)}
    for number, layer in enumerate(layers):
        tensors[f"unet:{number}:up"], tensors[f"unet:{number}:down"] = factors(layer.proj.weight, rank=1, seed=number)
    before = layers[0].proj.weight.detach().clone()
    metadata = {"unet": json.dumps(["GEGLU"]), "<s1>": "<embed>", "<s2>": "<embed>"}
    merge_lora(parts, read_lora(write(tmp_path / "both.safetensors", tensors, metadata)))
    assert parts.learned_words == {"<s1>": 1, "<s2>": 2}
    torch.testing.assert_close(layers[0].proj.weight.detach(), before + tensors["unet:0:up"] @ tensors["unet:0:down"])


def test_words_bundled_with_a_kohya_file(parts, tmp_path):
    tensors = one_layer() | {"bundle_emb.zork.string_to_param.*": 0.1 * draw(2, 32)}
    merge_lora(parts, read_lora(write(tmp_path / "bundle.safetensors", tensors)))
    assert parts.learned_words == {"zork": 2}


def test_words_and_a_textual_inversion_together(golden_dir, tmp_path):
    lora = write(tmp_path / "lora.safetensors", {"<a>": 0.1 * draw(32)}, {"<a>": "<embed>"})
    embedding = write(tmp_path / "word.safetensors", {"<b>": 0.1 * draw(2, 32)})
    prior = load(golden_dir, lora, textual_inversion_path=embedding)
    assert len(prior._texts.tokens("<a> <b>")) == 2 + 1 + 2
    again = write(tmp_path / "again.safetensors", {"<a>": 0.1 * draw(32)})
    with pytest.raises(ModelUnavailable, match=r"again.safetensors: the tokenizer has '<a>' already; give the learned word another name"):
        load(golden_dir, lora, textual_inversion_path=again)


def test_a_word_of_another_width(golden_dir, tmp_path):
    path = write(tmp_path / "lora.safetensors", {"<a>": draw(1024)}, {"<a>": "<embed>"})
    with pytest.raises(ModelUnavailable, match=r"LoRA .*: '<a>' has width 1024 \(Stable Diffusion 2.x\), the text encoder has 32"):
        load(golden_dir, path)


def test_a_scale_has_no_effect_on_words(parts, tmp_path, caplog):
    merge_lora(parts, read_lora(write(tmp_path / "w.safetensors", {"<a>": draw(32)}, {"<a>": "<embed>"})), 0.5)
    assert [r.getMessage().partition(".safetensors ")[2] for r in caplog.records] == ["holds words only: GuidanceParams.LoRA_scale 0.5 has no effect"]


# --- other models -----------------------------------------------------------------------------------------------------


def pair(stem, into=4):
    return {f"{stem}.lora_A.weight": torch.zeros(2, into), f"{stem}.lora_B.weight": torch.zeros(4, 2)}


FAMILIES = {
    "SDXL by its blocks": (pair("unet.down_blocks.2.attentions.0.transformer_blocks.7.attn1.to_k"), {}, "is of Stable Diffusion XL, FLUX or others"),
    "SDXL by its text encoder": (pair("text_encoders.clip_g.transformer.x"), {}, "is of Stable Diffusion XL, FLUX or others"),
    "SDXL by its width": (pair("unet.down_blocks.9.attentions.0.transformer_blocks.0.attn2.to_k", 2048), {}, "was made for Stable Diffusion XL"),
    "SD 1 by its width": (pair("unet.down_blocks.9.attentions.0.transformer_blocks.0.attn2.to_k", 768), {}, r"was made for Stable Diffusion 1.x"),
    "SD 2 by its width": (pair(f"unet.{BLOCK}.attn2.to_k", 1024), {}, r"was made for Stable Diffusion 2.x"),
    "FLUX": (pair("diffusion_model.double_blocks.0.img_attn.qkv"), {}, "is of Stable Diffusion XL, FLUX or others"),
    "FLUX by kohya": (pair("lora_unet_single_blocks_3_linear1"), {}, "is of Stable Diffusion XL, FLUX or others"),
    "SD3": (pair("lora_unet_joint_blocks_3_x_block_attn_qkv"), {}, "is of Stable Diffusion XL, FLUX or others"),
    "Wan": (pair("diffusion_model.blocks.0.self_attn.q"), {}, "is of Stable Diffusion XL, FLUX or others"),
    "by its metadata": (pair("lora_unet_other_x"), {"ss_base_model_version": "sdxl_base_v1-0"}, r"was made for another model \(sdxl_base_v1-0\)"),
    "by modelspec": (pair("lora_unet_other_x"), {"modelspec.architecture": "flux-1-dev/lora"}, r"was made for another model \(flux-1-dev/lora\)"),
    "nothing is known": (pair("lora_unet_other_x"), {}, r"which this model does not have; it was made for another model, give"),
    "LyCORIS of nothing": (pair("lycoris_other_x"), {}, r"changes unet other.x, which this model does not have"),
    "full difference": ({"lora_unet_x.diff": torch.zeros(2)}, {}, "holds 'lora_unet_x.diff', which is no LoRA weight"),
    "BOFT": ({"lora_unet_x.boft_blocks": torch.zeros(2)}, {}, "holds 'lora_unet_x.boft_blocks', which is no LoRA weight"),
    "IA3": ({"lora_unet_x.on_input": torch.zeros(2)}, {}, "holds 'lora_unet_x.on_input', which is no LoRA weight"),
    "lycoris LoHa": ({"lycoris_x.hada_w1_a": torch.zeros(2, 2)}, {}, "holds 'lycoris_x.hada_w1_a', which is no LoRA weight"),
    "lycoris LoKr": ({"lycoris_x.lokr_w2": torch.zeros(2, 2)}, {}, "holds 'lycoris_x.lokr_w2', which is no LoRA weight"),
    "DoRA": ({**pair("diffusion_model.x"), "diffusion_model.x.dora_scale": torch.zeros(4)}, {}, "holds 'diffusion_model.x.dora_scale', which is no LoRA weight"),
    "textual inversion": ({"emb_params": torch.zeros(2, 32)}, {}, "is a textual inversion, for textual_inversion_path"),
    "diffusers' textual inversion": ({"<zork>": torch.zeros(2, 32)}, {}, "is a textual inversion, for textual_inversion_path"),
    "whole model": ({"model.diffusion_model.x.weight": torch.zeros(2, 2)}, {}, "is a checkpoint, for model_key"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_files_of_other_models_are_named(parts, tmp_path, name):
    tensors, metadata, sentence = FAMILIES[name]
    with pytest.raises(ModelUnavailable, match=sentence) as refused:
        merge_lora(parts, read_lora(write(tmp_path / "lora.safetensors", tensors, metadata)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("up", "down", "sentence"),
    [
        (torch.zeros(64, 0), torch.zeros(0, 32), r"has up \[64, 0\] and down \[0, 32\], whose ranks differ or are 0"),
        (torch.zeros(64), torch.zeros(2, 32), r"has up \[64\] and down \[2, 32\]"),
        (torch.tensor(1.0), torch.zeros(2, 32), r"has up \[\] and down"),
        (torch.zeros(64, 3), torch.zeros(2, 32), r"has up \[64, 3\] and down \[2, 32\]"),
        (torch.zeros(64, 2, 3, 3), torch.zeros(2, 32), r"by \[64, 32\], but this model's weight is \[64, 32\]"),
        (torch.zeros(64, 2).to_sparse(), torch.zeros(2, 32), r"is of type sparse_coo; expected floating-point values"),
        (torch.zeros(64, 2, dtype=torch.complex64), torch.zeros(2, 32), r"is of type complex64; expected"),
        (torch.zeros(64, 2, dtype=torch.bool), torch.zeros(2, 32), r"is of type bool; expected"),
    ],
)
def test_shapes_and_types_of_no_lora(parts, tmp_path, up, down, sentence):
    torch.save({f"{PLACE}.lora_up.weight": up, f"{PLACE}.lora_down.weight": down, f"{PLACE}.alpha": torch.tensor(1.0)}, tmp_path / "l.pt")
    with pytest.raises(ModelUnavailable, match=sentence):
        merge_lora(parts, read_lora(str(tmp_path / "l.pt")))


def test_eight_bit_floats_are_read(parts, tmp_path):
    tensors = {key: value.to(torch.float8_e4m3fn) if value.ndim else value for key, value in one_layer().items()}
    before = layer_of(parts, "unet", f"{BLOCK}.attn2.to_k").weight.detach().clone()
    merge_lora(parts, read_lora(write(tmp_path / "l.safetensors", tensors)))
    torch.testing.assert_close(layer_of(parts, "unet", f"{BLOCK}.attn2.to_k").weight.detach(), before + 2)
