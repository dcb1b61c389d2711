# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md: a law, a metric and an export format are added where it says, and the step is as deep as it says."""

import dataclasses
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from diffusers import UNet2DConditionModel

import distillation
import evaluation
import export
import train
from arguments import GROUPS
from arguments.declare import keys_of
from arguments.load import load_config
from guidance.prompts import PromptEmbeddings
from guidance.schedules import SCHEDULES
from scene.gaussian_model import GaussianModel
from tests.drawn import Draws
from tests.mixture_prior import GaussianMixturePrior
from tests.trees import equal
from trainer.priors import PRIORS
from trainer.state import TrainState
from trainer.step import training_step
from utils import file_formats
from utils.tree_file import load_tree, save_tree

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SMALL = {
    "iterations": 6, "image_w": 16, "image_h": 16, "init_num_pts": 40, "C_batch_size": 2, "text": "a thing", "device": "cpu", "perpneg": False,
}  # fmt: skip


def words(**settings) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def choices(name: str) -> set[str]:
    return set(keys_of(GROUPS["GuidanceParams"][1])[name][1].choices)


def centred(step):
    """A toy law that remembers something: the running mean of the prediction is what it is compared with."""
    eps_hat = step.predict(step.x_t, step.index, "guided")["guided"]
    step.memory["mean"] = 0.9 * step.memory.get("mean", torch.zeros(())) + 0.1 * eps_hat.mean()
    return eps_hat - step.memory["mean"]


def test_a_law_is_a_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    """It trains, what it remembers is in the checkpoint, and a run that resumes from it continues as the unbroken one."""
    monkeypatch.setitem(distillation.LAWS, "centred", distillation.Law(centred, {"t_schedule": "uniform"}))
    config = load_config(words(**SMALL, model_path=tmp_path))
    config = dataclasses.replace(config, guidance=dataclasses.replace(config.guidance, distillation="centred"))
    prior = GaussianMixturePrior(Draws(3).normal(2, 3, 16, 16), 0.3)
    prompts, state = PromptEmbeddings(prior, config.guidance), TrainState.start(config, "cpu")
    for _ in range(3):
        _, update = training_step(state, prior, prompts, config)
        assert update.fault is None
    assert state.loss.memory["mean"] != 0
    save_tree(tmp_path / "state", state.state_dict())
    resumed = TrainState.start(config, "cpu")
    resumed.load_state_dict(load_tree(tmp_path / "state"))
    for run in (state, resumed):
        training_step(run, prior, prompts, config)
    assert equal(state.state_dict(), resumed.state_dict())


def test_the_choices_of_the_settings_are_what_is_registered() -> None:
    files = {path.stem for path in (ROOT / "distillation" / "laws").glob("[!_]*.py")}
    assert choices("distillation") == {"auto", *distillation.LAWS} == {"auto", *files}
    assert choices("t_schedule") == set(SCHEDULES)
    assert choices("guidance") == set(PRIORS)


def test_a_metric_is_a_module_and_an_entry(monkeypatch) -> None:
    def load(device, folder, source):
        return lambda images, prompt: images.mean(axis=(1, 2, 3)) / 255

    monkeypatch.setitem(sys.modules, "evaluation.brightness", SimpleNamespace(load=load))
    entry = dataclasses.replace(evaluation.METRICS["clip_b32"], title="brightness", module="brightness")
    monkeypatch.setitem(evaluation.METRICS, "brightness", entry)
    images = np.full((2, 4, 4, 3), 51, np.uint8)
    assert evaluation.load_metric("brightness")(images, "a mug").tolist() == [0.2, 0.2]


def test_an_export_format_is_a_writer_and_its_entries(tmp_path, monkeypatch) -> None:
    def write(gaussians, path, options) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{len(gaussians.get_xyz)} Gaussians\n")

    kind = file_formats.FILE_FORMATS["ply"]._replace(suffix=".count", description="the number of Gaussians")
    monkeypatch.setitem(file_formats.FILE_FORMATS, "count", kind)
    monkeypatch.setitem(export.FORMATS, "count", export.FORMATS["ply"]._replace(write=write))
    cloud = tmp_path / "cloud.ply"
    TrainState.start(load_config(words(**SMALL, model_path=tmp_path / "run")), "cpu").gaussians.save_ply(str(cloud))
    assert export.export(cloud, "count").read_text() == f"{len(GaussianModel.from_ply(cloud).get_xyz)} Gaussians\n"


def test_six_calls_lie_between_the_loop_and_the_network(tmp_path, golden_dir, monkeypatch) -> None:
    """Of this repository's; those that the page names, at each of the U-Net's calls of an ISM step."""
    depths, forward = [], UNet2DConditionModel.forward

    def counted(self, *args, **options):
        frame, names = sys._getframe(1), []
        while frame is not None and frame.f_code.co_name != "_loop":
            if frame.f_code.co_filename.startswith(str(ROOT)) and ".venv" not in frame.f_code.co_filename:
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        if frame is not None:  # not the check of the memory at the start
            depths.append(names)
        return forward(self, *args, **options)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    settings = {**SMALL, "iterations": 1, "model_key": golden_dir / "tiny-sd", "image_w": 32, "image_h": 32, "save_process": False}
    argv = words(**settings, model_path=tmp_path / "run", view_px=8)
    assert train.main(argv) == 0
    assert len(depths) > 1 and max(map(len, depths)) <= 6
    named = set(re.findall(r"`(\w+)`", PAGE.partition("From the loop")[2].partition("\n\n")[0]))
    assert named <= {name for names in depths for name in names}
