# SPDX-License-Identifier: Apache-2.0
"""What a run's hub ids name: known to be here or not with the settings, nothing fetched; fetched before anything is computed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from arguments import Config, GuidanceParams
from guidance.controlnet import download_controlnet
from guidance.model_files import fetch_models, model_file_checks
from guidance.sources import ModelUnavailable, NotDownloaded
from guidance.weight_files import NETWORKS
from guidance.weights import base_folder, download_model
from scene.text_to_cloud import CloudUnavailable, check_shap_e
from tests.guidance.test_single_file import original_layout
from tests.guidance.test_weights import hub_cache

KEY, CONTROL = "some-owner/tiny", "some-owner/depth"


@pytest.fixture(params=[True, False], ids=["offline", "online"])
def offline(request, monkeypatch, tmp_path):
    """The hub client's mode; its cache is empty, and whoever asks the hub has failed."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", request.param)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    if not request.param:
        monkeypatch.setattr("httpx2.Client.send", lambda *_, **__: pytest.fail("the hub was asked"))
    return request.param


@pytest.fixture
def file(golden_dir, tmp_path):
    save_file(original_layout(golden_dir / "tiny-sd"), tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def checked(config: Config) -> list[str]:
    """What the checks that come with the settings refuse, in both of their places."""
    found = []
    for check in (*model_file_checks(config), lambda: check_shap_e(config.cameras.shap_e_model_key)):
        try:
            check()
        except (ModelUnavailable, CloudUnavailable) as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("base", [None, "some-owner/base"])
def test_what_is_missing_is_refused_offline_and_told_online(offline, base, file, caplog):
    for params in (GuidanceParams(model_key=KEY, controlnet_model_key=CONTROL), GuidanceParams(model_key=str(file), base_model_key=base)):
        caplog.clear()
        refused = checked(Config(guidance=params))
        told = [record.getMessage() for record in caplog.records if record.name == "utils.hub_cache"]
        names = [repr(CONTROL), repr(KEY)] if params.controlnet_model_key else [file.name]
        found, other = (refused, told) if offline else (told, refused)
        assert not other and len(found) == len(names) + 1
        assert all(name in sentence for name, sentence in zip([*names, "'openai/shap-e'"], found))
        assert not offline or "offline mode is enabled" in found[0]
        assert all(("connect to the network once" if offline else "is not on this machine; the start downloads it") in sentence for sentence in found)


def test_what_is_in_the_cache_is_checked_as_a_folder_is(offline, golden_dir, tmp_path, caplog):
    folder = Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model"))
    hub_cache(tmp_path / "hub", KEY, folder)
    checks = list(model_file_checks(Config(guidance=GuidanceParams(model_key=KEY))))
    assert [check() for check in checks] == [None] and not caplog.records
    save_file({"<zork>": torch.ones(1, 768)}, tmp_path / "word.safetensors")
    params = GuidanceParams(model_key=KEY, textual_inversion_path=str(tmp_path / "word.safetensors"))
    with pytest.raises(ModelUnavailable, match="768"):
        [check() for check in model_file_checks(Config(guidance=params))]


@pytest.mark.parametrize("part", NETWORKS)
def test_half_a_model_is_none(offline, part, golden_dir, tmp_path, caplog):
    """A download that broke off: the start continues it."""
    folder = Path(shutil.copytree(golden_dir / "tiny-sd", tmp_path / "model"))
    [weights] = folder.glob(f"{part}/*.safetensors")
    weights.unlink()
    hub_cache(tmp_path / "hub", KEY, folder)
    [check] = model_file_checks(Config(guidance=GuidanceParams(model_key=KEY)))
    if offline:
        with pytest.raises(ModelUnavailable, match=part):
            check()
    else:
        check()
        assert "is not on this machine" in caplog.text


def test_nothing_but_what_is_missing_is_fetched(golden_dir, file, monkeypatch):
    """Each hub id of the settings; a folder, or another prior, needs none."""
    asked = []
    monkeypatch.setattr("guidance.model_files.download_model", lambda key, revision: asked.append((key, revision)))
    monkeypatch.setattr("guidance.model_files.download_controlnet", asked.append)
    monkeypatch.setattr("guidance.model_files.base_folder", lambda path, *_: asked.append(path))
    for params in (
        GuidanceParams(guidance="ideal", model_key=KEY),
        GuidanceParams(model_key=str(golden_dir / "tiny-sd")),
        GuidanceParams(model_key=KEY, model_revision="v2", controlnet_model_key=CONTROL),
        GuidanceParams(model_key=str(file)),
    ):
        fetch_models(params)
    assert asked == [(KEY, "v2"), CONTROL, file]


def test_the_cache_alone_is_the_cache_alone(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("httpx2.Client.send", lambda *_, **__: pytest.fail("the hub was asked"))
    for find in (
        lambda: download_model(KEY, None, cache_only=True),
        lambda: download_controlnet(CONTROL, cache_only=True),
        lambda: base_folder(tmp_path / "x", GuidanceParams(base_model_key=KEY), {}, cache_only=True),
    ):
        with pytest.raises(NotDownloaded):
            find()
