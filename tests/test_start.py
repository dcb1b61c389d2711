# SPDX-License-Identifier: Apache-2.0
"""Whatever a start-up refuses: exit status 2, one message, and not a file or folder more than before.

Each kind of refusal is tried in a folder that does not exist yet, over a run that is there, and as a dry run.
"""

import hashlib
import os
import shutil
from pathlib import Path

import pytest
import torch

import train
from guidance.sources import NotDownloaded
from toy.ideal import IdealPrior
from trainer.run_lock import RunLock

ROOT = Path(__file__).resolve().parents[1]
SD = str(ROOT / "tests" / "data" / "golden" / "tiny-sd")
SMALL = {
    "opt": str(ROOT / "configs" / "quickstart.yaml"), "iterations": 2, "image_w": 16, "image_h": 16, "view_px": 16,
    "init_num_pts": 30, "save_video": False, "save_process": False, "C_batch_size": 2, "device": "cpu",
    "checkpoint_every": 1, "keep_last_checkpoint": True, "workspace": "mug",
}  # fmt: skip
FROM_FILE = ["--init_shape", "file", "--init_file", "points.ply"]
KINDS = {
    # settings
    "unknown key": (["--iteratoins", "3"], "did you mean --iterations"),
    "value": (["--sh_degree", "9"], "sh_degree = '9'"),
    "bound": (["--num_train_timesteps", "1000000000000"], "num_train_timesteps"),
    "contradiction": (["--C_batch_size", "500"], "at most the number of regions"),
    "no prompt": (["--text", " "], "expected a prompt"),
    "too many points": (["--max_points", "29"], "OptimizationParams.max_points"),
    "unknown words": (["--text", "a dragon"], "names no object"),
    "image size": (["--image_w", "24"], "a square image"),
    "timesteps": (["--num_train_timesteps", "5000"], "at most 1000"),
    "settings file": (["--opt", "quikstart"], "did you mean quickstart"),
    "name": (["--workspace", "a\nb"], "ModelParams.workspace"),
    # machine
    "device": (["--device", "cuda:7"], "device 'cuda:7' given"),
    "viewer's address": (["--ip", "here", "--port", "0"], "viewer address 'here'"),
    "memory": (["--init_num_pts", "50000000", "--max_points", "50000000"], "estimated to need"),
    # files
    "no model": (["--guidance", "SD"], "GuidanceParams.model_key is not set"),
    "model folder": (["--guidance", "SD", "--model_key", "/no/such/folder"], "/no/such/folder"),
    "model file": (["--guidance", "SD", "--model_key", "gone.safetensors"], "gone.safetensors"),
    "LoRA": (["--guidance", "SD", "--model_key", SD, "--LoRA_path", "gone.safetensors"], "gone.safetensors"),
    "learned word": (["--guidance", "SD", "--model_key", SD, "--textual_inversion_path", "gone.bin"], "gone.bin"),
    "model of the hub": (["--guidance", "SD", "--model_key", "some/model"], "'some/model' is not in the local cache"),
    "ControlNet of the hub": (["--guidance", "SD", "--model_key", SD, "--controlnet_model_key", "some/depth", "--use_control_net_iter", "0"], "'some/depth' is not in the local cache"),
    "tiny autoencoder": (["--guidance", "SD", "--model_key", SD, "--tiny_vae", "no/such/folder"], "no/such/folder"),
    "Point-E": (["--init_shape", "pointe", "--init_prompt", "a mug"], "point_e"),
    "Shap-E": (["--init_shape", "shap_e", "--init_prompt", "a mug"], "Shap-E 'openai/shap-e' cannot be loaded"),
    "Shap-E of something else": (["--init_shape", "shap_e", "--init_prompt", "a mug", "--shap_e_model_key", SD], "expected a ShapEPipeline"),
    "too many points of a file": (["--max_points", "3", *FROM_FILE], "the initial points are 4, but OptimizationParams.max_points is 3"),
    "start checkpoint": (["--start_checkpoint", "gone.safetensors"], "gone.safetensors"),
    "start checkpoint of rubbish": (["--start_checkpoint", "rubbish.safetensors"], "rubbish.safetensors"),
    "resume target": (["--resume", "no/such/run"], "no/such/run"),
}
FOUR_POINTS = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
end_header
0 0 0
0 0 1
0 1 0
1 0 0
"""
NEW_RUN = {"Point-E", "Shap-E", "Shap-E of something else", "too many points of a file", "start checkpoint", "start checkpoint of rubbish"}  # what a run that is continued does not read


def argv(**changes) -> list[str]:
    return [word for name, value in {**SMALL, **changes}.items() for word in (f"--{name}", str(value))]


def tree() -> dict[str, str]:
    """Every path below the current folder with a digest of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(Path().rglob("*"))
    }


def refused(words: list[str], message: str, capsys) -> None:
    """The run ends with 2 and the message, without a traceback, and the folders are as before."""
    before = tree()
    capsys.readouterr()
    assert train.main(words) == 2
    told = capsys.readouterr()
    assert message in told.err and "Traceback" not in told.err
    assert tree() == before


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to start in; images of the ideal prior are few, free memory is 4 GB, no network, no weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(IdealPrior.__init__.__kwdefaults__, "images", 12)
    monkeypatch.setattr("trainer.memory_estimate.free_bytes", lambda device: 4 * 10**9)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "rubbish.safetensors").write_bytes(b"rubbish")
    (tmp_path / "points.ply").write_text(FOUR_POINTS)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of two steps: its folder output/mug below this one."""
    folder, patch = tmp_path_factory.mktemp("finished"), pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.chdir(folder)
        patched.setitem(IdealPrior.__init__.__kwdefaults__, "images", 12)
        assert train.main(argv()) == 0
    return folder / "output"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_a_refused_start_leaves_nothing(kind, dry, here, capsys):
    words, message = KINDS[kind]
    refused([*argv(), *words, *dry], message, capsys)
    assert not Path("output").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_a_refused_start_leaves_a_run_as_it_was(kind, dry, here, finished, capsys):
    words, message = KINDS[kind]
    shutil.copytree(finished, "output")
    over = [] if kind == "resume target" else ["--overwrite"] if kind in NEW_RUN else ["--resume", "auto"]
    refused([*argv(iterations=3), *over, *words, *dry], message, capsys)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "holds a finished run"),
        (["--overwrite", "--start_checkpoint", "output/mug/chkpnt1.safetensors"], "which --overwrite clears"),
        (["--overwrite", "--start_checkpoint", "gone.safetensors"], "gone.safetensors"),
        (["--resume", "auto", "--sh_degree", "2"], "sh_degree"),
        (["--resume", "auto", "--CoGradParams.enabled", "false"], "CoGradParams.enabled"),
        (["--resume", "auto", "--iterations", "1"], "iterations"),
    ],
    ids=str,
)
def test_a_run_that_is_there_is_not_touched(words, message, dry, here, finished, capsys):
    shutil.copytree(finished, "output")
    refused([*argv(), *words, *dry], message, capsys)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_damaged_initial_points_are_refused(dry, here, capsys):
    Path("output/mug").mkdir(parents=True)
    Path("output/mug/init_points3d.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\nelement vertex 9\n")
    refused([*argv(), *dry], "init_points3d.ply", capsys)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_given_points_that_are_too_many_are_refused(dry, here, capsys):
    Path("output/mug").mkdir(parents=True)
    Path("output/mug/init_points3d.ply").write_text(FOUR_POINTS)
    words = [*argv(init_num_pts=2), "--max_points", "3", *dry]
    refused(words, "the initial points are 4, but OptimizationParams.max_points is 3", capsys)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_a_checkpoint_needs_no_initial_points(dry, here, finished, capsys):
    """In its own folder or another; not even a shape whose package or file is missing."""
    shutil.copytree(finished, "output")
    Path("output/mug/init_points3d.ply").unlink()
    checkpoint = ["--start_checkpoint", "output/mug/chkpnt2.safetensors"]
    for shape in (["pointe", "--init_prompt", "a mug"], ["file", "--init_file", "gone.ply"]):
        words = [*argv(iterations=3, workspace=f"from_{shape[0]}"), *checkpoint, "--init_shape", *shape, *dry]
        assert train.main(words) == 0
    assert train.main([*argv(iterations=3), "--resume", "auto", *dry]) == 0
    assert not list(Path("output").rglob("init_points3d.ply"))
    for run in [] if dry else Path("output").iterdir():
        assert (run / "point_cloud" / "iteration_3" / "point_cloud.ply").is_file()


@pytest.mark.parametrize("known", [True, False])
def test_a_dry_run_resumes_on_the_device_of_the_run(known, here, finished, monkeypatch, capsys):
    """One that is not there is the only thing that is wrong, for then the checkpoint's is not known to differ."""
    shutil.copytree(finished, "output")
    if known:
        monkeypatch.setattr("trainer.startup.device_of", lambda *_: torch.device("cuda"))
        monkeypatch.setattr("trainer.startup.check_rasterizer", lambda *_: None)
        monkeypatch.setattr("trainer.startup.check_memory", lambda *_: None)
    message = "of device cpu, which cuda cannot continue; set device: cpu" if known else "train.py: device 'cuda:7' given"
    more = [] if known else ["--device", "cuda:7"]
    refused([*argv(), "--resume", "auto", "--iterations", "3", *more, "--dry-run"], message, capsys)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_a_folder_in_use_is_refused(dry, here, finished, capsys):
    shutil.copytree(finished, "output")
    lock = RunLock(Path("output/mug"))
    refused([*argv(), "--resume", "auto", *dry], "is in use by process", capsys)
    lock.release()


@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
@pytest.mark.parametrize("place", ["output", "output/mug"])
def test_a_file_where_the_folder_belongs_is_refused(place, dry, here, capsys):
    Path(place).parent.mkdir(exist_ok=True)
    Path(place).write_text("a file")
    refused([*argv(), *dry], "cannot be written", capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["start", "dry run"])
def test_a_folder_that_cannot_be_written_is_refused(dry, here, capsys):
    Path("output").mkdir(mode=0o500)
    refused([*argv(), *dry], "cannot be written", capsys)


def test_weights_that_are_damaged_are_refused_when_they_are_loaded(here, capsys):
    model = Path(shutil.copytree(SD, "model"))
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    words = ["--guidance", "SD", "--model_key", "model", "--text", "a cat", "--memory_check", "off"]
    refused([*argv(), *words], "model/unet", capsys)
    assert not Path("output").exists()


@pytest.mark.parametrize("shape", ["shap_e", "pointe"])
def test_weights_that_cannot_be_had_are_known_before_a_cloud_is_sampled(shape, here, monkeypatch, capsys):
    """Not in the hub client's offline mode, where a start asks the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("guidance.sources.download", lambda *_, **__: pytest.fail("asked in another way"))

    def unreachable(key, revision, variant=None, cache_only=False):
        raise NotDownloaded(f"{key} could not be downloaded")

    monkeypatch.setattr("guidance.weights.download", unreachable)
    for name in ("shap_e_cloud", "point_e_cloud"):
        monkeypatch.setattr(f"scene.dataset_readers.{name}", lambda *_: pytest.fail("a cloud was sampled"))
    words = ["--guidance", "SD", "--model_key", "some/model", "--memory_check", "off", "--init_shape", shape, "--init_prompt", "a mug"]
    refused([*argv(), *words], "some/model could not be downloaded", capsys)


def test_a_folder_that_cannot_be_filled_is_removed_again(here, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.run_folder.write_cfg_args", full)
    refused(argv(), "cannot be written", capsys)
    assert not Path("output").exists()


def test_a_dry_run_reports_everything_at_once(here, finished, capsys):
    shutil.copytree(finished, "output")
    words = ["--guidance", "SD", "--model_key", "nope/", "--LoRA_path", "gone.safetensors", "--memory_check", "refuse", *KINDS["memory"][0]]
    before = tree()
    assert train.main([*argv(), *words, "--dry-run"]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 5 and told.out == ""
    for piece in ("4 problems at the start", "estimated to need", "'nope/'", "gone.safetensors", "holds a finished run"):
        assert piece in told.err
    assert tree() == before


def test_a_dry_run_of_a_good_start_says_so_and_writes_nothing(here, finished, capsys):
    assert train.main([*argv(), "--dry-run"]) == 0 and not Path("output").exists()
    shutil.copytree(finished, "output")
    before = tree()
    for words in (["--resume", "auto", "--iterations", "5"], ["--overwrite"], ["--workspace", "another"]):
        assert train.main([*argv(), *words, "--dry-run"]) == 0
    assert tree() == before


@pytest.mark.parametrize("words", [[], ["--text", "a mug"], ["--model_key", SD]], ids=str)
def test_a_first_try_is_told_of_the_quickstart(words, here, capsys):
    refused(words, "--opt configs/quickstart.yaml", capsys)
