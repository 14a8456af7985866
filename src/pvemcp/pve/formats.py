"""PVE's well-known named formats: what a value of each looks like.

Only formats whose rule is certain stand here; any other name is left to PVE.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

Rule = tuple[Callable[[str], object], str]
"""A test of one value, and the words that say what is right."""

_LABEL = r"(?!-)[A-Za-z0-9-]+(?<!-)"
_ID = r"[A-Za-z0-9._-]+"
_SEPARATORS = re.compile(r"[,;\s\0]+")


def problem(name: str, value: str) -> str:
    """Say what is wrong with a value of the named format; "" when nothing is known to be."""
    if name.endswith("-list"):
        return _list_problem(name.removesuffix("-list"), value)
    if name.endswith("-opt"):
        return problem(name.removesuffix("-opt"), value) if value else ""
    rule = RULES.get(name)
    if rule is None:
        return ""
    test, right = rule
    return "" if test(value) else f"must be {right}"


def split_list(value: str) -> list[str]:
    """Split a value of a `-list` format as PVE does: at commas, semicolons and white space."""
    return [part for part in _SEPARATORS.split(value) if part]


def _list_problem(name: str, value: str) -> str:
    for part in split_list(value):
        if found := problem(name, part):
            return f"each element {found} ({part[:40]!r} is not)"
    return ""


def _like(pattern: str, *, flags: re.RegexFlag = re.ASCII) -> Callable[[str], object]:
    return re.compile(pattern, flags).fullmatch


def _parsed_by(parse: Callable[[str], object], *, slash: bool = False) -> Callable[[str], object]:
    def test(value: str) -> bool:
        if slash and "/" not in value:
            return False
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return test


_ipv4 = _parsed_by(ipaddress.IPv4Address)
_ipv6 = _parsed_by(ipaddress.IPv6Address)
_ip = _parsed_by(ipaddress.ip_address)
_cidr4 = _parsed_by(ipaddress.IPv4Interface, slash=True)
_cidr6 = _parsed_by(ipaddress.IPv6Interface, slash=True)
_cidr = _parsed_by(ipaddress.ip_interface, slash=True)
_dns_name = _like(rf"(?:{_LABEL}\.)*{_LABEL}")

RULES: Final[dict[str, Rule]] = {
    "pve-vmid": (_like(r"[1-9][0-9]{2,8}"), "a guest id from 100 to 999999999"),
    "pve-node": (_like(_LABEL), "a node name: letters, digits and hyphens"),
    "pve-storage-id": (
        _like(r"[A-Za-z][A-Za-z0-9._-]*(?<=[A-Za-z0-9])(?<=..)"),
        "a storage id: at least two characters, a letter first, then letters, digits, . _ -",
    ),
    "pve-configid": (
        _like(r"[A-Za-z][A-Za-z0-9_-]+"),
        "an identifier: at least two characters, a letter first, then letters, digits, _ -",
    ),
    "pve-poolid": (_like(rf"{_ID}(?:/{_ID}){{0,2}}"), "a pool id: letters, digits, . _ - and /"),
    "pve-groupid": (_like(_ID), "a group id: letters, digits, . _ -"),
    "pve-roleid": (_like(_ID), "a role id: letters, digits, . _ -"),
    "pve-realm": (_like(r"[A-Za-z][A-Za-z0-9._-]+"), "a realm such as pam or pve"),
    "pve-userid": (
        _like(r"[^\s:/]+@[A-Za-z][A-Za-z0-9._-]+", flags=re.UNICODE),
        "a user with realm, such as root@pam",
    ),
    "pve-volume-id": (_like(r"[A-Za-z][A-Za-z0-9._-]*:.+"), "a volume id: STORAGE:NAME"),
    "pve-replication-job-id": (_like(r"[1-9][0-9]{2,8}-\d{1,9}"), "VMID-NUMBER, such as 100-0"),
    "pve-tag": (_like(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"), "a tag: letters, digits, _ - + ."),
    "pve-day-of-week": (_like(r"mon|tue|wed|thu|fri|sat|sun"), "mon, tue, wed, thu, fri, sat, sun"),
    "mac-addr": (
        _like(r"[A-Fa-f0-9][02468aceACE](?::[A-Fa-f0-9]{2}){5}"),
        "a unicast MAC address, such as BC:24:11:00:00:01",
    ),
    "ip": (_ip, "an IP address"),
    "ipv4": (_ipv4, "an IPv4 address"),
    "ipv6": (_ipv6, "an IPv6 address"),
    "CIDR": (_cidr, "a network in CIDR notation, such as 192.0.2.0/24"),
    "CIDRv4": (_cidr4, "an IPv4 network in CIDR notation, such as 192.0.2.0/24"),
    "CIDRv6": (_cidr6, "an IPv6 network in CIDR notation, such as 2001:db8::/64"),
    "IPorCIDR": (lambda value: _ip(value) or _cidr(value), "an IP address or network"),
    "dns-name": (_dns_name, "a DNS name: letters, digits, hyphens and dots"),
    "address": (
        lambda value: _ip(value) or _dns_name(value),
        "an IP address or a DNS name",
    ),
    "urlencoded": (
        _like(r"[-%a-zA-Z0-9_.!~*'()]*"),
        "percent-encoded (space is %20, newline is %0A)",
    ),
}
