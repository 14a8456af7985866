"""Programs whose arguments are a language of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from pvemcp.call import Effect
from pvemcp.explain import options
from pvemcp.explain.paths import read_from, written
from pvemcp.explain.scripts import awk, sed
from pvemcp.explain.shell import shell
from pvemcp.explain.table import Program
from pvemcp.explain.values import Finding, Touch, Word

_UNKNOWN_ARGUMENT = Finding(sure=False, why="an argument known only when it runs may be an option")
_FIND_WRITES = frozenset("-fprint -fprint0 -fls -fprintf".split())
_FIND_RUNS = frozenset("-exec -execdir -ok -okdir".split())
_FIND_READS = frozenset(
    "-name -iname -path -ipath -wholename -iwholename -regex -iregex -type -xtype -size -mtime "
    "-atime -ctime -mmin -amin -cmin -newer -anewer -cnewer -perm -user -uid -group -gid -maxdepth "
    "-mindepth -links -inum -samefile -lname -ilname -fstype -printf -used -regextype -context "
    "-print -print0 -ls -prune -quit -empty -readable -writable -executable -nouser -nogroup "
    "-true -false -and -or "
    "-not -a -o -depth -d -mount -xdev -follow -daystart -noleaf -ignore_readdir_race "
    "-noignore_readdir_race -warn -nowarn -H -L -P -E -X -x -s -newermt -newerat -newerct -newermm "
    "-files0-from -help -version --help --version".split()
)
_FIND_VALUE = r"-(?:\d.*|[ugoa]*[=+-]?[rwxXst]+(?:,.*)?|O\d|D|newer[aBcm][aBcmt])?"
_IP_READS = frozenset("show sho sh list lis li l lst ls get help monitor save".split())
# `ip addr s` shows, but `ip link s` sets: the abbreviation means what comes first in each.
_IP_SHOWS = frozenset("a addr address r ro route n neigh neighbour ru rule".split())
_IP_CUTS = frozenset("del delete d flush f destroy remove".split())
_IP_FLAGS = re.compile(
    r"-(?:4|6|0|s|S|j|p|c|d|o|a|br|brief|json|pretty|details|stats|statistics|human|h|iec|"
    r"oneline|color(?:=\w+)?|all|N|numeric|r|resolve|t|ts|timestamp|V|Version)+"
)
_PVESH_CUTS = re.compile(
    r"(?:stop|reset|reboot|shutdown|rollback|wipedisk|initgpt|prunebackups|status|monitor|suspend)$"
)
_METHOD = re.compile(r"-X\s*(\w+)|--request[= ](\w+)")


def special(program: Program, args: Sequence[Word]) -> list[Finding]:
    """Judge a program that the table names as special."""
    return _SPECIALS[program.special](program, args)


def _find(program: Program, args: Sequence[Word]) -> list[Finding]:
    findings = []
    inner = False
    for word, after in zip(args, (*args, None)[1:], strict=True):
        text = word.text
        if inner:  # the command of -exec is judged on its own
            inner = text not in {";", "+"}
        elif not word.fixed:
            findings += [_UNKNOWN_ARGUMENT] if word.optional else []
        elif text == "-delete":
            findings.append(Finding(Effect.DESTROY, why="deletes what it finds"))
        elif text in _FIND_WRITES:
            findings.append(written(after or Word("", fixed=False)))
        elif text in _FIND_RUNS:
            inner = True
        elif text.startswith("-") and text not in _FIND_READS and not _find_value(text):
            findings.append(Finding(sure=False, why=f"{text[:40]} is not known to be harmless"))
    roots = args[: next((i for i, w in enumerate(args) if w.optional), len(args))]
    return [*findings, Finding(touches=options.touches(program.touches, roots))]


def _find_value(text: str) -> bool:
    return bool(
        re.fullmatch(r"-(?:\d.*|[ugoa]*[=+-]?[rwxXst]+(?:,.*)?|O\d|D|newer[aBcm][aBcmt])?", text)
    )


def _dd(_program: Program, args: Sequence[Word]) -> list[Finding]:
    findings = []
    for word in args:
        name, sign, value = word.start.partition("=")
        if not word.fixed and not sign:
            findings.append(_UNKNOWN_ARGUMENT)
        elif name == "of":
            target = word.text.partition("=")[2]
            findings.append(written(Word(target, fixed=word.fixed, head=value)))
        elif name == "if":
            findings.append(read_from(Word(word.text[3:], fixed=word.fixed, head=value)))
            findings.append(Finding(touches=(Touch("file", word.text[3:83]),)))
    if any(word.many for word in args):
        findings.append(_UNKNOWN_ARGUMENT)
    return findings


def _tar(program: Program, args: Sequence[Word]) -> list[Finding]:
    if any(word.optional and not word.fixed for word in args) or (args and not args[0].fixed):
        return [Finding(Effect.CHANGE, sure=False, why=_UNKNOWN_ARGUMENT.why)]
    texts = [word.text for word in args]
    if texts in (["--help"], ["--version"]):
        return [Finding()]
    dashed = [text for text in texts if text.startswith("-")]
    letters = "".join(text[1:] for text in dashed if not text.startswith("--"))
    letters += texts[0] if texts and not texts[0].startswith("-") else ""
    long = [text.split("=")[0] for text in dashed if text.startswith("--")]
    plain = [word for word in options.split(program, args).plain if word is not args[0]]
    findings = [Finding(touches=options.touches(program.touches, plain))]
    if any(name in {"--remove-files", "--delete"} for name in long):
        findings.append(Finding(Effect.DESTROY, why="deletes files or members"))
    known = {"--list", "--file", "--verbose", "--gzip", "--xz", "--bzip2", "--zstd", "--wildcards"}
    known |= {"--extract", "--create", "--get", "--append", "--update", "--directory", "--exclude"}
    known |= {"--remove-files", "--delete", "--strip-components", "--numeric-owner", "--diff"}
    strange = [name for name in long if name not in known]
    if strange or set(letters) & set("IFgM") or any(":" in text for text in texts):
        findings.append(Finding(Effect.CHANGE, sure=False, why="may run another program"))
    reads = set(letters) & set("t") or "--list" in long
    writes = {"--extract", "--create", "--get", "--append", "--update"} & set(long)
    if not reads or writes or set(letters) & set("xcruAd"):
        findings.append(Finding(Effect.CHANGE, why="writes an archive or the files of one"))
    return findings


def _ip(program: Program, args: Sequence[Word]) -> list[Finding]:
    words = list(args)
    while words and words[0].fixed and words[0].text.startswith("-"):
        text = words.pop(0).text
        if text in {"-n", "-netns", "-f", "-family", "-l", "-loops", "-rc", "-rcvbuf"}:
            words = words[1:]
        elif not _IP_FLAGS.fullmatch(text):
            return [Finding(sure=False, why=f"{text[:40]} is not known to be harmless")]
    if any(not word.fixed for word in words[:2]) or any(word.many for word in words):
        return [Finding(Effect.CHANGE, sure=False, why=_UNKNOWN_ARGUMENT.why)]
    texts = [word.text for word in words]
    touched = options.touches(program.touches, words[2:])
    if "exec" in texts[:3]:  # what runs is judged on its own
        return [Finding(Effect.CHANGE, why="runs in another network namespace", touches=touched)]
    shows = len(texts) < 2 or texts[1] in _IP_READS or texts[0] == "help"
    if shows or (texts[0] in _IP_SHOWS and texts[1] == "s"):
        return [Finding(touches=touched)]
    if set(texts[1:3]) & _IP_CUTS or "down" in texts:
        return [Finding(Effect.DESTROY, why="takes a part of the network away", touches=touched)]
    return [Finding(Effect.CHANGE, why=program.does, touches=touched)]


def _kill(program: Program, args: Sequence[Word]) -> list[Finding]:
    texts = [word.text for word in args]
    touched = options.touches(program.touches, options.split(program, args).plain)
    if program.name == "kill" and texts[:1] in (["-0"], ["-l"], ["-L"]):
        return [Finding(touches=touched)]
    if program.name == "fuser" and not any(word.optional for word in args):
        return [Finding(touches=touched)]
    return [Finding(Effect.DESTROY, why=program.does, touches=touched)]


def _service(program: Program, args: Sequence[Word]) -> list[Finding]:
    texts = [word.text if word.fixed else "?" for word in args]
    touched = options.touches(program.touches, args[:1])
    action = texts[1] if len(texts) > 1 else ""
    if action == "stop":
        return [Finding(Effect.DESTROY, why=program.does, touches=touched)]
    if action in {"start", "restart", "reload", "force-reload", "try-restart"}:
        return [Finding(Effect.CHANGE, why=program.does, touches=touched)]
    if action == "status" and len(texts) == 2:
        return [Finding(touches=touched)]
    return [Finding(sure=False, why=program.does, touches=touched)]


def _uniq(_program: Program, args: Sequence[Word]) -> list[Finding]:
    if any(word.many for word in args) or any(w.optional and not w.fixed for w in args):
        return [_UNKNOWN_ARGUMENT]
    plain = [word for word in args if not word.optional or not word.fixed]
    return [written(plain[-1])] if len(plain) > 1 else [Finding()]


def _curl(program: Program, args: Sequence[Word]) -> list[Finding]:
    findings = options.judge(program, args)
    methods = _METHOD.findall(" ".join(word.text for word in args[:100]))
    if any("DELETE" in method for method in methods):
        findings.append(Finding(Effect.DESTROY, why="deletes on another host"))
    return findings


def _pvesh(program: Program, args: Sequence[Word]) -> list[Finding]:
    if not all(word.fixed for word in args[:2]) or any(word.many for word in args):
        return [Finding(Effect.CHANGE, sure=False, why=_UNKNOWN_ARGUMENT.why)]
    verb, path = (*(word.text for word in args[:2]), "", "")[:2]
    touched = (Touch("path", path[:80]),) if path else ()
    match verb:
        case "get" | "ls" | "usage" | "help" | "":
            return [Finding(touches=touched)]
        case "delete":
            return [Finding(Effect.DESTROY, why=program.does, touches=touched)]
        case "create" | "set" if "exec" in path:
            return [Finding(Effect.CHANGE, sure=False, why="runs a command", touches=touched)]
        case "create" | "set":
            cuts = _PVESH_CUTS.search(path.rstrip("/"))
            effect = Effect.DESTROY if cuts else Effect.CHANGE
            return [Finding(effect, why=program.does, touches=touched)]
    return [Finding(sure=False, why=f"the subcommand {verb[:40]} is not known")]


_SPECIALS: Mapping[str, Callable[[Program, Sequence[Word]], list[Finding]]] = {
    "find": _find,
    "dd": _dd,
    "tar": _tar,
    "ip": _ip,
    "kill": _kill,
    "service": _service,
    "uniq": _uniq,
    "curl": _curl,
    "pvesh": _pvesh,
    "sed": sed,
    "awk": awk,
    "shell": shell,
}
