"""From one command to what is known of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pvemcp.explain import options, table
from pvemcp.explain.paths import redirected
from pvemcp.explain.shell import decides
from pvemcp.explain.specials import special
from pvemcp.explain.values import Command, Finding, Word
from pvemcp.explain.wrappers import Inner, unwrap

_SYSTEM_FOLDER = re.compile(r"(?:/usr)?(?:/local)?/s?bin/([^/]+)")
_REDEFINES = frozenset(
    "source . enable hash eval trap shopt set read mapfile readarray getopts printf".split()
)


@dataclass(frozen=True, slots=True)
class Judged:
    """One command as judged: `around` is what its redirections and assignments do."""

    name: str = ""
    known: bool = True
    """The name is in the table, or there is no name."""
    own: tuple[Finding, ...] = ()
    around: tuple[Finding, ...] = ()
    inner: tuple[Inner, ...] = ()
    redefines: bool = False
    """It may change what later commands run."""


def judge(command: Command) -> Judged:
    """Judge a command alone; what it runs is in `inner`."""
    around = [redirected(redirect) for redirect in command.redirects]
    deciding = [one.name for one in command.assignments if decides(one.name)]
    around += [Finding(sure=False, why=f"{name} may decide what runs") for name in deciding]
    if command.odd:
        around.append(Finding(sure=False, why=command.odd))
    if not command.words:
        return Judged(around=tuple(around), redefines=bool(deciding))
    first, args = command.words[0], command.words[1:]
    name = program_name(first)
    exported = bool(deciding) and name in {"export", "declare", "typeset", "readonly", "local"}
    if not name:
        return Judged(own=(_unnamed(first),), around=tuple(around), redefines=not first.fixed)
    own, inner, known = _named(name, args, command)
    unsure = any(not finding.sure for finding in own)
    redefines = exported or (unsure and name in _REDEFINES)
    return Judged(name, known, tuple(own), tuple(around), inner, redefines)


def program_name(word: Word) -> str:
    """Return the name under which a program is in the table, or "" when nobody can tell."""
    if not word.fixed:
        return ""
    if found := _SYSTEM_FOLDER.fullmatch(word.text):
        return found[1]
    return "" if "/" in word.text and not word.text.isspace() else word.text


def _unnamed(word: Word) -> Finding:
    if not word.fixed:
        return Finding(sure=False, why="which command it is shows only when it runs")
    return Finding(sure=False, why="a program or script by its path")


def _named(
    name: str, args: Sequence[Word], command: Command
) -> tuple[list[Finding], tuple[Inner, ...], bool]:
    texts = [redirect.target for redirect in command.redirects if redirect.operator == "<<"]
    unwrapped = unwrap(name, args, texts[-1] if texts else None)
    if unwrapped and unwrapped.whole:
        return list(unwrapped.findings), unwrapped.inner, True
    inner = unwrapped.inner if unwrapped else ()
    program = table.programs().get(name)
    if program is None:
        return [Finding(sure=False, why="an unknown program")], inner, False
    findings = special(program, args) if program.special else options.judge(program, args)
    more = unwrapped.findings if unwrapped else ()
    return [*findings, *more], inner, True
