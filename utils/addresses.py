# SPDX-License-Identifier: Apache-2.0
"""Addresses that a page or a viewer is served at: what can be bound, who reaches it, and its URL."""

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


def tcp_socket(ip: str) -> tuple[socket.socket, bool]:
    """A socket that may be bound to the address, and whether that is loopback.

    Raises ValueError for anything but an IP address (host names too), or a family that this machine does not have.
    """
    try:
        address = ipaddress.ip_address(ip)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
    except (ValueError, OSError):
        raise ValueError(f"viewer address {ip!r} given: expected an IP address such as 127.0.0.1") from None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made, address.is_loopback


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
            f"cannot listen at {host}, port {port} ({reason}): another program may use it; --port 0 takes any free port"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a name, can be reached from this machine alone."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


@dataclass(frozen=True)
class OwnHosts:
    """Host names under which a server answers, against DNS rebinding.

    names: in lower case, without ports. any_ip: accept every IP address, for a server of a whole network.
    """

    names: frozenset[str]
    any_ip: bool

    @classmethod
    def of(cls, host: str, more: Iterable[str] = ()) -> Self:
        """Of a server that listens at `host`: loopback's names, `host`, `more`; elsewhere this machine's names too."""
        names = {"localhost", "127.0.0.1", "::1", host, *more}
        loopback = is_loopback(host)
        if not loopback:
            names |= {socket.gethostname(), socket.getfqdn()}
        return cls(frozenset(name.lower() for name in names), any_ip=not loopback)

    def accepts(self, host_header: str) -> bool:
        """Whether a request with this Host header, NAME or NAME:PORT, is for this server."""
        name = _split(f"//{host_header}")[0]
        return name in self.names or (self.any_ip and _is_ip(name))

    def is_foreign(self, origin: str | None, host_header: str) -> bool:
        """Whether an Origin header names another site than the one asked; a request without one is not foreign."""
        return origin is not None and (_split(origin) != _split(f"//{host_header}") or _split(origin)[0] == "")


def _split(url: str) -> tuple[str, int | None]:
    """(host in lower case, port) of a URL; ("", None) for anything that has no host. Default ports are None."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "", None
    return parts.hostname or "", None if port in (80, 443) else port


def _is_ip(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def url_of(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{name}:{port}"
