"""Judges a program by its entry in the table: options, arguments, subcommands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pvemcp.call import Effect
from pvemcp.explain.paths import read_from, written
from pvemcp.explain.table import Program
from pvemcp.explain.values import Finding, Touch, Word

_SUBCOMMAND = 4
"""Words of the longest subcommand."""
_NAMED = 4
"""Arguments that are named as touched."""
_MANAGEABLE = 2_000
"""Arguments of a command that are looked at one by one."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of a program, apart. An option's value is also in `options`."""

    options: tuple[Word, ...]
    plain: tuple[Word, ...]


def level(word: str, why: str = "") -> Finding:
    """Return what a level of the table means."""
    if word == "unsure":
        return Finding(sure=False, why=why)
    return Finding(Effect.parse(word), why=why if word != "read" else "")


def judge(program: Program, args: Sequence[Word]) -> list[Finding]:
    """Judge a program by the table. The result is never less than what any rule says."""
    if len(args) > _MANAGEABLE:
        return [Finding(sure=False, why="more arguments than are looked at")]
    if len(args) == 1 and args[0].fixed and args[0].text in {"--help", "--version"}:
        return [Finding()]
    given = split(program, args)
    findings = [_unknown_options(program, args), *_by_options(program, args)]
    if program.subs:
        base, given = _by_subcommand(program, args, given)
        findings.append(base)
    elif not _only_reads(program, given):
        findings.append(level(program.effect, program.does))
    findings += _by_arguments(program, given.plain)
    findings.append(Finding(touches=touches(program.touches, given.plain)))
    if program.touches in {"file", "device"}:
        findings += [read_from(word) for word in given.plain]
    return findings


def split(program: Program, args: Sequence[Word]) -> Arguments:
    """Tell options from the rest. What may be either is both."""
    options: list[Word] = []
    plain: list[Word] = []
    skip = ended = False
    for before, word in zip((None, *args), args, strict=False):
        if word.fixed and word.text == "--" and not ended and not skip:
            # An option before it may have taken it for its value.
            ended = before is None or not before.optional
            continue
        if word.optional and not ended:
            options.append(word)
        if skip:
            skip = False
            continue
        if not word.optional or not word.fixed or ended:
            plain.append(word)
        skip = not ended and word.fixed and word.optional and takes_value(program.value, word.text)
    return Arguments(tuple(options), tuple(plain))


def takes_value(value: frozenset[str], text: str) -> bool:
    """Tell whether the next word is the value of this option."""
    if text in value:
        return True
    return (
        not text.startswith("--")
        and len(text) > 2
        and f"-{text[-1]}" in value
        and (not any(f"-{letter}" in value for letter in text[1:-1]))
    )


def names(word: Word, options: frozenset[str]) -> bool:
    """Tell whether a word may be one of these options: abbreviated, or in a cluster of letters."""
    text = word.text
    if not word.fixed:
        text = word.head
    if text.startswith("--"):
        stem = text.partition("=")[0]
        return len(stem) > 2 and any(option.startswith(stem) for option in options)
    if text in options or any(len(o) > 2 and text.partition("=")[0] == o for o in options):
        return True
    return text.startswith("-") and any(f"-{letter}" in options for letter in text[1:])


def _unknown_options(program: Program, args: Sequence[Word]) -> Finding:
    if program.careful and any(word.optional and not word.fixed for word in args):
        return Finding(sure=False, why="an argument known only when it runs may be an option")
    return Finding()


def _by_options(program: Program, args: Sequence[Word]) -> list[Finding]:
    given = split(program, args)
    findings = []
    for word in given.options:
        if program.changing and re.fullmatch(program.changing, word.text):
            findings.append(level("change", program.does))
        findings += [
            level(key, f"{_stem(word)}: {_reason(key, program.does)}")
            for key in ("change", "destroy", "unsure")
            if names(word, program.options.get(key, frozenset()))
        ]
        if program.only and not _harmless(program, word):
            findings.append(Finding(sure=False, why=f"{_stem(word)} is not known to be harmless"))
    if program.changing:
        changing = [word for word in args if re.fullmatch(program.changing, word.text)]
        findings += [level("change", program.does) for _ in changing]
    return [*findings, *_written_by_options(program, args)]


def _reason(key: str, does: str) -> str:
    return does or {"unsure": "may run or write something"}.get(key, key)


def _written_by_options(program: Program, args: Sequence[Word]) -> Iterable[Finding]:
    writes = program.options.get("write", frozenset())
    for word, after in zip(args, (*args, None)[1:], strict=True):
        if not writes or not word.optional or not names(word, writes):
            continue
        text, sign, value = word.text.partition("=")
        if sign and text.startswith("--"):
            yield written(replace(word, text=value, head=word.head.partition("=")[2]))
        elif text in writes or text.startswith("--"):
            yield written(after or Word("", fixed=False))
        else:  # in a cluster of letters: the value is the rest of it or the next word
            letters = [f"-{letter}" in writes for letter in text[1:]]
            rest = text[2 + letters.index(True) :] if True in letters else ""
            yield written(replace(word, text=rest) if rest else after or Word("", fixed=False))


def _harmless(program: Program, word: Word) -> bool:
    text = word.text
    if text in program.only or text in program.value:
        return True
    if text.startswith("--"):
        return text.partition("=")[0] in program.only | program.value
    for letter in text[1:]:
        if f"-{letter}" in program.value:
            return True
        if f"-{letter}" not in program.only:
            return False
    return True


def _only_reads(program: Program, given: Arguments) -> bool:
    """Tell whether an option lowers the effect to read, and no other may raise it again."""
    read = program.options.get("read", frozenset())
    if not any(word.fixed and _reads(word.text, read) for word in given.options):
        return False
    harmless = replace(program, only=read | program.flags)
    return all(word.fixed and _harmless(harmless, word) for word in given.options)


def _reads(text: str, read: frozenset[str]) -> bool:
    if text.startswith("--"):
        return text.partition("=")[0] in read
    return text in read or any(f"-{letter}" in read for letter in text[1:])


def _by_subcommand(
    program: Program, args: Sequence[Word], given: Arguments
) -> tuple[Finding, Arguments]:
    """Judge the subcommand; the arguments that are left are those behind it."""
    words = list(args)
    while words and words[0].fixed and words[0].text.startswith("-"):
        text = words.pop(0).text
        if text in program.value:
            words = words[1:]
        elif not _leads(program, text):
            why = f"{text[:40]} before the subcommand is not known"
            return Finding(sure=False, why=why), given
    if not words:
        read = _only_reads(program, given)
        return level("read" if read else program.bare, program.does), given
    if not words[0].fixed:
        return Finding(sure=False, why="the subcommand is known only when it runs"), given
    rest = split(program, words).plain
    for count in range(min(_SUBCOMMAND, len(rest)), 0, -1):
        phrase = " ".join(word.text for word in rest[:count])
        found = program.subs.get(phrase)
        if found and all(word.fixed for word in rest[:count]):
            why = f"{phrase}: {program.does}"
            return level(found, why), replace(given, plain=rest[count:])
    why = f"the subcommand {words[0].text[:40]} is not known"
    return Finding(sure=False, why=why), given


def _leads(program: Program, text: str) -> bool:
    known = program.flags | program.value | program.options.get("read", frozenset())
    if text.startswith("--"):
        return text.partition("=")[0] in known
    return text in known or all(f"-{letter}" in known for letter in text[1:])


def _by_arguments(program: Program, plain: Sequence[Word]) -> list[Finding]:
    match program.arguments:
        case "":
            return []
        case "write":
            return [written(word) for word in plain]
        case "write last":
            last = [written(word) for word in plain[-1:]]
            return [finding for finding in last if finding.effect is not Effect.READ]
        case word:
            pattern = program.plain
            counts = not all(w.fixed and pattern and re.fullmatch(pattern, w.text) for w in plain)
            return [level(word, program.does)] if counts else []


def touches(kind: str, plain: Sequence[Word]) -> tuple[Touch, ...]:
    """Return what arguments name, as things of a kind."""
    if not kind:
        return ()
    fits = [word.text for word in plain if word.text and _fits(kind, word.text)]
    return tuple(Touch(kind, text[:80]) for text in fits[:_NAMED])


def _fits(kind: str, text: str) -> bool:
    return kind != "guest" or text.isdigit()


def _stem(word: Word) -> str:
    return word.text.partition("=")[0][:40]
