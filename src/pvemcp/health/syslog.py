"""The check of the syslog to which the audit goes."""

from __future__ import annotations

from contextlib import suppress

from pvemcp.health.check import Check, bad, good
from pvemcp.settings import Settings
from pvemcp.syslog import Receiver


async def check_syslog(settings: Settings) -> list[Check]:
    """Connect to it as the service does; nothing is sent."""
    if not settings.audit_syslog:
        return []
    receiver = Receiver.parse(settings.audit_syslog, settings.audit_syslog_ca)
    if receiver.scheme == "udp":
        return [
            good("syslog", f"the audit goes to {receiver}; whether it arrives, UDP never tells")
        ]
    try:
        _, writer = await receiver.connect()
    except (OSError, TimeoutError) as error:
        repair = "Look at the log server, its firewall and its certificate (audit_syslog_ca)."
        return [bad("syslog", f"{receiver}: {error or 'no answer in time'}", repair)]
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return [good("syslog", f"{receiver} takes connections")]
