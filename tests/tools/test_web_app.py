# SPDX-License-Identifier: Apache-2.0
"""The page's parts without the page: settings as fields, a run's process, the line, what a folder may show."""

import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from arguments import GROUPS, Config
from arguments.declare import keys_of
from arguments.load import ConfigError
from tools.web_app import job as jobs
from tools.web_app import outputs
from tools.web_app.address import free_port, is_loopback, url_of
from tools.web_app.desk import Busy, Desk
from tools.web_app.fields import OWNED, PREVIEWS, PROMPT, SEED, Request, faults, fields, with_previews
from tools.web_app.job import Job, State, last_sentence, slug
from tools.web_app.presets import presets
from tools.web_app.progress import LogReader, clock, curve
from utils.run_lock import RunLock

QUICK = presets()["quickstart"]


# Settings


def test_every_key_is_a_field_or_has_a_reason_not_to_be() -> None:
    groups = [("", Config), *((name, declared) for name, (_, declared) in GROUPS.items())]
    labels = {f"{group}.{name}" if group else name: spec for group, declared in groups for name, (_, spec, _) in keys_of(declared).items()}  # fmt: skip
    left_out = {
        label for label, spec in labels.items() if spec.unread or spec.transient or (spec.device and "." in label)
    }
    assert fields().keys() == labels.keys() - left_out - OWNED
    assert len(fields()) > 120 and labels.keys() >= OWNED


@pytest.mark.parametrize("name", presets())
def test_the_texts_of_a_preset_are_its_settings(name) -> None:
    preset = presets()[name]
    own = preset.config
    texts = {label: field.text(own) for label, field in fields().items()}
    request = Request(preset, own.guidance.text, own.guidance.negative, str(own.seed), texts)
    assert request.resolve() == own


def test_only_what_is_changed_differs_from_the_preset() -> None:
    config = Request(QUICK, "a red mug", "blur", "7", {"OptimizationParams.iterations": "12"}).resolve()
    assert (config.guidance.text, config.guidance.negative, config.seed) == ("a red mug", "blur", 7)
    assert config.optimization.iterations == 12 and config.cograd == QUICK.config.cograd
    assert config.guidance.vis_interval == 1 and with_previews(QUICK.config).guidance.vis_interval == 1500 // PREVIEWS


def test_every_problem_is_told_at_its_field() -> None:
    changed = {
        "OptimizationParams.iterations": "0",
        "GenerateCamParams.radius_range": "5 3",
        "GuidanceParams.sds": "perhaps",
    }
    with pytest.raises(ConfigError) as caught:
        Request(QUICK, " ", "", "x", changed).resolve()
    found = dict(faults(caught.value))
    assert found.keys() == {PROMPT, SEED, *changed}
    assert found["OptimizationParams.iterations"].startswith(
        "OptimizationParams.iterations = '0': expected a whole number"
    )
    assert "a prompt" in found[PROMPT]


@pytest.mark.parametrize(
    "text", ["--overwrite", "--set seed=3 --resume x", "=", "a\nb", "GuidanceParams.text=b", "'\"<b>", "[1]"]
)
def test_what_is_typed_stays_a_text(text) -> None:
    config = Request(QUICK, text, text).resolve()
    assert (config.guidance.text, config.guidance.negative) == (text, text)
    assert not config.overwrite and config.resume is None and config.seed == 0


@pytest.mark.parametrize(
    "label", ["overwrite", "resume", "ModelParams.model_path", "gui", "no_such", "start_checkpoint"]
)
def test_what_the_page_decides_cannot_be_asked_for(label) -> None:
    with pytest.raises(ConfigError, match="expected a setting that the page offers"):
        Request(QUICK, "a red mug", changed={label: "1"}).resolve()


def test_a_text_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"GuidanceParams.text has 2001 characters: expected at most 2000"):
        Request(QUICK, "a" * 2001).resolve()


def test_fields_are_found_by_words_of_name_and_help() -> None:
    found = [label for label, field in fields().items() if field.found_by(["training", "iter"])]
    assert "OptimizationParams.iterations" in found and len(found) < 20
    assert fields()["GenerateCamParams.image_w"].takes == "a whole number >= 8 and <= 8192 (px)"


def test_presets_say_what_they_need(monkeypatch) -> None:
    assert list(presets())[:2] == ["quickstart", "quickstart_trained"]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert QUICK.warning == "" and "any CPU" in QUICK.needs
    full = presets()["prompt"]
    assert "no GPU" in full.warning and "stable-diffusion-2-1-base" in full.needs
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert full.warning == ""


def test_an_embedded_prior_tells_what_it_does_not_know() -> None:
    assert QUICK.hint("a red mug") == "" == presets()["prompt"].hint("a dragon")
    assert "names no object of the toy world" in QUICK.hint("a dragon")
    assert "ignores 'fluffy'" in QUICK.hint("a fluffy cat")
    assert all(preset.hint(prompt) == "" for preset in presets().values() for prompt in preset.examples.values())


# Names and files


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a yellow Mug!", "a-yellow-mug"),
        ("../../etc/passwd", "etc-passwd"),
        ("/", "run"),
        ("..", "run"),
        ("Ünï çôdé 猫", "uni-code"),
        ("a" * 500, "a" * 40),
        ("x\0y\n--z", "x-y-z"),
        ("<script>", "script"),
    ],
)
def test_folders_are_named_safely_after_the_prompt(tmp_path, prompt, name) -> None:
    assert slug(prompt) == name
    folders = [jobs.new_folder(tmp_path / "out", prompt) for _ in range(3)]
    assert [folder.name for folder in folders] == [name, f"{name}-2", f"{name}-3"]
    assert all(folder.parent == tmp_path / "out" for folder in folders)


def _run(output: Path, name: str = "mug") -> Path:
    folder = output / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("OptimizationParams: {iterations: 9}\nGuidanceParams: {text: a red mug}\n")
    return folder


@pytest.mark.parametrize(
    "name", ["../mug", "..", ".", "", "mug/..", "/mug", "absent", "link", "a\0b", "mug/config.yaml", "deep/run"]
)
def test_only_runs_directly_below_the_output_are_found(tmp_path, name) -> None:
    _run(tmp_path, "outside")
    _run(tmp_path / "out")
    _run(tmp_path / "out" / "deep", "run")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "outside")
    desk = Desk(tmp_path / "out")
    assert desk.find("mug").prompt == "a red mug" and desk.names() == ["mug"]
    assert desk.find(name) is None


def test_the_newest_of_each_output_is_found_by_number(tmp_path) -> None:
    for name in ("train_process/iter_9.png", "train_process/iter_10.png", "train_process/iter_x.png", "videos/5_iteration/video_rgb_5.mp4", "cograd/regions_3.png", "point_cloud/iteration_7/point_cloud.ply"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train_process" / "iter_99.png").symlink_to("/etc/hostname")
    finds = (outputs.panel, outputs.turntable, outputs.region_map, outputs.scene)
    assert [find(tmp_path).step for find in finds] == [10, 5, 3, 7]
    assert outputs.panel(tmp_path / "nowhere") is None and outputs.preview_png(tmp_path) is None


@pytest.mark.parametrize(("views", "height", "width"), [(4, 16, 16), (1, 32, 16), (2, 16, 24)])
def test_the_preview_holds_two_columns_of_the_panel(tmp_path, views, height, width) -> None:
    folder = _run(tmp_path)
    (folder / "config.yaml").write_text(f"GenerateCamParams: {{image_w: {width}, image_h: {height}}}\n")
    panel = np.full((views * (height + 2) + 2, 8 * (width + 2) + 2, 3), 255, np.uint8)
    for view in range(views):
        for column in range(8):
            top, left = 2 + view * (height + 2), 2 + column * (width + 2)
            panel[top : top + height, left : left + width] = 10 * view + column
    (folder / "train_process").mkdir()
    cv2.imwrite(str(folder / "train_process" / "iter_1.png"), panel)
    picture = cv2.imdecode(np.frombuffer(outputs.preview_png(folder), np.uint8), cv2.IMREAD_COLOR)
    expected = np.block([[np.full((height, width), 10 * view + column) for view in range(views)] for column in (0, 6)])
    assert np.array_equal(picture, np.repeat(expected[..., None], 3, 2))


def test_an_export_is_made_once_and_again_for_a_newer_scene(tmp_path, monkeypatch) -> None:
    folder, made = _run(tmp_path), []
    monkeypatch.setattr("tools.exporting.export", lambda run, format, out: made.append(out) or out.write_text("x"))
    with pytest.raises(ValueError, match="mug has saved no scene yet"):
        outputs.exported(folder, "ply")
    with pytest.raises(ValueError, match="'exe' is no export format; expected one of ply"):
        outputs.exported(folder, "exe")
    cloud = folder / "point_cloud" / "iteration_4" / "point_cloud.ply"
    cloud.parent.mkdir(parents=True)
    cloud.write_text("ply")
    first = outputs.exported(folder, "splat")
    assert outputs.exported(folder, "splat") == first == folder / "export" / "mug_4.splat" and made == [first]
    os.utime(cloud, (time.time() + 9, time.time() + 9))
    assert outputs.exported(folder, "splat") == first and len(made) == 2


# Progress


def _line(step: int, loss: float | None, seconds: float = 1.0) -> str:
    return (
        json.dumps({"iteration": step, "loss": loss, "points": 5, "phase_ms": {"a": 400 * seconds, "b": 600 * seconds}})
        + "\n"
    )


def test_progress_follows_the_log(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    reader = LogReader(path, 10)
    assert (reader.read().step, reader.read().seconds_left) == (0, None)
    path.write_text(_line(1, 4.0) + _line(2, None) + _line(3, 2.0, 4.0)[:20])
    assert (reader.read().step, reader.read().loss, reader.read().seconds_left) == (2, 4.0, 8.0)
    path.write_text(_line(1, 4.0) + _line(2, None) + _line(3, 2.0, 4.0))
    assert (reader.read().step, reader.read().loss, reader.read().seconds_left) == (3, 3.0, 14.0)
    path.write_text(_line(1, 6.0) + "no json\n[1]\n")  # went back to a checkpoint
    assert (reader.read().step, reader.losses) == (1, {1: 6.0})


def test_steps_done_again_replace_those_before(tmp_path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(_line(step, 1.0) for step in (1, 2, 3)) + _line(2, 5.0))
    reader = LogReader(path, 10)
    assert (reader.read().step, reader.losses) == (2, {1: 1.0, 2: 5.0})


def test_the_curve_has_means_of_equal_stretches() -> None:
    assert curve({}) == [] and curve({1: 2.0, 2: 4.0}, 1) == [(2, 3.0)]
    assert len(curve({step: 1.0 for step in range(1, 1001)}, 120)) <= 120


@pytest.mark.parametrize(("seconds", "words"), [(7.4, "7 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_time_in_words(seconds, words) -> None:
    assert clock(seconds) == words


# Runs, by a stand-in for train.py that heeds SIGTERM as it does

STAND_IN = """
import json, pathlib, signal, sys, time
folder, asked = pathlib.Path(sys.argv[2]), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
what = (folder / "what").read_text() if (folder / "what").exists() else (folder.parent / "what").read_text()
if what == "fail":
    print("noise\\ntrain.py: the weights are gone;\\n  bring them", file=sys.stderr)
    sys.exit(2)
if what == "die":
    signal.raise_signal(signal.SIGKILL)
done = int((folder / "done").read_text()) if (folder / "done").exists() else 0
while done < 9 and not asked:
    done += what == "run"
    if what == "run":
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"iteration": done, "loss": 1.0, "points": 5, "phase_ms": {"a": 20.0}}) + "\\n")
    time.sleep(0.02)
(folder / "done").write_text(str(done))
if asked:
    (folder / f"chkpnt{done}.safetensors").write_text("x")
    print(f"train.py: SIGTERM came, stopped after step {done}", file=sys.stderr)
    sys.exit(75)
"""


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Desk:
    """A desk whose runs do what the file `what` says: run, hold (no step), fail or die."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(jobs, "TRAIN", script)
    (tmp_path / "out").mkdir()
    _do(desk := Desk(tmp_path / "out"), "run")
    yield desk
    for job in filter(None, (desk.current, desk.waiting)):
        job.kill(), job.wait(10)


def _do(desk: Desk, what: str) -> None:
    (desk.output / "what").write_text(what)


def _until(true, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


CONFIG = Request(QUICK, "a red mug", changed={"OptimizationParams.iterations": "9"}).resolve()


def test_a_run_begins_and_finishes(desk) -> None:
    job = desk.submit(CONFIG)
    assert (job.state, job.name, desk.current) == (State.STARTING, "a-red-mug", job)
    assert job.wait(20) and job.state is State.FINISHED and job.progress().step == 9 and job.told() == ""
    with pytest.raises(Busy, match="a-red-mug is finished; only a run that has ended before its last step can go on"):
        desk.go_on(job)


def test_a_run_that_is_stopped_can_be_gone_on_with(desk) -> None:
    _do(desk, "hold")
    job = desk.submit(CONFIG)
    _until(lambda: (job.folder / jobs.CONSOLE).exists() and job.is_alive)
    time.sleep(0.3)  # the stand-in must have come to its signal handler
    job.stop()
    assert job.state is State.STOPPING and job.wait(20)
    assert job.state is State.STOPPED and job.told() == "The checkpoint of step 0 is kept; the run can be gone on with."
    _do(desk, "run")
    desk.go_on(job)
    assert job.wait(20) and job.state is State.FINISHED


def test_a_run_in_a_long_step_can_be_ended_at_once(desk, monkeypatch) -> None:
    monkeypatch.setattr(jobs.signal, "SIGTERM", 0)  # as deaf as a step that takes an hour
    _do(desk, "hold")
    job = desk.submit(CONFIG)
    job.stop()
    assert not job.wait(0.3) and job.state is State.STOPPING
    job.kill()
    assert job.wait(20) and job.state is State.STOPPED
    assert job.told() == "It ended before its first checkpoint; going on begins anew."


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("fail", "the weights are gone;\n  bring them"),
        ("die", "The run was ended by SIGKILL; perhaps there was too little memory."),
    ],
)
def test_a_run_that_fails_says_why(desk, what, sentence) -> None:
    _do(desk, what)
    job = desk.submit(CONFIG)
    assert job.wait(20) and job.state is State.FAILED and job.told() == sentence
    _do(desk, "run")
    assert desk.go_on(job).wait(20) and job.state is State.FINISHED


def test_a_run_whose_folder_is_gone_fails_with_a_sentence(desk) -> None:
    _do(desk, "hold")
    first, second = desk.submit(CONFIG), desk.submit(CONFIG)
    (second.folder / "config.yaml").unlink()
    second.folder.rmdir()
    first.kill(), first.wait(20)
    desk.tick()
    assert second.state is State.FAILED and second.told().startswith("The run could not be begun (")


def test_one_runs_one_waits_and_a_third_is_told_so(desk) -> None:
    _do(desk, "hold")
    first, second = desk.submit(CONFIG), desk.submit(CONFIG)
    desk.tick()
    assert (first.is_alive, second.state, desk.waiting) == (True, State.WAITING, second)
    with pytest.raises(Busy, match="a-red-mug-2 waits in line, which has one place"):
        desk.submit(CONFIG)
    assert not (desk.output / "a-red-mug-3").exists()
    first.kill(), first.wait(20)
    _do(desk, "run")
    desk.tick()
    assert desk.current is second and desk.waiting is None and second.wait(20) and second.state is State.FINISHED


def test_who_leaves_the_line_leaves_no_folder(desk) -> None:
    _do(desk, "hold")
    desk.submit(CONFIG)
    second = desk.submit(CONFIG)
    desk.leave()
    assert desk.waiting is None and not second.folder.exists() and desk.find(second.name) is None
    desk.leave()


def test_the_end_of_the_server_is_the_end_of_the_run(desk) -> None:
    _do(desk, "hold")
    job = desk.submit(CONFIG)
    time.sleep(0.3)
    desk.close()
    assert job.state is State.STOPPED


def test_another_server_finds_the_runs_again(desk) -> None:
    job = desk.submit(CONFIG)
    job.wait(20)
    again = Desk(desk.output).find(job.name)
    assert (
        again.state is State.UNFINISHED and again.can_go_on and again.progress().step == 9
    )  # no run.json, so: not known
    (job.folder / "run.json").write_text('{"finished_utc": "2026"}')
    assert again.state is State.FINISHED


def test_a_run_of_the_command_line_is_seen_to_run(tmp_path) -> None:
    desk = Desk(tmp_path / "out")
    assert desk.current is None
    folder = _run(tmp_path / "out")
    job = Desk(tmp_path / "out").current
    lock = RunLock(folder)
    assert job.state is State.ELSEWHERE and not job.can_go_on and not job.is_alive
    lock.release()
    assert job.state is State.UNFINISHED and job.can_go_on


@pytest.mark.parametrize("text", ["- 1", "OptimizationParams: {iterations: 0}", "{", "OptimizationParams: 3"])
def test_a_folder_without_readable_settings_is_no_run(tmp_path, text) -> None:
    folder = _run(tmp_path)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        Job(folder)
    assert Desk(tmp_path).find("mug") is None


def test_the_last_line_stands_in_for_a_sentence(tmp_path) -> None:
    console = tmp_path / "console.txt"
    assert last_sentence(console) == ""
    console.write_bytes(b"Traceback\n  File\nMemoryError: no\xff\r\n\n")
    assert last_sentence(console) == "MemoryError: no\ufffd"


# Addresses


def test_a_port_that_is_taken_is_told() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"cannot listen at 127.0.0.1, port {port} \(address already in use\)"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", 0) > 0
    with pytest.raises(ValueError, match="--port 70000: expected 0 to 65535"):
        free_port("127.0.0.1", 70000)
    with pytest.raises(ValueError, match="cannot listen at no host"):
        free_port("no host", 0)


@pytest.mark.parametrize(
    ("host", "alone", "url"),
    [
        ("127.0.0.1", True, "http://127.0.0.1:80"),
        ("::1", True, "http://[::1]:80"),
        ("localhost", True, "http://localhost:80"),
        ("0.0.0.0", False, "http://127.0.0.1:80"),
        ("192.0.2.1", False, "http://192.0.2.1:80"),
        ("::", False, "http://[::1]:80"),
    ],
)
def test_addresses(host, alone, url) -> None:
    assert is_loopback(host) is alone and url_of(host, 80) == url
