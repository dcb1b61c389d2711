# SPDX-License-Identifier: Apache-2.0
"""What app.py answers: to requests for files, to other sites' pages, beside run folders that are broken."""

import os
import signal
import urllib.error
import urllib.request

import pytest

from tests.browser import browser_page, needs_browser
from tests.patience import PATIENCE_S
from tests.web_page import open_page, serve, show_run, status, websocket


def test_only_a_runs_own_outputs_are_served(served) -> None:
    address, folder = served
    run = folder / "plain-run"
    run.mkdir()
    (run / "config.yaml").write_text("OptimizationParams: {iterations: 9}\n")
    assert status(f"{address}/runs/plain-run/config.yaml") == 200
    for path in ("run.json", "console.txt", "log.jsonl", "turntable.mp4", "regions.png", "preview.png", "view", "scene.exe", "..%2fconfig.yaml", "scene.ply"):  # fmt: skip
        assert status(f"{address}/runs/plain-run/{path}") == 404
    for name in ("..", "%2e%2e", "..%2f..", "absent", f"%2f{folder.parent}"):
        assert status(f"{address}/runs/{name}/config.yaml") == 404
    assert status(address) == 200 and status(address, Host="elsewhere.example") == 400


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},  # another program's page on this machine
    {"Origin": "http://127.0.0.1.evil.example"},
    {"Host": "evil.example"},  # a name that its owner has pointed at this machine
]


@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: "_".join(next(iter(headers.items()))))
def test_another_sites_page_can_neither_ask_nor_listen(served, headers) -> None:
    """Starting, stopping and exporting go through the WebSocket; every address is closed to it as well."""
    address, _ = served
    assert websocket(address, **headers) in (400, 403)
    assert status(address, **headers) in (400, 403)
    for path in ("/runs/any/scene.glb", "/runs/any/view", "/_nicegui_ws/socket.io/?EIO=4&transport=polling"):
        assert status(address + path, **headers) in (400, 403)


def test_a_name_that_is_allowed_is_answered(served) -> None:
    """--allow_host, which a proxy needs."""
    address, _ = served
    assert status(address, Host="proxy.example") == 200 and status(address, Host="other.example") == 400


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_browsers_own_word_on_the_site_is_heeded(served, site) -> None:
    """An image or a script tag of another page sends no Origin, but Sec-Fetch-Site."""
    address, _ = served
    assert status(address + "/runs/any/scene.glb", **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}) == 403
    assert status(address, **{"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}) == 200  # a link to the page


def test_the_page_itself_passes_and_cannot_be_framed(served) -> None:
    address, _ = served
    assert websocket(address, Origin=address) == 101 and websocket(address) == 101
    assert status(address.replace("127.0.0.1", "localhost")) == 200
    with urllib.request.urlopen(address, timeout=PATIENCE_S) as answer:  # noqa: S310
        policy = answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and "default-src 'self'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_asking_for_an_address_starts_no_work(served) -> None:
    """The page's button makes an export; an address only hands over what is there."""
    address, folder = served
    cloud = folder / "saved-run" / "point_cloud" / "iteration_3" / "point_cloud.ply"
    cloud.parent.mkdir(parents=True)
    cloud.write_text("ply")
    (folder / "saved-run" / "config.yaml").write_text("OptimizationParams: {iterations: 9}\n")
    for path in ("view", "scene.ply", "scene.glb"):
        assert status(f"{address}/runs/saved-run/{path}") == 404
    assert not (folder / "saved-run" / "export").exists()
    made = folder / "saved-run" / "export" / "saved-run_3.html"
    made.parent.mkdir()
    made.write_text("<p>made")
    with urllib.request.urlopen(f"{address}/runs/saved-run/view", timeout=PATIENCE_S) as answer:  # noqa: S310
        assert answer.read() == b"<p>made"
        assert answer.headers["Content-Security-Policy"].startswith("sandbox allow-scripts; default-src 'none'")


STARTED = {"config.yaml": "OptimizationParams: {iterations: 9}\n", "chkpnt3.safetensors": "x"}
"""Of a run that ended before its last step."""
BAD_FOLDERS = {
    "deep-record": {"run.json": "[" * 200_000},
    "deep-log": {"log.jsonl": "[" * 200_000 + "\n"},
    "deep-settings": {"config.yaml": "[" * 200_000},
    "odd-log": {"log.jsonl": '{"iteration": 1, "loss": NaN, "points": "abc", "phase_ms": {"a": NaN}}\n'},
    "long-numbers": {"config.yaml": f"OptimizationParams: {{iterations: {'9' * 400}}}\n"},
    "not-text": {"config.yaml": "\udcff\udcfe"},
}


@needs_browser
def test_a_bad_run_folder_takes_nothing_down(tmp_path) -> None:
    """Neither the start of the server nor a visitor's page; the folder is shown as unreadable, the good run as it is."""
    for name, files in BAD_FOLDERS.items():
        (tmp_path / name).mkdir()
        for file, text in {**STARTED, **files}.items():
            (tmp_path / name / file).write_text(text, encoding="utf-8", errors="surrogateescape")
    (tmp_path / "pipes").mkdir()
    for file, text in STARTED.items():
        (tmp_path / "pipes" / file).write_text(text)
    for file in ("run.json", "log.jsonl", "console.txt"):
        os.mkfifo(tmp_path / "pipes" / file)  # whoever opens it as a file waits for ever
    server, address = serve(tmp_path)
    try:
        with browser_page() as page:
            open_page(page, address)
            for name in (*BAD_FOLDERS, "pipes"):
                show_run(page, name)
                unreadable = "config.yaml" in BAD_FOLDERS.get(name, {})
                page.get_by_role("status").get_by_text(
                    "unreadable" if unreadable else "not finished", exact=True
                ).wait_for()
        assert status(address) == 200
    finally:
        server.send_signal(signal.SIGINT)
        said = server.communicate(timeout=PATIENCE_S)[0]
    assert "Traceback" not in said and server.returncode == 0, said
