"""Commands that run other commands: what they run, as words or as text for a shell."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pvemcp.call import Effect
from pvemcp.explain import table
from pvemcp.explain.options import level
from pvemcp.explain.shell import decides
from pvemcp.explain.values import Finding, Touch, Word

_SHELLS = frozenset("sh bash dash ash zsh ksh mksh rbash fish csh tcsh posh yash".split())
_BASH_LIKE = frozenset("sh bash dash ash rbash".split())
_BASH = frozenset("bash -c|bash|rbash -c|rbash|eval|trap|alias".split("|"))
_BASH_ONLY = re.compile(
    r"\$['\"]|\(\(|\[\[|[<>]\(|&>|\|&|<<<|>&[^\d\s-]|=\(|\{[^}]*(?:,|\.\.)|"
    r"\$\{(?!\w+\}|\w+:?[-=?+]|\w+[#%]|#\w+\})|\b(?:function|select|coproc|time)\b"
)
_SSH_RUNS = re.compile(r"command|config|include|proxy|provider|exec|forward", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"(\w+)=")
_BUILT = "the text is put together only when it runs"
_STDIN = Finding(sure=False, why="runs what comes in on its input")


@dataclass(frozen=True, slots=True)
class Inner:
    """A command within a command: `words`, or `text` for a shell to read."""

    label: str
    words: tuple[Word, ...] = ()
    text: Word | None = None
    defines: str = ""
    """The alias that it defines; it runs when that is called."""


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What a wrapper does itself, and what it runs. `whole`: nothing else is to be judged."""

    findings: tuple[Finding, ...] = ()
    inner: tuple[Inner, ...] = ()
    whole: bool = True


def unwrap(name: str, args: Sequence[Word], stdin: Word | None) -> Unwrapped | None:
    """Return what `name` runs, or None when it runs nothing."""
    if name in _SHELLS:
        return _shell(name, args, stdin)
    if found := _OWN.get(name):
        return found(args)
    if wrapper := table.wrappers().get(name):
        return _wrapped(wrapper, args)
    return None


def _wrapped(wrapper: table.Wrapper, args: Sequence[Word]) -> Unwrapped:
    rest, findings = _leading(wrapper, args)
    if rest is None:
        return Unwrapped(tuple(findings))
    own = level(wrapper.effect, wrapper.does)
    skipped, rest = rest[: wrapper.skip], rest[wrapper.skip :]
    if any(word.many or (word.optional and not word.fixed) for word in skipped):
        findings.append(Finding(sure=False, why="a word known only when it runs stands first"))
    if wrapper.name == "ssh":
        own = replace(own, touches=tuple(Touch("host", word.text[:80]) for word in skipped))
    if wrapper.name == "taskset" and not any(word.text.startswith("-") for word in args[:1]):
        rest = rest[1:]  # a mask, unless -c gave the processors
    if not rest:
        return Unwrapped((own, level(wrapper.bare, "starts a shell"), *findings))
    label = wrapper.name
    if wrapper.text or (wrapper.name == "flock" and rest[0].text in {"-c", "--command"}):
        words = rest if wrapper.text else rest[1:]
        inner = Inner(label, text=_join(wrapper.name, words))
    else:
        inner = Inner(label, words=tuple(rest))
    return Unwrapped((own, *findings, *_built(inner)), (inner,))


def _leading(
    wrapper: table.Wrapper, args: Sequence[Word]
) -> tuple[Sequence[Word] | None, list[Finding]]:
    """Skip options and assignments. Returns what is left, None when it runs nothing."""
    findings: list[Finding] = []
    rest = list(args)
    while rest and rest[0].fixed and rest[0].text.startswith("-"):
        text = rest[0].text
        rest = rest[1:]
        if text == "--":
            break
        if text in wrapper.only or _cluster(text, wrapper.only):
            return None, findings
        if wrapper.name == "ssh" and _SSH_RUNS.search(text + (rest[0].text if rest else "")):
            findings.append(Finding(sure=False, why=f"{text[:40]} may run another command"))
        taken = _value(wrapper, text)
        if taken is None:
            findings.append(Finding(sure=False, why=f"{text[:40]} is not known"))
        rest = rest[1:] if taken else rest
    while wrapper.assigns and rest and (assigned := _ASSIGNMENT.match(rest[0].start)):
        if decides(assigned[1]):
            findings.append(Finding(sure=False, why=f"{assigned[1]} may decide what runs"))
        rest = rest[1:]
    return rest, findings


def _value(wrapper: table.Wrapper, text: str) -> bool | None:
    """Tell whether an option takes the next word; None when it is not known."""
    if text in wrapper.value:
        return True
    if text in wrapper.flags:
        return False
    if text.startswith("--"):
        return False if text.partition("=")[0] in wrapper.value | wrapper.flags else None
    for at, letter in enumerate(text[1:], start=2):
        if f"-{letter}" in wrapper.value:
            return at == len(text)
        if f"-{letter}" not in wrapper.flags:
            return None
    return False


def _cluster(text: str, letters: frozenset[str]) -> bool:
    return not text.startswith("--") and all(f"-{letter}" in letters for letter in text[1:])


def _join(name: str, words: Sequence[Word]) -> Word:
    texts = [word.text for word in words]
    ends = [i for i, text in enumerate(texts) if text.startswith(":::")]
    if name == "parallel":
        texts = texts[: ends[0]] if ends else texts
        text = " ".join(texts)
        text = text.replace("{}", "$argument") if "{}" in text else f"{text} $argument"
        return Word(text, fixed=all(word.fixed for word in words))
    return Word(" ".join(texts), fixed=all(word.fixed for word in words))


def _built(inner: Inner) -> list[Finding]:
    if inner.text is None:
        return []
    if not inner.text.fixed:
        return [Finding(sure=False, why=_BUILT)]
    if inner.label not in _BASH and _BASH_ONLY.search(inner.text.text):
        return [Finding(sure=False, why="another shell may read this otherwise than bash")]
    return []


def _shell(name: str, args: Sequence[Word], stdin: Word | None) -> Unwrapped:
    findings, rest, command = _shell_options(args)
    if name not in _BASH_LIKE:
        findings.append(Finding(sure=False, why=f"{name} has a syntax of its own"))
    if command and rest:
        inner = Inner(f"{name} -c", text=rest[0])
        return Unwrapped((*findings, *_built(inner)), (inner,))
    if rest and not rest[0].optional:
        return Unwrapped((*findings, Finding(sure=False, why="runs a script")))
    if stdin is not None and not rest:
        inner = Inner(name, text=stdin)
        return Unwrapped((*findings, *_built(inner)), (inner,))
    return Unwrapped((*findings, _STDIN))


def _shell_options(args: Sequence[Word]) -> tuple[list[Finding], list[Word], bool]:
    """Skip a shell's options. Returns also whether -c is among them."""
    findings: list[Finding] = []
    rest = list(args)
    command = False
    while rest and rest[0].fixed and rest[0].text.startswith(("-", "+")):
        text = rest[0].text
        rest = rest[1:]
        if text == "--":
            break
        command = command or (not text.startswith("--") and "c" in text)
        if text[-1] in "oO" and not text.startswith("--"):
            rest = rest[1:]
        elif text.startswith("--") or set(text[1:]) - set("ceuxilvpnafhms"):
            findings.append(Finding(sure=False, why=f"{text[:40]} may run a file"))
    return findings, rest, command


def _eval(args: Sequence[Word]) -> Unwrapped:
    words = args[1:] if args and args[0].text == "--" else args
    if not words:
        return Unwrapped()
    inner = Inner("eval", text=_join("eval", words))
    return Unwrapped(tuple(_built(inner)), (inner,))


def _trap(args: Sequence[Word]) -> Unwrapped:
    words = args[1:] if args and args[0].text == "--" else args
    shows = {"-p", "-l", "-lp", "-", ""}
    if len(words) < 2 or (words[0].fixed and words[0].text in shows):
        return Unwrapped()
    inner = Inner("trap", text=words[0])
    return Unwrapped(tuple(_built(inner)), (inner,))


def _alias(args: Sequence[Word]) -> Unwrapped:
    inner = []
    for word in args:
        name, sign, text = word.text.partition("=")
        if sign or not word.fixed:
            inner.append(Inner("alias", text=replace(word, text=text), defines=name or "?"))
    return Unwrapped(tuple(found for one in inner for found in _built(one)), tuple(inner))


def _xargs(args: Sequence[Word]) -> Unwrapped:
    wrapper = table.Wrapper(
        "xargs",
        "read",
        "",
        frozenset("-I -n -P -L -s -d -E -a --max-args --max-procs --max-lines --delimiter".split()),
        frozenset("-0 -r -t -p -x --null --no-run-if-empty --verbose --exit".split()),
        frozenset(),
        0,
        text=False,
        assigns=False,
        bare="read",
    )
    rest, findings = _leading(wrapper, args)
    if not rest:
        return Unwrapped(tuple(findings))
    before = args[: len(args) - len(rest)]
    marks = [word.text[2:] for word in before if word.text.startswith("-I") and word.text[2:]]
    marks += [a.text for b, a in pairwise(before) if b.text == "-I"]
    if marks:
        words = tuple(_replaced(word, marks[-1]) for word in rest)
    else:
        words = (*rest, Word("…", fixed=False, many=True))
    return Unwrapped(tuple(findings), (Inner("xargs", words=words),))


def _replaced(word: Word, mark: str, *, head: str = "") -> Word:
    at = word.text.find(mark)
    if at < 0 or not word.fixed:
        return word
    return Word(word.text, fixed=False, head=word.text[:at] or head)


def _find(args: Sequence[Word]) -> Unwrapped | None:
    texts = [word.text for word in args]
    root = args[0] if args and not args[0].optional else Word("./")
    head = root.start if not root.start.startswith("-") else ""
    inner = []
    for at, text in enumerate(texts):
        if text not in {"-exec", "-execdir", "-ok", "-okdir"}:
            continue
        ends = [i for i in range(at + 1, len(texts)) if texts[i] in {";", "+"}]
        end = ends[0] if ends else len(args)
        words = [_replaced(word, "{}", head=head) for word in args[at + 1 : end]]
        if words:
            inner.append(Inner(f"find {text}", words=tuple(words)))
    return Unwrapped((), tuple(inner), whole=False) if inner else None


def _su(args: Sequence[Word]) -> Unwrapped:
    for word, after in pairwise(args):
        if word.text in {"-c", "--command", "--session-command"} or re.fullmatch(
            r"-[lmp]*c", word.text
        ):
            inner = Inner("su", text=after)
            return Unwrapped(tuple(_built(inner)), (inner,))
    texts = [word.text for word in args]
    if "--" in texts and "-u" in texts:
        return Unwrapped((), (Inner("runuser", words=tuple(args[texts.index("--") + 1 :])),))
    if texts[:1] == ["-u"] and len(args) > 2:
        return Unwrapped((), (Inner("runuser", words=tuple(args[2:])),))
    return Unwrapped((Finding(sure=False, why="starts a shell"),))


def _script(args: Sequence[Word]) -> Unwrapped:
    found = _su(args)
    return replace(found, findings=(*found.findings, Finding(Effect.CHANGE, why="writes a file")))


def _guest(args: Sequence[Word], verb: Sequence[str]) -> Unwrapped | None:
    texts = [word.text for word in args]
    if texts[: len(verb)] != [*verb]:
        return None
    rest = args[len(verb) + 1 :]
    guest = texts[len(verb)] if len(texts) > len(verb) else "?"
    if "--" in texts:
        rest = args[texts.index("--") + 1 :]
    touch = (Touch("guest", guest[:40]),)
    own = Finding(Effect.CHANGE, why="runs in the guest", touches=touch)
    if not rest:
        return Unwrapped((own,))
    return Unwrapped((own,), (Inner(f"guest {guest[:40]}", words=tuple(rest)),))


def _namespace(args: Sequence[Word]) -> Unwrapped | None:
    texts = [word.text for word in args]
    for at in range(len(texts) - 1):
        if texts[at] in {"netns", "vrf", "net", "netn"} and texts[at + 1] in {"exec", "e", "ex"}:
            words = tuple(args[at + 3 :])
            return Unwrapped((), (Inner("ip netns", words=words),) if words else (), whole=False)
    return None


_OWN: Mapping[str, Callable[[Sequence[Word]], Unwrapped | None]] = {
    "eval": _eval,
    "trap": _trap,
    "alias": _alias,
    "xargs": _xargs,
    "find": _find,
    "su": _su,
    "runuser": _su,
    "script": _script,
    "pct": lambda args: _guest(args, ("exec",)),
    "qm": lambda args: _guest(args, ("guest", "exec")),
    "ip": _namespace,
}
