# SPDX-License-Identifier: Apache-2.0
"""app.py in a process of its own, and what it answers to requests."""

import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.patience import PATIENCE_S, until

ROOT = Path(__file__).resolve().parent.parent


def serve(folder: Path, *words: str) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "app.py", "--port", "0", "--output", str(folder), *words]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}  # NiceGUI heeds them
    server = subprocess.Popen(command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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


def show_run(page, name: str) -> None:
    """Chooses a run in the menu. A click that comes before the page answers to clicks opens nothing: it is repeated."""
    option = page.get_by_role("option", name=name, exact=True)

    def chosen() -> bool:
        page.get_by_label("Show").click()
        try:
            option.click(timeout=5_000)
        except Exception:  # playwright's TimeoutError, which is imported where a browser is
            page.keyboard.press("Escape")
            return False
        option.wait_for(state="hidden")  # a menu that is closing would take the next click
        return True

    until(chosen, f"the menu never offered {name}")
