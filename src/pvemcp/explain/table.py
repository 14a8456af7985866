"""The reviewed table of programs, `commands.toml`, as values; it explains its own words."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LEVELS = ("read", "change", "destroy", "unsure")


@dataclass(frozen=True, slots=True)
class Program:
    """What is known of one program. Names of options stand as they are typed."""

    name: str
    effect: str
    """A level: the effect whatever the arguments, unless options or subcommands say otherwise."""
    does: str
    touches: str
    """What its arguments name: file, device, service, package, guest, host …"""
    special: str
    """The name of the function that judges it; "" for the rules below."""
    options: Mapping[str, frozenset[str]]
    """Options by level; "write" are those whose value is a file that is written."""
    value: frozenset[str]
    """Options that are followed by a value."""
    flags: frozenset[str]
    """Other options that may stand before a subcommand."""
    only: frozenset[str]
    """When given: all harmless options; any other is unsure."""
    arguments: str
    """A level for when there is any argument, or "write" / "write last": it is a file written."""
    plain: str
    """A regular expression of arguments that do not count."""
    changing: str
    """A regular expression of words that change something."""
    subs: Mapping[str, str]
    """Level by subcommand, which may be several words."""
    bare: str
    """The level without a subcommand."""

    @property
    def careful(self) -> bool:
        """Whether an option or argument can make it do more."""
        return bool(self.options or self.only or self.subs or self.arguments or self.special)


@dataclass(frozen=True, slots=True)
class Wrapper:
    """A program that runs the command among its arguments."""

    name: str
    effect: str
    does: str
    value: frozenset[str]
    flags: frozenset[str]
    only: frozenset[str]
    """Options with which it runs nothing and only reads."""
    skip: int
    """Arguments that stand before the command."""
    text: bool
    """The arguments are joined and read by a shell."""
    assigns: bool
    """`NAME=value` may stand before the command."""
    bare: str
    """The level without a command."""


@cache
def programs() -> Mapping[str, Program]:
    """Return all programs by name."""
    entries = [(n, entry) for entry in _table()["program"] for n in entry["names"].split()]
    return {name: _program(name, entry) for name, entry in entries}


@cache
def wrappers() -> Mapping[str, Wrapper]:
    """Return all programs that run others by name."""
    entries = [(n, entry) for entry in _table()["wrapper"] for n in entry["names"].split()]
    return {name: _wrapper(name, entry) for name, entry in entries}


@cache
def _table() -> dict[str, Any]:
    text = files("pvemcp.explain").joinpath("commands.toml").read_text("utf-8")
    return tomllib.loads(text)


def _words(entry: Mapping[str, Any], name: str) -> frozenset[str]:
    return frozenset(str(entry.get(name, "")).split())


def _program(name: str, entry: Mapping[str, Any]) -> Program:
    subs = {
        phrase.strip(): level
        for level, text in entry.get("sub", {}).items()
        for phrase in text.replace("\n", ",").split(",")
        if phrase.strip()
    }
    return Program(
        name=name,
        effect=entry.get("effect", "read"),
        does=entry.get("does", ""),
        touches=entry.get("touches", ""),
        special=entry.get("special", ""),
        options={key: _words(entry, key) for key in (*LEVELS, "write") if key in entry},
        value=_words(entry, "value"),
        flags=_words(entry, "flags"),
        only=_words(entry, "only"),
        arguments=entry.get("arguments", ""),
        plain=entry.get("plain", ""),
        changing=entry.get("changing", ""),
        subs=subs,
        bare=entry.get("bare", "read"),
    )


def _wrapper(name: str, entry: Mapping[str, Any]) -> Wrapper:
    return Wrapper(
        name=name,
        effect=entry.get("effect", "read"),
        does=entry.get("does", ""),
        value=_words(entry, "value"),
        flags=_words(entry, "flags"),
        only=_words(entry, "only"),
        skip=entry.get("skip", 0),
        text=entry.get("text", False),
        assigns=entry.get("assigns", False),
        bare=entry.get("bare", "read"),
    )
