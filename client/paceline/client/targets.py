"""Whether a target is this machine, as far as its spelling tells: names are not looked up."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

_UNIX = ("unix:", "unix-abstract:")


def is_local(target: str | Sequence[str]) -> bool:
    """Whether no address of the target can be on another machine."""
    if not isinstance(target, str):
        return all(is_local(each) for each in target)
    if target.startswith(_UNIX):
        return True
    scheme, colon, rest = target.partition(":")
    if colon and scheme in ("dns", "ipv4", "ipv6"):
        # A DNS target may name the server to ask: dns://8.8.8.8/host:port.
        if rest.startswith("//"):
            rest = rest[2:].partition("/")[2]
        return all(_is_loopback(address) for address in rest.split(","))
    return _is_loopback(target)


def _is_loopback(address: str) -> bool:
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    else:
        host = address if address.count(":") > 1 else address.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
