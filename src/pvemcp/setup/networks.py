"""Networks that may reach the service: read, merged, and those of this host itself."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable, Iterator
from typing import Any

from pvemcp.errors import Invalid, Unavailable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IP = "/usr/sbin/ip"


def parse(texts: Iterable[str]) -> list[Network]:
    """Read addresses and CIDRs. Raises Invalid, also for a CIDR with bits of a host."""
    return [_parse(text.strip()) for text in texts]


def _parse(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        hint = "Write an address or a CIDR: 192.0.2.7, 192.0.2.0/24, 2001:db8::/64."
        raise Invalid(f"{text!r} is not a network.", hint=hint) from None
    raise Invalid(
        f"{text} names a host within a network.",
        hint=f"Write {meant} for all of it, or {text.partition('/')[0]} for the one address.",
    )


def merged(networks: Iterable[Network]) -> list[Network]:
    """Return the same addresses in as few networks as possible, IPv4 first."""
    given = list(networks)
    v4 = [one for one in given if isinstance(one, ipaddress.IPv4Network)]
    v6 = [one for one in given if isinstance(one, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]


def without(networks: Iterable[Network], gone: Iterable[Network]) -> list[Network]:
    """Return the networks without any address of `gone`, which may be a part of one of them."""
    left = list(networks)
    for out in gone:
        left = [rest for one in left for rest in _minus(one, out)]
    return merged(left)


def _minus(one: Network, out: Network) -> Iterator[Network]:
    match one, out:
        case (ipaddress.IPv4Network(), ipaddress.IPv4Network()):
            yield from _cut(one, out)
        case (ipaddress.IPv6Network(), ipaddress.IPv6Network()):
            yield from _cut(one, out)
        case _:
            yield one


def _cut(one: Any, out: Any) -> Iterator[Any]:
    if out.supernet_of(one):
        return
    if out.subnet_of(one):
        yield from one.address_exclude(out)
    else:
        yield one


def own_networks() -> list[Network]:
    """Return the networks that this host's interfaces are in. Raises Unavailable."""
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program, no shell
            [IP, "-j", "addr"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
            stdin=subprocess.DEVNULL,
        )
        rows: list[dict[str, Any]] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        hint = f"See: {IP} addr. Or name the networks: pvemcp firewall allow CIDR"
        raise Unavailable(f"This host's networks cannot be read: {error}.", hint=hint) from None
    return merged(_networks(rows))


def _networks(rows: list[dict[str, Any]]) -> Iterator[Network]:
    for row in rows:
        for one in row.get("addr_info", []):
            found = ipaddress.ip_interface(f"{one['local']}/{one['prefixlen']}").network
            # What has no neighbours needs no rule: this host itself is always let in.
            if not found.is_loopback and found.num_addresses > 1:
                yield found
