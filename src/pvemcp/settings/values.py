"""How the value of a setting is read: from TOML it has a type, from the environment it is text.

Every parser takes the setting's name and the value, and raises Misconfigured with the repair.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pvemcp.errors import Misconfigured

LOG_LEVELS = ("debug", "info", "warning", "error")
_TOKEN_ID = re.compile(r"[^\s!@:/=]+@[A-Za-z][A-Za-z0-9.\-_]*![A-Za-z][A-Za-z0-9.\-_]*")
_FINGERPRINT = re.compile(r"(?:[0-9A-F]{2}:){31}[0-9A-F]{2}")
RECIPIENT_FORMAT = re.compile(r"age1[0-9a-z]{58}")
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):(\d{1,5})")


def is_loopback(host: str) -> bool:
    """Whether `host` (a name or an address without brackets) is this machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_listen(text: str, name: str = "listen") -> tuple[str, int]:
    """Split HOST:PORT or [IPV6]:PORT; the host comes without brackets."""
    match = _LISTEN.fullmatch(text)
    if not match or int(match[3]) > 65535:
        raise wrong(
            name,
            f"{text!r} is not HOST:PORT.",
            "For example 127.0.0.1:8080, [::1]:8080, or 0.0.0.0:8080 for every address.",
        )
    return match[1] or match[2], int(match[3])


def wrong(name: str, problem: str, hint: str) -> Misconfigured:
    """Return the fault for a bad value. A secret must not be part of `problem`."""
    return Misconfigured(f"{name}: {problem}", hint=hint)


def words(name: str, value: Any) -> str:
    """Read one line of text."""
    if not isinstance(value, str):
        raise wrong(name, f"must be text, not {type(value).__name__}.", f'Write {name} = "…".')
    if not value.isprintable():
        raise wrong(name, "contains a control character.", "Type the value again.")
    return value


def path(name: str, value: Any) -> Path | None:
    """Read a path and make it absolute; empty is None."""
    text = words(name, value)
    try:
        return Path(text).expanduser().absolute() if text else None
    except RuntimeError:
        raise wrong(name, f"{text!r} names an unknown user.", "Write the whole path.") from None


def absolute(name: str, value: Any) -> Path:
    """Read an absolute path, or one that begins with a tilde."""
    found = path(name, value)
    if found is None:
        raise wrong(name, "is empty.", "Name a path, or leave the setting out.")
    if not Path(value).expanduser().is_absolute():
        raise wrong(
            name,
            f"{value!r} is relative: it would be another one in each working directory.",
            f"Write the whole path, here {found}.",
        )
    return found


def integer(low: int, high: int) -> Callable[[str, Any], int]:
    """Return a parser for a whole number from `low` to `high`."""

    def parse(name: str, value: Any) -> int:
        hint = f"Give a whole number from {low} to {high}."
        try:
            number = value if type(value) is int else int(words(name, value), 10)
        except ValueError:
            raise wrong(name, f"{value!r} is not a whole number.", hint) from None
        if not low <= number <= high:
            raise wrong(name, f"{number} is out of range.", hint)
        return number

    return parse


many = integer(0, 100_000)
"""Reads a number of things that happen."""


def switch(name: str, value: Any) -> bool:
    """Read true or false; in the environment also on, off, yes, no, 1, 0."""
    if isinstance(value, bool):
        return value
    word = words(name, value).lower()
    if word not in (*_ON, *_OFF):
        raise wrong(name, f"{value!r} is neither true nor false.", f"Write {name} = true.")
    return word in _ON


_ON, _OFF = ("true", "on", "yes", "1"), ("false", "off", "no", "0")


def on_off_auto(name: str, value: Any) -> str:
    """Read auto, or a switch; return auto, on or off."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    return "on" if switch(name, value) else "off"


def public_url(name: str, value: Any) -> str:
    """Read the address of this service for browsers: scheme, host, port, and nothing after it."""
    text = words(name, value).rstrip("/")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    bare = f"{parts.scheme}://{parts.netloc}" if host else ""
    plain = host and parts.scheme == "http" and not is_loopback(host)
    if text and (text != bare or plain or "@" in text):
        raise wrong(
            name, f"{text!r} is no address of this service.",
            "Write it as https://pve1.example.org:8080.",
        )  # fmt: skip
    return text


def webhook(name: str, value: Any) -> str:
    """Read an https URL; plain http only to this machine. It may be a secret: it is not shown."""
    text = words(name, value)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if text and not (host and (parts.scheme == "https" or is_loopback(host))):
        raise wrong(name, "is not an https URL.", "Write it as https://hooks.example.org/….")
    return text


def syslog(name: str, value: Any) -> str:
    """Read where a syslog listens: `tls://HOST[:PORT]`, `tcp://…`, `udp://…`."""
    text = words(name, value)
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"tls", "tcp", "udp"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if text and (not good or parts.path or parts.query or parts.username is not None):
        raise wrong(name, f"{text!r} is no syslog.", "Write it as tls://log.example.org:6514.")
    return text


def names(name: str, value: Any) -> tuple[str, ...]:
    """Read a list of host names, each with or without a port."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise wrong(name, "must be a list of text.", f'Write {name} = ["pve1.example.org"].')
    hosts = tuple(words(name, part).strip() for part in parts)
    for host in hosts:
        if "/" in host:
            raise wrong(name, f"{host!r} is not a host name.", "Leave scheme and path out.")
    return tuple(host for host in hosts if host)


def level(name: str, value: Any) -> str:
    """Read a log level in upper or lower case."""
    word = words(name, value).lower()
    if word not in LOG_LEVELS:
        raise wrong(name, f"{value!r} is not a level.", f"One of {', '.join(LOG_LEVELS)}.")
    return word


def url(name: str, value: Any) -> str:
    """Read the address of an API: scheme, host, port, and nothing after it."""
    example = "Write it as https://pve1.example.org:8006."
    try:
        parts = urlsplit(words(name, value))
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise wrong(name, "is not a URL.", example) from None
    if parts.username is not None:
        raise wrong(name, "carries a user or a password.", "Use pve_token_id instead.")
    if parts.scheme not in {"https", "http"} or not host:
        raise wrong(name, f"{value!r} is not an http(s) URL.", example)
    bare = f"{parts.scheme}://{parts.netloc}"
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise wrong(name, "must end after the port.", f"Write it as {bare}.")
    if parts.scheme == "http" and not is_loopback(host):
        raise wrong(
            name,
            "plain http to another machine would show the PVE token to the network.",
            f"Use https://{parts.netloc}, with pve_ca_file or pve_fingerprint if needed.",
        )
    return bare


def token_id(name: str, value: Any) -> str:
    """Read `USER@REALM!NAME`, with or without PVE's header prefix."""
    identity, _, secret = words(name, value).removeprefix("PVEAPIToken=").partition("=")
    if secret:
        raise wrong(
            name,
            f"holds the secret too ({identity}=…).",
            "Put what follows the = into pve_token_secret_file or pve_token_secret.",
        )
    if identity and not _TOKEN_ID.fullmatch(identity):
        raise wrong(name, "is not USER@REALM!NAME.", "For example mcp@pve!laptop.")
    return identity


def secret(name: str, value: Any) -> str:
    """Read the secret of a PVE token, without the id in front of it."""
    text = words(name, value)
    if re.search(r"[\s=!]", text):
        raise wrong(name, "is not a bare secret.", "Give only the UUID that follows the last =.")
    return text


def fingerprint(name: str, value: Any) -> str:
    """Read a SHA-256 fingerprint, with or without colons; return upper case with colons."""
    digits = re.sub(r"[:\s]", "", words(name, value)).upper()
    colons = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
    if colons and not _FINGERPRINT.fullmatch(colons):
        raise wrong(
            name,
            "is not a SHA-256 fingerprint (32 bytes in hexadecimal).",
            "Read it on the host with: pvenode cert info. Or let pvemcp doctor show it.",
        )
    return colons


def loopback(name: str, value: Any) -> str:
    """Read HOST:PORT of this machine alone; empty is none."""
    text = words(name, value)
    if text and not is_loopback(split_listen(text, name)[0]):
        raise wrong(
            name,
            f"{text} is reachable from other machines.",
            "Name a port of 127.0.0.1 or [::1]; from elsewhere, ask the service itself, with a "
            "grant.",
        )
    return text


def listen(name: str, value: Any) -> str:
    """Read HOST:PORT."""
    text = words(name, value)
    split_listen(text)
    return text


def recipient(name: str, value: Any) -> str:
    """Read the public half of an age key."""
    text = words(name, value)
    if text.startswith("AGE-SECRET-KEY-"):
        raise wrong(
            name,
            "holds the secret half of the key.",
            "It must not be on this host: keep it elsewhere, and set the half that begins with "
            "age1.",
        )
    if text and not RECIPIENT_FORMAT.fullmatch(text):
        raise wrong(name, f"{text!r} is not an age recipient.", "Run: pvemcp backup init")
    return text


def backup_target(name: str, value: Any) -> str:
    """Read a folder or `storage:NAME`."""
    text = words(name, value)
    if not text or re.fullmatch(r"storage:[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]", text):
        return text
    return str(absolute(name, text))
