# SPDX-License-Identifier: Apache-2.0
"""docs/upstream.md maps every file and name of LucidDreamer to files and names that exist here, and to nothing else."""

import ast
import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from tests.checkout import ROOT

MAP = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
SUFFIXES = (".py", ".yaml", ".yml", ".txt", ".lock", ".sh", ".md")
ROOMS = "train.py arguments cograd distillation gaussian_renderer guidance scene submodules toy trainer utils viewer"
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
NAMES = {file: {name for owner, names in owners.items() for name in [owner, *names.split()] if name} for file, owners in UPSTREAM.items()}
SILENT = {"extract", "forward", "backward", "create_from_pcd", "training_setup", "save_ply", "load_ply", "oneupSHdegree"}
ABSENT = [  # what the map said that upstream has, and it has not
    ("guidance/sd_utils.py", "custom_ddim_step"),
    ("guidance/perpneg_utils.py", "adjust_text_embeddings"),
    ("scene/__init__.py", "getPresetTestCameras"),
    ("scene/dataset_readers.py", "GenerateRandomPoses"),
    ("scene/dataset_readers.py", "read_point_cloud"),
]




@dataclass(frozen=True)
class Row:
    """One line of the map: files with the names quoted after each, upstream's and ours; what the last cell quotes."""

    upstream: dict[str, list[str]]
    ours: dict[str, list[str]]
    notes: list[str]


def read_map(text: str) -> list[Row]:
    lines = [line for line in text.partition("## Files and names")[2].split("\n## ")[0].splitlines() if line.startswith("| ")]
    return [_row(line.strip().strip("|").split(" | ")) for line in lines[1:]]


def _row(cells: list[str]) -> Row:
    upstream = _files_and_names(cells[0], [])
    ours = _files_and_names(cells[1], list(upstream))
    if cells[1].strip().startswith("same"):
        ours = {**ours, **{file: names + ours.get(file, []) for file, names in upstream.items()}}
    return Row(upstream, ours, re.findall(r"`([^`]+)`", " ".join(cells[2:])))


def _files_and_names(cell: str, files: list[str]) -> dict[str, list[str]]:
    """Names before any file are those of `files`."""
    found: dict[str, list[str]] = {}
    for token in re.findall(r"`([^`]+)`", cell):
        if "/" in token or token.endswith(SUFFIXES):
            files = [token]
            found.setdefault(token, [])
        else:
            for file in files:
                found.setdefault(file, []).append(token)
    return found


@cache
def _defined(file: str) -> set[str]:
    """Functions, classes, methods (Class.method) and annotated attributes of one of our files, and their last parts."""
    found: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                found.update((prefix + child.name, child.name))
                if isinstance(child, ast.ClassDef):
                    visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
                found.update((prefix + child.target.id, child.target.id))

    visit(ast.parse((ROOT / file).read_text(encoding="utf-8")), "")
    return found


@cache
def _words() -> set[str]:
    paths = [path for room in ROOMS.split() for path in ([ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"))]
    return {word for path in paths for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


def faults(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        for file, names in row.upstream.items():
            theirs = [own for other, own in NAMES.items() if fnmatch.fnmatch(other, file)]
            if not theirs and not file.startswith("submodules/"):
                yield f"upstream has no {file}"
            yield from (f"upstream's {file} has no {name}" for name in names if theirs and name not in set().union(*theirs))
        for file, names in row.ours.items():
            paths = [path for path in ROOT.glob(file) if path.suffix == ".py"]
            if not [*ROOT.glob(file)]:
                yield f"{file} is not here"
            known = {name for path in paths for name in _defined(str(path.relative_to(ROOT)))}
            yield from (f"our {file} has no {name}" for name in names if paths and name not in known)
        for token in row.notes:
            if "/" in token and not [*ROOT.glob(token)]:
                yield f"{token} is not here"
            elif re.fullmatch(r"\w+(?:\.\w+)*", token) and not token.endswith(SUFFIXES) and token.split(".")[-1] not in _words():
                yield f"{token} is not in our sources"


ROWS = read_map(MAP)


def test_the_map_names_what_both_trees_have() -> None:
    assert list(faults(ROWS)) == [] and len(ROWS) > 25


@pytest.mark.parametrize("file", NAMES)
def test_every_file_and_name_of_upstream_is_in_the_map_or_kept(file) -> None:
    listed = {name for row in ROWS for names in row.upstream.values() for name in names}
    kept = _defined(file) if file.endswith(".py") and (ROOT / file).is_file() else set()
    assert (ROOT / file).is_file() or any(fnmatch.fnmatch(file, pattern) for row in ROWS for pattern in row.upstream)
    assert NAMES[file] - listed - kept <= SILENT


@pytest.mark.parametrize(("file", "name"), ABSENT, ids=[name for _, name in ABSENT])
def test_names_that_upstream_does_not_have_are_not_in_the_map(file, name) -> None:
    assert not any(name in names for row in ROWS for where, names in row.upstream.items() if where == file)


@pytest.mark.parametrize(
    ("given", "wrong", "told"),
    [
        ("`eval_sh`", "`eval_harmonics`", "our utils/sh_utils.py has no eval_harmonics"),
        ("`eval_sh`", "`eval_harmonics`", "upstream's utils/sh_utils.py has no eval_harmonics"),
        ("| `scene/cameras.py`:", "| `scene/kameras.py`:", "upstream has no scene/kameras.py"),
        ("`arguments/cfg_args.py`", "`arguments/gone.py`", "arguments/gone.py is not here"),
        ("`CameraStack`", "`CameraHeap`", "our scene/__init__.py has no CameraHeap"),
        ("`NetworkGui.poll`", "`NetworkGui.conditioning`", "our gaussian_renderer/network_gui.py has no NetworkGui.conditioning"),
        ("`guidance/score.py`: `distill_views`", "`guidance/panel.py`: `distill_views`", "our guidance/panel.py has no distill_views"),
        ("`offload_unet`", "`offload_nothing`", "offload_nothing is not in our sources"),
    ],
)  # fmt: skip
def test_a_map_that_is_wrong_is_noticed(given, wrong, told) -> None:
    assert given in MAP and told in set(faults(read_map(MAP.replace(given, wrong))))
