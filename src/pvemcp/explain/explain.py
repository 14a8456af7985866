"""Explains what a shell text would do. It permits nothing: see values.py.

Where it cannot tell, it says so; it never says `read` of what may do more.
"""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pvemcp.call import Effect
from pvemcp.explain.judge import Judged, judge
from pvemcp.explain.parse import COMMANDS, parse
from pvemcp.explain.paths import written
from pvemcp.explain.values import Command, Explanation, Finding, Line, Touch, Word
from pvemcp.explain.wrappers import Inner

SECONDS = 2.0
"""Time that reading a text may take."""
LEVELS = 8
"""Commands within commands that are followed."""
SHOWN = 120
"""Characters of a command that are shown."""
_TOUCHES = 6
_PLACES = 16

_SHADOWED = "what this name runs may have been changed before"


@dataclass(frozen=True, slots=True)
class _Entry:
    command: Command
    judged: Judged
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class _Work:
    deadline: float
    entries: list[_Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    places: dict[str, None] = field(default_factory=dict)
    """Folders that the text changes to."""
    redefined: bool = False


def explain(text: str) -> Explanation:
    """Explain a bash text of any size and shape. It never fails and ends within seconds."""
    work = _Work(time.monotonic() + SECONDS)
    _text(work, text, Command(), level=0)
    lines = tuple(_line(entry, findings) for entry, findings in _settled(work))
    lines = tuple(line for line in lines if line.command or not _plain(line))
    effect = max((line.effect for line in lines), default=Effect.READ)
    sure = not work.problems and all(line.sure for line in lines)
    problems = tuple(_clean(problem, 200) for problem in work.problems)
    return Explanation(effect, sure, lines, problems)


def _text(work: _Work, text: str, around: Command, *, level: int, guess: bool = False) -> None:
    parsed = parse(text, deadline=work.deadline)
    work.functions |= {name.rpartition("/")[2] for name in parsed.functions}
    if not guess:
        within = f"in {around.context}: " if level else ""
        work.problems += [within + problem for problem in parsed.problems]
    for command in parsed.commands:
        if level:
            context = " ".join(filter(None, (around.context, command.context)))
            depth = around.depth + command.depth
            command = replace(  # noqa: PLW2901 - the same command, placed
                command,
                context=context,
                depth=depth,
                line=around.line,
                column=around.column,
                function=command.function or around.function,
                forks=command.forks or around.forks,
            )
        _command(work, command, level=level)


def _command(work: _Work, command: Command, *, level: int) -> None:
    if len(work.entries) >= COMMANDS or level > LEVELS:
        much = f"more than {COMMANDS} commands" if level <= LEVELS else "nested too deep"
        if f"{much}: not read further" not in work.problems:
            work.problems.append(f"{much}: not read further")
        return
    judged = judge(command)
    findings = (*judged.own, *judged.around)
    work.redefined = work.redefined or judged.redefines
    if judged.name in {"cd", "pushd"}:
        work.places |= {word.start: None for word in command.words[1:2]}
    shown = not judged.inner or any(_says(finding) for finding in findings)
    if shown:
        work.entries.append(_Entry(command, judged, findings))
    inside = replace(command, depth=command.depth + shown, redirects=(), assignments=(), odd="")
    for inner in judged.inner:
        _inner(work, inside, inner, shown=shown, level=level + 1)


def _inner(work: _Work, command: Command, inner: Inner, *, shown: bool, level: int) -> None:
    context = inner.label if shown else f"{command.context} {inner.label}".strip()
    inside = replace(command, context=context, words=inner.words)
    if inner.defines:
        work.functions.add(inner.defines)
        inside = replace(inside, function=inner.defines, forks=False)
    if inner.text is None:
        _command(work, inside, level=level)
    else:
        _text(work, inner.text.text, inside, level=level, guess=not inner.text.fixed)


def _settled(work: _Work) -> Iterable[tuple[_Entry, list[Finding]]]:
    """Add what is known only at the end: functions, aliases, and where relative paths lead."""
    bodies = [
        finding
        for entry in work.entries
        if entry.command.function and entry.judged.name not in work.functions
        for finding in entry.findings
    ]
    effect, sure = _worst(bodies)
    for entry in work.entries:
        findings = list(entry.findings)
        name = entry.judged.name
        if name in work.functions:
            if not entry.judged.known:
                findings = list(entry.judged.around)
            findings.append(Finding(effect, sure, why="a function or alias of this text"))
            findings += _again(entry)
        elif work.redefined and name and all(finding.sure for finding in findings):
            findings.append(Finding(sure=False, why=_SHADOWED))
        findings += _placed(findings, list(work.places))
        yield entry, findings


def _again(entry: _Entry) -> list[Finding]:
    if entry.judged.name != entry.command.function:
        return []
    if entry.command.forks:
        return [Finding(Effect.DESTROY, why="calls itself in parallel: a fork bomb")]
    return [Finding(sure=False, why="calls itself")]


def _placed(findings: Sequence[Finding], places: Sequence[str]) -> list[Finding]:
    relative = [
        touch.name
        for finding in findings
        if finding.effect is Effect.CHANGE
        for touch in finding.touches
        if touch.kind == "file" and not touch.name.startswith("/")
    ]
    found = [
        replace(written(Word(posixpath.join(place, name))), touches=())
        for place in places[:_PLACES]
        for name in relative
    ]
    if relative and len(places) > _PLACES:
        found.append(Finding(sure=False, why="too many changes of the folder to follow"))
    return found


def _says(finding: Finding) -> bool:
    return finding.effect is not Effect.READ or not finding.sure or bool(finding.touches)


def _plain(line: Line) -> bool:
    return line.effect is Effect.READ and line.sure


def _worst(findings: Sequence[Finding]) -> tuple[Effect, bool]:
    effect = max((finding.effect for finding in findings), default=Effect.READ)
    return effect, all(finding.sure for finding in findings)


def _line(entry: _Entry, findings: Sequence[Finding]) -> Line:
    effect, sure = _worst(findings)
    command = entry.command
    telling = [f for f in findings if f.why and (not f.sure or f.effect is effect)]
    if effect is Effect.DESTROY and any(f.effect is effect for f in telling):
        telling = [f for f in telling if f.effect is effect]
    touches: dict[Touch, None] = {touch: None for f in findings for touch in f.touches}
    named = list(touches)[:_TOUCHES]
    return Line(
        command=_shown(command),
        effect=effect,
        sure=sure,
        why=_clean("; ".join(dict.fromkeys(f.why for f in telling)), 200),
        touches=tuple(Touch(touch.kind, _clean(touch.name, 80)) for touch in named),
        context=_clean(command.context, 60),
        depth=command.depth,
        line=command.line,
        column=command.column,
    )


def _shown(command: Command) -> str:
    if not command.words or command.words[0].text in {"[", "[["}:
        plain = not command.redirects and not command.odd
        assigned = bool(command.assignments) and not command.words and plain
        return "" if assigned else _clean(command.source, SHOWN)
    words = [_quoted(word) for word in command.words[:40]]
    words += [
        r.operator if r.operator == "<<" else f"{r.operator} {_quoted(r.target)}"
        for r in command.redirects[:8]
    ]
    return _clean(" ".join(words), SHOWN)


def _quoted(word: Word) -> str:
    if not word.fixed:
        return f'"{word.text}"' if " " in word.text and not word.many else word.text
    if re.fullmatch(r"[\w@%+=:,./~^{}\[\]-]+", word.text):
        return word.text
    return "'" + word.text.replace("'", "'\\''") + "'"


def _clean(text: str, length: int) -> str:
    """Return a text on one line, without what could not be sent or would steer a terminal."""
    tidy = " ".join(text[: length * 4].encode("utf-8", "replace").decode().split())
    tidy = "".join(sign if sign.isprintable() else "?" for sign in tidy)
    return tidy if len(tidy) <= length else tidy[:length] + "…"
