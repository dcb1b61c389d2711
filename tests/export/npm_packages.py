# SPDX-License-Identifier: Apache-2.0
"""Programs of others from npm, where they are installed: npm install --prefix tests/export/viewers, or NODE_PATH."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.browser import BROWSER, browser_page, screenshot
from tests.patience import until
from utils.image_utils import read_png

HERE = Path(__file__).with_name("viewers")
FOLDERS = [Path(part) for part in os.environ.get("NODE_PATH", "").split(os.pathsep) if part] + [HERE / "node_modules"]
ENTRIES = {
    "three": "build/three.module.js",
    "@sparkjsdev/spark": "dist/spark.module.js",
    "@mkkellogg/gaussian-splats-3d": "build/gaussian-splats-3d.module.js",
    "playcanvas": "build/playcanvas.mjs",
}
VIEWERS = {
    "spark": ("@sparkjsdev/spark", "three"),
    "mkkellogg": ("@mkkellogg/gaussian-splats-3d", "three"),
    "playcanvas": ("playcanvas",),
    "three": ("three",),
}
"""Viewer -> the packages that it needs; its page is viewers/NAME.js."""
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
ORIGIN = "http://viewer.test"


def package(name: str) -> Path:
    """The folder of an npm package; the test is skipped where there is none."""
    found = next((folder / name for folder in FOLDERS if (folder / name / "package.json").is_file()), None)
    if found is None:
        pytest.skip(f"npm's {name} is not installed: npm install --prefix tests/export/viewers")
    return found


def splat_transform(*words: object) -> str:
    """What PlayCanvas's converter says; a failure fails the test."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    command = ["node", str(package("@playcanvas/splat-transform") / "bin" / "cli.mjs"), "-q", "-w", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(
    viewer: str, file: Path, eye: tuple[float, float, float], fov_deg: float, size_px: int, antialiased: bool = False
) -> np.ndarray:
    """[S, S, 3] bytes: the file on black in somebody else's viewer, from `eye` towards the origin, y up.

    antialiased: whether the viewer's switch for scenes that were trained so is on.
    """
    if BROWSER is None:
        pytest.skip("no Chromium on the PATH")
    folders = {name: package(name) for name in VIEWERS[viewer]}
    imports = {name: f"{ORIGIN}/{name}/{ENTRIES[name]}" for name in folders}
    imports["three/addons/"] = f"{ORIGIN}/three/examples/jsm/"
    imports |= {f"three/{part}": f"{ORIGIN}/three/build/three.{part}.js" for part in ("webgpu", "tsl")}
    facts = {"FILE": f"{ORIGIN}/{file.name}", "EYE": eye, "FOV_DEG": fov_deg, "SIZE": size_px, "ANTIALIASED": antialiased}
    constants = "".join(f"const {name} = {json.dumps(value)};" for name, value in facts.items())
    page_text = (
        f'<!doctype html><style>body {{ margin: 0; background: #000 }}</style><body><script type="importmap">'
        f"{json.dumps({'imports': imports})}</script><script>{constants}</script>"
        f'<script type="module">{HERE.joinpath(viewer).with_suffix(".js").read_text()}</script>'
    )

    def serve(route) -> None:
        place = route.request.url.removeprefix(ORIGIN).lstrip("/").partition("?")[0]
        owner = next((name for name in folders if place.startswith(f"{name}/")), None)
        path = folders[owner] / place.removeprefix(f"{owner}/") if owner else file
        if not place:
            route.fulfill(body=page_text, content_type="text/html")
        else:
            route.fulfill(body=path.read_bytes(), content_type=TYPES.get(path.suffix, "application/octet-stream"))

    with browser_page(size_px, size_px) as page:
        failures: list[str] = []
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.route(f"{ORIGIN}/**", serve)
        page.goto(f"{ORIGIN}/")
        ready = "(window.frames_drawn ?? 0) > 20"
        until(lambda: page.evaluate(ready) or failures, f"{viewer} draws {file.name}", poll_s=0.2)
        image = read_png(screenshot(page, f"{viewer}_test", file.parent))
        page.complaints.clear()  # viewers warn about much
    assert not failures, f"{viewer}: {failures}"
    return image[..., :3]
