"""The preview of a write that has none of its own."""

from __future__ import annotations

import re

from pvemcp.call import Intent, Target
from pvemcp.journal.undoable import promise
from pvemcp.plans.preview import Preview
from pvemcp.pve.client import Pve
from pvemcp.pve.effects import why
from pvemcp.tools.render import duration

_GUEST = re.compile(r"/nodes/([^/]+)/(qemu|lxc)/([0-9]+)")
_NODE = re.compile(r"/nodes/([^/]+)")


async def plain(pve: Pve, intent: Intent) -> Preview:  # noqa: ARG001
    """Say what the effects table knows of it."""
    if intent.verb == "RUN":
        return _command(intent)
    reason = why(intent.verb, intent.template, intent.params) if intent.template else ""
    undo = promise(intent.verb, intent.template, intent.params)
    does = reason or f"has the effect {intent.effect}"
    return Preview(intent, target_of(intent), does=does, undo=undo.text)


def _command(intent: Intent) -> Preview:
    """Show a command whole, line by line: a person answers for it."""
    what, terminal = intent.params, intent.path.endswith("/shell")
    named = ("typed", "key") if "typed" in what else ("shell", "argv", "name")
    text = next((str(what[name]) for name in named if what.get(name)), "")
    facts = (
        [("types" if "typed" in what else "command", text.replace("\n", "\n    | "))]
        if text
        else []
    )
    more = ("cwd",) if terminal else ("cwd", "env")  # a terminal's is its prompt, and an argument
    facts += [(name, str(what[name])) for name in more if what.get(name)]
    if what.get("timeout"):
        facts.append(("timeout", duration(float(what["timeout"]))))
    does = "runs a command"
    if terminal:
        opens = "opens a terminal: the policy is asked about all that is typed there, too"
        does = "types into a terminal" if "typed" in what else opens
    return Preview(intent, target_of(intent), does=does, facts=tuple(facts))


def target_of(intent: Intent) -> Target:
    """Tell from the path alone what an intent works on."""
    if intent.verb == "RUN":
        return Target("command", intent.path, node=intent.node)
    if found := _GUEST.match(intent.path):
        node, kind, vmid = found.groups()
        return Target("guest", f"{kind}/{vmid}", vmid=int(vmid), node=node, known=False)
    if found := _NODE.match(intent.path):
        return Target("node", found[1], node=found[1])
    return Target("other", intent.path)
