# SPDX-License-Identifier: Apache-2.0
"""tools/reproduce.py --verify: a folder's numbers are those of its clouds, and whatever is changed is noticed."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from evaluation import run_folder
from evaluation.automatic_janus import CLEAN, accuracy_text, calibration
from evaluation.experiments import runs
from evaluation.janus import Rate
from evaluation.reproduction import measure, report, verify
from evaluation.reproduction.summary import assets_csv, summary
from evaluation.run_folder import orbit
from scene.gaussian_model import GaussianModel
from scene.ply_file import compress
from tests.red_ball import write_run
from tests.toy.calibration.scenes import KINDS
from tools import reproduce

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "evaluation"))
import tiny_models as tiny

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("full-ball-seed0", "full-ball-seed1-common-samples")  # as without --table, and with it
LOG = [{"phase_ms": {"render": 2.0}, "points": 3000, "unet_timesteps": [7], "unet_samples": 2, "t": [1], "loss_per_view": [2.0], "fault": None}]


@pytest.fixture(scope="module", autouse=True)
def small_orbits():
    """Three views of 32 px in place of 120 of 512."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "orbit", lambda gaussians, config, count: orbit(gaussians, config, 3, 32))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of two toy runs, measured, with its table; and weights of CLIP."""
    out = tmp_path_factory.mktemp("made") / "tables"
    weights = out.parent / "weights"
    weights.mkdir()
    tiny.write_clip(weights, "clip-vit-base-patch32")
    for seed, name in enumerate(NAMES):
        run = write_run(out / "runs" / name, (5,))
        facts = {"prior": "toy", "variant": "full", "prompt": "a red sphere with red stripe", "seed": seed}
        result = {**facts, "flags": [], "train_s": 1.0, "cpu_s": 1.0, **measure.measure(run, LOG, "toy", 24)}
        result["metrics"] = {"clip_b32": next(run_folder.score_runs("clip_b32", [run], torch.device("cpu"), weights))}
        runs.write_result(out / f"{name}.json", result)
    (out / "results.json").write_text(json.dumps({"rows": summary(runs.read_folder(out), "toy", {})}))
    (out / "assets.csv").write_text(assets_csv(runs.read_folder(out), "toy"))
    return out, weights


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made[0], tmp_path / "tables")
    return tmp_path / "tables"


def verified(folder: Path, weights: Path, capsys) -> tuple[int, str]:
    status = reproduce.main(["--verify", str(folder), "--weights", str(weights)])
    return status, capsys.readouterr().out


def test_what_was_measured_is_measured_again(folder, made, capsys) -> None:
    status, out = verified(folder, made[1], capsys)
    assert status == 0, out
    count = int(re.search(r"(\d+) numbers were computed again; 0 differ, 0 things were not checked", out)[1])
    assert count > 20


def clouds(folder: Path) -> list[Path]:
    return [folder / "runs" / name / "point_cloud" / "iteration_5" / "point_cloud.ply" for name in NAMES]


def test_a_compressed_cloud_has_the_same_numbers_as_a_plain_one(folder, made, capsys) -> None:
    """Compressed as a sweep leaves them; plain as folders of before 2026-11-29 have them."""
    compress(clouds(folder)[0])
    status, out = verified(folder, made[1], capsys)
    assert status == 0 and "0 differ, 0 things were not checked" in out


def test_a_damaged_compressed_cloud_is_named_with_what_to_do(folder, made, capsys) -> None:
    packed = [compress(path) for path in clouds(folder)][1]
    packed.write_bytes(packed.read_bytes()[:-40])
    status, out = verified(folder, made[1], capsys)
    assert status == 1 and "0 differ, 1 things were not checked" in out
    told = f"not checked: {NAMES[1]}: {packed} is truncated: it ends before its data do; copy it again, or make its run again"
    assert told in out.splitlines()


CHANGES = {
    "psnr": lambda asset: asset["known_truth"].update(psnr=asset["known_truth"]["psnr"] + 0.1),
    "iou": lambda asset: asset["known_truth"].update(iou=asset["known_truth"]["iou"] - 0.01),
    "yaw_deg": lambda asset: asset["known_truth"].update(yaw_deg=asset["known_truth"]["yaw_deg"] + 5),
    "janus_order": lambda asset: asset.update(janus_order=asset["janus_order"] + 0.01),
    "points": lambda asset: asset.update(points=2999),
    "mean": lambda asset: asset["metrics"]["clip_b32"].update(mean=99.0),
    "std": lambda asset: asset["metrics"]["clip_b32"].update(std=9.0),
}


def test_every_changed_number_is_noticed(folder, made, capsys) -> None:
    """Of a run and of the table; the other run's are not reported."""
    path, stored = folder / f"{NAMES[1]}.json", json.loads((folder / "results.json").read_text())
    asset = json.loads(path.read_text())
    for change in CHANGES.values():
        change(asset)
    path.write_text(json.dumps(asset))
    table = ("iou_seed_sd", "psnr", "clip_b32", "clip_b32_std", "assets")
    for number in table:
        stored["rows"][0][number] += 1
    (folder / "results.json").write_text(json.dumps(stored))
    (folder / "assets.csv").write_text(assets_csv([json.loads((folder / f"{NAMES[0]}.json").read_text())], "toy"))
    status, out = verified(folder, made[1], capsys)
    assert status == 1 and NAMES[0] not in out
    for number in CHANGES:
        assert re.search(rf"^{NAMES[1]}.*: {number} is stored as .*, and is ", out, re.MULTILINE), number
    for number in table:
        assert f"table, full: {number} is stored as " in out


def test_a_changed_line_of_the_assets_is_noticed(folder, made, capsys) -> None:
    path = folder / "assets.csv"
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    column = lines[0].split(",").index("detail")
    path.write_text("\n".join([lines[0], ",".join([*cells[:column], "0.9", *cells[column + 1 :]]), lines[2].replace("full", "ism")]))
    status, out = verified(folder, made[1], capsys)
    assert status == 1
    assert f"assets.csv, full, a red sphere with red stripe, 0: detail is 0.9, and the run's {cells[column]}" in out
    assert "assets.csv, ism, a red sphere with red stripe, 1: psnr is " in out and "and the run's None" in out


def compared(folder: Path) -> verify.Checked:
    """The table and the lines of the assets alone, which need no image."""
    checked, results = verify.Checked(), runs.read_folder(folder)
    verify._check_table(folder, results, checked)
    verify._check_lines(folder, results, checked)
    return checked


DAMAGED_ASSETS = {
    "emptied": (lambda text: "", "its first line is not a header with variant, prompt, seed"),
    "cut in the first line": (lambda text: text[:40], "it holds no asset"),
    "cut in a line": (lambda text: text[: text.rindex("a red")], "line 3 has other columns than the first line"),
    "saved with semicolons": (lambda text: text.replace(",", ";"), "its first line is not a header with"),
    "a line too long": (lambda text: text.rstrip() + ",7\n", "line 3 has other columns than the first line"),
    "no text": (lambda text: text.encode("utf-16").decode("latin-1"), "cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGED_ASSETS)
def test_assets_that_cannot_be_compared_are_named(folder, kind) -> None:
    """They counted as equal, or ended the check with a stack trace."""
    damage, reason = DAMAGED_ASSETS[kind]
    path = folder / "assets.csv"
    path.write_text(damage(path.read_text()), encoding="latin-1")
    checked = compared(folder)
    assert not checked.differences and len(checked.unchecked) == 1
    assert reason in checked.unchecked[0] and checked.unchecked[0].startswith(f"{path} cannot be read: ")


def test_assets_as_a_spreadsheet_saves_them_and_of_some_runs_are_compared(folder) -> None:
    path = folder / "assets.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(path.read_text().splitlines()[:2]).encode())
    assert not compared(folder).unchecked and not compared(folder).differences


def test_a_number_that_was_emptied_is_noticed(folder, made, capsys) -> None:
    table, assets = folder / "results.json", folder / "assets.csv"
    [row] = (stored := json.loads(table.read_text()))["rows"]
    row |= {"psnr": None, "janus_order": None, "janus": 0.5, "janus_order_interval": None}
    del row["iou"]
    table.write_text(json.dumps(stored))
    lines = list(csv.DictReader(assets.read_text().splitlines()))
    with assets.open("w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in lines[0] if name != "iou"], extrasaction="ignore")
        writer.writeheader(), writer.writerows(line | {"psnr": ""} for line in lines)
    path = folder / f"{NAMES[0]}.json"
    asset = json.loads(path.read_text())
    asset["known_truth"]["ssim"] = None
    path.write_text(json.dumps(asset))
    status, out = verified(folder, made[1], capsys)
    assert status == 1
    for told in (
        "table, full: psnr is stored as None, and is ",
        "table, full: janus_order is stored as None, and is 1.0",
        "table, full: janus_order_interval from is ",
        "table, full: janus is stored as 0.5, and is None",
        "not checked: table, full: iou is ",
        f"{NAMES[0]}: ssim is stored as None, and is ",
        "assets.csv, full, a red sphere with red stripe, 1: psnr is None, and the run's ",
        f"not checked: {assets} has no column iou",
    ):
        assert told in out, told


@pytest.mark.parametrize("stored", ["{}", '{"rows": []}', '{"rows": 3}', '{"rows": [3]}', '{"rows": [{}]}', '{"rows": null}'])
def test_a_table_without_rows_is_named(folder, stored) -> None:
    (folder / "results.json").write_text(stored)
    assert compared(folder).unchecked == [f"{folder / 'results.json'} holds no rows of variants; make it with --report_only"]


@pytest.mark.parametrize("change", [{"known_truth": 3}, {"metrics": None}, {"variant": None}, {"prior": 7}])
def test_a_result_that_lacks_what_is_read_is_named(folder, change) -> None:
    for name, with_key in zip(NAMES, (True, False)):
        path = folder / f"{name}.json"
        asset = json.loads(path.read_text()) | change
        path.write_text(json.dumps({key: value for key, value in asset.items() if with_key or key not in change}))
    told = verify.verify(folder, torch.device("cpu"), None).unchecked
    assert [f"{name}.json: no valid {next(iter(change))}; delete it" in line for name, line in zip(NAMES, told)] == [True] * 2


def test_the_rate_of_peoples_labels_is_compared(folder) -> None:
    sheet = folder / "janus"
    sheet.mkdir()
    (sheet / "key.json").write_text(json.dumps({"sheet": "s", "key": dict(zip("ab", NAMES))}))
    (sheet / "labels.json").write_text(json.dumps({"sheet": "s", "labels": {"a": "janus", "b": "consistent"}}))
    assert "table, full: janus is stored as None, and is 0.5" in compared(folder).differences
    rates = {"full": Rate(1, 2, 0)}
    (folder / "results.json").write_text(json.dumps({"rows": summary(runs.read_folder(folder), "toy", rates)}))
    assert not compared(folder).differences and not compared(folder).unchecked


def test_another_cloud_is_noticed(folder, made, capsys) -> None:
    path = clouds(folder)[0]
    values = {name: value[:1500] for name, value in GaussianModel.from_ply(path).parameters_in_order().items()}
    GaussianModel.of_parameters(values).save_ply(path)
    compress(path)
    status, out = verified(folder, made[1], capsys)
    assert status == 1 and f"{NAMES[0]}: points is stored as 3000, and is 1500" in out and f"{NAMES[0]}: psnr" in out


def test_what_cannot_be_checked_is_reported(folder, tmp_path, capsys) -> None:
    shutil.rmtree(folder / "runs" / NAMES[0] / "point_cloud")
    (folder / "results.json").unlink(), (folder / "assets.csv").unlink()
    status, out = verified(folder, tmp_path, capsys)
    assert status == 1 and "0 differ, 4 things were not checked" in out
    assert f"not checked: {NAMES[0]}: " in out and "let the run finish or save first" in out
    assert "not checked: clip_b32: " in out and "results.json does not exist; make it with --report_only" in out
    assert "assets.csv does not exist; make it with --report_only" in out


def test_a_folder_without_results_is_refused(tmp_path, capsys) -> None:
    assert reproduce.main(["--verify", str(tmp_path)]) == 2
    assert "holds no results; expected a folder that tools/reproduce.py --out wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stored", "now", "same"),
    [(20.0, 20.01, True), (20.0, 20.03, False), (0.5, 0.5009, True), (0.5, 0.502, False), (True, True, True),
     (True, False, False), (True, 1, False), (2999, 3000, False), (1.0, None, False), (float("nan"), float("nan"), True), (1.0, float("nan"), False)],
)  # fmt: skip
def test_numbers_are_the_same_to_a_thousandth(stored, now, same) -> None:
    assert verify._same(stored, now) is same


# --- how often a proxy is right, beside it ----------------------------------------------------------------------------


def test_the_report_says_how_often_its_proxies_are_right(made) -> None:
    rows = summary(runs.read_folder(made[0]), "toy", {})
    assert rows[0]["janus_order"] == 1.0 and rows[0]["janus_order_interval"][1] == 1.0  # red all round
    page = "".join(report._janus(rows, {}))
    assert "1.0000<small>0.342 .. 1.000</small>" in page and accuracy_text("order") in page
    assert f"{calibration()['scenes']['clouds']['specificity'][1]}" in accuracy_text("order")
    columns = report.columns("toy", runs.read_folder(made[0]))
    assert accuracy_text("clean") in "".join(report._numbers(rows, columns, {}))


def test_how_often_clean_is_right_is_that_of_the_stored_scenes() -> None:
    lines = list(csv.DictReader((ROOT / "benchmarks" / "results" / "yardstick.csv").open(encoding="utf-8")))
    right = [line["clean"] == "True" for line in lines if KINDS[line["kind"]].right is True]
    wrong = [line["clean"] == "False" for line in lines if KINDS[line["kind"]].right is False]
    assert {"sensitivity": (sum(wrong), len(wrong)), "specificity": (sum(right), len(right))} == CLEAN
