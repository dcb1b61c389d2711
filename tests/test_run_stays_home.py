# SPDX-License-Identifier: Apache-2.0
"""A run with an embedded prior, watched by an audit hook: where it writes, whom it calls, what it starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

ROOT = Path(__file__).resolve().parent.parent
WATCHED = """
import json, os, socket, sys
seen = {"written": set(), "network": set(), "started": []}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}

def hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)) and args[2] & WRITES:
        seen["written"].add(os.path.abspath(os.fsdecode(args[0])))
    elif event in CHANGES:
        seen["written"].update(os.path.abspath(os.fsdecode(x)) for x in args[:2] if isinstance(x, (str, bytes)))
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        seen["network"].add(f"{event} {args[1:]}")
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"):
        seen["started"].append([str(word) for word in args[1]] if event == "subprocess.Popen" else [event, str(args)])

class Listening(socket.socket):
    def listen(self, *args):
        seen["network"].add("listen")
        super().listen(*args)

socket.socket = Listening
sys.addaudithook(hook)
import train
reports = []
for argv in json.loads(sys.argv[1]):
    for values in seen.values() if reports else ():
        values.clear()  # what the imports did counts for the first run
    status = train.main(argv)
    reports.append({name: sorted(values) for name, values in seen.items()} | {"status": status})
print("\\n" + json.dumps(reports))
"""
FLAGS = {
    "iterations": 2, "image_w": 32, "image_h": 32, "view_px": 32, "init_num_pts": 50, "device": "cpu", "vis_interval": 1, "pro_frames_num": 2,
    "text": "a red cube", "test_ratio": 1, "checkpoint_iterations": 2, "quiet": True,
}  # fmt: skip


def argv(**changes):
    return [word for name, value in (FLAGS | changes).items() for word in (f"--{name}", str(value))]


def watched(folder, *runs):
    """What happened while train.py ran with each of the command lines, in one process, started in `folder`."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder / "tmp"), "HF_HOME": str(folder / "hub"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "tmp"),  # torch leaves it in the environment of other tests
    }  # fmt: skip
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        environment.pop(name, None)  # it must not need them
    (folder / "tmp").mkdir()
    command = [sys.executable, "-c", WATCHED, json.dumps(runs)]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder in which train.py was started, and what was seen of four runs."""
    folder = tmp_path_factory.mktemp("home")
    runs = (
        argv(workspace="a", guidance="ideal"),
        argv(workspace="b", guidance="SD", model_key="assets/toy-prior", fp16=False),
        argv(workspace="c", guidance="ideal", gui=True, port=0, iterations=1, save_video=False),
        argv(workspace="../../x", guidance="ideal"),
    )
    return folder, watched(folder, *runs)


@pytest.mark.slow
def test_everything_is_written_below_the_run_folder(home):
    folder, reports = home
    for name, report in zip("abc", reports):
        homes = [folder / "output" / name, folder / "tmp", Path(os.devnull)]
        strays = [path for path in report["written"] if not any(Path(path).is_relative_to(home) for home in homes)]
        assert report["status"] == 0 and len(report["written"]) > 10 and set(strays) <= {str(folder / "output")}


def test_a_workspace_that_leads_outside_is_refused_before_anything_is_written(home):
    assert home[1][3]["status"] == 2 and home[1][3]["written"] == []


def test_no_connection_is_opened_or_waited_for(home):
    assert home[1][0]["network"] == home[1][1]["network"] == []


def test_the_viewer_is_waited_for_only_when_asked_for(home):
    assert home[1][2]["network"] == ["listen"]


def test_only_three_known_programs_are_started_and_no_shell(home):
    names = {Path(words[0]).name.split("-")[0] for report in home[1] for words in report["started"]}
    assert names <= {"git", "uname", "ffmpeg"} and "ffmpeg" in names
