# SPDX-License-Identifier: Apache-2.0
"""Addresses that a viewer is served at."""

from __future__ import annotations

import ipaddress
import socket


def tcp_socket(ip: str) -> tuple[socket.socket, bool]:
    """A socket that may be bound to the address, and whether that is loopback.

    Raises ValueError for what is no IP address (host names are none), or of a kind that this machine does not have.
    """
    try:
        address = ipaddress.ip_address(ip)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
    except (ValueError, OSError):
        raise ValueError(f"viewer address {ip!r} given: expected an IP address such as 127.0.0.1") from None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made, address.is_loopback


def url_of(ip: str, port: int) -> str:
    """Where a browser finds it."""
    host = f"[{ip}]" if ":" in ip else ip
    return f"http://{host}:{port}"
