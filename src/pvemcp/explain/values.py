"""The values of an explanation: words and commands as read, lines as judged.

An explanation is for people and models to read. It permits nothing: no decision anywhere may
hang on it, for a shell text can always be written so that a reader misses what it does. What
holds a command back is the kernel's sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass

from pvemcp.call import Effect


@dataclass(frozen=True, slots=True)
class Word:
    """One argument with its quotes taken off; what is known only at run time stands as `$x`."""

    text: str
    fixed: bool = True
    """The text is known now: no variable, substitution, glob or brace is in it."""
    head: str = ""
    """What a word that is not fixed begins with in any case."""
    many: bool = False
    """It may become no word or several: an expansion outside of quotes."""

    @property
    def start(self) -> str:
        """What the word begins with in any case."""
        return self.text if self.fixed else self.head

    @property
    def optional(self) -> bool:
        """Whether the program may take it for an option."""
        if self.fixed:
            return self.text.startswith(("-", "+")) and len(self.text) > 1
        return self.many or not self.head or self.head.startswith(("-", "+"))


@dataclass(frozen=True, slots=True)
class Redirect:
    """`2>file`: `operator` is `>`, `>>`, `>|`, `<`, `<>`, `&>`, `&>>`, `>&`, `<&` or `<<`."""

    operator: str
    target: Word


@dataclass(frozen=True, slots=True)
class Assignment:
    """`name=value` before a command or alone."""

    name: str
    value: Word


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command where it stands. `line` and `column` count from 1."""

    words: tuple[Word, ...] = ()
    redirects: tuple[Redirect, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    source: str = ""
    """The beginning of its text, to show."""
    context: str = ""
    """What runs it: `$( )`, `|`, `function f`, `sudo`; empty at the top."""
    depth: int = 0
    line: int = 1
    column: int = 1
    function: str = ""
    """The function of whose body it is part."""
    forks: bool = False
    """It stands in a pipeline or in the background."""
    odd: str = ""
    """Why bash may read this otherwise than it was read here."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A shell text as read."""

    commands: tuple[Command, ...] = ()
    problems: tuple[str, ...] = ()
    """What could not be read, and where; with one, the whole is uncertain."""
    functions: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Touch:
    """Something that a command reads or works on: `kind` is file, device, guest, service …"""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is known of a command; `sure` is False where nobody can tell the rest."""

    effect: Effect = Effect.READ
    sure: bool = True
    why: str = ""
    touches: tuple[Touch, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A command as judged: at least `effect`, and exactly that when `sure`."""

    command: str
    effect: Effect
    sure: bool
    why: str
    touches: tuple[Touch, ...]
    context: str
    depth: int
    line: int
    column: int

    @property
    def verdict(self) -> str:
        """The effect as a word, or `cannot tell`."""
        return verdict(self.effect, self.sure)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a shell text would do: at least `effect`, and exactly that when `sure`."""

    effect: Effect
    sure: bool
    lines: tuple[Line, ...]
    problems: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The effect as a word, or `cannot tell`."""
        return verdict(self.effect, self.sure)


def verdict(effect: Effect, sure: bool) -> str:  # noqa: FBT001 - the pair is the value
    """Write an effect: nothing is above destroy, so that is said even when the rest is unknown."""
    return str(effect) if sure or effect is Effect.DESTROY else "cannot tell"
