# SPDX-License-Identifier: Apache-2.0
"""tools/diff_layout.py on a tree with upstream's names, and on trees that lack one of them or that the map is wrong about."""

import shutil
from pathlib import Path

import pytest

from tools import diff_layout
from tools.diff_layout import MAP, ROOT, defined, lines, read_map, sources

ROWS = read_map(MAP.read_text(encoding="utf-8"))
CONFIGS = "axe bagel cat_armor crown football_helmet hamburger ts_lora white_hair_ironman zombie_joker"
# What LucidDreamer 2ecf093 has, written down here and not taken from the map: functions, and classes with their methods.
UPSTREAM = {
    "train.py": {
        "": "training prepare_output_and_logger training_report video_inference guidance_setup prepare_embeddings"
        " adjust_text_embeddings get_pos_neg_text_embeddings"
    },
    "arguments/__init__.py": {
        "": "get_combined_args",
        "ParamGroup": "extract",
        **dict.fromkeys(["ModelParams", "OptimizationParams", "PipelineParams", "GenerateCamParams", "GuidanceParams"], ""),
    },
    "gaussian_renderer/__init__.py": {"": "render"},
    "gaussian_renderer/network_gui.py": {"": "init try_connect read send receive"},
    "guidance/sd_utils.py": {
        "": "rgb2sat seed_everything",
        "SpecifyGradient": "forward backward",
        "StableDiffusion": "get_text_embeds train_step train_step_perpneg encode_imgs decode_latents add_noise_with_cfg",
    },
    "guidance/sd_step.py": {"": "ddim_step pred_original"},
    "guidance/perpneg_utils.py": {"": "weighted_perpendicular_aggregator get_perpendicular_component"},
    "scene/__init__.py": {"Scene": "save getRandTrainCameras getPurnTrainCameras getTestCameras getCircleVideoCameras"},
    "scene/cameras.py": {"RCamera": "", "MiniCam": ""},
    "scene/dataset_readers.py": {
        "": "GenerateRandomCameras GenerateCircleCameras circle_poses rand_poses gen_random_pos fetchPly storePly"
    },
    "scene/gaussian_model.py": {"GaussianModel": "create_from_pcd training_setup save_ply load_ply oneupSHdegree"},
    "utils/general_utils.py": {
        "": "inverse_sigmoid get_expon_lr_func build_rotation build_scaling_rotation strip_symmetric strip_lowerdiag"
        " safe_state PILtoTorch"
    },
    "utils/graphics_utils.py": {
        "": "getWorld2View2 getProjectionMatrix fov2focal focal2fov geom_transform_points",
        "BasicPointCloud": "",
    },
    "utils/sh_utils.py": {"": "eval_sh RGB2SH SH2RGB"},
    "utils/camera_utils.py": {"": "camera_to_JSON loadRandomCam cameraList_from_RcamInfos"},
    "utils/image_utils.py": {"": "mse psnr"},
    "utils/loss_utils.py": {"": "tv_loss l1_loss l2_loss ssim"},
    "utils/pointe_utils.py": {},
    "utils/system_utils.py": {},
    "train.sh": {},
    "requirements.txt": {},
    **{f"configs/{name}.yaml": {} for name in CONFIGS.split()},
}
LISTED = [(file, name) for file, owners in UPSTREAM.items() for owner, names in owners.items() for name in [owner, *names.split()] if name]  # fmt: skip
SILENT = {"extract", "forward", "backward", "create_from_pcd", "training_setup", "save_ply", "load_ply", "oneupSHdegree"}
ABSENT = [  # what the map said that upstream has, and it has not
    ("guidance/sd_utils.py", "custom_ddim_step"),
    ("guidance/perpneg_utils.py", "adjust_text_embeddings"),
    ("scene/__init__.py", "getPresetTestCameras"),
    ("scene/dataset_readers.py", "GenerateRandomPoses"),
    ("scene/dataset_readers.py", "read_point_cloud"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A checkout of upstream without its submodules: its files and names, and bodies that say nothing."""
    root = tmp_path_factory.mktemp("LucidDreamer")
    for file, owners in UPSTREAM.items():
        text = "import torch_that_is_not_here\n"
        for owner, names in owners.items():
            text += f"class {owner}:\n    x = 0\n" if owner else ""
            text += "".join(f"{'    ' * bool(owner)}def {name}(self): pass\n" for name in names.split())
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(text if file.endswith(".py") else "")
    return root


def _copy(tree: Path, folder: Path) -> Path:
    return Path(shutil.copytree(tree, folder / "LucidDreamer"))


def _faults_of(checkout: Path) -> list[str]:
    return [fault for row in ROWS for fault in diff_layout._missing(row.upstream, checkout)]


def test_the_map_is_right_about_upstream_without_submodules(tree, capsys) -> None:
    assert diff_layout.main([str(tree)]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    for line in (
        "| utils/sh_utils.py | eval_sh | kept | utils/sh_utils.py |",
        "| scene/__init__.py | Scene.getTestCameras | kept | scene/__init__.py |",
        "| guidance/sd_utils.py | StableDiffusion.get_text_embeds | kept | guidance/sd_utils.py |",
        "| guidance/sd_utils.py | StableDiffusion.train_step | mapped | `guidance/score.py`: `distill_views`; `guidance/losses/ism.py`: `ISM`; `guidance/losses/sds.py`: `SDS` |",
        "| scene/cameras.py | MiniCam | moved | gaussian_renderer/network_gui.py |",
        "| utils/image_utils.py | psnr | moved | toy/similarity.py |",
        "| gaussian_renderer/network_gui.py | read | mapped | ",
        "| utils/pointe_utils.py | (the file) | mapped | ",
    ):
        assert line in told
    new = told.split("New here: ")[1].split("\n")[0]
    assert "trainer/step.py" in new and "scene/cameras.py" not in new and "tests/" not in new


@pytest.mark.parametrize("made", ["missing", "empty", "there"])
def test_submodules_may_be_there_or_not(tree, tmp_path, made) -> None:
    copy = _copy(tree, tmp_path)
    for name in ("diff-gaussian-rasterization", "simple-knn"):
        if made != "missing":
            (copy / "submodules" / name).mkdir(parents=True)
        if made == "there":
            (copy / "submodules" / name / "setup.py").write_text("def training(): ...\n")
    assert _faults_of(copy) == []


@pytest.mark.parametrize(("file", "name"), [entry for entry in LISTED if entry[1] not in SILENT])
def test_a_tree_without_a_name_of_the_map_is_not_accepted(tree, tmp_path, file, name) -> None:
    """Gone from its file, though another file has it: the map is about files, not words."""
    copy = _copy(tree, tmp_path)
    text = (copy / file).read_text()
    (copy / file).write_text(text.replace(f" {name}(", f" {name}_(").replace(f" {name}:", f" {name}_:"))
    (copy / "utils" / "elsewhere.py").write_text(f"def {name}(): ...\nclass Other:\n    def {name}(self): ...\n")
    assert f"{file} of {copy} defines no {name}" in _faults_of(copy)


@pytest.mark.parametrize("file", UPSTREAM)
def test_a_tree_without_a_file_of_the_map_is_not_accepted(tree, tmp_path, file) -> None:
    copy = _copy(tree, tmp_path)
    for gone in copy.glob("configs/*.yaml") if file.startswith("configs/") else [copy / file]:
        gone.unlink()
    assert any(f"{'configs/*.yaml' if file.startswith('configs/') else file} is not in" in fault for fault in _faults_of(copy))


def test_what_the_map_lacks_in_a_tree_is_the_exit_status(tree, tmp_path, capsys) -> None:
    copy = _copy(tree, tmp_path)
    path = copy / "scene" / "__init__.py"
    path.write_text(path.read_text().replace("getTestCameras", "getPresetTestCameras"))
    assert diff_layout.main([str(copy)]) == 1
    assert capsys.readouterr().err == f"diff_layout: scene/__init__.py of {copy} defines no getTestCameras\n"


@pytest.mark.parametrize(("file", "name"), ABSENT, ids=[name for _, name in ABSENT])
def test_names_that_upstream_does_not_have_are_not_in_the_map(file, name) -> None:
    assert not any(name in names for row in ROWS for where, names in row.upstream.items() if where == file)


def test_every_name_of_upstream_has_an_entry(tree) -> None:
    silent = {line.name for line in lines(ROWS, sources(tree), sources(ROOT)) if line.state == "not mapped"}
    assert {name.rpartition(".")[2] for name in silent} <= SILENT
    mapped = {file for row in ROWS for file in row.upstream}
    assert {"train.sh", "requirements.txt"} <= mapped and len(ROWS) > 25


def test_a_name_elsewhere_has_not_moved() -> None:
    """`read` of network_gui is not the `read` of arguments/load.py; a method is not a function of that name."""
    upstream = {"gaussian_renderer/network_gui.py": {"read"}, "scene/__init__.py": {"save"}}
    ours = {"arguments/load.py": {"_Collector.read", "read"}, "scene/__init__.py": {"Scene.save"}, "odd.py": {"save"}}
    states = {line.name: line.state for line in lines(ROWS, upstream, ours) if line.name}
    assert states == {"read": "mapped", "save": "mapped"}


def test_what_the_map_is_silent_about_is_told(tmp_path) -> None:
    (tmp_path / "odd.py").write_text("class Odd:\n    def method(self): ...\n")
    (tmp_path / "train.py").write_text("def another(): ...\ndef training(): ...\nTEXT = (")  # does not parse
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "cameras.py").write_text("if True:\n    class RCamera: ...\nclass Camera: ...\n")
    found = {(line.file, line.name): line.state for line in lines(ROWS, sources(tmp_path), sources(ROOT))}
    assert found[("odd.py", "")] == found[("odd.py", "Odd")] == found[("odd.py", "Odd.method")] == "not mapped"
    assert found[("scene/cameras.py", "RCamera")] == "kept" and found[("scene/cameras.py", "Camera")] == "not mapped"
    assert found[("train.py", "")] == "kept" and defined(tmp_path / "train.py") == set()


@pytest.mark.parametrize(
    ("given", "wrong", "told"),
    [
        ("`eval_sh`", "`eval_harmonics`", "utils/sh_utils.py of {ROOT} defines no eval_harmonics"),
        ("| `scene/cameras.py`:", "| `scene/kameras.py`:", "scene/kameras.py is not in"),
        ("`arguments/cfg_args.py`", "`arguments/gone.py`", "arguments/gone.py is not in {ROOT}"),
        ("`CameraStack`", "`CameraHeap`", "scene/__init__.py of {ROOT} defines no CameraHeap"),
        ("`NetworkGui.poll`", "`NetworkGui.conditioning`", "network_gui.py of {ROOT} defines no NetworkGui.conditioning"),
        ("`guidance/score.py`: `distill_views`", "`guidance/panel.py`: `distill_views`", "guidance/panel.py of {ROOT} defines no distill_views"),
        ("`offload_unet`", "`offload_nothing`", "offload_nothing is not in our sources"),
    ],
)  # fmt: skip
def test_a_map_that_is_wrong_about_a_tree_fails(tree, given, wrong, told) -> None:
    text = MAP.read_text(encoding="utf-8")
    assert given in text
    found = list(diff_layout.faults(read_map(text.replace(given, wrong)), tree, ROOT))
    assert any(told.format(ROOT=ROOT) in fault for fault in found)


def test_a_folder_that_is_no_checkout_and_a_page_that_is_no_map(tmp_path, capsys) -> None:
    assert diff_layout.main([str(tmp_path)]) == 2
    assert "holds no train.py; give a checkout of LucidDreamer" in capsys.readouterr().err
    with pytest.raises(ValueError, match='has no section "Files and names"'):
        read_map("# something else")
