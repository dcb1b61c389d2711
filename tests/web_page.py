# SPDX-License-Identifier: Apache-2.0
"""app.py in a process of its own, and what it answers to requests."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE_S, until

ROOT = Path(__file__).resolve().parent.parent


def serve(folder: Path, *words: str, program: str | Path = "app.py", **how: Any) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, str(program), "--port", "0", "--output", str(folder), *words]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # NiceGUI heeds them
    plain["PYTHONPATH"] = str(ROOT)  # for a program elsewhere
    server = subprocess.Popen(
        command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how
    )
    told = server.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", told)
    assert found, told + server.stdout.read()
    port = int(found[0].rpartition(":")[2])
    until(lambda: is_open(port), "the address was printed, and nobody listens there")
    return server, found[0]


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def status(url: str, **headers: str) -> int:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE_S).status  # noqa: S310
    except urllib.error.HTTPError as error:
        return error.code


def websocket(address: str, **headers: str) -> int:
    """HTTP status of the answer to a WebSocket's handshake; 101: it was accepted."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    url = address.replace("http", "ws") + "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
    try:
        with connect(url, additional_headers=headers, open_timeout=PATIENCE_S):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def open_page(page, address: str) -> None:
    page.goto(address)
    page.wait_for_function("window.did_handshake")


def card_of(page, name: str):
    """The card of a run, by the name of its folder."""
    return page.locator(f'.run[data-run="{name}"]')


def show_run(page, name: str) -> None:
    """Shows a run by its thumbnail."""
    card_of(page, name).locator(".thumb").click()
    page.wait_for_function("name => location.search === '?run=' + name", arg=name)


def take(page, title: str) -> bytes:
    """What the button or the link whose text begins with `title` hands over: GLB, not GSGLB."""
    with page.expect_download() as download:
        page.locator(".downloads .q-btn").filter(has_text=re.compile(rf"^{re.escape(title)}")).click()
    return Path(download.value.path()).read_bytes()


def process_of(run: Path, program: str) -> int | None:
    """The process that a program of that name has in a run folder."""
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = command.read_bytes().split(b"\0")
            if str(run).encode() in words and any(word.endswith(program.encode()) for word in words):
                return int(command.parent.name)
    return None


@contextlib.contextmanager
def stopped(process: int) -> Iterator[None]:
    """Takes the CPU from a process for a while."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
