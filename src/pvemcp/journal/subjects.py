"""Which subject a write has: the first that knows its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvemcp.journal.guests import guest_subject
from pvemcp.journal.ha import ha_subject
from pvemcp.journal.lists import list_subject
from pvemcp.journal.networks import network_subject
from pvemcp.journal.plain import plain_subject
from pvemcp.journal.subject import Subject, unknown
from pvemcp.journal.undoable import promise
from pvemcp.pve.description import Description

_VMID = re.compile(r"/nodes/[^/]+/(qemu|lxc)/(\d+)")


def subject_of(
    description: Description, verb: str, template: str, params: Mapping[str, Any], path: str = ""
) -> Subject:
    """Return what a write works on. What nobody knows cannot be taken back, and says so."""
    found = (
        guest_subject(verb, template, params)
        or list_subject(verb, template, params)
        or network_subject(verb, template, params)
        or ha_subject(verb, template, params)
        or plain_subject(description, verb, template, params)
    )
    if found is not None:
        return found
    said = promise(verb, template, params)
    guest = _VMID.match(path)
    kind, id_ = ("guest", f"{guest[1]}/{guest[2]}") if guest else ("other", path or template)
    return unknown(kind, id_, said.why_not or "no way back is known for this method")
