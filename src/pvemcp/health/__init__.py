"""The checks of `pvemcp doctor`: what is wrong, and how to repair it."""

from __future__ import annotations

import os

from pvemcp.health.backups import check_backups
from pvemcp.health.check import Check
from pvemcp.health.cluster import check_cluster
from pvemcp.health.commands import check_commands
from pvemcp.health.local import check_certificate, check_listen, check_settings, check_state
from pvemcp.health.policy import check_policy
from pvemcp.health.pve import check_pve
from pvemcp.health.syslog import check_syslog
from pvemcp.health.tracing import check_tracing
from pvemcp.health.upgrade import check_upgrade
from pvemcp.settings import Settings

__all__ = ["Check", "checks"]


async def checks(settings: Settings) -> list[Check]:
    """Look at everything that the service depends on, and change nothing.

    Takes at most about 20 s, when PVE does not answer.
    """
    state, grants = check_state(settings)
    return [
        *check_settings(settings, grants),
        *state,
        *check_policy(settings, grants),
        *check_certificate(settings),
        *await check_listen(settings),
        *await check_pve(settings, grants),
        await check_commands(settings),
        *await check_cluster(settings),
        *check_backups(settings),
        *await check_syslog(settings),
        *check_tracing(os.environ),
        *check_upgrade(),
    ]
