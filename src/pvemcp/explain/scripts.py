"""sed and awk: whether a script only prints. What is not plainly harmless is unsure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pvemcp.call import Effect
from pvemcp.explain.options import touches
from pvemcp.explain.paths import written
from pvemcp.explain.table import Program
from pvemcp.explain.values import Finding, Word

_ADDRESS = r"(?:\d+(?:~\d+)?|\$|/(?:[^/\\\n]|\\.)*/[IM]*)"
_SED = re.compile(
    rf"\s*(?:{_ADDRESS}(?:\s*,\s*[+~]?{_ADDRESS})?)?\s*!?\s*"
    r"(?:[pPdDqQ=lnNgGhHxz]\d*|\{|\}|[bt]\s*\w*|:\s*\w+|"
    r"[sy]([^\\\n\w])(?:\\.|(?!\1)[^\\\n])*\1(?:\\.|(?!\1)[^\\\n])*\1[gpiI0-9]*)?\s*(?:[;\n]|(?<=\{)|(?=\})|$)",
    re.DOTALL,
)
_SED_FLAGS = re.compile(r"-(?:[nErsuz]+|-quiet|-silent|-regexp-extended|-null-data|-posix|-debug)")
_SED_SCRIPT = re.compile(r"-[nErsuz]*e|--expression")
_AWK_WRITES = re.compile(r">\s*\"[^\"]*\"")
_LONGEST = 4_000
"""Characters of a script that are looked at."""
_UNSURE = "an argument known only when it runs may be an option or a script"


def sed(program: Program, args: Sequence[Word]) -> list[Finding]:
    """Judge sed: -i edits in place, and w, e and s///e write or run."""
    findings: list[Finding] = []
    scripts: list[Word] = []
    files: list[Word] = []
    todo = list(args)
    while todo:
        word = todo.pop(0)
        if _SED_SCRIPT.fullmatch(word.start):
            scripts += todo[:1]
            todo = todo[1:]
        elif word.text.startswith("--expression="):
            scripts.append(Word(word.text.partition("=")[2], fixed=word.fixed))
        elif word.optional:
            findings.append(_sed_option(word))
        else:
            files.append(word)
    if not scripts:
        scripts, files = files[:1], files[1:]
    if not all(script.fixed and _sed_prints(script.text) for script in scripts):
        findings.append(Finding(sure=False, why="the script may write a file or run a command"))
    if any(finding.effect is Effect.CHANGE for finding in findings):
        findings += [written(word) for word in files]
    return [*findings, Finding(touches=touches(program.touches, files))]


def _sed_option(word: Word) -> Finding:
    if not word.fixed:
        return Finding(sure=False, why=_UNSURE)
    if re.match(r"-[nErsuz]*i|--in-p", word.text):
        return Finding(Effect.CHANGE, why="edits files in place")
    if word.text == "--" or _SED_FLAGS.fullmatch(word.text):
        return Finding()
    return Finding(sure=False, why=f"{word.text[:40]} is not known to be harmless")


def _sed_prints(script: str) -> bool:
    at = 0
    while at < len(script) and len(script) <= _LONGEST:
        found = _SED.match(script, at)
        if not found or found.end() == at:
            return False
        at = found.end()
    return len(script) <= _LONGEST


def awk(program: Program, args: Sequence[Word]) -> list[Finding]:
    """Judge awk by its program text, which must be among the arguments."""
    findings: list[Finding] = []
    todo = list(args)
    while todo and (todo[0].optional or not todo[0].fixed):
        word = todo.pop(0)
        if word.fixed and word.text == "--":
            break
        if not word.fixed:
            findings.append(Finding(sure=False, why=_UNSURE))
            break
        if word.text in {"-F", "-v"}:
            findings += [Finding(sure=False, why=_UNSURE) for value in todo[:1] if value.many]
            todo = todo[1:]
        elif not word.text.startswith(("-F", "-v")):
            findings.append(Finding(sure=False, why=f"{word.text[:40]} may load a program"))
    if todo:
        findings += _awk_text(todo[0])
    return [*findings, Finding(touches=touches(program.touches, todo[1:]))]


def _awk_text(word: Word) -> list[Finding]:
    text = word.text
    if not word.fixed or len(text) > _LONGEST:
        return [Finding(sure=False, why="the program is known only when it runs")]
    if re.search(r"system|@|getline", text):
        return [Finding(sure=False, why="the awk program may run a command")]
    printing = re.split(r"print", text, maxsplit=1)[1:]
    after = printing[0].replace(">=", "").replace("||", "") if printing else ""
    if _AWK_WRITES.search(after):
        return [Finding(Effect.CHANGE, sure="|" not in after, why="the awk program writes a file")]
    if ">" in after or "|" in after:
        return [Finding(sure=False, why="the awk program may write a file or run a command")]
    return []
