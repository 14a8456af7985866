"""Take secrets out of what is written down: the arguments and errors of a call.

Two nets: names (the value of `cipassword` is never kept) and shapes (a PEM private key or an
`Authorization` value is never kept, wherever it stands). This protects honest callers from their
own secrets lying in a log; it cannot recognise a secret that looks like any other word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

MASK = "[redacted]"
STRING_LIMIT = 2000
"""Characters of a string that are kept."""
ITEM_LIMIT = 100
"""Items of a list or mapping that are kept."""
DEPTH_LIMIT = 8
_WINDOW = 16 * STRING_LIMIT
"""Characters of a string that are looked at, so that a huge one costs no more."""

_WORDS = (
    "password|passwd|passphrase|secret|token|ticket|key|keys|sshkey|sshkeys|apikey|privatekey|"
    "credential|credentials|authorization|cookie|otp|csrfpreventiontoken|pass|pwd|passcode|passwort|"
    "keyring|privkey|psk|vncticket|totp|tfa-challenge|input-data"
)
_NAME = re.compile(rf"(?:^|[^a-z])(?:{_WORDS})[0-9]*$|password|passwd|secret")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_INLINE = rf"(?<![A-Za-z0-9])(?:[a-z0-9]{{0,20}}(?:password|passwd|secret)|{_WORDS})"
_BARE = r"(?:[^\s,;&\"']|,(?![\w-]+=))+"
_QUOTED = r"\"[^\"]*\"?|'[^']*'?"
_UUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"

COMMANDS = tuple(
    (tuple(words.split()), re.compile(rf"(?P<head>{head}){value}", re.ASCII))
    for words, head, value in (
        (
            "mysql mariadb",
            r"\b(?:mysql|mariadb)[a-z-]{0,20}\s(?:[^\n|;&]{0,200}?\s)?-p[\"']?",
            r"[^\s\"']+",
        ),
        ("sshpass", r"\bsshpass\s+-p\s*", r"(?:\"[^\"\n]*\"?|'[^'\n]*'?|[^\s\"']+)"),
        (
            "curl",
            r"\bcurl\s(?:[^\n|;&]{0,200}?\s)?(?:-[uU]|--(?:proxy-)?user)(?:\s*|=)[\"']?[^\s:\"']{1,100}:",
            r"[^\s\"']+",
        ),
        (
            "passwd",
            r"\b(?:echo|printf)\s+(?:-[a-zA-Z]+\s+)?",
            r"[^|\n]{1,200}(?=\|\s{0,8}(?:sudo\s+)?(?:chpasswd|passwd\s+--stdin)\b)",
        ),
        ("chpasswd", r"\bchpasswd\b[^\n]{0,40}<<<\s{0,8}", r"[^\n]+"),
        ("pass:", r"\s-(?:passin|passout|pass|password|srppass)\s+[\"']?pass:", r"[^\s\"']+"),
        (
            "-h",
            r"\s-H\s{0,8}\\?[\"']?(?i:[a-z-]{0,40}(?:key|token|secret|auth|password|cookie):)\s{0,8}",
            r"[^\"'\\\n]+",
        ),
    )
)
"""What a program takes as a secret on its command line: a word of the line, and the pattern."""
_SECRET_OPTIONS = {
    "curl": ("-u", "-U", "--user", "--proxy-user"),
    "openssl": ("-passin", "-passout"),
    "sshpass": ("-p",),
}

_SUSPICIOUS = re.compile(r"[=:\s\"']|pvemcp_")
"""Every shape below holds one of these, except a bare word, which no shape can judge."""
_SHAPES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"(?s)-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.*?(?:-----END [A-Z0-9 ]{0,40}KEY-----|\Z)",
            MASK,
        ),
        (r"(?i)\b(PVEAPIToken=[^\s=]{1,200}=)[^\s,;\"']+", rf"\1{MASK}"),
        (r"(?i)\b(PVEAuthCookie=)[^\s;\"']+", rf"\1{MASK}"),
        (r"(?i)\b((?:bearer|authorization:\s?basic)\s+)[A-Za-z0-9._~+/=-]+", rf"\1{MASK}"),
        (r"\bpvemcp_[A-Za-z0-9_-]{8,}", MASK),
        (rf"(=)\s?{_UUID}", rf"\1{MASK}"),
        (r"\bPVE(?:VNC|TERM)?:(?:[^\s:]{1,100}:)?[0-9A-F]{8}::[A-Za-z0-9+/=]+", MASK),
        (r"(://[^\s/:@]{1,100}:)[^\s/@]{1,200}@", rf"\1{MASK}@"),
        (rf"(?i)({_INLINE}[ \t]?=[ \t]?)(?:{_QUOTED}|{_BARE})", rf"\1{MASK}"),
        # A header, as curl takes it.
        (r"(?i)\b(x-[a-z-]{0,30}(?:key|token|secret):\s?)[^\s\"',;]+", rf"\1{MASK}"),
        # Crypted passwords: crypt(5).
        (r"\$(?:[156]|2[aby]|y|gy|7)\$[./A-Za-z0-9$=,]{8,}", MASK),
        (
            (
                rf"(?i)([\"'][a-z0-9_-]{{0,30}}(?:{_WORDS})\\?[\"']\s?:\s?\\?)"
                rf"(?:{_QUOTED}|-?[0-9.]+)"
            ),
            rf"\1{MASK}",
        ),
        (r"(?i)(--?(?:password|passwd|passphrase|secret|token)\s+)[^\s-]\S*", rf"\1{MASK}"),
        # As in YAML; but "password: is required" is a sentence, not a secret.
        (
            (
                r"(?im)\b([a-z]{0,20}(?:password|passwd|passphrase|secret):"
                r"(?:(?=\S)|[ \t](?=\S+[ \t]*$)))[^\s\"']+"
            ),
            rf"\1{MASK}",
        ),
    )
) + tuple((pattern, rf"\g<head>{MASK}") for _, pattern in COMMANDS)

Known = Callable[[str], str]
"""Masks the values that are known to be secret, in a text that is not yet cut."""


def redact(arguments: Mapping[str, Any], known: Known = str) -> dict[str, Any]:
    """Return a copy that may be written down: secrets masked, long and deep values cut.

    The result holds only what JSON can hold.
    """
    return _mapping(arguments, 0, known)


def redact_text(text: str, known: Known = str) -> str:
    """Mask whatever looks like a secret inside `text` and cut it at 2,000 characters."""
    masked = shapes(known(text)[:_WINDOW])
    if len(masked) <= STRING_LIMIT and len(text) <= _WINDOW:
        return masked
    return f"{masked[:STRING_LIMIT]}… [cut, {len(text):,} characters in all]"


def shapes(text: str) -> str:
    """Mask whatever has the shape of a secret."""
    if _SUSPICIOUS.search(text):
        for shape, replacement in _SHAPES:
            text = shape.sub(replacement, text)
    return text


def _mapping(value: Mapping[Any, Any], depth: int, known: Known) -> dict[str, Any]:
    # {"name": "password", "value": …} says in one item what a mapping says with its key.
    labelled = labels_secret(value)
    result: dict[str, Any] = {}
    for key, item in value.items():
        if len(result) == ITEM_LIMIT:
            result["…"] = f"[{len(value) - ITEM_LIMIT} more left out]"
            break
        name = redact_text(str(key), known)[:200]
        hidden = is_secret_name(str(key)) or (labelled and key == "value")
        result[name] = _masked(item) if hidden else _value(item, depth + 1, known)
    return result


def _value(value: Any, depth: int, known: Known) -> Any:
    if isinstance(value, str):
        return redact_text(value, known)
    if value is None or isinstance(value, bool | int | float):
        return value
    if depth > DEPTH_LIMIT:
        return "[too deep, left out]"
    if isinstance(value, Mapping):
        return _mapping(value, depth, known)
    if isinstance(value, list | tuple):
        return _items(value, depth, known)
    return redact_text(str(value), known)


def _items(value: list[Any] | tuple[Any, ...], depth: int, known: Known) -> list[Any]:
    kept: list[Any] = []
    program = PurePath(value[0]).name if value and isinstance(value[0], str) else ""
    after_option = False
    for item in value[:ITEM_LIMIT]:
        # A command as a list: ["pveum", "passwd", "--password", "…"]
        if after_option:
            kept.append(MASK)
        elif program.startswith(("mysql", "mariadb")) and _glued(item):
            kept.append(f"-p{MASK}")
        else:
            kept.append(_value(item, depth + 1, known))
        after_option = isinstance(item, str) and _takes_secret(program, item)
    if len(value) > ITEM_LIMIT:
        kept.append(f"[{len(value) - ITEM_LIMIT} more left out]")
    return kept


def _takes_secret(program: str, option: str) -> bool:
    named = option.startswith("-") and is_secret_name(option)
    return named or option in _SECRET_OPTIONS.get(program, ())


def _glued(item: Any) -> bool:
    return isinstance(item, str) and item.startswith("-p") and len(item) > 2


def labels_secret(value: Mapping[Any, Any]) -> bool:
    """Tell whether a mapping's `value` is a secret, by the `name` or `key` that stands beside."""
    return is_secret_name(str(value.get("name", value.get("key", ""))))


def is_secret_name(name: str) -> bool:
    """Tell whether what has this name is a secret."""
    return bool(_NAME.search(_CAMEL.sub("-", name[:200]).lower()))


def _masked(value: Any) -> Any:
    return value if value is None or isinstance(value, bool) or value in ("", []) else MASK
