# SPDX-License-Identifier: Apache-2.0
import pytest

from utils.addresses import tcp_socket, url_of


@pytest.mark.parametrize(
    ("ip", "loopback"), [("127.0.0.1", True), ("127.8.0.1", True), ("0.0.0.0", False), ("192.0.2.1", False)]
)
def test_loopback_is_known(ip, loopback) -> None:
    made, is_loopback = tcp_socket(ip)
    made.close()
    assert is_loopback is loopback


@pytest.mark.parametrize("ip", ["here", "localhost", "", "1.2.3", "127.0.0.1:80"])
def test_what_is_no_address_is_told(ip) -> None:
    with pytest.raises(ValueError, match=f"viewer address {ip!r} given: expected an IP address such as 127"):
        tcp_socket(ip)


def test_an_address_in_a_url() -> None:
    assert url_of("127.0.0.1", 80) == "http://127.0.0.1:80" and url_of("::1", 80) == "http://[::1]:80"
