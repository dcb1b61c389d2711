# SPDX-License-Identifier: Apache-2.0
import socket

import pytest

from utils.addresses import OwnHosts, free_port, is_loopback, tcp_socket, url_of


@pytest.mark.parametrize(
    ("ip", "loopback"), [("127.0.0.1", True), ("127.8.0.1", True), ("0.0.0.0", False), ("192.0.2.1", False)]
)
def test_loopback_is_known(ip, loopback) -> None:
    made, alone = tcp_socket(ip)
    made.close()
    assert alone is loopback


@pytest.mark.parametrize("ip", ["here", "localhost", "", "1.2.3", "127.0.0.1:80"])
def test_what_is_no_address_is_told(ip) -> None:
    with pytest.raises(ValueError, match=f"viewer address {ip!r} given: expected an IP address such as 127"):
        tcp_socket(ip)


def test_a_port_that_is_taken_is_told() -> None:
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


@pytest.mark.parametrize(
    ("host", "header", "accepted"),
    [
        ("127.0.0.1", "127.0.0.1:7860", True),
        ("127.0.0.1", "LocalHost:7860", True),
        ("127.0.0.1", "[::1]:7860", True),
        ("127.0.0.1", "proxy.example", True),
        ("127.0.0.1", "192.0.2.7:7860", False),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "evil.example@127.0.0.1", True),  # the name is what follows the @
        ("127.0.0.1", "127.0.0.1@evil.example", False),
        ("127.0.0.1", "[", False),
        ("0.0.0.0", "192.0.2.7:7860", True),
        ("0.0.0.0", "[2001:db8::1]", True),
        ("0.0.0.0", socket.gethostname(), True),
        ("0.0.0.0", "evil.example", False),
    ],
)
def test_a_server_answers_under_its_own_names(host, header, accepted) -> None:
    assert OwnHosts.of(host, ["proxy.example"]).accepts(header) is accepted


@pytest.mark.parametrize(
    ("origin", "header", "foreign"),
    [
        (None, "127.0.0.1:80", False),
        ("http://127.0.0.1:7860", "127.0.0.1:7860", False),
        ("https://proxy.example", "proxy.example", False),
        ("http://127.0.0.1", "127.0.0.1:80", False),
        ("http://127.0.0.1:7861", "127.0.0.1:7860", True),
        ("http://localhost:7860", "127.0.0.1:7860", True),
        ("http://evil.example", "127.0.0.1:7860", True),
        ("null", "127.0.0.1:7860", True),
        ("", "127.0.0.1:7860", True),
        ("file://", "", True),
    ],
)
def test_another_sites_origin_is_foreign(origin, header, foreign) -> None:
    assert OwnHosts.of("127.0.0.1").is_foreign(origin, header) is foreign
