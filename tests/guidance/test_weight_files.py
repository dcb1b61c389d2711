# SPDX-License-Identifier: Apache-2.0
"""Folders whose weights are those of a variant, pickled, in shards or mixed: the same model as the plain folder."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import GuidanceParams
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from guidance.weight_files import variant_of
from tests.offline import no_network

PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(autouse=True)
def hub(tmp_path):
    """The hub client's cache of this test, and no network."""
    with no_network(tmp_path):
        yield tmp_path / "hub"


@pytest.fixture
def folder(golden_dir, tmp_path):
    return Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model"))


def load(key, **changes):
    return StableDiffusion(GuidanceParams(model_key=str(key), **changes), "cpu")


def check_same(prior, golden_dir, half=False):
    """Predictions of the golden model; of its weights rounded to half where the files hold those."""
    plain = load(golden_dir / "tiny-sd")
    if half:
        for module in (plain.unet, plain.vae, plain.text_encoder):
            module.half().float()
    x, t, texts = torch.ones(1, 4, 8, 8), torch.tensor([400]), ["a red mug"]
    text = plain.get_text_embeds(texts)
    torch.testing.assert_close(prior.get_text_embeds(texts), text)
    torch.testing.assert_close(prior.predict_noise(x, t, text), plain.predict_noise(x, t, text))
    torch.testing.assert_close(prior.decode_latents(x), plain.decode_latents(x))


def shards(folder, stem, tensors, names, index):
    """Two files of weights and the index that leads to them."""
    keys = sorted(tensors)
    halves = keys[::2], keys[1::2]
    for half, name in zip(halves, names):
        save_file({key: tensors[key] for key in half}, folder / name, metadata={"format": "pt"})
    where = {key: name for half, name in zip(halves, names) for key in half}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def rewrite(folder, part, style):
    """Put a part's weights into the files that `style` names; half precision in those of a variant."""
    stem, place = PARTS[part], folder / part
    path = place / f"{stem}.safetensors"
    tensors = load_file(path)
    path.unlink()
    half = {key: value.half() for key, value in tensors.items()}
    pickled = "pytorch_model" if part == "text_encoder" else stem
    if style == "bin":
        torch.save(tensors, place / f"{pickled}.bin")
    elif style.endswith(" bin"):
        torch.save(half, place / f"{pickled}.{style.split()[0]}.bin")
    elif style == "shards":
        names = [f"{stem}-0000{k}-of-00002.safetensors" for k in (1, 2)]
        shards(place, stem, tensors, names, f"{stem}.safetensors.index.json")
    elif style == "fp16 shards":
        names = [f"{stem}.fp16-0000{k}-of-00002.safetensors" for k in (1, 2)]
        shards(place, stem, half, names, f"{stem}.safetensors.index.fp16.json")
    elif style == "fp16 old shards":
        names = [f"{stem}-0000{k}-of-00002.fp16.safetensors" for k in (1, 2)]
        shards(place, stem, half, names, f"{stem}.safetensors.index.fp16.json")
    else:
        save_file(half, place / f"{stem}.{style}.safetensors", metadata={"format": "pt"})


STYLES = ["fp16", "fp16 bin", "bin", "shards", "fp16 shards", "fp16 old shards", "bf16", "non_ema"]


@pytest.mark.parametrize("style", STYLES)
def test_a_folder_of_any_kind_of_weights(folder, golden_dir, style):
    for part in PARTS:
        rewrite(folder, part, style)
    check_same(load(folder), golden_dir, half=style not in ("bin", "shards"))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("style", ["fp16", "fp16 bin"])
def test_one_part_alone_is_a_variant(folder, golden_dir, part, style, caplog):
    rewrite(folder, part, style)
    load(folder)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"{folder / part} holds only its fp16 weights, which are loaded"]


def test_plain_weights_come_first(folder, golden_dir, caplog):
    """A repository holds both; the variant beside the plain ones is broken here."""
    for part, stem in PARTS.items():
        (folder / part / f"{stem}.fp16.safetensors").write_bytes(b"broken")
    check_same(load(folder), golden_dir)
    assert not caplog.records


@pytest.mark.parametrize("style", ["fp16", "fp16 bin", "bin", "fp16 shards"])
def test_the_same_in_a_cache(folder, golden_dir, hub, style):
    for part in PARTS:
        rewrite(folder, part, style)
    model = hub / "models--some-owner--tiny"
    shutil.copytree(folder, model / "snapshots" / ("0" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    check_same(load("some-owner/tiny"), golden_dir, half=style != "bin")


def test_half_precision_is_downloaded_where_there_is_nothing_else(folder, golden_dir, monkeypatch):
    """The library downloads plain weights only unless it is asked for a variant."""
    import diffusers

    asked = []
    for part in PARTS:
        rewrite(folder, part, "fp16")
    without = shutil.copytree(folder, folder.parent / "without", ignore=shutil.ignore_patterns("*.safetensors"))

    def download(key, variant=None, **_):
        asked.append(variant)
        return folder if variant == "fp16" else without

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "download", download)
    check_same(load("some-owner/tiny"), golden_dir, half=True)
    assert asked == [None, "fp16"]


def test_a_controlnet_in_half_precision(folder, golden_dir, tmp_path, hub):
    from diffusers import ControlNetModel

    unet = load(golden_dir / "tiny-sd").unet
    ControlNetModel.from_unet(unet, conditioning_channels=3).half().save_pretrained(tmp_path / "control", variant="fp16")
    assert [p.name for p in (tmp_path / "control").glob("*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]
    model = hub / "models--some--depth"
    shutil.copytree(tmp_path / "control", model / "snapshots" / ("0" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    for key in (str(tmp_path / "control"), "some/depth"):
        assert load(folder, controlnet_model_key=key).controlnet is not None


@pytest.mark.parametrize("part", PARTS)
def test_no_weights_that_are_read_here(folder, part):
    (folder / part / f"{PARTS[part]}.safetensors").rename(folder / part / "flax_model.msgpack")
    with pytest.raises(ModelUnavailable, match=rf"{part} holds no weights in .safetensors or .bin files \(other files: flax_model.msgpack\)"):
        load(folder)


@pytest.mark.parametrize(
    ("names", "variant"),
    [
        (["model.safetensors", "model.fp16.safetensors"], None),
        (["pytorch_model.bin", "model.fp16.safetensors"], None),
        (["model-00001-of-00002.safetensors", "model.fp16.safetensors"], None),
        (["model.ema.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors"], "fp16"),
        (["diffusion_pytorch_model.mine.bin"], "mine"),
        (["model.fp16-00001-of-00002.safetensors", "model.safetensors.index.fp16.json"], "fp16"),
        (["diffusion_pytorch_model-00002-of-00002.fp16.safetensors"], "fp16"),
    ],
)
def test_which_variant_is_asked_for(tmp_path, names, variant):
    for name in (*names, "config.json", "README.md", "optimizer.bin"):
        (tmp_path / name).write_bytes(b"")
    assert variant_of(tmp_path) == variant
