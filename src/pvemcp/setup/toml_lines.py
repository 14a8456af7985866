"""Changes single settings in the text of a flat TOML file; every other byte stays as it is."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pvemcp.errors import Misconfigured

_KEY = re.compile(r"""[ \t]*(?:"([^"\\]+)"|'([^']+)'|([A-Za-z0-9_-]+))[ \t]*=""")


def changed(text: str, values: Mapping[str, Any]) -> str:
    """Return the text with these settings; None removes one. Comments and order stay.

    Raises Misconfigured for a text that is not TOML.
    """
    expected = {**loads(text), **values}
    for name, value in values.items():
        text = _with(text, name, value)
    if loads(text) != {name: value for name, value in expected.items() if value is not None}:
        raise Misconfigured(
            "The settings file is written in a way that set-up cannot change.",
            hint=f"Set these in it by hand: {', '.join(values)}.",
        )
    return text


def line(name: str, value: Any) -> str:
    """Return one setting as a line."""
    return f"{name} = {_literal(value)}"


def _literal(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_literal(one) for one in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def _with(text: str, name: str, value: Any) -> str:
    lines = text.splitlines(keepends=True)
    end = len(lines)
    at = 0
    while at < end:
        if lines[at].lstrip().startswith("["):
            end = at
            break
        match = _KEY.match(lines[at])
        if match is None:
            at += 1
            continue
        after = _end(lines, at, end)
        if name in match.groups():
            replaced = (
                [] if value is None else [f"{line(name, value)}{_comment(lines[at:after])}\n"]
            )
            return "".join([*lines[:at], *replaced, *lines[after:]])
        at = after
    if value is None:
        return text
    if end and not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], f"{line(name, value)}\n", *lines[end:]])


def _end(lines: list[str], at: int, end: int) -> int:
    """Return where the value that begins in a line ends: a list may go over several."""
    for after in range(at + 1, end + 1):
        try:
            tomllib.loads("".join(lines[at:after]))
        except tomllib.TOMLDecodeError:
            continue
        return after
    return at + 1


def _comment(lines: list[str]) -> str:
    """Return the comment behind a value of one line, with what stands before it."""
    if len(lines) != 1:
        return ""
    whole = tomllib.loads(lines[0])
    for found in re.finditer(r"[ \t]*#", lines[0]):
        try:
            if tomllib.loads(lines[0][: found.start()]) == whole:
                return lines[0][found.start() :].rstrip("\r\n")
        except tomllib.TOMLDecodeError:
            continue
    return ""


def loads(text: str) -> dict[str, Any]:
    """Read the settings of a text. Raises Misconfigured."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(
            f"The settings file is not valid TOML: {error}", hint="Correct it, then go on."
        ) from None
