# SPDX-License-Identifier: Apache-2.0
"""Where the page is served: a port that is free, and whether only this machine reaches it."""

from __future__ import annotations

import ipaddress
import socket


def free_port(host: str, port: int) -> int:
    """The port, if a server can listen there; any free one for 0. Raises ValueError, one sentence."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: expected 0 to 65535")
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return probe.getsockname()[1]
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise ValueError(
            f"cannot listen at {host}, port {port} ({reason}): is another program there? --port 0 takes any free port"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a name, can be reached from this machine alone."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def url_of(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}"
