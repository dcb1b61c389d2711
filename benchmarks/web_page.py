# SPDX-License-Identifier: Apache-2.0
"""How soon the web page's server answers while an export is made: `python benchmarks/web_page.py`, or `--run RUN`.

A server is started on a free port, whose output folder holds a copy of the run's last scene; its mesh is exported as by
the page's button. The table has the times of GET requests one after another: before the export, and
during it. Without RUN a small drawn scene is exported.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, from anywhere

from utils import program

if __name__ == "__main__":
    program.start()  # before the imports below, which may take seconds

import argparse
import tempfile
import threading
import time
import urllib.request
from datetime import UTC, datetime

import numpy as np
from nicegui import app, core

from apps.web.exports import ready_export
from apps.web.server import serve
from apps.web.server_state import ServerState
from evaluation.run_folder import cloud_of
from scene.gaussian_model import GaussianModel
from tests.export.scenes import run_folder
from tests.patience import until
from tests.web_page import is_open
from utils.addresses import free_port
from utils.machine import machine

NAME, HOST, BEFORE, PAUSE_S = "scene", "127.0.0.1", 200, 0.05
SETTINGS = "OptimizationParams: {iterations: 10}\n"


def copied(run: Path | None, folder: Path) -> Path:
    """A run folder below `folder` with one scene: that of a run, or a drawn one."""
    if run is None:
        run_folder(folder / NAME)
    else:
        cloud = cloud_of(run)
        GaussianModel.from_ply(cloud).save_ply(folder / NAME / "point_cloud" / cloud.parent.name / "point_cloud.ply")
    (folder / NAME / "config.yaml").write_text(SETTINGS, encoding="utf-8")
    return folder / NAME


def answer_ms(address: str) -> float:
    """Of one request."""
    start = time.perf_counter()
    with urllib.request.urlopen(f"{address}/runs/{NAME}/config.yaml") as answer:  # noqa: S310
        answer.read()
    time.sleep(PAUSE_S)
    return 1000 * (time.perf_counter() - start - PAUSE_S)


def measure_and_end(server: ServerState, run: Path, address: str) -> None:
    """Once the server listens, prints the table; then ends it."""
    try:
        until(lambda: is_open(int(address.rpartition(":")[2])))
        measure(server, run, address)
    finally:
        app.shutdown()


def measure(server: ServerState, run: Path, address: str) -> None:
    """Prints the table."""
    before = [answer_ms(address) for _ in range(BEFORE)]
    core.loop.call_soon_threadsafe(server.exports.request, run, "glb")
    start, during = time.perf_counter(), [answer_ms(address)]
    while server.exports.progress(run, "glb") is not None:
        during.append(answer_ms(address))
    took_s = time.perf_counter() - start
    if ready_export(run, "glb") is None:
        print(f"The export failed: {server.exports.problem(run, 'glb')}", file=sys.stderr)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine()}: the export took {took_s:.0f} s\n")
    print("| requests | number | median ms | 99 % within ms | slowest ms |\n|---|---|---|---|---|")
    for name, times in (("before", before), ("during the export", during)):
        median, most, slowest = np.percentile(times, (50, 99, 100))
        print(f"| {name} | {len(times)} | {median:.1f} | {most:.1f} | {slowest:.1f} |")


@program.refuses("web_page", ValueError, OSError)
def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder whose last scene is exported")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        run = copied(args.run, Path(folder))
        server, port = ServerState(Path(folder)), free_port(HOST, 0)
        address = f"http://{HOST}:{port}"
        work = threading.Thread(target=measure_and_end, args=(server, run, address), daemon=True)
        app.on_startup(work.start)
        serve(server, HOST, port)


if __name__ == "__main__":
    program.run(main)
