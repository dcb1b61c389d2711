# SPDX-License-Identifier: Apache-2.0
"""Who reaches the viewer's page: its address, other sites' pages, clients that send garbage."""

import socket
import sys
from dataclasses import replace

import pytest
import viser
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from arguments import Config
from arguments.load import load_config
from tests.patience import PATIENCE_S
from tests.viewer.looker import Looker
from tests.viewer.viewed_run import PAGE, Run, ends
from viewer.viewers import Viewers


def test_without_being_asked_for_no_viewer_is_open_and_viser_is_not_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    lines = []
    with Viewers(Config(), lines.append) as viewers:
        Run(viewers, Config()).step(3)
    assert lines == []


def test_a_missing_viser_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.delitem(sys.modules, "viewer.web_viewer", raising=False)
    with pytest.raises(
        ValueError, match=r"--viewer needs a package that is missing .*pip install -r requirements-extra\.txt"
    ):
        Viewers(load_config(PAGE))


def test_garbage_costs_its_sender_the_connection(page):
    run, url = page
    with Looker(url) as looker:
        thread = run.in_background()
        for garbage in (b"", b"\xc1", b"\x80", b"[" * 100_000):
            with Looker(url) as stranger, pytest.raises(ConnectionClosed):
                stranger._socket.send(garbage)
                while True:
                    stranger._socket.recv(timeout=PATIENCE_S)
        at = run.iteration
        looker.until(lambda: run.iteration > at and f"step {run.iteration}" in looker.text())
        run.stopped = True
        assert ends(thread)


def test_no_tunnel_is_opened_whatever_a_client_asks(page, monkeypatch):
    import viser._viser

    def tunnel(*_, **__):
        raise AssertionError("a tunnel was opened")

    monkeypatch.setattr(viser._viser, "ViserTunnel", tunnel)
    run, url = page
    with Looker(url) as looker:
        looker.say(type="ShareUrlRequest")
        thread = run.in_background()
        looker.until(lambda: looker.buffers_sent)
        run.stopped = True
        assert ends(thread) and run.viewers._page._server._share_tunnel is None


def test_a_port_in_use_is_one_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=f"viewer port {port} on 127.0.0.1 is not available .*in use.*--viewer_port 0 for any"
        ):
            Viewers(replace(load_config(PAGE), viewer_port=port), print)


def test_an_address_that_is_none_is_one_sentence():
    with pytest.raises(ValueError, match="viewer address 'here' given: expected an IP address"):
        Viewers(replace(load_config(PAGE), viewer_host="here"), print)


def test_it_is_loopback_unless_told_otherwise_and_then_warned_of(caplog):
    lines = []
    with Viewers(load_config(PAGE), lines.append):
        assert lines[0].startswith("viewer: open http://127.0.0.1:") and caplog.text == ""
    with Viewers(replace(load_config(PAGE), viewer_host="0.0.0.0"), lines.append):
        assert "the viewer's page at 0.0.0.0, port " in caplog.text and "is open to all who reach" in caplog.text


def test_nothing_is_printed_but_the_address(page, capsys):
    assert capsys.readouterr().out == ""  # viser has a banner of its own


FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "null"},
    {"Host": "evil.example"},
]


@pytest.mark.parametrize("headers", [*FOREIGN, {}], ids=lambda headers: "_".join(next(iter(headers.items()), ("own",))))
def test_another_sites_page_sees_and_presses_nothing(page, headers) -> None:
    """Closed before a message is sent either way; a connection without an Origin is no browser's."""
    run, url = page
    run.step()
    host, port = url.removeprefix("http://").split(":")
    received = websocket_messages(host, int(port), headers)
    assert (received == []) is bool(headers)
    with Looker(url) as looker:  # the server goes on
        looker.until(lambda: "Pause" in [props.get("label") for props in looker.panel.values()])


def websocket_messages(host, port, headers):
    """What a client with these headers is sent before it is disconnected, or a first message."""
    with socket.create_connection((host, port)) as plain:
        name = headers.get("Host", host)
        extra = {key: value for key, value in headers.items() if key != "Host"}
        protocols = [f"viser-v{viser.__version__}"]
        with connect(
            f"ws://{name}:{port}", sock=plain, open_timeout=PATIENCE_S, subprotocols=protocols, additional_headers=extra, max_size=None
        ) as client:
            try:
                return [client.recv(timeout=PATIENCE_S)]
            except ConnectionClosed as closed:
                assert closed.rcvd.code == 1008
                return []
