# SPDX-License-Identifier: Apache-2.0
"""LoRA files of each kind, made on the spot for the tiny pipeline, end up in its weights; the others are refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from arguments import GuidanceParams
from guidance.lora import merge_lora, read_lora
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from guidance.weights import load_components
from tests.drawn import Draws
from tests.hostile import Payload

BLOCK = "down_blocks.1.attentions.0"
LAYERS = {  # a linear layer, a 1x1 and a 3x3 convolution of the U-Net, a linear layer of the text encoder
    ("unet", f"{BLOCK}.transformer_blocks.0.attn2.to_k"),
    ("unet", f"{BLOCK}.proj_in"),
    ("unet", "down_blocks.0.resnets.0.conv1"),
    ("text_encoder", "encoder.layers.0.self_attn.q_proj"),
}


@pytest.fixture
def parts(golden_dir):
    return load_components(GuidanceParams(model_key=str(golden_dir / "tiny-sd")), torch.float32)


def layer_of(parts, part, name):
    module = getattr(parts, part)
    layers = {key.removeprefix("text_model."): value for key, value in module.named_modules()}
    return layers[name]


def factors(weight, rank=2, seed=0):
    """up and down of a layer: a convolution's down has the kernel, its up is 1x1."""
    draws = Draws(seed)
    down = draws.normal(rank, *weight.shape[1:])
    ones = [1] * (weight.ndim - 2)
    return draws.normal(weight.shape[0], rank, *ones), down


def product(up, down):
    return (up.flatten(1) @ down.flatten(1)).view(up.shape[0], *down.shape[1:])


def named(part, name, style):
    """(name of up, name of down) in the style of a kind of file."""
    if style == "kohya":
        stem = {"unet": "lora_unet_", "text_encoder": "lora_te_text_model_"}[part] + name.replace(".", "_")
        return f"{stem}.lora_up.weight", f"{stem}.lora_down.weight"
    stem = f"{part}.{name}" if part == "unet" else f"{part}.text_model.{name}"
    if style == "peft":
        return f"{stem}.lora_B.weight", f"{stem}.lora_A.weight"
    kind = "lora" if part == "unet" else "lora_linear_layer"
    return f"{stem}.{kind}.up.weight", f"{stem}.{kind}.down.weight"


def write(path, tensors, metadata=None):
    save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata=metadata)
    return path


def merged(parts, path, scale=1.0):
    merge_lora(parts, read_lora(str(path)), scale)
    return parts


def state(parts):
    return {(p, k): v.clone() for p in ("unet", "text_encoder") for k, v in getattr(parts, p).state_dict().items()}


@pytest.mark.parametrize("style", ["peft", "diffusers", "kohya"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_weights_become_w_plus_scale_up_down(parts, tmp_path, style, scale):
    """The layers of the file, and no other."""
    before, tensors, expected = state(parts), {}, {}
    for seed, (part, name) in enumerate(sorted(LAYERS)):
        weight = layer_of(parts, part, name).weight
        up, down = factors(weight, seed=seed)
        for key, value in zip(named(part, name, style), (up, down), strict=True):
            tensors[key] = value
        expected[part, name] = weight + scale * (0.25 if style == "kohya" else 1.0) * product(up, down)
        if style == "kohya":
            tensors[named(part, name, style)[0].replace(".lora_up.weight", ".alpha")] = torch.tensor(0.5)  # rank 2
    merged(parts, write(tmp_path / "lora.safetensors", tensors), scale)
    for (part, name), weight in expected.items():
        torch.testing.assert_close(layer_of(parts, part, name).weight, weight)
    changed = {key for key, value in state(parts).items() if not torch.equal(value, before[key])}
    assert {key.removeprefix("text_model.") for _, key in changed} == {f"{name}.weight" for _, name in LAYERS}


def test_the_first_attention_processors_and_a_pickled_file(parts, tmp_path):
    """Names without the U-Net's prefix; text layers by the processor's names."""
    block = f"{BLOCK}.transformer_blocks.0.attn1"
    names = {
        f"{block}.processor.to_out_lora": ("unet", f"{block}.to_out.0"),
        "text_encoder.text_model.encoder.layers.1.self_attn.to_out_lora": (
            "text_encoder",
            "encoder.layers.1.self_attn.out_proj",
        ),
    }
    tensors, expected = {}, {}
    for name, place in names.items():
        weight = layer_of(parts, *place).weight
        tensors[f"{name}.up.weight"], tensors[f"{name}.down.weight"] = up, down = factors(weight)
        expected[place] = weight + product(up, down)
    torch.save(tensors, tmp_path / "lora.bin")
    merged(parts, tmp_path / "lora.bin")
    for place, weight in expected.items():
        torch.testing.assert_close(layer_of(parts, *place).weight, weight)


@pytest.mark.parametrize(
    ("extra", "strength"),
    [
        ({}, 8 / 2),
        ({"unet.use_rslora": True}, 8 / 2**0.5),
        ({"unet.alpha_pattern": {"attn2.to_k": 3}}, 3 / 2),
    ],
)
def test_alpha_in_the_metadata_of_a_peft_folder(parts, tmp_path, extra, strength):
    part, name = "unet", f"{BLOCK}.transformer_blocks.0.attn2.to_k"
    weight = layer_of(parts, part, name).weight.clone()
    up, down = factors(weight)
    metadata = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, "unet.r": 2, **extra})}
    tensors = dict(zip(named(part, name, "peft"), (up, down), strict=True))
    write(tmp_path / "pytorch_lora_weights.safetensors", tensors, metadata)
    merged(parts, tmp_path)
    torch.testing.assert_close(layer_of(parts, part, name).weight, weight + strength * product(up, down))


def cloneofsimo(parts, ff_first, classes=("CrossAttention", "GEGLU"), zero=False):
    """Every attention and GEGLU layer of a tiny pipeline by number, as (tensors, metadata, expected weights)."""
    inner = ("attn1", "ff", "attn2") if ff_first else ("attn1", "attn2", "ff")
    blocks = [name for name, m in parts.unet.named_modules() if type(m).__name__ == "BasicTransformerBlock"]
    linear = {"ff": ("net.0.proj",)}
    names = [
        f"{block}.{part}.{layer}"
        for block in blocks
        for part in inner
        for layer in linear.get(part, ("to_q", "to_k", "to_v", "to_out.0"))
    ]
    tensors, expected = {}, {}
    for number, name in enumerate(names):
        weight = layer_of(parts, "unet", name).weight
        up, down = factors(weight, rank=1, seed=number)
        tensors[f"unet:{number}:up"], tensors[f"unet:{number}:down"] = up * (not zero), down
        expected[name] = weight + product(up * (not zero), down)
    tensors["<zork>"] = torch.full((32,), 0.5)
    return tensors, {"unet": json.dumps(list(classes)), "unet:0:rank": "1", "<zork>": "<embed>"}, expected


@pytest.mark.parametrize("ff_first", [True, False])
def test_cloneofsimo_layers_are_found_by_number(parts, tmp_path, ff_first):
    """In the order of either diffusers: the shapes tell which."""
    tensors, metadata, expected = cloneofsimo(parts, ff_first)
    before = len(parts.tokenizer)
    merged(parts, write(tmp_path / "step_inv_1000.safetensors", tensors, metadata))
    assert len(expected) > 9
    for name, weight in expected.items():
        torch.testing.assert_close(layer_of(parts, "unet", name).weight, weight)
    word = parts.tokenizer.convert_tokens_to_ids("<zork>")
    assert len(parts.tokenizer) == before + 1
    assert bool((parts.text_encoder.get_input_embeddings().weight[word] == 0.5).all())


def test_cloneofsimo_text_encoder(parts, tmp_path):
    tensors, expected = {}, {}
    names = [f"encoder.layers.{k}.self_attn.{x}_proj" for k in range(2) for x in ("k", "v", "q", "out")]
    for number, name in enumerate(names):
        weight = layer_of(parts, "text_encoder", name).weight
        tensors[f"text_encoder:{number}:up"], tensors[f"text_encoder:{number}:down"] = up, down = factors(
            weight, seed=number
        )
        expected[name] = weight + product(up, down)
    merged(parts, write(tmp_path / "l.safetensors", tensors, {"text_encoder": '["CLIPAttention"]'}))
    for name, weight in expected.items():
        torch.testing.assert_close(layer_of(parts, "text_encoder", name).weight, weight)


def test_a_zero_lora_changes_nothing(golden_dir, parts, tmp_path):
    """Bit for bit, through the prior itself; a real one changes its predictions."""
    tensors, metadata, _ = cloneofsimo(parts, False, zero=True)
    key, path = str(golden_dir / "tiny-sd"), write(tmp_path / "zero.safetensors", tensors, metadata)
    real, _, _ = cloneofsimo(parts, False)
    write(tmp_path / "real.safetensors", real, metadata)
    plain = StableDiffusion(GuidanceParams(model_key=key), "cpu")
    x, t, text = torch.ones(1, 4, 8, 8), torch.tensor([400]), plain.get_text_embeds(["a cat"])
    expected = plain.predict_noise(x, t, text)
    zero = StableDiffusion(GuidanceParams(model_key=key, LoRA_path=str(path)), "cpu")
    assert torch.equal(zero.predict_noise(x, t, text), expected)
    options = {"model_key": key, "LoRA_path": str(tmp_path / "real.safetensors")}
    real = StableDiffusion(GuidanceParams(**options), "cpu")
    assert (real.predict_noise(x, t, text) - expected).abs().max() > 1e-3
    weak = StableDiffusion(GuidanceParams(**options, LoRA_scale=0.0), "cpu")
    assert torch.equal(weak.predict_noise(x, t, text), expected)
    assert not any(parameter.requires_grad for parameter in real.unet.parameters())


def test_nothing_changes_when_a_later_layer_does_not_fit(parts, tmp_path):
    before = state(parts)
    good, bad = (
        named("unet", f"{BLOCK}.proj_in", "peft"),
        named("unet", f"{BLOCK}.transformer_blocks.0.attn2.to_k", "peft"),
    )
    up, down = factors(layer_of(parts, "unet", f"{BLOCK}.proj_in").weight)
    tensors = {good[0]: up, good[1]: down, bad[0]: torch.zeros(64, 2), bad[1]: torch.zeros(2, 768)}
    with pytest.raises(
        ModelUnavailable,
        match=r"changes unet down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k by \[64, 768\], but this model's "
        r"weight is \[64, 32\]; it was made for Stable Diffusion 1.x, give GuidanceParams.LoRA_path a LoRA of",
    ):
        merged(parts, write(tmp_path / "sd15.safetensors", tensors))
    assert all(torch.equal(value, before[key]) for key, value in state(parts).items())


def pair(stem, a="lora_A", b="lora_B"):
    return {f"{stem}.{a}.weight": torch.zeros(2, 4), f"{stem}.{b}.weight": torch.zeros(4, 2)}


SDXL = "lora_unet_input_blocks_4_1_proj_in"
REFUSED = {
    "another model": (pair(SDXL, "lora_down", "lora_up"), {}, r"changes unet down_blocks.1.attentions.1.proj_in, which this model does not have; it was made for another"),
    "SDXL": (pair("lora_te2_x", "lora_down", "lora_up"), {}, r"is of Stable Diffusion XL, FLUX or others \(lora_te2_x.lora_"),
    "FLUX": (pair("transformer.x"), {}, r"is of Stable Diffusion XL, FLUX or others \(transformer.x.lora_A.weight\)"),
    "DoRA": ({**pair("unet.x"), "unet.x.lora_magnitude_vector": torch.zeros(4)}, {}, r"holds 'unet.x.lora_magnitude_vector', which is no LoRA weight: DoRA, LoHa, LoKr and others cannot be merged; give"),
    "LoHa": ({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}, {}, r"holds 'lora_unet_x.hada_w1_a', which is no LoRA weight: DoRA, LoHa"),
    "LoKr": ({"lora_unet_x.lokr_w1": torch.zeros(2, 2)}, {}, r"holds 'lora_unet_x.lokr_w1', which is no LoRA weight"),
    "OFT": ({"lora_unet_x.oft_blocks": torch.zeros(2, 2)}, {}, r"holds 'lora_unet_x.oft_blocks', which is no LoRA weight"),
    "LoCon": ({**pair("lora_unet_x", "lora_down", "lora_up"), "lora_unet_x.lora_mid.weight": torch.zeros(2, 2, 3, 3)}, {}, r"holds 'lora_unet_x.lora_mid.weight', which is no LoRA weight"),
    "half": ({"unet.x.lora_A.weight": torch.zeros(2, 4)}, {}, r"has no up weight for unet.x; the file is incomplete"),
    "ranks": ({"unet.x.lora_A.weight": torch.zeros(2, 4), "unet.x.lora_B.weight": torch.zeros(4, 3)}, {}, r"unet.x has up \[4, 3\] and down \[2, 4\], whose ranks differ"),
    "no LoRA": ({"weight": torch.zeros(2)}, {}, r"holds 'weight', which is no LoRA weight: DoRA, LoHa, LoKr and others cannot be merged; give"),
    "bare peft": (pair("base_model.model.x"), {}, r"is a bare peft adapter without its alpha, which the pipeline's save_lora_weights would save \(base_model"),
    "no classes": ({"unet:0:up": torch.zeros(4, 2), "unet:0:down": torch.zeros(2, 4)}, {}, r"numbers layers of the unet in classes that it does not list, which cannot be converted"),
    "resnets": ({"unet:0:up": torch.zeros(4, 2), "unet:0:down": torch.zeros(2, 4)}, {"unet": '["ResnetBlock2D"]'}, r"numbers layers of the unet in ResnetBlock2D, which cannot be converted"),
    "fewer layers": ({"unet:0:up": torch.zeros(4, 2), "unet:0:down": torch.zeros(2, 4)}, {"unet": '["GEGLU"]'}, r"changes 1 layer of the unet, this model has 4 such; it was made for another model"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_do_not_fit_are_refused_with_a_sentence(parts, tmp_path, name):
    tensors, metadata, sentence = REFUSED[name]
    with pytest.raises(ModelUnavailable, match=sentence) as refused:
        merged(parts, write(tmp_path / "lora.safetensors", tensors, metadata))
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def test_cloneofsimo_file_for_another_width(parts, tmp_path):
    tensors, metadata, _ = cloneofsimo(parts, True)
    tensors["unet:0:up"] = torch.zeros(320, 1)
    with pytest.raises(
        ModelUnavailable, match=r"changes unet down_blocks\S+attn1.to_q by \[320, 64\], but this model's"
    ):
        merged(parts, write(tmp_path / "l.safetensors", tensors, metadata))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"LoRA_path .*gone.safetensors' does not exist; give"):
        read_lora(str(tmp_path / "gone.safetensors"))
    with pytest.raises(ModelUnavailable, match=r"pytorch_lora_weights.safetensors' does not exist"):
        read_lora(str(tmp_path))
    (tmp_path / "x.zip").write_bytes(b"x")
    with pytest.raises(ModelUnavailable, match=r"suffix '.zip'; expected .safetensors"):
        read_lora(str(tmp_path / "x.zip"))
    (tmp_path / "x.safetensors").write_bytes(b"short")
    with pytest.raises(ModelUnavailable, match=r"x.safetensors cannot be read \(.*\); fetch it again"):
        read_lora(str(tmp_path / "x.safetensors"))
    torch.save([torch.zeros(4, 2), torch.zeros(2, 4)], tmp_path / "x.pt")
    with pytest.raises(
        ModelUnavailable, match=r"holds a bare list, as cloneofsimo's .pt files are; expected tensors by"
    ):
        read_lora(str(tmp_path / "x.pt"))


def test_code_in_a_lora_is_not_run(tmp_path):
    torch.save({"x": Payload(tmp_path / "was_run")}, tmp_path / "hostile.bin")
    with pytest.raises(ModelUnavailable, match=r"hostile.bin holds Python objects that are not loaded \(io.open\); use the .safetensors"):
        read_lora(str(tmp_path / "hostile.bin"))
    assert not (tmp_path / "was_run").exists()


def test_a_bad_lora_is_told_before_the_model_is_looked_at(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"LoRA_path 'gone.safetensors' does not exist"):
        StableDiffusion(GuidanceParams(model_key="no/such-model", LoRA_path="gone.safetensors"), "cpu")


@pytest.mark.parametrize(
    ("key", "value", "metadata", "told"),
    [
        ("unet.a.alpha", torch.ones(2), {}, r"has \[2\] as unet.a.alpha, expected one number"),
        ("unet.a.alpha", torch.tensor(float("nan")), {}, "expected one number"),
        ("unet.a.alpha", torch.ones(1), {"lora_adapter_metadata": "{"}, "'lora_adapter_metadata' that is no JSON"),
        ("unet.a.alpha", torch.ones(1), {"lora_adapter_metadata": "[]"}, "'lora_adapter_metadata' of another form"),
    ],
)
def test_what_an_alpha_cannot_be(tmp_path, key, value, metadata, told):
    pair = {"unet.a.lora.up.weight": torch.ones(3, 2), "unet.a.lora.down.weight": torch.ones(2, 3)}
    save_file(pair | {key: value}, tmp_path / "file.safetensors", metadata=metadata)
    with pytest.raises(ModelUnavailable, match=told):
        read_lora(str(tmp_path / "file.safetensors"))


@pytest.mark.parametrize("settings", [{"unet.lora_alpha": "4"}, {"unet.lora_alpha": 4, "unet.alpha_pattern": 3}])
def test_settings_that_peft_refuses(parts, tmp_path, settings):
    weight = layer_of(parts, "unet", f"{BLOCK}.proj_in").weight
    tensors = dict(zip(named("unet", f"{BLOCK}.proj_in", "peft"), factors(weight), strict=True))
    path = write(tmp_path / "l.safetensors", tensors, {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(ModelUnavailable, match=r"l.safetensors has settings of peft that it refuses \(.+\); give"):
        merged(parts, path)


def test_nothing_of_peft_remains(parts, tmp_path):
    """The modules are the model's own, by name and class; peft's attributes are gone, and no random number was drawn."""
    before = [(name, type(m), sorted(vars(m))) for part in (parts.unet, parts.text_encoder) for name, m in part.named_modules()]
    tensors = {}
    for part, name in LAYERS:
        tensors |= zip(named(part, name, "kohya"), factors(layer_of(parts, part, name).weight), strict=True)
    seed = torch.get_rng_state()
    merged(parts, write(tmp_path / "l.safetensors", tensors))
    assert before == [(name, type(m), sorted(vars(m))) for part in (parts.unet, parts.text_encoder) for name, m in part.named_modules()]
    assert torch.equal(torch.get_rng_state(), seed)


def test_without_peft_layers_are_refused_and_words_are_not(tmp_path, monkeypatch):
    """Before the model is looked at; a file of learned words alone needs no peft."""
    monkeypatch.setattr("guidance.lora_file.find_spec", {}.get)
    path = write(tmp_path / "l.safetensors", {"unet.a.lora.up.weight": torch.ones(3, 2), "unet.a.lora.down.weight": torch.ones(2, 3)})
    with pytest.raises(ModelUnavailable, match=r"^LoRA_path needs the package peft, which merges LoRAs: pip install peft accelerate$"):
        StableDiffusion(GuidanceParams(model_key="no/such-model", LoRA_path=str(path)), "cpu")
    assert read_lora(str(write(tmp_path / "w.safetensors", {"<a>": torch.ones(4)}, {"<a>": "<embed>"}))).words
