"""PVE's refusals as Faults that say what to do next."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pvemcp.errors import (
    Conflict,
    Denied,
    Fault,
    Invalid,
    Misconfigured,
    Missing,
    Rejected,
    Unauthenticated,
    Unavailable,
)
from pvemcp.pve.fault_cases import Clue, clue_of, hint_of, meaning
from pvemcp.pve.outages import uncertain
from pvemcp.pve.roles import role_with
from pvemcp.pve.schema import Method
from pvemcp.pve.transport import Reply

_PERL = re.compile(r"\s+at \S+ line \d+\.?\s*$")
_CHECK_FAILED = re.compile(
    r"^Permission check failed \((?P<path>[^,()]*), (?P<privileges>[\w.|]+)\)"
)
_PRIVILEGE = re.compile(r"^[A-Z]\w+(?:\.\w+)+$")
_ELSEWHERE = re.compile(r"certificate verify failed|No route to host|timed out|Name or service")
_LONGEST = 500
_LOOKED_AT = 4 * _LONGEST
_MOST_ERRORS = 50

PROXY = frozenset({502, 503, 504, 595, 596, 599})
"""The part of PVE that had to answer did not: 595 no connection, 596 time-out, 599 other."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that was refused."""

    method: Method
    path: str
    token: str
    """Id of the token, never its secret."""
    node: str = ""
    started: float = 0.0
    """Seconds since the epoch."""

    @property
    def verb(self) -> str:
        """GET, POST, PUT or DELETE."""
        return self.method.verb


def fault_of(reply: Reply, asked: Asked) -> tuple[Fault, Clue | None]:
    """Return the Fault of an answer that is not 200, and what was not found, if that is it."""
    text, errors = texts(reply)
    match reply.status:
        case 400:
            return _invalid(text, errors, asked)
        case 401:
            return _unauthenticated(text, asked), None
        case 403:
            return _denied(text, asked), None
        case 404:
            return Missing(text, hint="List what exists first."), _item(text, asked)
        case 424:
            return Conflict(text, hint=explained(text)[1]), None
        case _:
            return _by_status(reply.status, text, asked)


def _by_status(status: int, text: str, asked: Asked) -> tuple[Fault, Clue | None]:
    if status == 501:
        return _unknown(text, asked), None
    if status in PROXY:
        return _silent_node(status, text, asked), _node(text, asked)
    if 300 <= status < 400:
        return _redirected(status), None
    kind, hint, clue = explained(text)
    if kind is Unavailable and asked.verb != "GET" and "quorum" not in text:
        return uncertain(text, node=asked.node, started=asked.started), None
    if kind is Missing:
        clue = clue or _item(text, asked)
    elif "is locked" in text:
        clue = _lock(asked)
    return kind(text, hint=hint), clue


def _item(text: str, asked: Asked, *, name: str = "") -> Clue | None:
    """Return the last name in the path that the text is about, and the list it should be in.

    `name` is that of the parameter which PVE complains of, if it says so.
    """
    template, path = asked.method.path.split("/"), asked.path.split("/")
    for at in reversed(range(len(template))):
        key = template[at]
        if key.startswith("{") and at < len(path):
            value = "/".join(path[at:]) if at == len(template) - 1 else path[at]
            if value and (value in text or key == f"{{{name}}}"):
                return Clue("item", value, asked.node, key[1:-1], "/".join(path[:at]))
    return None


def _node(text: str, asked: Asked) -> Clue | None:
    """Return the clue of a node that may not exist: a wrong name may resolve, and lead nowhere."""
    return Clue("silent", asked.node) if asked.node and _ELSEWHERE.search(text) else None


def _lock(asked: Asked) -> Clue | None:
    found = dict(zip(asked.method.path.split("/"), asked.path.split("/"), strict=False))
    vmid = found.get("{vmid}", "")
    return Clue("lock", vmid, asked.node) if vmid and asked.node else None


def explained(text: str) -> tuple[type[Fault], str, Clue | None]:
    """Return what an error text of PVE means: a Fault class, the next step, what is missing."""
    found = meaning(text)
    if found is None:
        return Rejected, "", None
    case, groups = found
    return case.fault, hint_of(case, groups), clue_of(case, groups)


def clean(text: str) -> str:
    """Make one line of an error text: without Perl's file and line, and not too long."""
    # Cut first: the pattern takes quadratic time on a long run of blanks.
    line = " ".join(_PERL.sub("", text.strip()[:_LOOKED_AT]).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def texts(reply: Reply) -> tuple[str, dict[str, str]]:
    """Return the error text and the errors of single parameters."""
    try:
        body = json.loads(reply.body) if reply.body[:1] == b"{" else {}
    except (ValueError, RecursionError):
        body = {}
    body = body if isinstance(body, dict) else {}
    errors = body.get("errors")
    errors = errors if isinstance(errors, dict) else {}
    reason, message = clean(reply.reason), clean(str(body.get("message") or ""))
    # The reason is the first line only: `400 Parameter verification failed.`, `id: No such job`.
    text = message if not reason or message.startswith(reason) else reason
    given = {
        str(name)[:60]: clean(str(problem))
        for name, problem in islice(errors.items(), _MOST_ERRORS)
    }
    return text or f"PVE answered {reply.status} without a reason", given


def _invalid(text: str, errors: dict[str, str], asked: Asked) -> tuple[Fault, Clue | None]:
    place = f"{asked.verb} {asked.path}"
    if len(errors) == 1:
        name, problem = next(iter(errors.items()))
        kind, hint, clue = explained(problem)
        if kind in {Missing, Conflict, Denied}:
            clue = clue or (_item(problem, asked, name=name) if kind is Missing else None)
            return kind(f"{place}: {name}: {problem}", hint=hint, detail=errors), clue
    hint = (
        "These are PVE's own words; the method's description has the right forms." if errors else ""
    )
    return Invalid(f"{place}: {text.rstrip('.')}", hint=hint, detail=errors), None


def _unauthenticated(text: str, asked: Asked) -> Fault:
    if "ticket" in text.lower() and text != "No ticket":
        return Unauthenticated(text, hint="This method wants a ticket of its own kind.")
    return Unauthenticated(
        f"PVE does not accept the API token {asked.token}: {text}",
        hint="Check on the node: `pveum user token list USER` (does the token exist, is it "
        "expired?), `pveum user list` (is the user enabled?), and that the secret is the one "
        "shown when the token was made. The node's journal has the exact reason (journalctl -u "
        "pvedaemon -u pveproxy).",
    )


def _denied(text: str, asked: Asked) -> Fault:
    if found := _CHECK_FAILED.match(text):
        return _privilege_missing(found["path"], found["privileges"].split("|"), asked)
    if "need proper ticket" in text:
        return Denied(
            f"PVE refuses API tokens for {asked.verb} {asked.path}",
            hint="A person can do it in PVE's web interface.",
        )
    kind, hint, _ = explained(text)
    if kind in {Denied, Missing}:
        return kind(text, hint=hint)
    needed = sorted(set(_privileges(asked.method.permissions)))
    also = f" {asked.verb} {asked.method.path} asks for: {', '.join(needed)}." if needed else ""
    about = (asked.method.permissions or {}).get("description")
    if not needed and about:
        also = f" PVE's description of {asked.verb} {asked.method.path}: {clean(str(about))}"
    return Denied(
        f"token {asked.token} may not do this: {text}",
        hint=f"An administrator can grant a role that holds what is missing.{also}",
    )


def _privilege_missing(path: str, privileges: list[str], asked: Asked) -> Fault:
    names = " or ".join(privileges)
    if not path:
        return Denied(
            f"token {asked.token} lacks {names}, or a name in {asked.path} is not valid",
            hint="PVE checks rights before names. Check the names in the path first.",
        )
    ours = role_with(privileges)
    return Denied(
        f"token {asked.token} lacks {names} on {path}",
        hint=f"An administrator can grant it: `pveum acl modify {path} --tokens '{asked.token}' "
        f"--roles {ours or 'ROLE'}`, or with another role that holds {names} "
        "(`pveum role list`). A token with privilege separation also needs its user to have it.",
    )


def _privileges(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        if _PRIVILEGE.match(tree):
            yield tree
    elif isinstance(tree, Mapping):
        yield from _privileges(tree.get("check"))
    elif isinstance(tree, list):
        for part in tree:
            yield from _privileges(part)


def _unknown(text: str, asked: Asked) -> Fault:
    if "too large" in text:
        return Invalid(text, hint="Send less at once.")
    return Invalid(
        f"this PVE does not have {asked.verb} {asked.path}: {text}",
        hint="Its version differs from the API description at hand, which is read again now.",
    )


def _silent_node(status: int, text: str, asked: Asked) -> Fault:
    where = f"node {asked.node}" if asked.node else "PVE"
    what = f"{where} did not answer ({status} {text})"
    if asked.verb != "GET":
        fault = uncertain(what, node=asked.node, started=asked.started)
        if asked.path.endswith("/agent/exec"):  # seen on PVE 9.1
            fault.hint += " PVE's daemon also dies like this when the guest has no such command."
        return fault
    return Unavailable(
        what,
        hint="GET /cluster/status shows which nodes are online. If this one is, its pvedaemon may "
        "be down (systemctl status pvedaemon), or the guest agent hangs. Only read: try again.",
    )


def _redirected(status: int) -> Fault:
    return Misconfigured(
        f"PVE answered with a redirect ({status})", hint="Use https:// in PVEMCP_PVE_URL."
    )
