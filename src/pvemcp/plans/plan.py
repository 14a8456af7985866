"""A plan: all that one call would write, with previews, in one text and one digest."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pvemcp.access.approvals import Question
from pvemcp.access.policy import Judgement
from pvemcp.call import Call, Effect, Intent, Target, Verdict
from pvemcp.host.runner import ROOT
from pvemcp.legible import legible
from pvemcp.plans.planning import Rehearsal
from pvemcp.plans.preview import Preview
from pvemcp.pve.client import Pve

ARGUMENT = 4000
"""Characters of one argument that a client is shown of it again; a person is shown all."""
BLANKS = re.compile(r"[^\S\n]{30,}|(?:[^\S\n]*\n){6,}")
"""What could push the rest of an argument out of sight."""
BRIEF = 400
"""Characters of a line in the short form of a plan."""

Lookup = Callable[[Pve, Intent], Awaitable[Preview]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call would do. `digest` binds grant, tool, arguments, writes and state."""

    tool: str
    previews: tuple[Preview, ...]
    digest: bytes
    open_ended: bool
    trouble: str
    """What the tool would fail with besides, or nothing."""
    seconds: float
    first: tuple[Intent, ...] = ()
    """What is written before the tool runs: safety snapshots."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The tool's own, legible: a command in a guest is seen nowhere else."""
    told: tuple[str, ...] = ()
    """What the tool itself says of its writes: how a file differs."""

    @property
    def writes(self) -> list[tuple[Intent, Target]]:
        """Every write and what it works on."""
        return [(one.intent, one.target) for one in self.previews]

    @property
    def judged(self) -> list[tuple[Intent, Target]]:
        """Every write with everything that it touches, as the policy looks at it."""
        return [
            (one.intent, each)
            for one in self.previews
            for each in (one.target, *one.also, *one.users)
        ]

    @property
    def confirm(self) -> str:
        """What a person types to confirm what cannot be brought back; empty: a yes is enough."""
        return " ".join(dict.fromkeys(one.confirm for one in self.previews if one.confirm))

    def brief(self) -> list[str]:
        """Write at most three lines, what matters most at their beginnings.

        Clients cut what a dialog says: Claude Code shows three lines of a terminal's width.
        """
        lost = [line for one in self.previews for line in one.lost]
        told = [*self.told, *(line for one in self.previews for line in one.told())]
        does = [one.does for one in self.previews]
        params = self.arguments.get("params")
        given = {**(params if isinstance(params, Mapping) else {}), **self.arguments}
        command = given.get("command")
        if command and len(does) == 1:
            does = [f"{does[0]}: {' '.join(str(command).split())}"]
        return [
            _joined("" if len(does) == 1 else f"{len(does)} writes: ", does),
            *([_joined(f"LOST ({len(lost)}): ", lost)] if lost else []),
            *([_joined("", told)] if told else []),
        ]

    def text(self, *, whole: bool = False) -> str:
        """Write it for the model; as a `whole` for a person, who answers for every argument."""
        count = len(self.previews)
        what = f"{count} write{'s' * (count != 1)}"
        head = f"Plan of {self.tool}: {what}, looked up in {self.seconds:.1f} s"
        lines = [
            head,
            *_arguments(self.arguments, whole=whole),
            *(f"  {line}" for line in self.told),
        ]
        lines += [line for one in self.previews for line in one.lines()]
        if self.open_ended:
            lines.append("What follows hangs on PVE's answers; it stays with the same targets.")
        if self.trouble:
            lines.append(f"Besides, this would fail: {self.trouble}")
        return "\n".join(lines)


async def look_up(
    pve: Pve,
    call: Call,
    rehearsal: Rehearsal,
    arguments: Mapping[str, Any],
    *,
    key: bytes,
    lookup: Lookup,
) -> Plan:
    """Preview every write of a rehearsal at once, and seal the plan.

    `arguments` are the call's own, not redacted: the digest is keyed.
    """
    started = time.perf_counter()
    call.planning = []  # a preview that tried to write would only plan it
    try:
        previews = await asyncio.gather(*(lookup(pve, one) for one in rehearsal.intents))
    finally:
        call.planning = None
    bound = [one.bound for one in previews]
    said = [call.principal.owner, call.tool, arguments, bound, call.told]
    # The id of the call stands in commands of guests, and is another when the call is repeated.
    text = json.dumps(said, sort_keys=True, default=str).replace(call.id, "").encode()
    return Plan(
        tool=call.tool,
        previews=tuple(previews),
        digest=hmac.digest(key, text, hashlib.sha256),
        open_ended=rehearsal.open_ended,
        trouble=str(rehearsal.fault or ""),
        seconds=time.perf_counter() - started,
        told=tuple(call.told),
        arguments={name: legible(value, name) for name, value in arguments.items()},
    )


def _joined(start: str, parts: list[str]) -> str:
    text = start + "; ".join(parts)
    return text if len(text) <= BRIEF else f"{text[:BRIEF]}… ({len(text):,} characters)"


def _arguments(arguments: Mapping[str, Any], *, whole: bool) -> list[str]:
    """Write arguments; further lines of one stand further in."""
    lines = []
    for name, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        if len(text) > ARGUMENT and not whole:
            text = f"{text[:ARGUMENT]}… ({len(text):,} characters)"
        text = BLANKS.sub(lambda found: f" ({len(found[0])} blanks)\n", text)
        lines.append(f"  {name}: " + "\n    | ".join(text.splitlines() or [""]))
    return lines


def question(plan: Plan, call: Call, *, shown: Callable[[str], str]) -> Question:
    """Turn a plan into a question for a person."""
    return Question(
        tool=call.tool,
        arguments=call.arguments,
        digest=plan.digest,
        text=shown(plan.text(whole=True)),
        brief=[shown(line) for line in plan.brief()],
        writes=[_write(intent, target) for intent, target in plan.writes],
        confirm=plan.confirm,
    )


def _write(intent: Intent, target: Target) -> dict[str, Any]:
    return {
        "verb": intent.verb,
        "path": intent.path,
        "template": intent.template,
        "effect": str(intent.effect),
        "node": target.node or intent.node,
        "kind": target.kind,
        "id": target.id,
        "vmid": target.vmid,
        "given": _given(intent),
        **({"run": dict(intent.params)} if is_root(intent) else {}),
    }


_NAMES = frozenset(
    """
    node vmid newid vms pool poolid storage target-storage target-vmid targetstorage realm userid
    groups zone vnet path id fabric_id node_id volume
    archive ostemplate cdrom rootfs unprivileged
    """.split()
)
"""Parameters that PVE's permissions are about: names of things, no secrets."""
_USES = re.compile(
    r"(?:ide|sata|scsi|virtio|efidisk|tpmstate|unused|mp|net|hostpci|usb|virtiofs)[0-9]+|.*storage"
)
"""More of them: what of the host and its storages a guest uses."""


def _given(intent: Intent) -> dict[str, str]:
    """Return the names of all parameters, with the values of those that permissions are about."""
    if intent.verb == "RUN":
        return {}
    return {
        name: _written(value) if name in _NAMES or _USES.fullmatch(name) else ""
        for name, value in intent.params.items()
    }


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def is_root(intent: Intent) -> bool:
    """Whether it is a command as root: the helper itself wants a person's approval for it."""
    return intent.verb == "RUN" and intent.effect is Effect.DESTROY and intent.path == ROOT


_SAYS = {
    Verdict.ALLOW: "allowed",
    Verdict.ASK: "a person is asked",
    Verdict.DENY: "denied",
}


_WHERE = {"person": ", on the host or the approval page", "host": ", as root on the host"}


def verdict_line(judgement: Judgement) -> str:
    """Say in one line what the policy makes of a plan."""
    more = f", {judgement.persons} persons" if judgement.persons > 1 else ""
    where = _WHERE.get(judgement.channel, "")
    return f"Policy: {_SAYS[judgement.verdict]}{more}{where} ({judgement.rule})."
