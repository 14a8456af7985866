"""One change: what was written, the state before and after, and how it is taken back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

State = dict[str, Any]
"""What of a target can be compared: flat, names as PVE has them. Empty: it is not there."""

LONGEST = 400
"""Characters of a value that are shown."""
DIGEST = "digest"
"""The key of a state that is PVE's own digest of it: not compared, but sent with an undo."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to PVE that an undo makes."""

    verb: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        hidden = "content" if "file" in self.params else ""  # it may hold what is secret
        shown = ((name, value) for name, value in self.params.items() if name != hidden)
        said = " ".join(f"{name}={_short(value)}" for name, value in shown)
        return f"{self.verb} {self.path} {said}".rstrip()


def _short(value: Any) -> str:
    text = _flat(value)
    return text if len(text) <= LONGEST else f"{text[:40]}… ({len(text)} characters)"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a change is taken back: requests in their order, or why it cannot be."""

    requests: tuple[Request, ...] = ()
    lost: tuple[str, ...] = ()
    """What the requests do not bring back, one line each."""
    why_not: str = ""
    keys: tuple[str, ...] = ()
    """What of the state must still be as the change left it; nothing: all of it."""

    def text(self) -> str:
        """Say it in one line."""
        if self.why_not:
            return f"cannot be undone: {self.why_not}"
        return "; ".join([*map(str, self.requests), *(f"not: {line}" for line in self.lost)])

    def as_json(self) -> dict[str, Any]:
        """Return it as `recipe_of` reads it."""
        return asdict(self)


def recipe_of(said: Mapping[str, Any]) -> Recipe:
    """Read a recipe from JSON."""
    return Recipe(
        tuple(Request(**each) for each in said["requests"]),
        tuple(said["lost"]),
        said["why_not"],
        tuple(said["keys"]),
    )


def never(why: str) -> Recipe:
    """Return the recipe of what cannot be undone."""
    return Recipe(why_not=why)


@dataclass(frozen=True, slots=True)
class Change:
    """One row of the journal. Times are in seconds since the epoch.

    `before` and `after` are None when they could not be read.
    """

    id: str
    call: str
    time: float
    ended: float | None
    client: str
    grant: str
    user: str
    """The PVE token that the change was made with."""
    tool: str
    verb: str
    path: str
    template: str
    effect: str
    node: str
    shown: Mapping[str, Any]
    """The parameters, redacted."""
    target: str
    outcome: str
    """done, running, failed, uncertain, `open` while it is sent, `unfinished: …` after a kill."""
    error: str
    upid: str
    undo: str
    """How it is taken back, or why not, in one line."""
    undoes: str
    """The change that this one takes back."""
    undone_by: str
    """The call that took it back."""
    params: Mapping[str, Any] = field(repr=False)
    before: State | None = field(repr=False)
    after: State | None = field(repr=False)
    recipe: Recipe = field(repr=False)


def differences(old: State, new: State, keys: tuple[str, ...] = ()) -> list[str]:
    """Return the names whose values differ, of `keys` or of all."""
    names = keys or tuple(dict.fromkeys([*old, *new]))
    shown = (name for name in names if name != DIGEST and not name.startswith("_"))
    return [name for name in shown if old.get(name) != new.get(name)]


def compared(old: State | None, new: State | None, keys: tuple[str, ...] = ()) -> list[str]:
    """Return how two states differ, one line a value."""
    if old is None or new is None:
        return ["the state could not be read"]
    lines: list[str] = []
    for name in differences(old, new, keys):
        lines += _line(name, old.get(name), new.get(name))
    return lines


def _line(name: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, list) and isinstance(new, list):
        gone = [f"{name}: - {_text(each)}" for each in old if each not in new]
        come = [f"{name}: + {_text(each)}" for each in new if each not in old]
        return [*gone, *come] or [f"{name}: another order"]
    if old is None:
        return [f"{name}: set to {_text(new)}"]
    if new is None:
        return [f"{name}: {_text(old)} is removed"]
    return [f"{name}: {_text(old)} -> {_text(new)}"]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_flat(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "nothing"
    return _flat(value)


def _flat(value: Any) -> str:
    """Write a value on one line: notes of a guest must not look like further lines of ours."""
    return " ".join(str(value).split())


def _moved(change: Change) -> list[str]:
    if change.outcome == "failed" and change.after is None:
        return []  # nothing was done, so nobody looked afterwards
    return compared(change.before, change.after)


def told(change: Change, when: str) -> list[str]:
    """Describe a change for a person, line by line: what, who, before and after, the way back."""
    ended = ": ".join(filter(None, [change.outcome, change.error]))
    lines = [
        f"{change.id}: {change.verb} {change.path} ({change.target})",
        f"{when} by {change.client}, {change.tool}, call {change.call}: {ended}",
        *([f"task {change.upid}"] if change.upid else []),
        *([f"takes back {change.undoes}"] if change.undoes else []),
        *([f"taken back by the call {change.undone_by}"] if change.undone_by else []),
        *(f"  {line}" for line in _moved(change)),
    ]
    if change.recipe.why_not:
        return [*lines, f"undo: {change.recipe.text()}"]
    lines += ["undo:", *(f"  {request}" for request in change.recipe.requests)]
    return [*lines, *(f"  not brought back: {line}" for line in change.recipe.lost)]
