"""How every call ends: closed, whatever happens, and in the audit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator

from pvemcp.audit import Audit
from pvemcp.call import Call
from pvemcp.errors import Fault, Internal

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def recorded(audit: Audit, call: Call, *, cancelled: str) -> Iterator[None]:
    """Close a call that fails, and record one that is closed, whatever happens.

    `cancelled` says why a call is cancelled. Raises nothing but Faults, and the cancellation.
    """
    try:
        yield
    except Fault as fault:
        call.close(fault.code, str(fault))
        raise
    except asyncio.CancelledError:
        call.close("cancelled", cancelled)
        raise
    except Exception:
        logger.exception("call %s: %s failed", call.id, call.tool)
        call.close(Internal.code, "see the journal")
        text = f"{call.tool} failed; the service's journal has it as call {call.id}"
        raise Internal(text) from None
    finally:
        if call.outcome != "open":  # a look at a running task is no news
            audit.record(call)
